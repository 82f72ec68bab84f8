"""Console output: progress, durations, sizes and plurals as text."""

import sys
import time
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import TypeVar

from common.torchrun import is_rank_zero

T = TypeVar("T")


def progress(items: Iterable[T], total: int, label: str, unit: str) -> Iterator[T]:
    """Passes items through. On a terminal a bar with the time left; elsewhere a plain line at each tenth, at most one
    in ten seconds. Of several processes only the first shows it."""
    if not is_rank_zero():
        yield from items
        return
    if sys.stderr.isatty():
        from tqdm import tqdm  # imported here: worker processes and usage errors need no bar

        yield from tqdm(items, desc=label, unit=f" {unit}", total=total, dynamic_ncols=True, leave=False)
        return

    start = last = time.monotonic()
    next_tenth = 1
    for number, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if number * 10 >= total * next_tenth and now - last >= 10 and number < total:
            left = (now - start) / number * (total - number)
            print(f"{label}: {number} of {total} {unit}, about {duration(left)} left", file=sys.stderr, flush=True)
            last = now
            next_tenth = number * 10 // total + 1


@lru_cache
def print_once(text: str) -> None:
    """Prints, once in a run: training asks several times for the same videos."""
    print(text)


def duration(seconds: float) -> str:
    """40 s, 3 min, 2.5 h"""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def plural(number: int, noun: str) -> str:
    """1 video, 1,342 videos, 3 classes"""
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number:,} {noun if number == 1 else plural}"


def gigabytes(num_bytes: float) -> str:
    """1.2 GB, 35 MB"""
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.0f} MB"


def table_line(cells: Iterable[str], widths: list[int]) -> str:
    """One row: the first and the last cell are aligned left, those between them right."""
    first, *middle, last = cells
    middle = [cell.rjust(width) for cell, width in zip(middle, widths[1:], strict=True)]
    return "  ".join([first.ljust(widths[0]), *middle, last]).rstrip()
