"""A network that answers, in the fastest arithmetic that gives its answers.

On a processor that computes in bf16: batch norms folded into the convolutions, kernels in bf16 with channels last. On
a GPU: bf16 autocast. Low precision has known bugs (PyTorch issue 169688: a wrong Conv3d on CPUs where an output is one
wide), so the first clips are answered in float32 too, and where the two do not agree, float32 it stays.
"""

import sys

import numpy as np
import torch
import torch.nn as nn

from common.errors import UserError
from engine.hardware.device import autocast, pick_amp
from network.fuse_batch_norm import fuse_batch_norms

TOLERANCE = 0.05  # of a probability; bf16 has 8 bits, and seen on trained networks are 0.02


class Answerer:
    """(B, C, T, S, S) float32 -> (B, num_classes) float32 probabilities.

    amp   auto: bf16 where the device computes in it; off: float32; bf16: also where it is slower
    """

    def __init__(self, model: nn.Module, device: torch.device, amp: str = "auto"):
        self.model, self.device = model, device
        self.dtype = pick_precision(amp, device)
        self.fast: nn.Module | None = None

    @torch.inference_mode()
    def __call__(self, x: torch.Tensor) -> np.ndarray:
        if self.dtype is None:
            return _checked(self.model(x))
        if self.fast is None:
            return self._first(x)
        return _checked(self._low(x))

    def _first(self, x: torch.Tensor) -> np.ndarray:
        """The answer in low precision if it is float32's, too; else float32's, from now on."""
        exact = _checked(self.model(x))
        self.fast = to_bf16(self.model, self.device, x[:1])
        try:
            low = self._low(x).float().softmax(1).cpu().numpy()
        except RuntimeError as error:  # an operation that bf16 does not have, among others
            self._stay_exact(f"cannot run in bf16 ({str(error).splitlines()[0]})")
            return exact
        difference = float(np.abs(low - exact).max())
        top2 = np.sort(exact, axis=1)[:, -2:]
        clear = top2[:, -1] - top2[:, 0] > 2 * TOLERANCE  # where two classes are as good as equal, either may win
        if not difference <= TOLERANCE or (low.argmax(1) != exact.argmax(1))[clear].any():
            self._stay_exact(f"answers otherwise in bf16 (a probability differs by {difference:.2f})")
            return exact
        return low

    def _low(self, x: torch.Tensor) -> torch.Tensor:
        with autocast(self.device, self.dtype):
            return self.fast(x)

    def _stay_exact(self, why: str) -> None:
        print(f"This network {why}: float32 is used, slower.", file=sys.stderr, flush=True)
        self.dtype, self.fast = None, None


def pick_precision(amp: str, device: torch.device) -> torch.dtype | None:
    """What a network answers in, None for float32. auto: bf16 where the device computes in it, a CPU too."""
    if amp == "auto" and device.type == "cpu":
        return torch.bfloat16 if cpu_has_bf16() else None
    return pick_amp(amp, device)


@torch.inference_mode()
def to_bf16(model: nn.Module, device: torch.device, example: torch.Tensor) -> nn.Module:
    """The network whose autocast answers are fast. On a CPU a copy, with batch norms folded and kernels in bf16.

    example: an input of the model, (B, C, T, H, W) float32
    """
    if device.type != "cpu":
        return model
    model = fuse_batch_norms(model, example)
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            module.weight.data = module.weight.data.bfloat16().contiguous(memory_format=formats[module.weight.ndim])
    return model


def cpu_has_bf16() -> bool:
    """In hardware (AVX512-BF16 or AMX); elsewhere it is emulated, slower than float32."""
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, check, lambda: False)() for check in checks)


def _checked(logits: torch.Tensor) -> np.ndarray:
    return check_probabilities(logits.float().softmax(dim=1).cpu().numpy())


def check_probabilities(probs: np.ndarray) -> np.ndarray:
    """The same; a UserError where there is one that is no number."""
    if not np.isfinite(probs).all():
        raise UserError("The network's answer is not a number (NaN): its weights are damaged, or diverged.")
    return probs
