"""Fuses batch norms into the convolutions before them: the same output with fewer passes over memory.

In evaluation a batch norm multiplies and shifts each channel by fixed numbers. Multiplied into the convolution's
kernels and bias they cost nothing: y = s (W x + b - m) + t = (s W) x + (s (b - m) + t), s = weight / sqrt(var + eps).
"""

import copy

import torch
import torch.nn as nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.fusion import fuse_conv_bn_eval

TOLERANCE = 1e-3  # relative, of the output in float32; the order of additions stays below


def fuse_batch_norms(model: nn.Module, example: torch.Tensor) -> nn.Module:
    """A copy of a model in eval mode, in which every batch norm that directly follows a convolution is folded into it.

    example: an input of the model, (B, C, T, H, W) float32. One forward pass with it shows which norm follows which
    convolution, independent of the modules' names and order. A pair whose folding changes the model's output is left:
    an operation that is no module stands between the two, or uses the convolution's output as well.
    """
    assert not model.training, "only in evaluation are a batch norm's numbers fixed"
    pairs = _pairs(model, example)
    fused = _folded(model, pairs)
    probe = torch.randn(example.shape, generator=torch.Generator().manual_seed(0)).to(example)
    if _same(fused, model, probe):
        return fused
    fused = _folded(model, [pair for pair in pairs if _same(_folded(model, [pair]), model, probe)])
    return fused if _same(fused, model, probe) else copy.deepcopy(model)


def _folded(model: nn.Module, pairs: list[tuple[str, str]]) -> nn.Module:
    model = copy.deepcopy(model)
    for conv_name, norm_name in pairs:
        fused = fuse_conv_bn_eval(model.get_submodule(conv_name), model.get_submodule(norm_name))
        model.set_submodule(conv_name, fused.requires_grad_(False))
        model.set_submodule(norm_name, nn.Identity())
    return model


@torch.inference_mode()
def _same(fused: nn.Module, model: nn.Module, x: torch.Tensor) -> bool:
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        y, expected = fused(x), model(x)
    return bool((y - expected).norm() <= TOLERANCE * expected.norm())


@torch.inference_mode()
def _pairs(model: nn.Module, example: torch.Tensor) -> list[tuple[str, str]]:
    """Names of (convolution, batch norm) pairs in which the norm's input is the convolution's output and both run
    once."""
    outputs: dict[int, str] = {}
    held, pairs, calls = [], [], {}

    def after_conv(name: str, output: torch.Tensor) -> None:
        calls[name] = calls.get(name, 0) + 1
        outputs[id(output)] = name
        held.append(output)  # keeps the tensor alive, so that its id stays unique

    def before_norm(name: str, x: torch.Tensor) -> None:
        calls[name] = calls.get(name, 0) + 1
        if id(x) in outputs:
            pairs.append((outputs[id(x)], name))

    hooks = []
    for name, module in model.named_modules():
        if isinstance(module, _ConvNd):
            hooks.append(module.register_forward_hook(lambda _, __, output, name=name: after_conv(name, output)))
        elif isinstance(module, _BatchNorm) and module.track_running_stats:
            hooks.append(module.register_forward_pre_hook(lambda _, args, name=name: before_norm(name, args[0])))
    model(example)
    for hook in hooks:
        hook.remove()
    return [pair for pair in pairs if calls[pair[0]] == calls[pair[1]] == 1]
