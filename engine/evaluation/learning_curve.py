"""Learning curves: a power law through the test results of runs on shares of the training recordings.

error = a * n ** -b for n training recordings (Hestness et al., Deep Learning Scaling is Predictable, Empirically,
2017; Cortes et al., Learning Curves, NIPS 1993). Its band comes from the bootstrap: the recordings of the test are
drawn anew, for all runs together, and so are the runs of each share.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.console import plural, table_line
from common.drawing import save_picture
from common.figures import GREY, GRID, SERIES, figure_pixels, new_figure, styled
from common.files import relative_to_cwd, write_atomically
from engine.evaluation.report import read_videos

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SAMPLES = 2000
NAMED = 5  # classes that are said to starve


@dataclass(frozen=True)
class CurveRun:
    """A run on a share of the training recordings, and its answers.

    recordings  of training, num_in_class of each class
    right       (V,) bool, of the test videos in one order for all runs; groups and labels (V,) of these
    """

    share: int
    recordings: int
    num_in_class: dict[str, int]
    right: np.ndarray
    groups: list[str]
    labels: list[str]

    @property
    def top1(self) -> float:
        return 100 * float(self.right.mean())


@dataclass(frozen=True)
class Curve:
    """The law through runs: a, b; and what it says for twice as many recordings, in percent, with a 95 % interval."""

    a: float
    b: float
    sizes: np.ndarray
    low: np.ndarray
    high: np.ndarray
    now: float
    twice: float
    interval: tuple[float, float]

    def at(self, recordings: np.ndarray) -> np.ndarray:
        """Accuracy in percent."""
        return accuracy(self.a, self.b, recordings)


def accuracy(a: float | np.ndarray, b: float | np.ndarray, recordings: np.ndarray) -> np.ndarray:
    return 100 * (1 - np.clip(a * np.asarray(recordings, float) ** -np.asarray(b), 0, 1))


def fit_power_law(recordings: np.ndarray, errors: np.ndarray, num_videos: int) -> tuple[float, float]:
    """(R,) numbers and (R,) errors in [0, 1] -> a, b of error = a * n ** -b, by least squares of the logarithms, each
    weighted by the inverse of its variance (1 - e) / (e V). b is at least 0: more recordings do no harm."""
    errors = np.clip(errors, 0.5 / num_videos, 1 - 0.5 / num_videos)
    weights = errors * num_videos / (1 - errors)
    x, y = np.log(recordings), np.log(errors)
    x_mean, y_mean = np.average(x, weights=weights), np.average(y, weights=weights)
    spread = np.average((x - x_mean) ** 2, weights=weights)
    b = max(-float(np.average((x - x_mean) * (y - y_mean), weights=weights) / spread), 0.0)
    return float(np.exp(y_mean + b * x_mean)), b


def fit_curve(runs: Sequence[CurveRun], samples: int = SAMPLES, seed: int = 0) -> Curve:
    """The law and its band, up to four times the recordings of the whole list."""
    sizes = np.array([run.recordings for run in runs], float)
    right = np.stack([run.right for run in runs]).astype(float)  # (R, V)
    most = sizes.max()
    grid = np.geomspace(sizes.min(), 4 * most, 60)
    a, b = fit_power_law(sizes, 1 - right.mean(1), right.shape[1])

    number_of: dict[str, int] = {}
    members = np.array([number_of.setdefault(group, len(number_of)) for group in runs[0].groups])
    sums = np.stack([np.bincount(members, row, len(number_of)) for row in right])  # (R, G)
    counts = np.bincount(members, minlength=len(number_of)).astype(float)
    of_share: dict[int, list[int]] = defaultdict(list)
    for place, run in enumerate(runs):
        of_share[run.share].append(place)

    rng = np.random.default_rng(seed)
    laws = []
    for _ in range(samples):
        drawn = rng.integers(len(counts), size=len(counts))
        picked = [place for places in of_share.values() for place in rng.choice(places, len(places))]
        errors = 1 - sums[picked][:, drawn].sum(1) / counts[drawn].sum()
        laws.append(fit_power_law(sizes[picked], errors, right.shape[1]))
    many_a, many_b = (np.array(values)[:, None] for values in zip(*laws, strict=True))
    low, high = np.percentile(accuracy(many_a, many_b, grid), [2.5, 97.5], axis=0)
    twice = np.percentile(accuracy(many_a, many_b, np.array([2 * most])), [2.5, 97.5])
    now, later = accuracy(a, b, np.array([most, 2 * most]))
    return Curve(a, b, grid, low, high, float(now), float(later), (float(twice[0]), float(twice[1])))


@dataclass(frozen=True)
class ClassGain:
    """A class's accuracy in percent on half and on all of the recordings."""

    name: str
    recordings: int
    half: float
    whole: float


