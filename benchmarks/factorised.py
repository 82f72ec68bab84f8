"""Factored convolutions as 2D convolutions on views of the same memory, and with even widths.

Clips lie in memory as N, T, H, W, C (channels_last_3d). There a (1, k, k) convolution, of R(2+1)D or MC3, is a 2D one
over N * T pictures (C, H, W), and a (k, 1, 1) convolution a 2D one with a k x 1 kernel over N pictures (C, T, H * W).
Both are views, nothing is copied, and libraries have better kernels for two dimensions than for three. The widths
between the two convolutions (45, 230, 460, 921) are no multiples of 8, which tensor cores want: zeros can fill them up
where the work is done. Parameters, their names and, within rounding, all results and gradients stay what they were.

No network here does so by itself: benchmarks/train_speed.py measures it. On a CPU the views gain 4 % in float32 with
two threads, and nothing in bf16. On a GPU they are not measured yet; from 15 % on they are worth their place.
"""

import torch
import torch.nn as nn
import torch.nn.functional as F


class FrameConv(nn.Conv3d):
    """(1, k, k): (N, C, T, H, W) -> (N, C' + padding_out, T, H', W'), each frame by itself."""

    as_2d = False
    padding_out = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = _pad(self.weight, 0, self.padding_out)
        if not self.as_2d:
            return F.conv3d(x, weight, None, self.stride, self.padding, self.dilation)
        frames = x.transpose(1, 2).flatten(0, 1)  # (N * T, C, H, W)
        y = F.conv2d(frames, weight.squeeze(2), None, self.stride[1:], self.padding[1:], self.dilation[1:])
        return y.unflatten(0, (x.shape[0], x.shape[2])).transpose(1, 2)  # (N, C', T, H', W')


class TimeConv(nn.Conv3d):
    """(k, 1, 1): (N, C + padding_in, T, H, W) -> (N, C', T', H, W), each place by itself."""

    as_2d = False
    padding_in = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = _pad(self.weight, 1, self.padding_in)
        if not self.as_2d:
            return F.conv3d(x, weight, None, self.stride, self.padding, self.dilation)
        stride, padding, dilation = (self.stride[0], 1), (self.padding[0], 0), (self.dilation[0], 1)
        y = F.conv2d(x.flatten(3), weight.squeeze(4), None, stride, padding, dilation)  # (N, C', T', H * W)
        return y.unflatten(3, x.shape[3:])


class WideNorm(nn.BatchNorm3d):
    """A norm over C channels and `extra` more, which come as zeros and leave as zeros."""

    extra = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean, var = _pad(self.running_mean, 0, self.extra), _pad(self.running_var, 0, self.extra)
        weight, bias = _pad(self.weight, 0, self.extra), _pad(self.bias, 0, self.extra)
        y = F.batch_norm(x, mean, var, weight, bias, self.training, self.momentum, self.eps)
        if self.training:
            with torch.no_grad():
                self.running_mean.copy_(mean[: self.num_features])
                self.running_var.copy_(var[: self.num_features])
                self.num_batches_tracked += 1
        return y


def use_views(model: nn.Module) -> int:
    """Lets every factored convolution of a network run in two dimensions. Returns how many there are."""
    found = 0
    for module in model.modules():
        kind = _factored_kind(module)
        if kind:
            module.__class__ = kind  # keeps parameters, hooks and mode as they are
            module.as_2d = True
            found += 1
    return found


def pad_mid_widths(model: nn.Module, multiple: int = 8) -> int:
    """Lets every (2+1)D pair compute with a width between its two convolutions that is a multiple of `multiple`.

    The zeros are put beside the parameters in each forward pass, so that they are zeros whatever the optimiser does,
    and neither checkpoints nor the optimiser's state know of them. The copies of the small kernels are nothing beside
    the clips. Returns the number of pairs that were padded.
    """
    found = 0
    for sequence in model.modules():
        parts = list(sequence) if isinstance(sequence, nn.Sequential) else []
        for first, norm, _, second in zip(parts, parts[1:], parts[2:], parts[3:], strict=False):
            is_pair = (_factored_kind(first), _factored_kind(second)) == (FrameConv, TimeConv)
            if not (is_pair and type(norm) is nn.BatchNorm3d and norm.num_features % multiple):
                continue
            first.__class__, norm.__class__, second.__class__ = FrameConv, WideNorm, TimeConv
            first.padding_out = norm.extra = second.padding_in = -norm.num_features % multiple
            found += 1
    return found


class BiasApart(nn.Conv3d):
    """A convolution whose bias is added after it, by a kernel of its own."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.conv3d(x, self.weight, None, self.stride, self.padding, self.dilation, self.groups)
        return y + self.bias.to(y.dtype).view(-1, 1, 1, 1)


def add_biases_apart(model: nn.Module) -> int:
    """For the convolutions of C3D. Returns how many there are."""
    found = [module for module in model.modules() if type(module) is nn.Conv3d and module.bias is not None]
    for module in found:
        module.__class__ = BiasApart
    return len(found)


def _factored_kind(module: nn.Module) -> type[FrameConv] | type[TimeConv] | None:
    """What can stand for a convolution: where it has no bias and no groups, and mixes space only or time only.

    A 1x1x1 one that leaves out frames is left as it is: its frames would have to be copied together.
    """
    if not isinstance(module, nn.Conv3d) or module.bias is not None or module.groups > 1:
        return None
    kernel, stride, padding = module.kernel_size, module.stride, module.padding
    if isinstance(padding, str) or module.padding_mode != "zeros":
        return None
    if kernel[0] == 1 and stride[0] == 1 and padding[0] == 0:
        return FrameConv
    if kernel[1:] == (1, 1) and stride[1:] == (1, 1) and padding[1:] == (0, 0):
        return TimeConv
    return None


def _pad(value: torch.Tensor, dim: int, extra: int) -> torch.Tensor:
    """The tensor with `extra` zeros at the end of a dimension."""
    return F.pad(value, (0, 0) * (value.ndim - 1 - dim) + (0, extra)) if extra else value
