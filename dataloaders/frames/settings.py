"""Settings of stored frames: size, rate and JPEG quality."""

import argparse
from dataclasses import dataclass
from fractions import Fraction

from common.cli import positive

DEFAULT_SIZE = (171, 128)  # width, height: what C3D, R3D and R(2+1)D were trained on
FrameSize = tuple[int, int] | int  # (width, height), or the shorter side of frames that keep their aspect


@dataclass(frozen=True)
class Settings:
    """size: FrameSize; every: each every-th frame; quality of the JPEGs, 1 to 100; fps: frames a second to which the
    video is resampled by time, None: as it is."""

    size: FrameSize = DEFAULT_SIZE
    every: int = 1
    quality: int = 95
    fps: float | None = None

    def __str__(self) -> str:
        rate = f"{self.fps:g} frames a second" if self.fps else f"every {self.every}"
        return f"{size_text(self.size)}, {rate}, quality {self.quality}"

    @property
    def flags(self) -> str:
        """The command line that asks for them."""
        parts = [f"--size {size_text(self.size)}"]
        parts += [f"--every {self.every}"] if self.every != 1 else []
        parts += [f"--fps {self.fps:g}"] if self.fps else []
        parts += [f"--quality {self.quality}"] if self.quality != 95 else []
        return " ".join(parts)


def size_text(size: FrameSize) -> str:
    """171x128, or short:256"""
    return f"short:{size}" if isinstance(size, int) else f"{size[0]}x{size[1]}"


def size_name(size: FrameSize) -> str:
    """A size as part of a folder's name: 171x128, short256"""
    return size_text(size).replace(":", "")


def read_size(text: str) -> FrameSize:
    """The other way round. Raises ValueError."""
    kind, colon, side = text.lower().partition(":")
    try:
        if colon:
            if kind != "short":
                raise ValueError(kind)
            return positive(side)
        width, height = (positive(number) for number in kind.split("x"))
    except (ValueError, argparse.ArgumentTypeError) as error:
        raise ValueError(
            f"'{text}' is not a size; write 171x128 (width x height), or short:256 (shorter side, aspect kept)"
        ) from error
    return width, height


def stored_size(size: FrameSize, width: int, height: int) -> tuple[int, int]:
    """(width, height) at which frames of width x height are stored. Where the aspect is kept, the longer side is
    rounded to the nearest even number.

    short:256 of 320x240 -> 342x256      of 240x320 -> 256x342
    """
    if not isinstance(size, int):
        return size
    longer = 2 * max(1, round(Fraction(size * max(width, height), 2 * min(width, height))))
    longer = max(longer, size)  # a square of an odd side stays one
    return (longer, size) if width >= height else (size, longer)


def parse_size(text: str) -> FrameSize:
    try:
        return read_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
