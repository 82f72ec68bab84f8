"""Low precision, checked against float32 before a run trusts it."""

import torch
import torch.nn as nn
from torch.nn.modules.conv import _ConvNd

from engine.hardware.device import autocast

TOLERANCE = 0.1  # relative: bf16 rounds to 0.003, fp16 to less, and a kernel that is wrong is off by 0.5 or more


class InFloat32:
    """Mixin for a layer that computes in float32 in spite of autocast."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.float())


def keep_wrong_layers_in_float32(
    model: nn.Module, clip_shape: tuple[int, ...], device: torch.device, amp: torch.dtype | None
) -> list[str]:
    """Sets the convolutions that this machine computes wrongly in `amp` to float32. Returns a text for each.

    Every convolution gets random values of the shapes that two clips of (C, T, H, W) give it, forward and backward, in
    both precisions. PyTorch 2.14.1 on a CPU with bf16 instructions, for one, gives a weight gradient of arbitrary
    numbers where a 3x3x3 kernel meets two frames: the last stage of r3d_18 (pytorch issue 169688 is a relative of it).
    """
    if amp is None:
        return []
    wrong, checked = [], {}
    for name, layer, shape in _convolutions(model, clip_shape, device):
        kind = (type(layer), shape, layer.extra_repr())
        if kind not in checked:
            checked[kind] = low_precision_error(layer, shape, device, amp)
        if not checked[kind] <= TOLERANCE:  # nan is wrong, too
            wrong.append(f"{name} ({layer.extra_repr().split(', stride')[0]} on {'x'.join(map(str, shape[1:]))})")
            layer.__class__ = type(type(layer).__name__, (InFloat32, type(layer)), {})
    return wrong


def low_precision_error(layer: nn.Module, shape: tuple[int, ...], device: torch.device, amp: torch.dtype) -> float:
    """Largest relative difference to float32, of the output, the input's gradient and the weights' gradient."""
    generator = torch.Generator(device).manual_seed(0)  # its own: a run's random numbers stay what they were
    layout = torch.channels_last_3d if len(shape) == 5 else torch.channels_last
    x = torch.randn(shape, generator=generator, device=device).contiguous(memory_format=layout).requires_grad_()
    results, way = [], None
    for dtype in (None, amp):
        with torch.enable_grad(), autocast(device, dtype):
            y = layer(x)
        if way is None:
            way = torch.randn(y.shape, generator=generator, device=device)
            way = torch.empty_like(y).copy_(way)  # in the layout of the output
        learning = [layer.weight] if layer.weight.requires_grad else []
        results.append([y, *torch.autograd.grad(y, [x, *learning], way.to(y.dtype))])
    errors = [(low.float() - full).norm() / full.norm() for full, low in zip(*results, strict=True)]
    return torch.stack(errors).nan_to_num(float("inf"), posinf=float("inf")).max().item()


def _convolutions(
    model: nn.Module, clip_shape: tuple[int, ...], device: torch.device
) -> list[tuple[str, nn.Module, tuple[int, ...]]]:
    """Name, layer and shape of the input of every convolution, when two clips go through the network."""
    found = []
    hooks = [
        layer.register_forward_pre_hook(
            lambda layer, inputs, name=name: found.append((name, layer, tuple(inputs[0].shape)))
        )
        for name, layer in model.named_modules()
        if isinstance(layer, _ConvNd)
    ]
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            model(torch.zeros(2, *clip_shape, device=device))
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    return found
