"""Layers in forms for which GPUs have fast kernels. Parameters, gradients and the state dict stay as they are, and the
results too, up to the order of the additions.

Measured on an H200 with cuDNN 9.19 in bf16, 128 clips, 2026-11-26:

    first convolution   three input channels meet old kernels: 9.5 ms forward and 5.7 ms for the gradient of the
                        weights in r3d_18. With the columns of the kernel as channels: 2.4 (with the copy) and 2.6 ms.
    mid widths          R(2+1)D's 45, 230, 460 and 921 channels are copied into multiples of 8 by every kernel, 10 % of
                        a step. With zeros beside the weights the whole compiled step is 1.14 times as fast.
    inference           cuDNN adds bias, shortcut and ReLU inside the convolution: 1.3 times as fast for r3d_18, 1.8
                        times for r2plus1d_18.
"""

from collections.abc import Iterator

import torch
import torch.nn as nn
import torch.nn.functional as F

from common.errors import UsageError
from network.base import VideoModel
from network.c3d import C3D
from network.input_channels import input_conv
from network.video_resnet import BasicBlock

MULTIPLE = 8  # channels that the tensor cores' kernels read at once
COLUMNS_MULTIPLE = 16  # the same where a convolution has few channels: 7 columns of 3 become 32, 3 columns 16


