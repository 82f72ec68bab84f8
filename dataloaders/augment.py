"""Colours and sizes changed at random on the device, the same for all frames of a clip.

What is drawn belongs to positions of an epoch and comes from (seed, epoch): neither workers nor an interruption change
it.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F

from common.random_streams import AUGMENT, epoch_stream

LUMA = (0.299, 0.587, 0.114)  # of R, G and B in grey, ITU-R BT.601


@dataclass(frozen=True)
class Augment:
    """colours   brightness, contrast and saturation are each multiplied by a factor from 1 - colours to 1 + colours
    zoom      a square whose side is from zoom to 1 times the crop's is enlarged to fill it; 1: none
    """

    colours: float = 0.0
    zoom: float = 1.0
    seed: int = 0

    @lru_cache(maxsize=2)  # noqa: B019  a run has one Augment
    def draw(self, epoch: int, num_items: int) -> np.ndarray:
        """(num_items, 6), a row a position: three factors; side of the square, its place down and right, in [-1, 1]."""
        rng = epoch_stream(self.seed, epoch, AUGMENT)
        factors = rng.uniform(1 - self.colours, 1 + self.colours, (num_items, 3))
        side = rng.uniform(self.zoom, 1, (num_items, 1))
        return np.column_stack([factors, side, rng.uniform(-1, 1, (num_items, 2))]).astype(np.float32)

    def change_colours(self, clips: torch.Tensor, drawn: np.ndarray) -> torch.Tensor:
        """(B, T, H, W, 3) uint8, (B, 6) of draw -> the same shape and type."""
        if not self.colours:
            return clips
        factors = torch.from_numpy(drawn[:, :3].copy()).to(clips.device, non_blocking=True)
        bright, contrast, colourful = factors.view(-1, 3, 1, 1, 1, 1).unbind(1)  # each (B, 1, 1, 1, 1)
        x = (clips.float() * bright).clamp(max=255)
        level = grey_of(x).mean((1, 2, 3, 4), keepdim=True)  # of the whole clip, so that it does not flicker
        x = level.lerp(x, contrast).clamp(0, 255)
        return grey_of(x).lerp(x, colourful).clamp(0, 255).round().byte()

    def enlarge(self, x: torch.Tensor, drawn: np.ndarray) -> torch.Tensor:
        """(B, C, T, H, W) float, (B, 6) of draw -> the same shape, channels last in memory; bilinear."""
        if self.zoom == 1:
            return x
        side, down, right = drawn[:, 3], drawn[:, 4], drawn[:, 5]
        theta = np.zeros((len(side), 2, 3), np.float32)  # where in the picture, from -1 to 1, each pixel comes from
        theta[:, 0, 0] = theta[:, 1, 1] = side
        theta[:, 0, 2], theta[:, 1, 2] = (1 - side) * right, (1 - side) * down
        theta = torch.from_numpy(theta).to(x.device, non_blocking=True)
        frames = x.flatten(1, 2)  # (B, C*T, H, W): one grid a clip
        grid = F.affine_grid(theta, list(frames.shape), align_corners=False)
        frames = F.grid_sample(frames, grid, mode="bilinear", padding_mode="border", align_corners=False)
        return frames.view(x.shape).contiguous(memory_format=torch.channels_last_3d)


def grey_of(x: torch.Tensor) -> torch.Tensor:
    """(..., 3) RGB -> (..., 1)"""
    red, green, blue = x.unbind(-1)
    return (LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue).unsqueeze(-1)
