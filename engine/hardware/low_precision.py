"""Inference in bf16, checked against float32.

On a GPU, or a CPU with bf16 instructions: batch norms folded into the convolutions, kernels in bf16 with channels last,
the rest under autocast; on a GPU ReLUs and shortcuts within the convolutions. Low precision has known bugs (PyTorch
issue 169688: a wrong Conv3d on CPUs where an output is one wide), so the first batch is computed in float32 too, and
where the two disagree, the network stays in float32.
"""

import copy
import sys
from collections.abc import Callable

import torch
import torch.nn as nn

from engine.hardware.device import autocast, pick_amp
from engine.hardware.fast_kernels import fuse_activations
from network.fuse_batch_norm import fuse_batch_norms

Compute = Callable[[torch.Tensor], torch.Tensor]  # (B, C, T, S, S) float32 -> (B, D) float32
LOGIT_TOLERANCE = 0.1  # of the logits' length around their mean; networks of 10 to 18 layers differ by 0.003 to 0.006
FEATURE_TOLERANCE = 0.05  # of a feature's length; networks of 10 to 18 layers differ by 0.01


class LowPrecisionModel:
    """(B, C, T, S, S) float32 -> (B, D) float32, in low precision as long as that agrees with float32.

    build         a network -> the function to compare by, and to compute with
    dtype         the low precision; None: float32
    disagreement  (low, exact) -> the reason why low precision is wrong, or None
    finish        what is applied to the function's results
    """

    def __init__(
        self,
        model: nn.Module,
        build: Callable[[nn.Module], Compute],
        device: torch.device,
        dtype: torch.dtype | None,
        disagreement: Callable[[torch.Tensor, torch.Tensor], str | None],
        finish: Callable[[torch.Tensor], torch.Tensor] = lambda y: y,
    ):
        self.model, self.build, self.device, self.dtype = model, build, device, dtype
        self.disagreement, self.finish = disagreement, finish
        self.exact, self.low = build(model), None

    @torch.inference_mode()
    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if self.dtype is None:
            return self.finish(self.exact(x).float())
        return self.finish(self._first(x) if self.low is None else self._compute_low(x))

    def _first(self, x: torch.Tensor) -> torch.Tensor:
        """The first batch, and a clip of random values, in both precisions; low precision's result where the two agree,
        else float32's."""
        noise = torch.randn(x[:1].shape, generator=torch.Generator().manual_seed(0)).to(x)
        x = torch.cat([x, noise])
        exact = self.exact(x).float()
        self.low = self.build(to_bf16(self.model, self.device, x[:1]))
        try:
            low = self._compute_low(x)
            reason = self.disagreement(low, exact)
        except RuntimeError as error:  # an operation that bf16 does not have, among others
            reason = f"cannot run in bf16 ({str(error).splitlines()[0]})"
        if reason is None:
            return low[:-1]
        print(f"This network {reason}: float32 is used, which is slower.", file=sys.stderr, flush=True)
        self.dtype = self.low = None
        return exact[:-1]

    def _compute_low(self, x: torch.Tensor) -> torch.Tensor:
        with autocast(self.device, self.dtype):
            return self.low(x).float()


def probability_model(model: nn.Module, device: torch.device, amp: str) -> LowPrecisionModel:
    """A network's probabilities, (B, num_classes).

    amp: auto, bf16 where the device computes in it; off, float32; bf16, also where it is slower
    """

    precision = pick_precision(amp, device)
    return LowPrecisionModel(model, lambda model: model, device, precision, logits_differ, lambda y: y.softmax(1))


def logits_differ(low: torch.Tensor, exact: torch.Tensor) -> str | None:
    """By the length of their difference: probabilities of 101 classes are all small while a network is unsure."""
    low, exact = (logits - logits.mean(dim=1, keepdim=True) for logits in (low, exact))  # softmax does not see the mean
    difference = relative_difference(low, exact, dim=1).max().item()
    if difference <= LOGIT_TOLERANCE:
        return None
    return f"predicts differently in bf16 (logits differ by {100 * difference:.0f} %)"


def features_differ(low: torch.Tensor, exact: torch.Tensor) -> str | None:
    """LowPrecisionModel's disagreement for features: by the length of their difference."""
    difference = relative_difference(low, exact, dim=1).max().item()
    if difference <= FEATURE_TOLERANCE:
        return None
    return f"computes other features in bf16 (a feature moves by {100 * difference:.0f} %)"


def relative_difference(low: torch.Tensor, exact: torch.Tensor, dim: int | None = None) -> torch.Tensor:
    """Length of the difference as a share of the exact values' length, over all values or along `dim`."""
    return (low.float() - exact).norm(dim=dim) / exact.norm(dim=dim).clamp(min=1e-12)


def pick_precision(amp: str, device: torch.device) -> torch.dtype | None:
    """The precision of inference, None for float32. auto: bf16 where the device computes in it, a CPU too."""
    if amp == "auto" and device.type == "cpu":
        return torch.bfloat16 if cpu_has_bf16() else None
    return pick_amp(amp, device)


@torch.inference_mode()
def to_bf16(model: nn.Module, device: torch.device, example: torch.Tensor) -> nn.Module:
    """The network to run under autocast: a copy with batch norms folded and kernels in bf16.

    example: an input of the model, (B, C, T, H, W) float32
    """
    if device.type not in ("cpu", "cuda"):
        return model
    model = fuse_batch_norms(model, example)
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            module.weight.data = module.weight.data.bfloat16().contiguous(memory_format=formats[module.weight.ndim])
    return _fused(model, device, example) if device.type == "cuda" else model


def _fused(model: nn.Module, device: torch.device, example: torch.Tensor) -> nn.Module:
    """The network with fewer kernels, where this GPU and its cuDNN have those."""
    fused = copy.deepcopy(model)
    fuse_activations(fused)
    try:
        with autocast(device, torch.bfloat16):
            fused(example)
    except RuntimeError:
        return model
    return fused


def cpu_has_bf16() -> bool:
    """Whether the CPU computes in bf16 (AVX512-BF16 or AMX); elsewhere it is emulated, slower than float32."""
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, check, lambda: False)() for check in checks)
