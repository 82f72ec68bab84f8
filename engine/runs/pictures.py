"""Pictures of a run: the clips as the network gets them, and its curves."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from common.drawing import canvas, draw_text, fitting, save_picture
from common.figures import GREY, GRID, SERIES, figure_pixels, new_figure, styled
from common.files import printable
from engine.runs.tracking import read_metrics
from network import InputSpec

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LINE = 20  # pixels of a clip's name
LOSSES = (("train/loss", "training"), ("val/loss", "validation"), ("val/ema_loss", "validation, moving average"))
ACCURACIES = (("train/top1", "training clips"), ("val/top1", "validation videos"))
ACCURACIES += (("val/ema_top1", "validation videos, moving average"),)


def clip_sheet(
    x: torch.Tensor, spec: InputSpec, names: Sequence[str] = (), num_clips: int = 4, num_frames: int = 8
) -> np.ndarray:
    """(B, C, T, H, W) normalised -> (num_clips * H, num_frames * W, 3) uint8: a row per clip, time from left to right,
    below its name where names are given.

    Differences are shown around grey; of a network that gets both, the colours.
    """
    clips = x[:num_clips, :3].float().cpu()
    picked = torch.linspace(0, clips.shape[2] - 1, min(num_frames, clips.shape[2])).round().long()
    still = (0.5, 0.5, 0.5) if spec.input == "diff" else spec.mean
    mean, std = (torch.tensor(values).view(3, 1, 1, 1) for values in (still, spec.std))
    frames = ((clips[:, :, picked] * std + mean) * 255).round().clamp(0, 255).byte()  # (B, 3, F, H, W)
    rows = [np.concatenate(list(clip), axis=1) for clip in frames.permute(0, 2, 3, 4, 1).numpy()]
    if names:
        rows = [part for name, row in zip(names, rows, strict=False) for part in (_name_strip(name, row.shape[1]), row)]
    return np.concatenate(rows)


def _name_strip(name: str, width: int) -> np.ndarray:
    strip = canvas(LINE, width)
    draw_text(strip, fitting(name, width - 8, 13), (4, LINE // 2), 13)
    return strip


def target_names(targets: torch.Tensor, classes: Sequence[str]) -> list[str]:
    """(B,) ids or, mixed, (B, K) shares -> "Biking", or "Biking 70 % + Golf 30 %"."""
    if targets.ndim == 1:
        return [printable(classes[number]) for number in targets.tolist()]
    shares = [[(share, number) for number, share in enumerate(row) if share > 0.005] for row in targets.tolist()]
    return [
        " + ".join(f"{printable(classes[number])} {100 * share:.0f} %" for share, number in sorted(row, reverse=True))
        for row in shares
    ]


def save_curves(run_dir: Path) -> None:
    """Writes curves.png: loss and accuracy of training and validation after each epoch."""
    records = read_metrics(run_dir)
    if records:
        save_picture(run_dir / "curves.png", figure_pixels(draw_curves(records, run_dir.name), scale=1.5))


@styled
def draw_curves(records: Sequence[dict], title: str) -> "Figure":
    figure = new_figure(920, 340)
    figure.text(0.01, 0.95, printable(title), size=12, weight="bold")
    for place, (heading, curves) in enumerate((("loss", LOSSES), ("top-1, %", ACCURACIES))):
        axes = figure.add_axes((0.06 + 0.5 * place, 0.13, 0.42, 0.68))
        _draw(axes, heading, records, curves)
    return figure


def _draw(axes: "Axes", heading: str, records: Sequence[dict], curves: Sequence[tuple[str, str]]) -> None:
    from matplotlib.ticker import MaxNLocator

    for (tag, name), colour in zip(curves, SERIES, strict=False):
        points = [(record["epoch"] + 1, record[tag]) for record in records if record.get(tag) is not None]
        if points:
            axes.plot(*zip(*points, strict=True), "-" if len(points) > 1 else "o", color=colour, label=name)
    axes.set_title(heading, loc="left", size=10.5, weight="bold")
    axes.set_xlabel("epoch", size=9)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.grid(axis="y", color=GRID, linewidth=1)
    axes.spines[["left", "top", "right"]].set_visible(False)
    axes.tick_params(colors=GREY, labelsize=9, length=0)
    axes.legend(frameon=False, fontsize=9)
