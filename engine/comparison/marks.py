"""Drawings as lists of marks, drawn as SVG for a page and as pixels for a .png, so that both show the same."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

import cv2
import numpy as np

from common.drawing import canvas, draw_text, text_width

# Okabe and Ito's colours, told apart with every kind of colour vision; the yellow, which white swallows, left out. RGB
SERIES = ((0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233), (230, 159, 0), (120, 120, 120))
INK = {"text": (34, 34, 34), "quiet": (100, 100, 100), "grid": (222, 222, 222)}

Colour = str | int  # "text", "quiet", "grid", or the number of a series


@dataclass(frozen=True)
class Line:
    """Through points (x, y), x to the right and y down."""

    points: Sequence[tuple[float, float]]
    colour: Colour
    width: float = 1.0


@dataclass(frozen=True)
class Dot:
    x: float
    y: float
    colour: Colour
    radius: float = 5.0


@dataclass(frozen=True)
class Text:
    """Centred on y; `size` is the height of the letters in pixels, about."""

    text: str
    x: float
    y: float
    colour: Colour = "text"
    size: float = 14.0
    align: Literal["left", "middle", "right"] = "left"
    bold: bool = False


Mark = Line | Dot | Text


def to_pixels(marks: Sequence[Mark], width: int, height: int, scale: int = 2) -> np.ndarray:
    """-> (scale * height, scale * width, 3) uint8 RGB, on white"""
    picture = canvas(scale * height, scale * width)
    for mark in marks:
        colour = _rgb(mark.colour)
        if isinstance(mark, Line):
            points = np.array([[round(16 * scale * x), round(16 * scale * y)] for x, y in mark.points], np.int32)
            cv2.polylines(picture, [points], False, colour, max(round(scale * mark.width), 1), cv2.LINE_AA, shift=4)
        elif isinstance(mark, Dot):
            place = round(16 * scale * mark.x), round(16 * scale * mark.y)
            cv2.circle(picture, place, round(16 * scale * mark.radius), colour, -1, cv2.LINE_AA, shift=4)
        else:
            size = scale * mark.size
            left = scale * mark.x
            if mark.align == "middle":
                left -= text_width(mark.text, size, mark.bold) / 2
            align = "right" if mark.align == "right" else "left"
            draw_text(picture, mark.text, (round(left), round(scale * mark.y)), size, colour, mark.bold, align)
    return picture


def to_svg(marks: Sequence[Mark], width: int, height: int, title: str) -> str:
    """Colours are the page's variables --text, --quiet, --grid, --s0, --s1, ..., so that they follow light and dark."""
    parts = [
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">',
        *(_svg_of(mark) for mark in marks),
        "</svg>",
    ]
    return "\n".join(parts)


def _svg_of(mark: Mark) -> str:
    colour = f"var(--{mark.colour})" if isinstance(mark.colour, str) else f"var(--s{mark.colour % len(SERIES)})"
    if isinstance(mark, Line):
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in mark.points)
        return f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="{mark.width:g}"/>'
    if isinstance(mark, Dot):
        return f'<circle cx="{mark.x:.1f}" cy="{mark.y:.1f}" r="{mark.radius:g}" fill="{colour}"/>'
    anchor = {"left": "start", "middle": "middle", "right": "end"}[mark.align]
    weight = ' font-weight="600"' if mark.bold else ""
    return (
        f'<text x="{mark.x:.1f}" y="{mark.y:.1f}" fill="{colour}" font-size="{mark.size:g}" text-anchor="{anchor}" '
        f'dominant-baseline="central"{weight}>{escape(mark.text)}</text>'
    )


def _rgb(colour: Colour) -> tuple[int, int, int]:
    return INK[colour] if isinstance(colour, str) else SERIES[colour % len(SERIES)]
