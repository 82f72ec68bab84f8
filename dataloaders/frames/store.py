"""Sources of JPEG frames: a folder for each video, or a few large tar files with an index (python -m dataloaders.pack).

Both give the same bytes. Nothing here has a place in a file that others would share: any number of threads and of
forked processes may read.
"""

import hashlib
import json
import os
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from common.errors import UserError
from common.files import named_errors
from dataloaders.frames import manifest
from dataloaders.frames.manifest import VideoRow

REDO = "Delete its folder, and preprocess again: only that video is extracted."
REMAKE = "Recreate the frames of its video, or delete their folder and manifest.csv, which is then rebuilt without it."
RECOPY = "Copy that file again from the original, or pack the frames again into another folder."
REPAIR = "To rebuild it from the tar files and manifest.csv: python -m dataloaders.pack --repair DIR"
CHECK = "python -m dataloaders.pack --verify DIR finds damaged files; --repair DIR rebuilds index.npy and pack.json."

PACK_NAME = "pack.json"  # written last: where it is, the pack is whole
PARTIAL_PACK_NAME = "pack.partial.json"
INDEX_NAME = "index.npy"
PACK_FORMAT = 1
TAR_BLOCK = 512
# one entry a frame: those of the manifest's first usable video in their order, then those of the second, ...
INDEX_DTYPE = np.dtype([("offset", "<u8"), ("size", "<u4"), ("volume", "<u4")])  # of the JPEG itself, in bytes
GAP = 64 * 1024  # frames no farther apart in a volume are read in one go: a clip is one read, not sixteen


class FrameStore(Protocol):
    read_seconds: float  # spent on reading files, not on decoding

    def read(self, row: VideoRow, indices: Sequence[int]) -> Iterator[bytes | memoryview]:
        """The JPEGs of stored frames `indices` (rising, each once), counted from 0."""
        ...

    def place(self, row: VideoRow, index: int) -> str:
        """The place of a frame, for a message."""
        ...

    def advice(self, row: VideoRow) -> str:
        """Advice on a missing or damaged frame, for a message."""
        ...


def open_store(frames: Path, rows: Sequence[VideoRow]) -> FrameStore:
    """rows: all usable ones of the manifest, in its order. Raises UserError where a pack is not whole."""
    return PackedFrames(frames, rows) if is_packed(frames) else FrameFolders(frames)


def is_packed(frames: Path) -> bool:
    """Whether the folder holds a pack. Raises UserError for one that is not whole: its writing was interrupted, or
    pack.json was lost."""
    if (frames / PACK_NAME).is_file():
        return True
    if (frames / PARTIAL_PACK_NAME).is_file():
        raise UserError(f"The packing into {frames} was interrupted. Repeat the command: it continues.")
    if volumes_in(frames):
        raise UserError(f"{frames} is a pack without {PACK_NAME}. {REPAIR}")
    return False


def volumes_in(frames: Path) -> list[Path]:
    return sorted(frames.glob("frames-[0-9][0-9][0-9][0-9][0-9].tar")) if frames.is_dir() else []


def read_frames(store: FrameStore, row: VideoRow, indices: Sequence[int]) -> Iterator[np.ndarray]:
    """Yields each frame as stored, (H, W, 3) uint8 RGB. Raises UserError that names a missing or damaged frame."""
    for index, content in zip(indices, store.read(row, indices), strict=True):
        image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR_RGB) if len(content) else None
        if image is None:
            raise UserError(f"The frame {store.place(row, index)} is damaged. {store.advice(row)}")
        yield image


class FrameFolders:
    """<frames>/<folder of the video>/00001.jpg"""

    def __init__(self, frames: Path):
        self.frames, self.read_seconds = frames, 0.0

    def advice(self, row: VideoRow) -> str:
        return redo(row)

    def read(self, row: VideoRow, indices: Sequence[int]) -> Iterator[bytes]:
        folder = os.path.join(self.frames, row.folder)  # noqa: PTH118 (pathlib takes as long as reading does)
        for index in indices:
            start = time.perf_counter()
            content = read_file(f"{folder}{os.sep}{row.frame_name(index)}", row)
            self.read_seconds += time.perf_counter() - start
            yield content

    def place(self, row: VideoRow, index: int) -> str:
        return str(self.frames / row.folder / row.frame_name(index))


def redo(row: VideoRow) -> str:
    """Advice on a frame that is missing or damaged."""
    return REDO if row.quality else REMAKE


def read_file(path: str, row: VideoRow) -> bytes:
    """A frame's file. A third of the time of np.fromfile, which asks the file system more often."""
    try:
        file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    except FileNotFoundError as error:
        raise UserError(f"The frame {path} is missing, though the manifest lists it. {redo(row)}") from error
    try:
        parts = []
        while part := os.read(file, 1 << 18):
            parts.append(part)
    except OSError as error:  # of a failing disk, which does not say in which file
        raise OSError(error.errno, error.strerror, path) from error
    finally:
        os.close(file)
    return parts[0] if len(parts) == 1 else b"".join(parts)