class _FastConv:
    """A convolution in the low precision of autocast, or of its own kernels, in another form; in float32 the plain one.

    columns       whether the columns of the kernel become channels: (B, C, T, H, W) -> (B, columns * C, T, H, W')
    more_outputs  channels of zeros that are added to the output; such channels of the input get kernels of zeros
    """

    columns = False
    more_outputs = 0

    def _conv_forward(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        convolution = F.conv3d if weight.ndim == 5 else F.conv2d
        return convolution(*self.prepared(x, weight, bias))

    def prepared(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> tuple:
        """Input, kernels, bias, stride, padding, dilation and groups to compute the convolution with."""
        x, weight = _in_autocast(x, weight)
        low = x.dtype != torch.float32
        weight = _pad(_pad(weight, 1, x.shape[1] - weight.shape[1]), 0, self.more_outputs if low else 0)
        bias = None if bias is None else _pad(bias, 0, len(weight) - len(bias))
        stride, padding = self.stride, self.padding
        if low and self.columns:
            x = columns_as_channels(x, weight.shape[-1], stride[-1], padding[-1])
            weight = weight.movedim(-1, 1).flatten(1, 2).unsqueeze(-1)
            weight = _pad(weight, 1, x.shape[1] - weight.shape[1])
            stride, padding = (*stride[:-1], 1), (*padding[:-1], 0)
        layout = torch.channels_last_3d if weight.ndim == 5 else torch.channels_last
        return x, weight.contiguous(memory_format=layout), bias, stride, padding, self.dilation, self.groups


class FastConv2d(_FastConv, nn.Conv2d):
    pass


class FastConv3d(_FastConv, nn.Conv3d):
    pass


class WideBatchNorm3d(nn.BatchNorm3d):
    """A batch norm whose input may have more channels than its own: they come as zeros and leave as zeros."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        more = x.shape[1] - self.num_features
        values = self.running_mean, self.running_var, self.weight, self.bias
        mean, var, weight, bias = (_pad(value, 0, more) for value in values)
        y = F.batch_norm(x, mean, var, weight, bias, self.training, self.momentum, self.eps)
        if self.training:
            self.num_batches_tracked.add_(1)
            if more:
                with torch.no_grad():
                    self.running_mean.copy_(mean[: self.num_features])
                    self.running_var.copy_(var[: self.num_features])
        return y


class ConvReLU3d(FastConv3d):
    """A convolution and the ReLU after it, for inference in low precision."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        arguments = self.prepared(x.to(self.weight.dtype), self.weight, self.bias)
        return torch.cudnn_convolution_relu(*arguments) if x.is_cuda else F.conv3d(*arguments).relu()

    def add_relu(self, x: torch.Tensor, shortcut: torch.Tensor) -> torch.Tensor:
        x, weight, *rest = self.prepared(x, self.weight, self.bias)
        if x.is_cuda:
            return torch.cudnn_convolution_add_relu(x, weight, shortcut, 1.0, *rest)
        return (F.conv3d(x, weight, *rest) + shortcut).relu()


class FusedBlock(BasicBlock):
    """A residual block whose last convolution adds the shortcut and applies the ReLU."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        *layers, last = _layers(self.conv2)
        y = self.conv1(x)
        for layer in layers:
            y = layer(y)
        return last.add_relu(y, shortcut)


def use_fast_kernels(model: nn.Module) -> None:
    """Sets the first convolution, of each network in the model, to its fast form. More than once is as good as once."""
    for conv in map(_first_conv, model.modules()):
        if type(conv) in (nn.Conv2d, nn.Conv3d, FastConv2d, FastConv3d) and _has_columns(conv):
            conv.__class__ = FastConv3d if isinstance(conv, nn.Conv3d) else FastConv2d
            conv.columns = True


def widen(model: nn.Module) -> int:
    """Fills up the channels between the convolutions of (2+1)D pairs to multiples of 8, with zeros made in each step.

    Returns the number of pairs. One with another norm (SyncBatchNorm) or with a layer that stays in float32 is left.
    """
    found, forms = 0, (nn.Conv3d, FastConv3d)
    for first, norm, second in _pairs(model):
        kept = norm.affine and norm.track_running_stats and norm.momentum if type(norm) is nn.BatchNorm3d else False
        if kept and type(first) in forms and type(second) in forms and first.out_channels % MULTIPLE:
            first.__class__, norm.__class__, second.__class__ = FastConv3d, WideBatchNorm3d, FastConv3d
            first.more_outputs = -first.out_channels % MULTIPLE
            found += 1
    return found


def fuse_activations(model: nn.Module) -> None:
    """Changes a network whose batch norms are folded and whose kernels are in bf16: ReLUs and shortcuts into the
    convolutions, mid widths filled up for good. For inference; the state dict is no longer that of the model."""
    for first, norm, second in _pairs(model):
        more = -first.out_channels % MULTIPLE
        if isinstance(norm, nn.Identity) and more:
            first.more_outputs = 0  # of widen
            first.weight.data, first.bias.data = _pad(first.weight.data, 0, more), _pad(first.bias.data, 0, more)
            second.weight.data = _pad(second.weight.data, 1, more)
    for parent in [module for module in model.modules() if isinstance(module, nn.Sequential)]:
        children = [(name, child) for name, child in parent.named_children() if not isinstance(child, nn.Identity)]
        for (_, before), (name, relu) in zip(children, children[1:], strict=False):
            conv = (_layers(before) or [before])[-1]  # the last one of a (2+1)D pair
            if isinstance(relu, nn.ReLU) and isinstance(before, nn.Conv3d | nn.Sequential) and _fusable(conv):
                _to_conv_relu(conv)
                parent.set_submodule(name, nn.Identity())
    for module in model.modules():
        if type(module) is BasicBlock and _fusable(_layers(module.conv2)[-1]):
            module.__class__ = FusedBlock
            _to_conv_relu(_layers(module.conv2)[-1])
        elif type(module) is C3D and all(_fusable(conv) for conv in module.convolutions()):
            for conv in module.convolutions():
                _to_conv_relu(conv)
            module.relu = nn.Identity()


def columns_as_channels(x: torch.Tensor, width: int, stride: int, padding: int) -> torch.Tensor:
    """(B, C, ..., W) -> (B, width * C and zeros up to a multiple of 16, ..., W'): what each column of a kernel sees."""
    x = F.pad(x.movedim(1, -1), (0, 0, padding, padding))  # (B, ..., W + 2 * padding, C)
    x = x.unfold(-2, width, stride).transpose(-1, -2).flatten(-2)  # (B, ..., W', width * C)
    return F.pad(x, (0, -x.shape[-1] % COLUMNS_MULTIPLE)).movedim(-1, 1)


def _first_conv(model: nn.Module) -> nn.Conv2d | nn.Conv3d | None:
    try:
        return input_conv(model)[1] if isinstance(model, VideoModel) else None
    except UsageError:  # a network without convolutions in its stem
        return None


def _has_columns(conv: nn.Conv2d | nn.Conv3d) -> bool:
    """Whether a first convolution gains by columns_as_channels: several columns of few channels, zeros around them."""
    plain = conv.groups == 1 and conv.padding_mode == "zeros" and not isinstance(conv.padding, str)
    return plain and conv.in_channels < MULTIPLE and conv.kernel_size[-1] > 1 and conv.dilation[-1] == 1


def _pairs(model: nn.Module) -> Iterator[tuple[nn.Conv3d, nn.Module, nn.Conv3d]]:
    """First convolution, norm and second convolution of the (2+1)D pairs."""
    for sequence in model.modules():
        layers = list(sequence) if isinstance(sequence, nn.Sequential) else []
        for first, norm, relu, second in zip(layers, layers[1:], layers[2:], layers[3:], strict=False):
            convs = all(isinstance(conv, nn.Conv3d) and conv.groups == 1 for conv in (first, second))
            if convs and isinstance(relu, nn.ReLU):
                yield first, norm, second


def _layers(module: nn.Module) -> list[nn.Module]:
    """The layers of nested Sequentials that do something, in order."""
    return [layer for layer in module.modules() if not isinstance(layer, nn.Sequential | nn.Identity)]


def _fusable(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv3d) and layer.bias is not None and layer.weight.dtype == torch.bfloat16


def _to_conv_relu(conv: nn.Conv3d) -> None:
    conv.__class__ = ConvReLU3d
    conv.bias.data = conv.bias.data.to(conv.weight.dtype)


def _pad(value: torch.Tensor, dim: int, more: int) -> torch.Tensor:
    """The tensor with `more` zeros at the end of a dimension."""
    return F.pad(value, (0, 0) * (value.ndim - 1 - dim) + (0, more)) if more else value


def _in_autocast(*tensors: torch.Tensor) -> list[torch.Tensor]:
    """In autocast's precision, so that the copies which follow are made in the smaller type."""
    kind = tensors[0].device.type
    return [t.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else t for t in tensors]
