"""Text on a white picture, and pictures into files, for what an evaluation shows."""

import unicodedata
from functools import lru_cache
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from common.files import write_atomically

BLACK, GREY = (34, 34, 34), (110, 110, 110)  # RGB


def canvas(height: int, width: int) -> np.ndarray:
    """Returns a white picture, (height, width, 3) uint8."""
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
    position: tuple[int, int],
    size: float,
    colour: tuple[int, int, int] = BLACK,
    bold: bool = False,
    align: Literal["left", "right"] = "left",
) -> None:
    """Draws into (H, W, 3) uint8: the text begins (or ends) at x, and is centred on y of `place`."""
    x, y = position
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
    """Writes (H, W, 3) uint8 RGB as a .png or .jpg."""
    write_atomically(path, encode_picture(picture, path.suffix))


def encode_picture(picture: np.ndarray, suffix: str) -> bytes:
    """(H, W, 3) uint8 RGB -> the bytes of a .png or .jpg file."""
    options = [cv2.IMWRITE_PNG_COMPRESSION, 9] if suffix == ".png" else [cv2.IMWRITE_JPEG_QUALITY, 88]
    done, data = cv2.imencode(suffix, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), options)
    assert done, suffix
    return data.tobytes()


FONT = cv2.FONT_HERSHEY_SIMPLEX
CAP_HEIGHT = 21  # pixels of a capital letter at font scale 1, in OpenCV 4 and 5
# OpenCV 5 draws UTF-8 in a font of its own; OpenCV 4 draws strokes, and those for ASCII alone.
DRAWS_UNICODE = int(cv2.__version__.split(".")[0]) >= 5


@lru_cache(maxsize=4096)
def drawable(text: str, draws_unicode: bool = DRAWS_UNICODE) -> str:
    """The part of a text that OpenCV can draw: all of it from version 5 on; before that ASCII, letters without their
    accents, and ? for the rest."""
    text = "".join(" " if unicodedata.category(letter).startswith("C") else letter for letter in text)
    if draws_unicode:
        return text
    plain = (letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter))
    return "".join(letter if letter.isascii() else "?" for letter in plain)


@lru_cache(maxsize=4096)
def shorten(text: str, width: int, scale: float, thickness: int) -> str:
    """The text, or as much of its beginning as fits into `width` pixels with ... behind it."""
    if _text_width(text, scale, thickness) <= width:
        return text
    for length in range(len(text) - 1, 0, -1):
        short = text[:length].rstrip() + "..."
        if _text_width(short, scale, thickness) <= width:
            return short
    return ""


def _text_width(text: str, scale: float, thickness: int) -> int:
    return cv2.getTextSize(text, FONT, scale, thickness)[0][0]
