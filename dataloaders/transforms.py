"""Flip and normalise on the device."""

from functools import lru_cache

import torch

from common.input_spec import InputSpec


def to_model_input(clips: torch.Tensor, spec: InputSpec, flip: torch.Tensor | None = None) -> torch.Tensor:
    """(B, T, H, W, 3) uint8 -> (B, C, T, H, W) float32, normalised by the spec's mean and std, channels last in memory.

    Where the spec's input is "diff", T + 1 frames come in, and place t holds frame t + 1 less frame t over std: still
    is exactly 0. "rgb+diff" has both, C = 6: frame t as it is, and what will have changed in the next.
    flip: (B,) bool, which clips are mirrored left to right; all frames of a clip share it.
    """
    if flip is not None:
        clips = torch.where(flip[:, None, None, None, None], clips.flip(3), clips)
    return normalise(clips, spec, *_mean_and_std(spec, clips.device))


def normalise(clips: torch.Tensor, spec: InputSpec, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """to_model_input with the mean and std that pixel_scale gives, where they lie on the device already."""
    x = clips.permute(0, 4, 1, 2, 3).float()  # (B, 3, T, H, W), channels_last_3d as it comes
    if spec.input == "rgb":
        return (x - mean) / std
    assert clips.shape[1] == spec.read_len, f"{clips.shape[1]} frames do not make {spec.clip_len} differences"
    changes = (x[:, :, 1:] - x[:, :, :-1]) / std  # (B, 3, T, H, W) of T + 1 frames; a mean would fall out
    if spec.input == "diff":
        return changes
    return torch.cat([(x[:, :, :-1] - mean) / std, changes], dim=1)  # (B, 6, T, H, W)


def pixel_scale(spec: InputSpec, device: torch.device | str = "cpu") -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and std for values of 0 to 255, each (3, 1, 1, 1)."""
    mean = torch.tensor(spec.mean, device=device).view(3, 1, 1, 1) * 255
    std = torch.tensor(spec.std, device=device).view(3, 1, 1, 1) * 255
    return mean, std


@lru_cache(maxsize=8)  # a tensor made from Python numbers in every step would make the device wait
def _mean_and_std(spec: InputSpec, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.inference_mode(False):  # the cached tensors serve training and evaluation
        return pixel_scale(spec, device)
