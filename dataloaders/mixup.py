"""Mixed clips: each of a batch is blended with, or gets a box from, the one before it in the batch.

mixup    Zhang, Cisse, Dauphin, Lopez-Paz: "mixup: Beyond Empirical Risk Minimization", ICLR 2018
cutmix   Yun et al.: "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features", ICCV 2019;
         the same box for all frames of a clip

A batch is in random order already, so the neighbour is a partner drawn at random. The shares belong to positions of the
epoch and are drawn from (seed, epoch), so that neither workers nor an interruption change them.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F

from common.random_streams import MIXUP, epoch_stream


@dataclass(frozen=True)
class Mixup:
    """alpha of the Beta(alpha, alpha) from which shares are drawn, 0: not used. With both, each has half the clips."""

    mixup: float = 0.0
    cutmix: float = 0.0
    seed: int = 0

    def __bool__(self) -> bool:
        return self.mixup > 0 or self.cutmix > 0

    @lru_cache(maxsize=2)  # noqa: B019  a run has one Mixup
    def draw(self, epoch: int, num_items: int) -> np.ndarray:
        """(num_items, 4), a row a position: 1 where a box is cut, the clip's own share, the box's centre (y, x)."""
        rng = epoch_stream(self.seed, epoch, MIXUP)
        cut = rng.random(num_items) < (0.5 if self.mixup and self.cutmix else float(self.cutmix > 0))
        blended, kept = (rng.beta(alpha or 1.0, alpha or 1.0, num_items) for alpha in (self.mixup, self.cutmix))
        return np.column_stack([cut, np.where(cut, kept, blended), rng.random((num_items, 2))])

    def mix(
        self, x: torch.Tensor, labels: torch.Tensor, num_classes: int, drawn: np.ndarray
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, C, T, H, W), (B,) ids, (B, 4) of draw -> the clips mixed, (B, num_classes) how much of each they hold."""
        height, width = x.shape[3:]
        cut, share = drawn[:, 0] > 0, drawn[:, 1]
        boxes = box_of(drawn[:, 1:], height, width) * cut[:, None]  # (B, 4), empty where the clip is blended
        area = (boxes[:, 1] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 2]) / (height * width)
        own = np.where(cut, 1 - area, share)  # the box is cut off at the rim: its pixels count, not what was drawn
        blend = np.where(cut, 1.0, share)
        shares = torch.from_numpy(np.stack([own, blend])).float().to(x.device, non_blocking=True)  # (2, B)
        boxes = torch.from_numpy(boxes).to(x.device, non_blocking=True)

        other = x.roll(1, 0)
        blended = other.lerp(x, shares[1].view(-1, 1, 1, 1, 1))
        mixed = torch.where(inside(boxes, height, width), other, blended)
        targets = F.one_hot(labels, num_classes).float()
        mixed = mixed.contiguous(memory_format=torch.channels_last_3d)  # roll on a GPU loses it
        return mixed, targets.roll(1, 0).lerp(targets, shares[0, :, None])


def box_of(drawn: np.ndarray, height: int, width: int) -> np.ndarray:
    """(B, 3) own share, centre y, centre x -> (B, 4) whole numbers top, bottom, left, right: a box of 1 - share of the
    picture's area in the picture's shape, cut off at its rim."""
    side = np.sqrt(1 - drawn[:, 0])
    box = []
    for centre, length in ((drawn[:, 1], height), (drawn[:, 2], width)):
        half = side * length / 2
        box += [np.clip(centre * length - half, 0, length), np.clip(centre * length + half, 0, length)]
    return np.stack(box, axis=1).round().astype(np.int64)


def inside(boxes: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """(B, 4) top, bottom, left, right -> (B, 1, 1, H, W) bool"""
    top, bottom, left, right = boxes.view(-1, 4, 1, 1, 1, 1).unbind(1)  # each (B, 1, 1, 1, 1)
    rows = torch.arange(height, device=boxes.device).view(-1, 1)
    columns = torch.arange(width, device=boxes.device)
    return (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)
