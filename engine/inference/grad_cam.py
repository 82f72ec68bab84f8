"""Grad-CAM over space and time: the places and moments behind an answer, sharpened.

Grad-CAM   Selvaraju et al., ICCV 2017 (arXiv 1610.02391): the maps of the last convolution, each weighted by the mean
           of the answer's gradient over it, added up, negative sums cut off.
LayerCAM   Jiang et al., IEEE TIP 2021: on finer maps one weight for a whole map is too coarse; there each position
           is weighted by its own gradient where that is positive.

The last maps say what counted and are coarse (4x4 for r3d_10); the finer ones before them say where edges are, of
everything. Multiplied, they are fine and about the answer. How much a moment counted is read from the last maps alone,
whose sums are in units of the answer's logit.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from common.errors import UserError
from network.base import VideoModel

LARGEST = 28  # side of the maps that are kept: enough under a colour map, and an hour of video fits into memory


@dataclass(frozen=True)
class Explanation:
    """The heat over a video, of the class of each frame.

    labels   (frames,) the classes: all the same one, or the label of each moment
    heat     (frames, S, S) float16 in [0, 1] over the square that the network sees; 1: the hottest thousandth
    moments  (frames,) float32: how much each frame counted, in [0, 1] of the one that counted most
    """

    labels: list[str]
    heat: np.ndarray
    moments: np.ndarray

    def to_dict(self) -> dict:
        """The content of --json. `label` is None where it changes, as the label of each moment does."""
        label = self.labels[0] if len(set(self.labels)) == 1 else None
        return {"label": label, "moments": [round(float(value), 4) for value in self.moments]}


def explain_clips(model: VideoModel, x: torch.Tensor, class_ids: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """(B, C, T, S, S) normalised clips, and the class to explain in each of the B -> heat (B, T, s, s) float32 >= 0 and
    moments (B, T) float32 >= 0.

    s is S, or 28 where that is smaller. Raises UserError as check_explainable does.
    """
    check_explainable(model)
    maps: list[torch.Tensor] = []
    hooks = [
        model.get_submodule(name).register_forward_hook(lambda _, __, output: maps.append(output))
        for name in model.stage_names
    ]
    try:
        # cuDNN's LSTM has no backward in evaluation
        with torch.enable_grad(), torch.backends.cudnn.flags(enabled=not _has_lstm(model)):
            logits = model(x.detach().requires_grad_(True))  # (B, num_classes)
            gradients = torch.autograd.grad(logits[range(len(x)), list(class_ids)].sum(), maps)
    finally:
        for hook in hooks:
            hook.remove()

    batch_size, _, num_frames, size = x.shape[:4]
    shape = (num_frames, min(size, LARGEST), min(size, LARGEST))
    stages = [_over_time(stage.detach(), batch_size) for stage in maps]  # (B, C, t, h, w)
    slopes = [_over_time(gradient, batch_size) for gradient in gradients]

    weights = slopes[-1].mean(dim=(2, 3, 4), keepdim=True)
    coarse = (weights * stages[-1].relu()).sum(1, keepdim=True).relu()  # (B, 1, t, h, w)
    heat = _enlarge(coarse, shape)
    moments = F.interpolate(coarse.sum(dim=(3, 4)), size=num_frames, mode="linear")[:, 0]  # (B, T)
    for stage, slope in zip(stages[:-1], slopes[:-1], strict=True):
        fine = (slope.relu() * stage.relu()).sum(1, keepdim=True)  # (B, 1, t, h, w)
        # a gradient that comes through a stride of 2 has the pattern of a chessboard
        fine = _enlarge(F.avg_pool3d(fine, (1, 3, 3), 1, (0, 1, 1), count_include_pad=False), shape)
        fine = fine / fine.amax(dim=(2, 3, 4), keepdim=True).clamp_min(1e-30)
        # together the square of their geometric mean: their product would leave a point of it
        heat = heat * fine ** (2 / (len(stages) - 1))
    return heat[:, 0].float().cpu().numpy(), moments.float().cpu().numpy()


def check_explainable(model: VideoModel) -> None:
    """Raises UserError for a network without maps, such as a transformer."""
    if not model.stage_names:
        raise UserError(
            f"--explain needs feature maps of convolutions, which {type(model).__name__} does not have. It works for "
            "convolutional networks (C3D, R3D, MC3, R(2+1)D, CNN + LSTM, S3D)."
        )


def _over_time(maps: torch.Tensor, batch_size: int) -> torch.Tensor:
    """(B, C, t, h, w) as it is; (B*T, C, h, w) of a network over frames -> (B, C, T, h, w)"""
    return maps if maps.ndim == 5 else maps.unflatten(0, (batch_size, -1)).transpose(1, 2)


def _enlarge(maps: torch.Tensor, shape: tuple[int, int, int]) -> torch.Tensor:
    """(B, 1, t, h, w) -> (B, 1, T, s, s)"""
    return F.interpolate(maps, size=shape, mode="trilinear", align_corners=False)


def _has_lstm(model: torch.nn.Module) -> bool:
    return any(isinstance(module, torch.nn.RNNBase) for module in model.modules())


class HeatOverVideo:
    """Adds up the heat of windows that overlap, frame by frame."""

    def __init__(self) -> None:
        self.heat: list[np.ndarray] = []  # of each frame, the sum over its windows
        self.moments: list[float] = []
        self.counts: list[int] = []

    def add(self, frames: Sequence[int], shown: np.ndarray, heat: np.ndarray, moments: np.ndarray) -> None:
        """Frames of the source that a clip covers, (R,) which ones it shows, and its (T, s, s) and (T,).

        R is T, or T + 1 where the network sees differences: then a frame has the mean of those that it is part of.
        A frame has what the clip's nearest one has, and the mean where there are several of those: in a video that is
        too short, and so repeats, each frame is shown more than once."""
        heat, moments = _of_frames(heat, len(shown)), _of_frames(moments, len(shown))
        while len(self.heat) <= max(frames):
            self.heat.append(np.zeros(heat.shape[1:], np.float32))
            self.moments.append(0.0)
            self.counts.append(0)
        for frame in frames:
            distances = np.abs(shown - frame)
            nearest = distances == distances.min()
            self.heat[frame] += heat[nearest].mean(axis=0)
            self.moments[frame] += float(moments[nearest].mean())
            self.counts[frame] += 1

    def explanation(self, labels: list[str]) -> Explanation:
        """The explanation of a video, whose frames have these labels; frames after the last window have no heat."""
        num_frames = len(labels)
        empty = np.zeros_like(self.heat[0])
        counts = np.maximum(self.counts, 1)
        heat = np.stack([*self.heat, *[empty] * (num_frames - len(self.heat))])
        heat[: len(counts)] /= counts[:, None, None]
        moments = np.zeros(num_frames, np.float32)
        moments[: len(counts)] = np.array(self.moments) / counts
        hottest = max(float(np.quantile(heat, 0.999)), 1e-30)  # a single place does not set the scale
        return Explanation(labels, (heat / hottest).clip(0, 1).astype(np.float16), moments / max(moments.max(), 1e-30))


def _of_frames(values: np.ndarray, num_frames: int) -> np.ndarray:
    """(T, ...) of what the network saw -> (num_frames, ...) of the frames it was made from: T, or T + 1"""
    if len(values) == num_frames:
        return values
    return np.concatenate([values[:1], (values[:-1] + values[1:]) / 2, values[-1:]])
