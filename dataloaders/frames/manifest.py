"""manifest.csv: one row per video, what was extracted, what was refused and why.

Training and evaluation read it, never the folders. While a run extracts, finished rows go to manifest.partial.csv,
one line each; when all are done they become manifest.csv at once. A run of one shard writes manifest.3-of-8.csv and
manifest.3-of-8.partial.csv in the same way (shards.py).

The last two columns guard the others: how many rows there are (0 while that is not known), and a CRC-32 of what stands
before it in its line. A row that was changed, cut or lost is noticed; preprocessing makes it anew.
"""

import csv
import io
import os
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import astuple, dataclass, fields
from functools import lru_cache
from pathlib import Path

from common.console import plural
from common.errors import UserError
from common.files import VIDEO_SUFFIXES, named_errors, put_in_place
from dataloaders.frames.settings import Settings, read_size

NAME = "manifest.csv"
PARTIAL_NAME = "manifest.partial.csv"
MERGED = ".manifest-merged"  # manifest.csv is whole, and what it was made from is being deleted
REBUILD = "To rebuild it, preprocess again with the settings of these frames: python -m dataloaders.preprocess"
NO_PERMISSION = "you may not read it"  # the reason of a refusal that may be gone the next time
MOST_LINES = 64  # of the file that one row takes; names may have line breaks


class DamagedManifest(UserError):
    """A manifest has rows that are not as they were written."""


@dataclass(frozen=True)
class VideoRow:
    """One video.

    video        its path in the videos folder             label   its class (column "class")
    folder       its frames, under the frames folder        group   the recording it was cut from
    num_frames   JPEGs in the folder                        every   each every-th frame of the source is stored
    width, height  of the stored frames                     fps     in which `every` counts; 0 where it is not known:
                                                            of the source, or what --fps resampled it to
    status       "ok" or "refused", and the reason; an ok video may have one too (damaged places)
    given        the part its folder gave it, or ""          split   the one that the folders show
    pattern      name of frame i: "{:05d}.jpg", counted from `first`; of a refused video, what decoded it, with versions
                 (older versions of this program could not read a manifest with one more column)
    size         as it was asked for: "171x128", or "short:256" where the aspect is kept; "" for frames made elsewhere
    source_fps   of the source; 0 where it is not known
    resampled    what --fps asked for, 0 where it was not given
    """

    video: str
    label: str
    group: str
    folder: str
    num_frames: int
    every: int
    quality: int
    width: int
    height: int
    fps: float
    source_width: int
    source_height: int
    source_bytes: int
    status: str
    reason: str
    given: str
    split: str
    pattern: str = "{:05d}.jpg"
    first: int = 1
    size: str = ""
    source_fps: float = 0.0
    resampled: float = 0.0

    @property
    def settings(self) -> Settings:
        """Settings of the frames. Only for rows that preprocessing made (quality is not 0)."""
        size = read_size(self.size) if self.size else (self.width, self.height)
        return Settings(size, self.every, self.quality, self.resampled or None)

    @property
    def stem(self) -> str:
        """The video's name without ending, which the folders of frames made elsewhere mostly do not have."""
        name = self.video.rpartition("/")[2]
        dot = name.rfind(".")
        has_ending = 0 < dot < len(name) - 1  # as pathlib has it, in a tenth of its time
        return name[:dot] if has_ending and (self.quality or name[dot:].lower() in VIDEO_SUFFIXES) else name

    def frame_name(self, index: int) -> str:
        """File name of stored frame `index`, counted from 0."""
        return self.pattern.format(self.first + index)


COLUMNS = (*("class" if field.name == "label" else field.name for field in fields(VideoRow)), "rows", "crc32")
HEADER = (",".join(COLUMNS) + "\n").encode()
NUMBERS = tuple((place, field.type) for place, field in enumerate(fields(VideoRow)) if field.type is not str)


def read_manifest(frames: Path, name: str = NAME) -> list[VideoRow]:
    """The rows of a manifest; of a partial one, those that were written to their end. Raises DamagedManifest."""
    path = frames / name
    stat = path.stat()
    return list(_read_once(path, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_ino))


@lru_cache(maxsize=1)  # before training it is looked at more than once
def _read_once(path: Path, *_: int) -> tuple[VideoRow, ...]:
    rows, problems = salvage(path.parent, path.name)
    if problems:
        raise DamagedManifest(f"{path} is damaged: {problems[0]}. {REBUILD}")
    return tuple(rows)


