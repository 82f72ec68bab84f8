"""First convolutions in a form for which GPUs have fast kernels.

For three input channels cuDNN falls back to old kernels: 13 % of a training step of r3d_18 on an H200, and a quarter of
its forward pass. Both forms below compute the same sums, up to the order of the additions; parameters, gradients and
the state dict stay as they are.
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

from common.errors import UsageError
from network.base import VideoModel
from network.input_channels import input_conv

MULTIPLE = 8  # channels that the tensor cores' kernels take at once


class _PaddedChannels:
    """Zero channels up to a multiple of 8, in the clips and in the kernels."""

    def _conv_forward(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        x, weight = _in_autocast(x, weight)
        pads = (0, 0) * (weight.ndim - 2) + (0, -weight.shape[1] % MULTIPLE)
        return super()._conv_forward(F.pad(x, pads), F.pad(weight, pads), bias)


class PaddedConv2d(_PaddedChannels, nn.Conv2d):
    pass


class PaddedConv3d(_PaddedChannels, nn.Conv3d):
    pass


class SpaceToDepthConv3d(nn.Conv3d):
    """A (k, 7, 7) convolution with stride (1, 2, 2) as a (k, 4, 4) one over squares of 2x2 pixels, without a stride.

    y[i] = sum over n = 0..6 of w[n] x[2i + n - 3] = sum over q = 0..3, r = 0, 1 of w[2q + r - 1] x[2(i + q - 2) + r]
    """

    def _conv_forward(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        x, weight = _in_autocast(x, weight)
        batch, channels, frames, height, width = x.shape
        x = F.pad(x, (0, width % 2, 0, height % 2))
        rows, columns = (height + 1) // 2, (width + 1) // 2
        x = x.permute(0, 2, 3, 4, 1).reshape(batch, frames, rows, 2, columns, 2, channels)
        x = x.permute(0, 1, 2, 4, 3, 5, 6).flatten(4)  # (B, T, H/2, W/2, 4C)
        x = F.pad(x, (0, 0, 2, 1, 2, 1)).permute(0, 4, 1, 2, 3)  # (B, 4C, T, H/2 + 3, W/2 + 3), channels last
        weight = F.pad(weight, (1, 0, 1, 0)).unflatten(4, (4, 2)).unflatten(3, (4, 2))  # (O, C, k, 4, 2, 4, 2)
        weight = weight.permute(0, 4, 6, 1, 2, 3, 5).flatten(1, 3)  # (O, 4C, k, 4, 4)
        weight = weight.contiguous(memory_format=torch.channels_last_3d)
        return F.conv3d(x, weight, bias, padding=(self.padding[0], 0, 0))


def pad_channels(model: nn.Module) -> bool:
    """Pads the input channels of the network's first convolution; returns whether it has one that gains by it."""
    conv = _first_conv(model)
    if conv is None or type(conv) not in (nn.Conv2d, nn.Conv3d) or conv.in_channels % MULTIPLE == 0:
        return False
    conv.__class__ = PaddedConv3d if isinstance(conv, nn.Conv3d) else PaddedConv2d
    return True


def space_to_depth(model: nn.Module) -> bool:
    """Computes the first convolution over squares of pixels; returns whether it is of the form that this is for."""
    conv = _first_conv(model)
    if type(conv) not in (nn.Conv3d, PaddedConv3d):
        return False
    form = conv.kernel_size[1:], conv.stride, conv.padding[1:]
    if form != ((7, 7), (1, 2, 2), (3, 3)) or conv.dilation != (1, 1, 1) or conv.padding_mode != "zeros":
        return False
    conv.__class__ = SpaceToDepthConv3d
    return True


def _first_conv(model: nn.Module) -> nn.Conv2d | nn.Conv3d | None:
    try:
        conv = input_conv(model)[1] if isinstance(model, VideoModel) else None
    except UsageError:  # a network without convolutions in its stem
        return None
    return conv if conv is not None and conv.groups == 1 else None


def _in_autocast(*tensors: torch.Tensor) -> list[torch.Tensor]:
    """In autocast's precision, so that the copies which follow are made in the smaller type."""
    kind = tensors[0].device.type
    return [t.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else t for t in tensors]
