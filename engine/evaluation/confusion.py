"""Confusion matrices: counts, the most confused pairs, and a picture for up to hundreds of classes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from common.figures import BLACK, GREY, figure_pixels, new_figure, styled
from common.files import csv_text, printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Confused:
    """`times` of the `videos` of class `true` were taken for class `predicted`."""

    true: str
    predicted: str
    times: int
    videos: int

    def __str__(self) -> str:
        return f"{printable(self.true)} taken for {printable(self.predicted)} ({self.times} of {self.videos})"


def confusion_matrix(labels: np.ndarray, predictions: np.ndarray, num_classes: int) -> np.ndarray:
    """(V,) ids, (V,) ids -> (K, K) counts: a row a true class, a column a predicted one."""
    cells = np.bincount(labels * num_classes + predictions, minlength=num_classes**2)
    return cells.reshape(num_classes, num_classes)


def most_confused(matrix: np.ndarray, classes: Sequence[str], limit: int = 10) -> list[Confused]:
    """The pairs with the most mistakes; of equal ones that with the larger share of its class, then by class id."""
    videos = matrix.sum(1)
    errors = matrix - np.diag(matrix.diagonal())
    pairs = [(int(true), int(predicted)) for true, predicted in np.argwhere(errors)]
    pairs.sort(key=lambda pair: (-errors[pair], videos[pair[0]], pair))
    return [Confused(classes[t], classes[p], int(errors[t, p]), int(videos[t])) for t, p in pairs[:limit]]


def confusion_order(matrix: np.ndarray) -> np.ndarray:
    """(K, K) counts -> (K,) class ids, so that classes confused with each other stand side by side.

    Average-linkage clustering on the shares of mistakes between two classes, its leaves in the order that makes
    neighbours most alike. Classes that are confused with none keep their order, at the end.
    """
    from scipy.cluster.hierarchy import leaves_list, linkage  # half a second that nothing else here needs
    from scipy.spatial.distance import squareform

    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    alike = shares + shares.T
    np.fill_diagonal(alike, 0)
    confused, others = np.flatnonzero(alike.any(1)), np.flatnonzero(~alike.any(1))
    if len(confused) < 3:
        return np.concatenate([confused, others])
    near = alike[np.ix_(confused, confused)]
    distances = squareform(1 - near / near.max(), checks=False)
    distances[distances == 1] += 1e-3 * len(confused)  # no mistake at all is farther than any share of them
    leaves = leaves_list(linkage(distances, "average", optimal_ordering=True))
    return np.concatenate([confused[leaves], others])


def confusion_csv(matrix: np.ndarray, classes: Sequence[str]) -> str:
    """Counts in the order of the class ids: a line a true class, a column a predicted one."""
    rows = ([name, *row.tolist()] for name, row in zip(classes, matrix, strict=True))
    return csv_text([["true \\ predicted", *classes], *rows])


RIGHT, WRONG = (37, 111, 178), (200, 60, 30)  # RGB at 100 %
MAX_NAME = 22  # letters of a class name that are drawn
NUM_PAIRS = 20


@styled
def draw_confusion(matrix: np.ndarray, classes: Sequence[str], title: str) -> np.ndarray:
    """(K, K) counts -> (H, W, 3) uint8 RGB.

    A cell is the share of its row: blue on the diagonal, red beside it, where a weak colour is stretched so that a
    single mistake can be seen. Percentages are written where they fit, and each class's accuracy behind its row.
    """
    num_classes, classes, title = len(classes), [printable(name) for name in classes], printable(title)
    order = confusion_order(matrix)
    shares = (matrix / np.maximum(matrix.sum(1, keepdims=True), 1))[np.ix_(order, order)]
    filled = matrix.sum(1)[order] > 0
    names = [_short(classes[number]) for number in order]
    cell = int(np.clip(1360 // num_classes, 13, 64))  # pixels
    size = float(np.clip(0.36 * cell, 7, 10.5))  # points
    side = cell * num_classes
    figure = new_figure(side, side)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(_colours(shares), interpolation="nearest", aspect="equal")
    axes.set_xticks(range(num_classes), names, rotation=90, size=size)
    axes.set_yticks(range(num_classes), names, size=size)
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    axes.spines[:].set_color("#dddddd")
    axes.xaxis.set_label_position("top")
    axes.set_xlabel("predicted class", color=GREY, size=10)
    axes.set_ylabel("true class", color=GREY, size=10)
    axes.set_title(title, loc="left", size=13, weight="bold", pad=14)
    _draw_grid(axes, num_classes)
    for number in range(num_classes):
        accuracy = f"{100 * shares[number, number]:.0f} %" if filled[number] else "-"
        axes.text(num_classes - 0.4, number, accuracy, size=size, color=GREY, va="center")
    if cell >= 22:  # "100" fits
        _draw_percents(axes, shares, size=min(size, 0.33 * cell))
    _draw_pairs(axes, most_confused(matrix, classes, NUM_PAIRS))
    return figure_pixels(figure)


def _short(name: str) -> str:
    return name if len(name) <= MAX_NAME else name[: MAX_NAME - 2] + ".."


def _colours(shares: np.ndarray) -> np.ndarray:
    """(K, K) shares in [0, 1] -> (K, K, 3) uint8"""
    diagonal = np.eye(len(shares), dtype=bool)
    strength = np.where(diagonal, shares, np.sqrt(shares))[..., None]
    full = np.where(diagonal[..., None], np.array(RIGHT), np.array(WRONG))
    return (255 + (full - 255) * strength).round().astype(np.uint8)


def _draw_grid(axes: "Axes", num_classes: int) -> None:
    for number in range(num_classes + 1):
        shade = "#cdcdcd" if number % 10 == 0 and num_classes > 20 else "#eeeeee"
        axes.axhline(number - 0.5, color=shade, linewidth=0.7)
        axes.axvline(number - 0.5, color=shade, linewidth=0.7)


def _draw_percents(axes: "Axes", shares: np.ndarray, size: float) -> None:
    for row, column in np.argwhere(np.round(100 * shares) > 0):
        share = shares[row, column]
        strength = share if row == column else np.sqrt(share)
        colour = "white" if strength > 0.6 else BLACK
        axes.text(column, row, f"{100 * share:.0f}", size=size, color=colour, ha="center", va="center")


def _draw_pairs(axes: "Axes", pairs: Sequence[Confused]) -> None:
    """The list of most confused pairs, right of the matrix."""
    title = "Most often confused (true  >  predicted)"

    def write(text: str, right: float, down: float, **style) -> None:
        offset = {"xycoords": "axes fraction", "textcoords": "offset pixels", "va": "top", "linespacing": 1.7}
        axes.annotate(text, (1, 1), xytext=(right, -down), **offset | style)

    write(title, 90, 0, size=11, weight="bold")
    write("\n".join(f"{pair.times} of {pair.videos}" for pair in pairs), 150, 32, size=10, color=GREY, ha="right")
    names = "\n".join(f"{pair.true}  >  {pair.predicted}" for pair in pairs)
    write(names or "no mistake", 166 if pairs else 90, 32, size=10)
