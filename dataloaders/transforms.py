"""Crop on the CPU; flip and normalise on the device."""

from functools import lru_cache

import numpy as np
import torch

from network.registry import InputSpec


def crop_offsets(width: int, height: int, size: int, crops: int = 1) -> list[tuple[int, int]]:
    """(top, left) of the centre crop, or of three crops spread over the longer side.

    The centre of 171x128 for 112 is (8, 29), rounded down as in Caffe's C3D.
    """
    top, left = (height - size) // 2, (width - size) // 2
    if crops == 1:
        return [(top, left)]
    if width >= height:
        return [(top, 0), (top, left), (top, width - size)]
    return [(0, left), (top, left), (height - size, left)]


def random_crop_offset(width: int, height: int, size: int, rng: np.random.Generator) -> tuple[int, int]:
    """(top, left), each drawn evenly from all that fit."""
    return int(rng.integers(0, height - size + 1)), int(rng.integers(0, width - size + 1))


def to_model_input(clips: torch.Tensor, spec: InputSpec, flip: torch.Tensor | None = None) -> torch.Tensor:
    """(B, T, H, W, 3) uint8 -> (B, C, T, H, W) float32, normalised by the spec's mean and std, channels last in memory.

    Where the spec's input is "diff", T + 1 frames come in, and place t holds frame t + 1 less frame t over std: still
    is exactly 0. "rgb+diff" has both, C = 6: frame t as it is, and what will have changed in the next.
    flip: (B,) bool, which clips are mirrored left to right; all frames of a clip share it.
    """
    if flip is not None:
        clips = torch.where(flip[:, None, None, None, None], clips.flip(3), clips)
    mean, std = _mean_and_std(spec, clips.device)
    x = clips.permute(0, 4, 1, 2, 3).float()  # (B, 3, T, H, W), channels_last_3d as it comes
    if spec.input == "rgb":
        return (x - mean) / std
    assert len(clips[0]) == spec.read_len, f"{len(clips[0])} frames do not make {spec.clip_len} differences"
    changes = (x[:, :, 1:] - x[:, :, :-1]) / std  # (B, 3, T, H, W) of T + 1 frames; a mean would fall out
    if spec.input == "diff":
        return changes
    return torch.cat([(x[:, :, :-1] - mean) / std, changes], dim=1)  # (B, 6, T, H, W)


@lru_cache(maxsize=8)  # a tensor made from Python numbers in every step would make the device wait
def _mean_and_std(spec: InputSpec, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.inference_mode(False):  # the cached tensors serve training and evaluation
        mean = torch.tensor(spec.mean, device=device).view(3, 1, 1, 1) * 255
        std = torch.tensor(spec.std, device=device).view(3, 1, 1, 1) * 255
    return mean, std
