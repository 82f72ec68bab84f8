"""The tar files of a pack: which frame lies where, and how they are written."""

import hashlib
import os
import tarfile
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.errors import UserError
from common.files import named_errors
from dataloaders.frames.manifest import VideoRow
from dataloaders.frames.store import INDEX_DTYPE, TAR_BLOCK, read_file, redo, volume_name

MOST_VOLUMES = 256  # each stays open while it is read, and systems allow a process about a thousand files
READERS = 8  # threads: a file system over a network answers many questions at once
VIDEOS_AHEAD = 16
JPEG, JPEG_END, PNG = b"\xff\xd8", b"\xff\xd9", b"\x89PNG"


@dataclass(frozen=True)
class Volume:
    """One tar file to be: its videos, where each frame's JPEG will lie in it, and its size."""

    name: str
    rows: list[VideoRow]
    entries: np.ndarray  # of INDEX_DTYPE, a frame each
    num_bytes: int


def plan_volumes(rows: Sequence[VideoRow], sizes: Sequence[np.ndarray], volume_gb: float) -> list[Volume]:
    """Distributes videos over files, in the manifest's order, each whole. The same frames give the same plan."""
    rooms = [_padded(lengths) + _header_lengths(row) for row, lengths in zip(rows, sizes, strict=True)]
    needs = [int(room.sum()) for room in rooms]
    most = max(volume_gb * 1e9, sum(needs) / (MOST_VOLUMES - 1) + max(needs))
    volumes, videos, entries, end = [], [], [], 0

    def close() -> None:
        nonlocal videos, entries, end
        length = -(-(end + 2 * TAR_BLOCK) // tarfile.RECORDSIZE) * tarfile.RECORDSIZE  # as tar ends its files
        volumes.append(Volume(volume_name(len(volumes)), videos, np.concatenate(entries), length))
        videos, entries, end = [], [], 0

    for row, lengths, room, need in zip(rows, sizes, rooms, needs, strict=True):
        if videos and end + need > most:
            close()
        part = np.empty(len(lengths), INDEX_DTYPE)
        part["offset"] = end + np.cumsum(room) - _padded(lengths)
        part["size"] = lengths
        part["volume"] = len(volumes)
        videos.append(row)
        entries.append(part)
        end += need
    close()
    return volumes


def _padded(lengths: np.ndarray) -> np.ndarray:
    return -(-lengths.astype(np.int64) // TAR_BLOCK) * TAR_BLOCK


def _header_lengths(row: VideoRow) -> np.ndarray | int:
    longest = f"{row.folder}/{row.frame_name(row.num_frames - 1)}".encode("utf-8", "surrogateescape")
    if len(longest) <= tarfile.LENGTH_NAME:
        return TAR_BLOCK
    return np.array([len(_header(row, index, 0)) for index in range(row.num_frames)], np.int64)


def _header(row: VideoRow, index: int, length: int) -> bytes:
    """The tar header of a frame, which depends on the frame alone, not on the user or the time."""
    info = tarfile.TarInfo(f"{row.folder}/{row.frame_name(index)}")
    info.size = length
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")


def write_volume(frames: Path, path: Path, volume: Volume) -> str:
    """Writes one tar file; returns its SHA-256."""
    checksum = hashlib.sha256()
    with named_errors(path), path.open("wb") as file:
        place = iter(volume.entries)
        for row, contents in _read_videos(frames, volume.rows):
            for index, content in enumerate(contents):
                entry = next(place)
                _check_frame(frames, row, index, content, int(entry["size"]))
                member = _header(row, index, len(content)) + content + bytes(-len(content) % TAR_BLOCK)
                file.write(member)
                checksum.update(member)
        end = bytes(volume.num_bytes - file.tell())
        file.write(end)
        checksum.update(end)
        file.flush()
        os.fsync(file.fileno())
        if hasattr(os, "posix_fadvise"):  # so that it is read back from the disk, not from memory
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    assert path.stat().st_size == volume.num_bytes
    return checksum.hexdigest()


def _read_videos(frames: Path, rows: Sequence[VideoRow]) -> Iterator[tuple[VideoRow, list[bytes]]]:
    """The JPEGs of each video, read a few videos ahead."""

    def read(row: VideoRow) -> list[bytes]:
        return [read_file(str(frames / row.folder / row.frame_name(index)), row) for index in range(row.num_frames)]

    pool = ThreadPoolExecutor(READERS, thread_name_prefix="pack")
    ahead: deque = deque()
    try:
        for row in rows:
            ahead.append((row, pool.submit(read, row)))
            if len(ahead) > VIDEOS_AHEAD:
                first, contents = ahead.popleft()
                yield first, contents.result()
        while ahead:
            first, contents = ahead.popleft()
            yield first, contents.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _check_frame(frames: Path, row: VideoRow, index: int, content: bytes, planned: int) -> None:
    """A cut or foreign file is found here, and not in the tenth epoch. (To decode all would take an epoch's time.)"""
    path = frames / row.folder / row.frame_name(index)
    if len(content) != planned:
        raise UserError(f"The frame {path} has changed during packing. Wait until the other program has ended.")
    if row.quality:
        is_whole = content.startswith(JPEG) and content.endswith(JPEG_END)
    else:  # other programs may write PNG, or more behind the picture
        is_whole = content.startswith((JPEG, PNG))
    if not is_whole:
        raise UserError(f"The frame {path} is damaged. {redo(row)}")
