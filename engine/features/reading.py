"""A layer of a network, read in the fastest arithmetic that says the same.

The descriptors of the first windows are computed in float32 too; low precision has known bugs (PyTorch issue 169688: a
wrong Conv3d on CPUs where an output is one wide), and where the two differ by more than its rounding, float32 it stays.
"""

import sys

import torch
import torch.nn as nn

from engine.features.layers import layer_reader
from engine.hardware.device import autocast
from engine.hardware.low_precision import to_bf16

TOLERANCE = 0.05  # of a descriptor's length; bf16 has 8 bits, and seen on networks of 10 to 18 layers are 0.01


class LayerReader:
    """(B, C, T, S, S) float32 -> (B, D) float32, of a model in eval mode.

    layer   see layers.layer_reader
    dtype   what to compute in, None for float32
    """

    def __init__(self, model: nn.Module, layer: str, device: torch.device, dtype: torch.dtype | None = None):
        self.model, self.layer, self.device, self.dtype = model, layer, device, dtype
        self._exact = layer_reader(model, layer)
        self._fast = None

    @torch.inference_mode()
    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if self.dtype is None:
            return self._exact(x)
        if self._fast is None:
            return self._first(x)
        return self._low(x)

    def _first(self, x: torch.Tensor) -> torch.Tensor:
        exact = self._exact(x)
        self._fast = layer_reader(to_bf16(self.model, self.device, x[:1]), self.layer)
        try:
            low = self._low(x)
        except RuntimeError as error:  # an operation that bf16 does not have, among others
            return self._stay_exact(exact, f"cannot run in bf16 ({str(error).splitlines()[0]})")
        difference = ((low - exact).norm(dim=1) / exact.norm(dim=1).clamp(min=1e-12)).max().item()
        if not difference <= TOLERANCE:
            return self._stay_exact(
                exact, f"describes otherwise in bf16 (a descriptor moves by {100 * difference:.0f} %)"
            )
        return low

    def _low(self, x: torch.Tensor) -> torch.Tensor:
        with autocast(self.device, self.dtype):
            return self._fast(x).float()

    def _stay_exact(self, exact: torch.Tensor, why: str) -> torch.Tensor:
        print(f"This network {why}: float32 is used, slower.", file=sys.stderr, flush=True)
        self.dtype, self._fast = None, None
        return exact
