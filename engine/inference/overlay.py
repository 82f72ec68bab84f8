"""The answer drawn on a frame: the label with its probability, and below it a bar for each of the likeliest classes.

OpenCV draws into the array; there is no window, and no display is needed.
"""

from collections.abc import Sequence

import cv2
import numpy as np

from common.drawing import CAP_HEIGHT, DRAWS_UNICODE, FONT, _text_width, drawable, shorten

READABLE = 320  # pixels of the shorter side from which a few lines of text can be read and leave room for the picture
LARGEST = 4096  # pixels of the longer side up to which small frames are enlarged
LINES_PER_SIDE = 24  # lines of text that would fit into the shorter side
DARK, BAR, TEXT, QUIET = (26, 20, 16), (206, 132, 34), (255, 255, 255), (214, 214, 214)  # BGR


def readable_factor(width: int, height: int) -> int:
    """The whole factor by which a frame is enlarged so that text on it can be read: 1 from 320 pixels on.

    160x120 -> 3 (480x360)      320x240 -> 2 (640x480)      1920x1080 -> 1
    """
    return max(min(-(-READABLE // min(width, height)), LARGEST // max(width, height)), 1)


def enlarge(frame: np.ndarray, factor: int) -> np.ndarray:
    """(H, W, 3) uint8 -> (factor * H, factor * W, 3) uint8"""
    if factor == 1:
        return frame
    return cv2.resize(frame, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)


def panel_box(width: int, height: int, num_classes: int) -> tuple[int, int, int, int]:
    """Returns (left, top, right, bottom) of the panel with its header and num_classes bars.

    It covers at most two thirds of the height: where that is too little, the last classes are left out. On a frame
    that no line of text fits into (a few pixels wide and thousands high) it is empty.
    """
    line, gap = _line(width, height), _line(width, height) // 2
    panel_width = min(width - 2 * gap, max(round(0.4 * width), 17 * line))
    num_bars = min(num_classes, (2 * height // 3 - _header(line) - gap) // line)
    if panel_width < 5 * line or num_bars < 0:
        return 0, 0, 0, 0
    padding = gap // 2 if num_bars else 0
    return gap, gap, gap + panel_width, gap + _header(line) + num_bars * line + padding


def draw_answer(frame: np.ndarray, top: Sequence[tuple[str, float]], threshold: float = 0.0) -> None:
    """Draws into (H, W, 3) uint8 BGR. `top`: classes with their probabilities in [0, 1], the likeliest first. Below the
    threshold the header says "uncertain", and the bars what it is torn between."""
    height, width = frame.shape[:2]
    left, up, right, down = panel_box(width, height, len(top))
    if right == left:
        return
    line = _line(width, height)
    panel = frame[up:down, left:right]
    _tint(panel, DARK, 0.74)

    label, probability = top[0]
    label = label if probability >= threshold else "uncertain"
    _write(panel[: _header(line)], label, probability, padding=line // 2, scale=0.84 * line / 30, bold=True)
    num_bars = (down - up - _header(line)) // line
    for number, (label, probability) in enumerate(top[:num_bars]):
        bottom = _header(line) + (number + 1) * line
        row = panel[bottom - line : bottom]
        inset = max(line // 12, 1)
        bar = row[inset : line - inset, line // 4 : panel.shape[1] - line // 4]
        _tint(bar, (255, 255, 255), 0.07)
        _tint(bar[:, : round(bar.shape[1] * probability)], BAR, 0.85)
        _write(row, label, probability, padding=line // 2, scale=0.66 * line / 30)


def draw_heat(frame: np.ndarray, heat: np.ndarray, corner: tuple[int, int], opposite: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) uint8 BGR, and (s, s) in [0, 1] over the box between two corners (x, y) -> a copy with the heat on it.

    What is cold stays as it is, a little darker; what is hot glows. A thin line shows what the network gets to see.
    """
    (left, top), (right, bottom) = corner, opposite
    picture = frame.copy()
    area = picture[top:bottom, left:right]
    if not area.size:
        return picture
    heat = cv2.resize(heat.astype(np.float32), area.shape[1::-1], interpolation=cv2.INTER_CUBIC).clip(0, 1)
    glow = heat**0.4  # most of it is in a few places; the eye wants the rest, too
    color = cv2.applyColorMap((255 * glow).astype(np.uint8), cv2.COLORMAP_INFERNO)
    opacity = (0.2 + 0.55 * glow)[..., None]
    area[:] = (area * (1 - opacity) + color * opacity).astype(np.uint8)
    cv2.rectangle(picture, corner, (right - 1, bottom - 1), QUIET, max(min(frame.shape[:2]) // 400, 1))
    return picture


def draw_curve(frame: np.ndarray, moments: np.ndarray, now: int, label: str) -> None:
    """Draws into (H, W, 3) uint8 BGR, along its lower edge: how much each moment counted for a label, in [0, 1], over
    the whole video, and where the frame `now` is in it."""
    height, width = frame.shape[:2]
    line = _line(width, height)
    strip = frame[height - 3 * line :]
    if len(strip) < 3 * line or width < 5 * line:
        return
    _tint(strip, DARK, 0.74)
    graph = strip[line + line // 4 : 3 * line - line // 4, line // 2 : width - line // 2]
    rows, columns = graph.shape[:2]
    at = np.linspace(0, len(moments) - 1, columns)
    levels = np.interp(at, np.arange(len(moments)), moments)
    filled = np.arange(rows)[:, None] >= rows * (1 - levels[None])  # (rows, columns)
    graph[filled] = BAR
    cursor = round(now / max(len(moments) - 1, 1) * (columns - 1))
    cv2.line(graph, (cursor, 0), (cursor, rows - 1), TEXT, max(line // 10, 1))
    text = f"what counted for {label}"
    _write_text(strip[: line + line // 4], text, padding=line // 2, scale=0.6 * line / 30)


def draw_note(frame: np.ndarray, text: str) -> None:
    """Draws a short text into the lower left corner of (H, W, 3) uint8 BGR."""
    height, width = frame.shape[:2]
    line = _line(width, height)
    scale = 0.6 * line / 30
    thickness = 1 if DRAWS_UNICODE else max(round(2 * scale), 1)
    row = frame[
        max(height - 2 * line, 0) : height - line // 2,
        line // 2 : line // 2 + _text_width(text, scale, thickness) + line,
    ]
    _tint(row, DARK, 0.74)
    if row.size:
        _write_text(row, text, padding=line // 2, scale=scale)


def _write_text(row: np.ndarray, text: str, padding: int, scale: float) -> None:
    thickness = 1 if DRAWS_UNICODE else max(round(2 * scale), 1)
    baseline = (row.shape[0] + round(CAP_HEIGHT * scale)) // 2
    text = shorten(drawable(text), row.shape[1] - 2 * padding, scale, thickness)
    cv2.putText(row, text, (padding, baseline), FONT, scale, QUIET, thickness, cv2.LINE_AA)


def _line(width: int, height: int) -> int:
    """Height of a row in pixels."""
    return max(min(width, height) // LINES_PER_SIDE, 16)


def _header(line: int) -> int:
    return 3 * line // 2


def _tint(area: np.ndarray, color: tuple[int, int, int], opacity: float) -> None:
    """Lays a colour over an area, in place."""
    if area.size:
        area[:] = cv2.addWeighted(area, 1 - opacity, np.full_like(area, color), opacity, 0)


def _write(row: np.ndarray, label: str, probability: float, padding: int, scale: float, bold: bool = False) -> None:
    """The label at the left of a row, shortened to what fits, and its probability at the right."""
    height, width = row.shape[:2]
    # OpenCV 5 has three weights that grow with the text, OpenCV 4 strokes of so many pixels
    thickness = 1 + bold if DRAWS_UNICODE else max(round((3 if bold else 2) * scale), 1)
    baseline = (height + round(CAP_HEIGHT * scale)) // 2
    percent = f"{100 * probability:.1f} %"
    percent_left = width - padding - _text_width(percent, scale, thickness)
    label = shorten(drawable(label), percent_left - padding - height // 3, scale, thickness)
    cv2.putText(row, label, (padding, baseline), FONT, scale, TEXT, thickness, cv2.LINE_AA)
    cv2.putText(row, percent, (percent_left, baseline), FONT, scale, TEXT if bold else QUIET, thickness, cv2.LINE_AA)