def salvage(frames: Path, name: str = NAME) -> tuple[list[VideoRow], list[str]]:
    """(rows that are as they were written, what is wrong with the rest of the manifest)."""
    rows, problems, expected, last_good = [], [], set(), 0
    header, _, content = (frames / name).read_bytes().partition(b"\n")
    if header + b"\n" != HEADER and not (is_partial(name) and not content):
        problems.append("its header line is not that of this version")
    for number, row, num_rows in _checked_rows(content):
        if row is not None:
            rows.append(row)
            expected.add(num_rows)
            last_good = len(problems)
        else:
            problems.append(f"line {number} was changed")
    if is_partial(name):  # the run may have been killed while it wrote the last row
        return rows, problems[:last_good]

    if not rows and not problems:
        return rows, ["it lists no video"] if name == NAME else []  # a shard may have none
    if not problems and expected != {len(rows)}:
        missing = max(expected, default=0) - len(rows)
        problems.append(
            f"it lacks {plural(missing, 'row')} of {max(expected)}" if missing > 0 else "its rows do not fit"
        )
    if not problems and len({row.video for row in rows}) != len(rows):
        problems.append("it has a row twice")
    return rows, problems


def _checked_rows(content: bytes) -> Iterator[tuple[int, VideoRow | None, int]]:
    """Yields (line, row, number of rows that the row claims); the row is None where its CRC-32 is wrong."""
    lines = content.split(b"\n")
    if not lines[-1]:
        lines.pop()
    place = 0
    while place < len(lines):
        line, num_lines = lines[place], 1
        row = _parse(line)
        while row is None and b'"' in line and num_lines < MOST_LINES and place + num_lines < len(lines):
            line += b"\n" + lines[place + num_lines]
            num_lines += 1
            row = _parse(line)
        if row is None:
            num_lines = 1
        yield place + 2, *(row or (None, 0))
        place += num_lines


def _parse(line: bytes) -> tuple[VideoRow, int] | None:
    content, _, crc = line.rpartition(b",")
    if b"%08x" % zlib.crc32(content) != crc:
        return None
    text = content.decode("utf-8", "surrogateescape")
    # newline="" lets a \r in a name stay what it is
    *values, num_rows = next(csv.reader(io.StringIO(text, newline=""))) if '"' in text else text.split(",")
    try:
        for place, kind in NUMBERS:
            values[place] = kind(values[place])
        return VideoRow(*values), int(num_rows)
    except (ValueError, IndexError, TypeError):  # of another version, with other columns
        return None


def write_manifest(frames: Path, rows: Iterable[VideoRow], name: str = NAME) -> None:
    """Sorted by video, written to a temporary name and renamed."""
    rows = sorted(rows, key=lambda row: row.video)
    _write_whole(frames / name, rows, len(rows))


def replace_all(frames: Path, rows: Iterable[VideoRow]) -> None:
    """Writes manifest.csv and deletes those of the parts that it was made from. Killed in between, clear_merged goes
    on with it."""
    write_manifest(frames, rows)
    (frames / MERGED).touch()
    clear_merged(frames)


def clear_merged(frames: Path) -> None:
    if (frames / MERGED).exists():
        for name in names(frames):
            if name != NAME:
                (frames / name).unlink(missing_ok=True)
        (frames / MERGED).unlink()


def _write_whole(path: Path, rows: Iterable[VideoRow], num_rows: int) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with named_errors(path), temporary.open("wb") as file:
            file.write(HEADER + b"".join(_line(row, num_rows) for row in rows))
            file.flush()
            os.fsync(file.fileno())
        put_in_place(temporary, path)
    except OSError:  # a full disk keeps what it had
        temporary.unlink(missing_ok=True)
        raise


class PartialManifest:
    """Rows as they become ready, each flushed, so that a killed run loses no finished video."""

    def __init__(self, frames: Path, rows: Iterable[VideoRow], name: str = PARTIAL_NAME):
        self.path = frames / name
        _write_whole(self.path, rows, 0)
        self.file = self.path.open("ab")

    def add(self, row: VideoRow) -> None:
        with named_errors(self.path):
            self.file.write(_line(row, 0))
            self.file.flush()

    def close(self) -> None:
        with suppress(OSError):  # the disk is full, and the last row, which was not written, is redone
            self.file.close()


def _line(row: VideoRow, num_rows: int) -> bytes:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\r\n").writerow((*astuple(row), num_rows))  # with this end, a \r is quoted
    content = buffer.getvalue().removesuffix("\r\n").encode("utf-8", "surrogateescape")
    return content + b",%08x\n" % zlib.crc32(content)


def names(frames: Path) -> list[str]:
    """The manifests in a frames folder: the whole one, and those of runs that have not ended and of shards."""
    return sorted(path.name for path in frames.glob("manifest*.csv"))


def is_partial(name: str) -> bool:
    return name.endswith("partial.csv")


def is_complete(frames: Path) -> bool:
    """Whether a preprocessing run has ended there."""
    return names(frames) == [NAME] or ((frames / MERGED).exists() and (frames / NAME).is_file())


def usable(rows: Iterable[VideoRow]) -> list[VideoRow]:
    return [row for row in rows if row.status == "ok"]
