"""What is taken for what: the confusion matrix, the pairs that stand out, and a picture of it for up to hundreds of
classes."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from common.drawing import BLACK, GREY, canvas, draw_text, text_width


@dataclass(frozen=True)
class Confused:
    """`times` of the `videos` of class `true` were taken for class `predicted`."""

    true: str
    predicted: str
    times: int
    videos: int

    def __str__(self) -> str:
        return f"{self.true} taken for {self.predicted} ({self.times} of {self.videos})"


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
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["true \\ predicted", *classes])
    writer.writerows([name, *row.tolist()] for name, row in zip(classes, matrix, strict=True))
    return file.getvalue()


RIGHT, WRONG = (37, 111, 178), (200, 60, 30)  # RGB at 100 %
MAX_NAME = 22  # letters of a class name that are drawn
NUM_PAIRS = 20


def draw_confusion(matrix: np.ndarray, classes: Sequence[str], title: str) -> np.ndarray:
    """(K, K) counts -> (H, W, 3) uint8 RGB.

    A cell is the share of its row: blue on the diagonal, red beside it, where a weak colour is stretched so that a
    single mistake can be seen. Percent stand in the cells where they fit, and each class's accuracy behind its row.
    """
    num_classes = len(classes)
    order = confusion_order(matrix)
    shares = (matrix / np.maximum(matrix.sum(1, keepdims=True), 1))[np.ix_(order, order)]
    filled = matrix.sum(1)[order] > 0
    names = [_short(classes[number]) for number in order]
    cell = int(np.clip(1360 // num_classes, 13, 64))
    size = float(np.clip(0.5 * cell, 10, 15))  # height of the letters in pixels
    labels = max(text_width(name, size) for name in names) + 14
    pairs = most_confused(matrix, classes, NUM_PAIRS)
    lines = [f"{pair.times} of {pair.videos}" for pair in pairs], [f"{p.true}  >  {p.predicted}" for p in pairs]
    counts_width, pairs_width = (max([text_width(line, 14) for line in part], default=0) for part in lines)
    side = cell * num_classes
    top, left = 64 + labels, labels + 34
    panel = left + side + 96
    picture = canvas(max(top + side + 28, 150 + 24 * len(pairs)), panel + max(counts_width + pairs_width + 60, 330))

    draw_text(picture, title, (16, 30), 18, bold=True)
    matrix_area = picture[top : top + side, left : left + side]
    matrix_area[:] = np.kron(_colours(shares), np.ones((cell, cell, 1), np.uint8))
    _draw_grid(matrix_area, cell, num_classes)
    for number, name in enumerate(names):
        middle = top + number * cell + cell // 2
        draw_text(picture, name, (left - 8, middle), size, align="right")
        accuracy = f"{100 * shares[number, number]:.0f} %" if filled[number] else "-"
        draw_text(picture, accuracy, (left + side + 8, middle), size, colour=GREY)
        _draw_upright(picture, name, (left + number * cell + cell // 2, top - 8), size)
    _draw_percents(matrix_area, shares, cell, size)
    _draw_upright(picture, "true class", (18, top + side // 2 + 40), 14, colour=GREY)
    draw_text(picture, "predicted class", (left + side // 2 - 50, 54), 14, colour=GREY)

    draw_text(picture, "Most often confused (true  >  predicted)", (panel, 80), 15, bold=True)
    for number, (times, pair) in enumerate(zip(*lines, strict=True)):
        draw_text(picture, times, (panel + counts_width, 112 + 24 * number), 14, colour=GREY, align="right")
        draw_text(picture, pair, (panel + counts_width + 16, 112 + 24 * number), 14)
    if not pairs:
        draw_text(picture, "no mistake", (panel, 112), 14)
    return picture


def _short(name: str) -> str:
    return name if len(name) <= MAX_NAME else name[: MAX_NAME - 2] + ".."


def _colours(shares: np.ndarray) -> np.ndarray:
    """(K, K) shares in [0, 1] -> (K, K, 3) uint8"""
    diagonal = np.eye(len(shares), dtype=bool)
    strength = np.where(diagonal, shares, np.sqrt(shares))[..., None]
    full = np.where(diagonal[..., None], np.array(RIGHT), np.array(WRONG))
    return (255 + (full - 255) * strength).round().astype(np.uint8)


def _draw_grid(area: np.ndarray, cell: int, num_classes: int) -> None:
    for number in range(num_classes + 1):
        shade = 205 if number % 10 == 0 and num_classes > 20 else 238
        at = min(number * cell, len(area) - 1)
        area[at] = np.minimum(area[at], shade)
        area[:, at] = np.minimum(area[:, at], shade)


def _draw_percents(area: np.ndarray, shares: np.ndarray, cell: int, size: float) -> None:
    if cell < 22:  # "100" does not fit
        return
    size = min(size, 0.45 * cell)
    for row, column in np.argwhere(np.round(100 * shares) > 0):
        share = shares[row, column]
        strength = share if row == column else np.sqrt(share)
        text = f"{100 * share:.0f}"
        middle = int(column * cell + cell / 2 + text_width(text, size) / 2), int(row * cell + cell / 2)
        draw_text(area, text, middle, size, colour=(255, 255, 255) if strength > 0.6 else BLACK, align="right")


def _draw_upright(
    picture: np.ndarray, text: str, foot: tuple[int, int], size: float, colour: tuple[int, int, int] = BLACK
) -> None:
    """Text that reads from the bottom up, centred on x and beginning at y of `foot`."""
    width, height = text_width(text, size) + 4, round(2 * size)
    strip = canvas(height, width)
    draw_text(strip, text, (1, height // 2), size, colour)
    strip = cv2.rotate(strip, cv2.ROTATE_90_COUNTERCLOCKWISE)
    x, y = foot[0] - height // 2, foot[1] - width
    there = picture[y : y + width, x : x + height]
    there[:] = np.minimum(there, strip[: len(there), : there.shape[1]])
