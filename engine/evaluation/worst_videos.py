"""The videos that a network is most wrong about, on one sheet of frames."""

from collections.abc import Iterable, Sequence

import cv2
import numpy as np

from common.console import plural
from common.drawing import BLACK, GREY, canvas, draw_text, fitting, text_width
from dataloaders.frame_set import FrameSet
from dataloaders.frames.manifest import VideoRow

FRAME_HEIGHT, FRAMES, GAP, MARGIN = 90, 5, 3, 16
COLUMNS = 2
TITLE, HEAD = 48, 46  # pixels above all, and above a video's frames
RED, GREEN = (178, 44, 20), (24, 110, 60)


def worst_videos(probs: np.ndarray, labels: np.ndarray, groups: Sequence[str], number: int = 20) -> list[int]:
    """(V, K), (V,), (V,) -> positions of the surest mistakes; after all mistakes, the videos that came closest to one.

    One of each recording, whose videos look alike; where there are too few recordings, the rest after them.
    """
    videos = np.arange(len(labels))
    others = probs.copy()
    others[videos, labels] = -1
    order = np.argsort(probs[videos, labels] - others.max(1), kind="stable").tolist()
    first_of = {}
    for position in order:
        first_of.setdefault(groups[position], position)
    return [*first_of.values(), *(position for position in order if first_of[groups[position]] != position)][:number]


def draw_worst(
    frame_set: FrameSet, rows: Sequence[VideoRow], probs: np.ndarray, labels: np.ndarray, title: str, number: int = 20
) -> np.ndarray:
    """Draws five frames of each of the worst videos with its class and its prediction, (H, W, 3) uint8 RGB."""
    worst = worst_videos(probs, labels, [row.group for row in rows], number)
    strips = [_strip(frame_set, rows[position]) for position in worst]
    width = max(strip.shape[1] for strip in strips)
    cell_width, cell_height = width + MARGIN, HEAD + FRAME_HEIGHT + MARGIN
    columns = min(COLUMNS, len(worst))
    sheet = canvas(TITLE + -(-len(worst) // columns) * cell_height, MARGIN + columns * cell_width)
    title = f"{title}; {caption(worst, probs.argmax(1) != labels, [row.group for row in rows])}"
    draw_text(sheet, fitting(title, sheet.shape[1] - 2 * MARGIN, 18, bold=True), (MARGIN, 26), 18, bold=True)

    for place, (position, strip) in enumerate(zip(worst, strips, strict=True)):
        top, left = TITLE + place // columns * cell_height, MARGIN + place % columns * cell_width
        _describe(sheet, (left, top), width, rows[position], probs[position], labels[position], frame_set.classes)
        sheet[top + HEAD : top + HEAD + FRAME_HEIGHT, left : left + strip.shape[1]] = strip
    return sheet


def caption(shown: Sequence[int], wrong: np.ndarray, groups: Sequence[str]) -> str:
    """3 of 3 mistakes, the surest first, then 17 correct videos, the least sure first; one a recording"""
    num_wrong = int(wrong[shown].sum())
    parts = [f"{num_wrong} of {plural(int(wrong.sum()), 'mistake')}, the surest first"] if num_wrong else ["no mistake"]
    if num_wrong < len(shown):
        parts.append(f"then {plural(len(shown) - num_wrong, 'correct video')}, the least sure first")
    once = len({groups[position] for position in shown}) == len(shown)
    return ", ".join(parts) + ("; one a recording" if once else "")


def _describe(
    sheet: np.ndarray,
    place: tuple[int, int],
    width: int,
    row: VideoRow,
    probs: np.ndarray,
    label: int,
    classes: Sequence[str],
) -> None:
    """Draws the true class with its probability, the video's name, and the predicted class."""
    predicted = int(probs.argmax())
    own = f"{classes[label]} {100 * probs[label]:.1f} %"
    if predicted == label:
        draw_heading(sheet, place, width, own, row.stem, "right, but unsure", GREEN)
    else:
        taken = f"taken for {classes[predicted]} {100 * probs[predicted]:.1f} %"
        draw_heading(sheet, place, width, own, row.stem, taken, RED)


def draw_heading(
    sheet: np.ndarray,
    place: tuple[int, int],
    width: int,
    own: str,
    video: str,
    second: str,
    colour: tuple[int, int, int],
) -> None:
    """Draws two lines above a video's frames: its class and its name; then `second`. place: (left, top) in pixels"""
    left, top = place
    draw_text(sheet, own, (left, top + 11), 15, BLACK, bold=True)
    taken = text_width(own, 15, bold=True) + 12
    draw_text(sheet, fitting(video, width - taken, 12), (left + width, top + 11), 12, GREY, align="right")
    draw_text(sheet, second, (left, top + 32), 15, colour)


def _strip(frame_set: FrameSet, row: VideoRow) -> np.ndarray:
    """Frames from the beginning, middle and end of a video side by side, (FRAME_HEIGHT, W, 3)."""
    indices = np.linspace(0, row.num_frames - 1, min(FRAMES, row.num_frames)).round().astype(int).tolist()
    return side_by_side(frame_set.read_frames(row, indices))


def side_by_side(frames: Iterable[np.ndarray]) -> np.ndarray:
    """Frames (H, W, 3) uint8 -> (FRAME_HEIGHT, sum of their widths and gaps, 3)."""
    pictures = []
    for frame in frames:
        width = max(round(frame.shape[1] * FRAME_HEIGHT / frame.shape[0]), 1)
        how = cv2.INTER_AREA if frame.shape[0] > FRAME_HEIGHT else cv2.INTER_CUBIC
        pictures += [cv2.resize(frame, (width, FRAME_HEIGHT), interpolation=how), canvas(FRAME_HEIGHT, GAP)]
    return np.concatenate(pictures[:-1], axis=1)