def starving_classes(runs: Sequence[CurveRun]) -> list[ClassGain]:
    """Classes whose accuracy the last doubling raised by a point or more, those that gained most first: more recordings
    would raise them again."""
    most = max(run.share for run in runs)
    labels = np.array(runs[0].labels)

    def mean(share: int, name: str) -> float:
        return 100 * float(np.mean([run.right[labels == name].mean() for run in runs if run.share == share]))

    whole = next(run for run in runs if run.share == most)
    gains = [
        ClassGain(name, whole.num_in_class.get(name, 0), mean(most // 2, name), mean(most, name))
        for name in sorted(set(runs[0].labels))
    ]
    return sorted((gain for gain in gains if gain.whole >= gain.half + 1), key=lambda gain: gain.half - gain.whole)


def read_right(folder: Path) -> dict[str, tuple[bool, str, str]]:
    """test/videos.csv of a run or a cross-validation: video -> (right, recording, class)."""
    return {row["video"]: (row["right"] == "1", row["group"], row["class"]) for row in read_videos(folder)}


def write_curve(folder: Path, title: str, runs: Sequence[CurveRun]) -> Curve:
    """Fits the law, prints it, and writes curve.json and curve.png into the folder."""
    curve, starving = fit_curve(runs), starving_classes(runs)
    low, high = curve.interval
    table = [("share", "recordings", "video top-1, a run each")]
    for share in sorted({run.share for run in runs}):
        same = [run for run in runs if run.share == share]
        table.append((f"{share}/{max(run.share for run in runs)}", f"{same[0].recordings}", _each(same)))
    print(f"{title}, {plural(len(runs[0].right), 'test video')} of {plural(len(set(runs[0].groups)), 'recording')}")
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        print(f"  {table_line(row, widths[:-1])}")
    print(f"  error = {curve.a:.2f} / recordings ^ {curve.b:.2f}")
    print(f"  twice the recordings: {curve.now:.0f} -> {curve.twice:.0f} ({low:.0f} to {high:.0f})")
    for gain in starving[:NAMED]:
        print(
            f"  {gain.name} gained {gain.whole - gain.half:.0f} points from the last doubling "
            f"({gain.half:.0f} -> {gain.whole:.0f}, {plural(gain.recordings, 'recording')}): more of it would help"
        )
    content = {
        "title": title,
        "law": {"a": curve.a, "b": curve.b},
        "top1": curve.now,
        "twice": {"recordings": 2 * max(run.recordings for run in runs), "top1": curve.twice, "interval": [low, high]},
        "runs": [{"share": run.share, "recordings": run.recordings, "top1": run.top1} for run in runs],
        "starving": [vars(gain) for gain in starving],
    }
    write_atomically(folder / "curve.json", json.dumps(content, indent=2) + "\n")
    save_picture(folder / "curve.png", figure_pixels(draw_curve(curve, runs, title), scale=1.5))
    print(f"  {relative_to_cwd(folder / 'curve.json')}, curve.png")
    return curve


def _each(runs: Sequence[CurveRun]) -> str:
    return "  ".join(f"{run.top1:.1f}" for run in runs)


@styled
def draw_curve(curve: Curve, runs: Sequence[CurveRun], title: str) -> "Figure":
    figure = new_figure(640, 400)
    axes = figure.add_axes((0.1, 0.13, 0.86, 0.75))
    most = max(run.recordings for run in runs)
    axes.fill_between(
        curve.sizes, curve.low, curve.high, color=SERIES[0], alpha=0.15, linewidth=0, label="95 % interval"
    )
    measured = curve.sizes <= most
    axes.plot(curve.sizes[measured], curve.at(curve.sizes)[measured], color=SERIES[0], label="power law")
    axes.plot(curve.sizes[~measured], curve.at(curve.sizes)[~measured], "--", color=SERIES[0], label="beyond the data")
    axes.plot([run.recordings for run in runs], [run.top1 for run in runs], "o", color=SERIES[1], label="runs")
    axes.set_xscale("log")
    ticks = sorted({run.recordings for run in runs} | {2 * most, 4 * most})
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.minorticks_off()
    axes.set_title(f"{title}: video top-1, %", loc="left", size=10.5, weight="bold")
    axes.set_xlabel("recordings to train on", size=9)
    axes.grid(axis="y", color=GRID, linewidth=1)
    axes.spines[["left", "top", "right"]].set_visible(False)
    axes.tick_params(colors=GREY, labelsize=9, length=0)
    axes.legend(frameon=False, fontsize=9, loc="lower right")
    return figure
