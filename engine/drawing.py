"""Text on a white picture, and pictures into files, for what an evaluation shows."""

from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from engine.runs import write_whole
from recognition.overlay import CAP_HEIGHT, DRAWS_UNICODE, FONT, drawable, shorten

BLACK, GREY = (34, 34, 34), (110, 110, 110)  # RGB


def canvas(height: int, width: int) -> np.ndarray:
    """-> (height, width, 3) uint8, white"""
    return np.full((height, width, 3), 255, np.uint8)


def text_width(text: str, size: float, bold: bool = False) -> int:
    """Pixels that a text is wide. size: height of a line's letters in pixels, about."""
    return cv2.getTextSize(drawable(text), FONT, _scale(size), _thickness(size, bold))[0][0]


def fitting(text: str, width: int, size: float, bold: bool = False) -> str:
    """The text, or as much of its beginning as fits into `width` pixels with ... behind it."""
    return shorten(drawable(text), width, _scale(size), _thickness(size, bold))


def draw_text(
    picture: np.ndarray,
    text: str,
    place: tuple[int, int],
    size: float,
    colour: tuple[int, int, int] = BLACK,
    bold: bool = False,
    align: Literal["left", "right"] = "left",
) -> None:
    """Draws into (H, W, 3) uint8: the text begins (or ends) at x, and is centred on y of `place`."""
    x, y = place
    if align == "right":
        x -= text_width(text, size, bold)
    baseline = y + round(CAP_HEIGHT * _scale(size) / 2)
    thickness = _thickness(size, bold)
    cv2.putText(picture, drawable(text), (x, baseline), FONT, _scale(size), colour, thickness, cv2.LINE_AA)


def _scale(size: float) -> float:
    return size / 30


def _thickness(size: float, bold: bool) -> int:
    # OpenCV 5 has weights that grow with the text, OpenCV 4 strokes of so many pixels
    return 1 + bold if DRAWS_UNICODE or size > 14 else 1


def save_picture(path: Path, picture: np.ndarray) -> None:
    """(H, W, 3) uint8 RGB -> a .png or .jpg, written whole."""
    options = [cv2.IMWRITE_PNG_COMPRESSION, 9] if path.suffix == ".png" else [cv2.IMWRITE_JPEG_QUALITY, 88]
    done, data = cv2.imencode(path.suffix, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), options)
    assert done, path
    write_whole(path, data.tobytes())
