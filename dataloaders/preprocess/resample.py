"""Frames of a video at another rate: each k-th, or those that a clock of another rate would show."""

from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import TypeVar

from dataloaders.video import VideoReader

T = TypeVar("T")

LONGEST = 60  # seconds for which a frame may be shown


class Irregular(Exception):
    """The frames do not come as was foreseen; another way, which foresees nothing, must be taken."""


def copies(index: int, rate: Fraction) -> int:
    """Number of times that frame `index` of the video, counted from 0, is stored where `rate` frames are stored for
    each of its frames.

    Stored frame j is frame floor(j / rate): of a video at a constant frame rate, the one that a player shows when
    stored frame j begins.

    rate=1/3   1 0 0 1 0 0 1      rate=1/2   1 0 1 0      rate=3/2   2 1 2 1
    """
    above, below = rate.as_integer_ratio()  # whole numbers: this is asked for each frame
    return -(-(index + 1) * above // below) + (-index * above // below)


def resampled(frames: Iterable[tuple[Fraction, T]], fps: Fraction, last: Fraction) -> Iterator[T]:
    """(seconds, frame) -> the frame shown at 0, 1/fps, 2/fps, ... seconds after the first; the last one is shown for
    `last` seconds. Raises Irregular where a time is not later than the one before, or more than a minute later: a wrong
    time stamp would fill the disk with copies of one frame."""
    begin = shown = None
    number, time = 0, Fraction(0)
    for seconds, frame in frames:
        begin = seconds if begin is None else begin
        if shown is not None and seconds - begin <= time:
            raise Irregular
        if shown is not None and seconds - begin - time > LONGEST:
            gap = float(seconds - begin - time)
            raise Irregular(f"its time stamps jump by {gap:,.0f} s, so its frames are taken at the rate that it states")
        time = seconds - begin
        while number / fps < time:
            yield shown
            number += 1
        shown = frame
    while shown is not None and number / fps < time + last:
        yield shown
        number += 1


def has_constant_rate(path: Path, fps: Fraction) -> bool:
    """Whether each frame is shown at the time of a clock of fps frames a second, give or take half a frame; also where
    the file states no times (packets without time stamps, or two with the same one)."""
    with VideoReader(path) as reader:
        stamps = [packet.pts for packet in reader.packets() if packet.size]
        base = reader.stream.time_base
    if None in stamps or len(set(stamps)) != len(stamps) or not base:
        return True
    stamps.sort()
    return all(abs((stamp - stamps[0]) * base * fps - place) < Fraction(1, 2) for place, stamp in enumerate(stamps))