class PackedFrames:
    """frames-00000.tar, ... with index.npy: uncompressed tar files whose members are named as the folders' frames are.

    Each read compares the member's name in the tar file with the one that the manifest gives, so that an index or a
    manifest of another pack can not give another frame.
    """

    def __init__(self, frames: Path, rows: Sequence[VideoRow]):
        self.frames, self.read_seconds = frames, 0.0
        self.pack = read_pack(frames)
        lengths = np.array([row.num_frames for row in rows], np.int64)
        starts = np.cumsum(lengths) - lengths
        self.starts = dict(zip([row.folder for row in rows], starts.tolist(), strict=True))
        self.num_frames = int(lengths.sum())
        self._open()

    def advice(self, row: VideoRow) -> str:
        return CHECK

    def _open(self) -> None:
        self.index = read_index(self.frames, self.num_frames)
        self.volumes: dict[int, int] = {}  # volume -> file descriptor
        self.lock = threading.Lock()

    def __getstate__(self) -> dict:  # to a process of its own goes neither an open file nor the index
        return {name: value for name, value in vars(self).items() if name not in ("index", "volumes", "lock")}

    def __setstate__(self, state: dict) -> None:
        vars(self).update(state)
        self._open()

    def __del__(self) -> None:
        for file in getattr(self, "volumes", {}).values():
            os.close(file)

    def read(self, row: VideoRow, indices: Sequence[int]) -> Iterator[memoryview]:
        entries = self.index[self.starts[row.folder] + np.asarray(indices, np.int64)]
        # with the block in front of each JPEG, which has its name
        begins = (entries["offset"].astype(np.int64) - TAR_BLOCK).tolist()
        ends = (entries["offset"].astype(np.int64) + entries["size"]).tolist()
        volumes = entries["volume"].tolist()
        done = 0
        while done < len(begins):
            stop = done + 1
            while stop < len(begins) and volumes[stop] == volumes[done] and 0 <= begins[stop] - ends[stop - 1] <= GAP:
                stop += 1
            start, begun = begins[done], time.perf_counter()
            content = memoryview(self._read_at(row, indices[done], volumes[done], start, ends[stop - 1] - start))
            self.read_seconds += time.perf_counter() - begun
            for number in range(done, stop):
                member = content[begins[number] - start : ends[number] - start]
                name = f"{row.folder}/{row.frame_name(indices[number])}".encode("utf-8", "surrogateescape")[:100]
                if member[: len(name)] != name or (len(name) < 100 and member[len(name)] != 0):
                    raise UserError(f"The frame {self.place(row, indices[number])} is not there. {CHECK}")
                yield member[TAR_BLOCK:]
            done = stop

    def place(self, row: VideoRow, index: int) -> str:
        volume = int(self.index["volume"][self.starts[row.folder] + index])
        return f"{row.folder}/{row.frame_name(index)} in {self.frames / volume_name(volume)}"

    def _read_at(self, row: VideoRow, index: int, volume: int, start: int, size: int) -> bytes:
        file = self.volumes.get(volume)
        if file is None:
            if volume >= len(self.pack["volumes"]) or start < 0:
                raise UserError(f"The frame {self.place(row, index)} is not there. {CHECK}")
            with self.lock:
                if volume not in self.volumes:
                    path = self.frames / volume_name(volume)
                    self.volumes[volume] = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
                file = self.volumes[volume]
        with named_errors(self.frames / volume_name(volume)):
            content = self._pread(file, size, start)
            while 0 < len(content) < size:
                more = self._pread(file, size - len(content), start + len(content))
                if not more:
                    break
                content += more
        if len(content) < size:
            raise UserError(f"{self.frames / volume_name(volume)} ends before {self.place(row, index)}. {RECOPY}")
        return content

    def _pread(self, file: int, size: int, start: int) -> bytes:
        if hasattr(os, "pread"):
            return os.pread(file, size, start)
        with self.lock:  # Windows
            os.lseek(file, start, os.SEEK_SET)
            return os.read(file, size)


def volume_name(volume: int) -> str:
    return f"frames-{volume:05d}.tar"


def check_manifest(frames: Path) -> None:
    """Raises UserError where the manifest of a pack is not the one it was packed with."""
    known = read_pack(frames)["manifest_sha256"]
    path = frames / manifest.NAME
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != known:
        raise UserError(f"{path} has changed since packing. {REPAIR}")


def read_pack(frames: Path) -> dict:
    """pack.json, once the volumes are found to have their sizes."""
    path = frames / PACK_NAME
    try:
        pack = json.loads(path.read_text(encoding="utf-8"))
        if pack["format"] != PACK_FORMAT:
            raise UserError(f"{path} is of format {pack['format']}; this version reads {PACK_FORMAT}. Pack again.")
        volumes = [(volume["name"], int(volume["bytes"]), volume["sha256"]) for volume in pack["volumes"]]
        str(pack["manifest_sha256"]), str(pack["index_sha256"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}). {REPAIR}") from error
    for name, size, _ in volumes:
        found = (frames / name).stat().st_size if (frames / name).is_file() else None
        if found is None:
            raise UserError(f"{frames / name} is missing. {RECOPY}")
        if found != size:
            raise UserError(f"{frames / name} has {found:,} bytes, and it was packed with {size:,}. {RECOPY}")
    return pack


def read_index(frames: Path, num_frames: int) -> np.ndarray:
    """(num_frames,) of INDEX_DTYPE, mapped: a page of it is read when it is needed."""
    path = frames / INDEX_NAME
    try:
        index = np.load(path, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is missing or damaged ({error}). {REPAIR}") from error
    if index.dtype != INDEX_DTYPE or index.shape != (num_frames,):
        raise UserError(f"{path} has {index.size:,} entries, and the manifest lists {num_frames:,} frames. {REPAIR}")
    return index
