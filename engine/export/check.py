"""Whether a written file answers as the network does."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn as nn

from common.errors import UserError
from dataloaders.crops import crop_offsets
from dataloaders.transforms import to_model_input
from engine.export.program import FrameProgram
from engine.export.runtimes import Program
from network import InputSpec

# Of a probability. Runtimes add the same products in another order: seen are 1e-7 to 1e-6, through a hundred layers
# 1e-5. A wrong crop, colour or normalisation changes probabilities in their first digits.
TOLERANCE = 1e-4
# fp16 has 11 bits and bf16 has 8: seen are 1e-3 and 1e-2. The latter is the bound that inference.py has for bf16, too.
TOLERANCES = {torch.float32: TOLERANCE, torch.float16: 0.01, torch.bfloat16: 0.05}
BATCHES = (1, 3)
# A network whose answers hang on their last digits is allowed more: so many times what float32 changes in its own
# answers, since runtimes round in more places than one, and at most so much.
OWN_ROUNDING, AT_MOST = 10, 0.01


@dataclass(frozen=True)
class Comparison:
    """Largest differences of a probability: on random and on real clips of the stored size, and on random frames of
    another size, which are resized inside (there against the same arithmetic in torch). None: nothing to compare."""

    random: float
    resized: float
    real: float | None
    tolerance: float

    @property
    def largest(self) -> float:
        values = [value for value in (self.random, self.resized, self.real) if value is not None]
        return float(np.max(values))  # NaN stays NaN

    @property
    def holds(self) -> bool:
        return self.largest <= self.tolerance

    def __str__(self) -> str:
        real = "no real clips" if self.real is None else f"real clips {self.real:.1e}"
        return (
            f"largest difference between probabilities: random clips {self.random:.1e}, with resizing "
            f"{self.resized:.1e}, "
            f"{real} (allowed: {self.tolerance:.2g})"
        )


def compare(
    program: Program, network: nn.Module, spec: InputSpec, real: Sequence[np.ndarray] = (), tolerance: float = TOLERANCE
) -> Comparison:
    """Asks both, the file in batches of 1 and of 3. real: clips (T, H, W, 3) uint8 of the stored size, whole frames.

    The tolerance is raised where the network's own answers in float32 are less certain than it asks; see OWN_ROUNDING.
    """
    stored, other = random_clips(spec, max(BATCHES)), random_clips(spec, 1, larger=13)
    reference = FrameProgram(network, spec).eval()

    def as_evaluated(frames: np.ndarray) -> np.ndarray:
        return answer_of(network, spec, frames)

    @torch.no_grad()
    def as_resized(frames: np.ndarray) -> np.ndarray:
        return reference(torch.from_numpy(frames)).numpy()

    found = Comparison(
        random=_difference(program, as_evaluated, stored),
        resized=_difference(program, as_resized, other, batches=(1,)),
        real=_difference(program, as_evaluated, real) if len(real) else None,
        tolerance=tolerance,
    )
    if found.holds:
        return found
    rounding = float(np.abs(answer_of(copy.deepcopy(network).double(), spec, stored) - as_evaluated(stored)).max())
    return replace(found, tolerance=max(tolerance, min(OWN_ROUNDING * rounding, AT_MOST)))


@torch.no_grad()
def answer_of(network: nn.Module, spec: InputSpec, frames: np.ndarray) -> np.ndarray:
    """(B, T, H, W, 3) uint8 of the stored size -> (B, num_classes), on the way that evaluation goes."""
    [(top, left)] = crop_offsets(frames.shape[3], frames.shape[2], spec.crop_size)
    size = spec.crop_size
    clips = torch.from_numpy(frames[:, :, top : top + size, left : left + size])
    x = to_model_input(clips, spec).to(next(network.parameters()).dtype)
    return network(x).softmax(1).numpy()


def _difference(
    program: Program,
    expected: Callable[[np.ndarray], np.ndarray],
    clips: Sequence[np.ndarray],
    batches: Sequence[int] = BATCHES,
) -> float:
    """The largest of all clips, in batches of each size; the last one begins again with the first clips."""
    wanted = np.concatenate([expected(clip[None]) for clip in clips])
    largest = []
    for size in batches:
        for first in range(0, len(clips), size):
            chosen = [place % len(clips) for place in range(first, first + size)]
            answer = program(np.stack([clips[place] for place in chosen]))
            if answer.shape != (size, wanted.shape[1]) or answer.dtype != np.float32:
                raise UserError(f"The file answers {size} clips with {answer.dtype} {answer.shape}.")
            largest.append(np.abs(answer - wanted[chosen]).max())
    return float(np.max(largest))


def random_clips(spec: InputSpec, number: int, larger: int = 0) -> np.ndarray:
    """(number, T, H, W, 3) uint8 of the stored size, or of one that is so many pixels larger. Coarse shapes that change
    under noise: noise alone is grey to a network, and all its answers are alike."""
    rng = np.random.default_rng(larger)
    width, height = (side + larger for side in ((min(spec.resize),) * 2 if spec.keep_aspect else spec.resize))
    coarse = rng.integers(0, 256, (number, spec.read_len, 4, 5, 3), dtype=np.int16)
    rows, columns = np.arange(height) * 4 // height, np.arange(width) * 5 // width
    noise = rng.integers(-20, 21, (number, spec.read_len, height, width, 3), dtype=np.int16)
    return (coarse[:, :, rows][:, :, :, columns] + noise).clip(0, 255).astype(np.uint8)
