"""First convolutions over other than three channels: for networks that also read differences of frames.

rgb        (O, 3, ...)        diff       (O, 3, ...)        rgb+diff   (O, 6, ...): the three of rgb, then of diff

This works for every network whose stem begins with a convolution over three channels, in 2D or 3D.
"""

import torch
import torch.nn as nn
from torch import Tensor

from common.errors import UsageError
from network.base import VideoModel


def input_conv(model: VideoModel) -> tuple[str, nn.Conv2d | nn.Conv3d]:
    """Name and module of the first convolution of the stem."""
    for stem in model.stem_names:
        for name, module in model.get_submodule(stem).named_modules(prefix=stem):
            if isinstance(module, nn.Conv2d | nn.Conv3d):
                return name, module
    raise UsageError(f"{type(model).__name__} has no convolution in its stem, so it reads three channels only.")


def widen_input(model: VideoModel, channels: int) -> None:
    """Replaces the first convolution by one over `channels` channels.

    New kernels are drawn with the standard deviation of the old ones, and all are scaled by sqrt(3 / channels), so that
    the layer's output keeps its size.
    """
    name, conv = input_conv(model)
    if conv.in_channels == channels:
        return
    if conv.groups != 1 or channels < conv.in_channels:
        raise UsageError(f"{type(model).__name__} cannot read {channels} channels in place of {conv.in_channels}.")
    wide = type(conv)(
        channels,
        conv.out_channels,
        conv.kernel_size,
        conv.stride,
        conv.padding,
        conv.dilation,
        bias=conv.bias is not None,
        padding_mode=conv.padding_mode,
    )
    weight = conv.weight.detach()  # (O, 3, ...)
    more = torch.randn_like(weight[:, :1].expand(-1, channels - conv.in_channels, *weight.shape[2:])) * weight.std()
    wide.weight = nn.Parameter(torch.cat([weight, more], 1) * (conv.in_channels / channels) ** 0.5)
    wide.bias = conv.bias
    parent, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(parent), attribute, wide)


def widen_weights(model: VideoModel, state: dict[str, Tensor], seen: str = "rgb") -> tuple[dict[str, Tensor], str]:
    """A state dict for three channels -> one for the model's six, and a note for the report; otherwise unchanged and
    "".

    seen: the meaning of the three channels, "rgb" or "diff". Kernels of the others begin at zero, so the widened
    network gives the weights' own logits at first.
    """
    try:
        name, conv = input_conv(model)
    except UsageError:
        return state, ""
    name += ".weight"
    there, here = state.get(name), conv.weight
    if there is None or there.ndim != here.ndim or there.shape[1] >= here.shape[1] or there.shape[1] != 3:
        return state, ""
    if there.shape[:1] + there.shape[2:] != here.shape[:1] + here.shape[2:]:
        return state, ""
    missing = there.new_zeros(there.shape[0], here.shape[1] - 3, *there.shape[2:])
    parts, new = ([missing, there], "colours") if seen == "diff" else ([there, missing], "differences")
    note = f"{name} is widened from 3 to {here.shape[1]} channels: those of the {new} begin at zero."
    return {**state, name: torch.cat(parts, 1)}, note
