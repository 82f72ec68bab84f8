"""--cache ram: frames are kept as they were decoded, so that none is decoded twice in a run.

They are kept as clips come to need them, each frame for itself: training begins at once, no epoch decodes more than it
would without, and what no clip asks for is neither decoded nor takes memory.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.console import gigabytes, plural
from common.errors import UserError
from dataloaders.frames.manifest import VideoRow
from dataloaders.frames.shared_memory import SharedBytes

RESERVE = 1e9  # bytes left to the run itself


class FrameCache:
    """Room for all frames of the rows, shared by the worker processes. A page takes memory once it is written to.

    Workers fill and read at once: a frame is written before it is marked as ready, and two workers that decode the same
    one write the same bytes.
    """

    def __init__(self, rows: Sequence[VideoRow], sizes: Sequence[tuple[int, int]]):
        lengths = [row.num_frames for row in rows]
        room = [length * width * height * 3 for length, (width, height) in zip(lengths, sizes, strict=True)]
        self.sizes = sizes
        self.first_frames = _starts(lengths)
        self.first_bytes = _starts(room)
        self.ready, self.pixels = SharedBytes(sum(lengths)), SharedBytes(sum(room))

    def missing(self, number: int, indices: Sequence[int]) -> list[int]:
        """The frames of row `number` that are not in the cache yet."""
        first, ready = self.first_frames[number], self.ready.array
        return [index for index in indices if not ready[first + index]]

    def put(self, number: int, index: int, image: np.ndarray) -> None:
        self.get(number, index)[:] = image
        self.ready.array[self.first_frames[number] + index] = 1

    def get(self, number: int, index: int) -> np.ndarray:
        """(H, W, 3) uint8, the frame's own memory."""
        width, height = self.sizes[number]
        size = width * height * 3
        start = self.first_bytes[number] + index * size
        return self.pixels.array[start : start + size].reshape(height, width, 3)


def _starts(lengths: list[int]) -> list[int]:
    return [0, *np.cumsum(np.array(lengths, np.int64)).tolist()[:-1]]


def check_memory(rows: Sequence[VideoRow], sizes: Sequence[tuple[int, int]], processes: int = 1) -> None:
    """Prints the memory that --cache ram will take. Raises UserError where that is more than is free.

    processes: how many on this machine keep a cache of their own.
    """
    num_frames = sum(row.num_frames for row in rows)
    need = sum(row.num_frames * width * height * 3 for row, (width, height) in zip(rows, sizes, strict=True))
    need *= processes
    free = free_memory()
    each = f" in each of {processes} processes" if processes > 1 else ""
    what = f"--cache ram needs {gigabytes(need)} of memory for {plural(num_frames, 'decoded frame')}{each}"
    if free is not None and need + RESERVE > free:
        raise UserError(
            f"{what}; {gigabytes(free)} are free, of which {gigabytes(RESERVE)} are reserved for the run. Train "
            "without it, or on fewer frames (preprocess with --every 4 into another folder takes a quarter)."
        )
    print(f"{what}; {'how much is free is not known here' if free is None else f'{gigabytes(free)} are free'}.")


def free_memory() -> float | None:
    """Bytes that this process may still take: of the machine, and of its container where that sets a limit. None where
    the system does not say."""
    amounts = []
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
        amounts.append(float(fields["MemAvailable"].split()[0]) * 1024)
    elif hasattr(os, "sysconf") and "SC_AVPHYS_PAGES" in os.sysconf_names:
        amounts.append(float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")))
    for folder in _control_groups(Path("/sys/fs/cgroup")):
        amounts += _container_memory(folder)
    return min(amounts, default=None)


def _control_groups(root: Path) -> list[Path]:
    """The group of this process and those it lies in: a container's, or what a scheduler gave to the job."""
    own = Path("/proc/self/cgroup")
    lines = own.read_text().splitlines() if own.is_file() else []
    inside = [line.removeprefix("0::/") for line in lines if line.startswith("0::/")]
    folder = root / inside[0] if inside else root
    return [folder, *(parent for parent in folder.parents if parent == root or root in parent.parents)]


def _container_memory(root: Path) -> list[float]:
    """[bytes left under the container's limit], [] where it has none. Cached files do not count: they give way."""
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            total, taken = (root / limit).read_text().strip(), float((root / used).read_text())
            lines = ((root / used).with_name("memory.stat")).read_text().splitlines()
            cached = float(dict(line.split() for line in lines).get("inactive_file", 0))
        except (OSError, ValueError):
            continue
        if total.isdigit() and int(total) < 1 << 60:  # "max", or a number beyond all machines
            return [float(total) - taken + cached]
    return []
