"""Figures of matplotlib with one look, as pixels and as SVG. matplotlib is imported when a figure is made."""

import io
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import wraps
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

P, R = ParamSpec("P"), TypeVar("R")

BLACK, GREY, GRID = "#222222", "#646464", "#dedede"
# Okabe and Ito's colours, told apart with every kind of colour vision, without the yellow, which white swallows
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#787878")
DPI = 100
# for class names that DejaVu Sans has no letters for; taken where they are installed
FALLBACK_FONTS = ("Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Micro Hei", "Microsoft YaHei", "PingFang SC")


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """Decorator: fonts and colours of every text that a function draws."""

    @wraps(draw)
    def with_style(*args: P.args, **kwargs: P.kwargs) -> R:
        with _style():
            return draw(*args, **kwargs)

    return with_style


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure of width x height pixels, at 100 pixels an inch."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width / DPI, height / DPI), dpi=DPI)


def figure_pixels(figure: "Figure", scale: float = 1.0) -> np.ndarray:
    """Draws the figure as (H, W, 3) uint8 RGB, with texts outside of its frame."""
    import cv2

    content = np.frombuffer(_save(figure, "png", dpi=scale * DPI), np.uint8)
    return cv2.cvtColor(cv2.imdecode(content, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def figure_svg(figure: "Figure") -> str:
    """The figure as SVG text, with letters as text and the same bytes from run to run."""
    return _save(figure, "svg", metadata={"Date": None}).decode()


def _save(figure: "Figure", kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    with _style():
        figure.savefig(file, format=kind, bbox_inches="tight", pad_inches=0.12, **options)
    return file.getvalue()


def _style() -> AbstractContextManager:
    from matplotlib import font_manager, rc_context

    installed = set(font_manager.get_font_names())
    return rc_context(
        {
            "font.family": ["DejaVu Sans", *(name for name in FALLBACK_FONTS if name in installed)],
            "text.parse_math": False,  # a class or run may have a $ in its name
            "text.color": BLACK,
            "axes.labelcolor": GREY,
            "svg.fonttype": "none",
            "svg.hashsalt": "figure",
        }
    )
