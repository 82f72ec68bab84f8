"""manifest.csv: one row a video, what was extracted, what was refused and why.

Training and evaluation read it, never the folders. While a run extracts, finished rows go to manifest.partial.csv,
one line each; when all are done they become manifest.csv at once.
"""

import contextlib
import csv
import io
import os
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from engine.errors import UserError

NAME = "manifest.csv"
PARTIAL_NAME = "manifest.partial.csv"
START_ANEW = "Restore it from a copy, or delete the whole frames folder and preprocess again."
FRAME_NAME = re.compile(r"(?:(?:image|img|frame)_?)?0*(\d+)\.jpe?g", re.IGNORECASE)
VIDEO_ENDING = re.compile(r"\.(avi|mp4|mkv|mov|webm|mpe?g|m4v|wmv|flv)", re.IGNORECASE)
PART_FOLDERS = ("train", "val", "test", "unused")


@dataclass(frozen=True)
class VideoRow:
    """One video.

    video        its path in the videos folder             label   its class (column "class")
    folder       its frames, under the frames folder        group   the recording it was cut from
    num_frames   JPEGs in the folder                        every   each every-th frame of the source is stored
    width, height  of the stored frames                     fps     of the source; 0 where it is not known
    status       "ok" or "refused", and the reason; an ok video may have one too (damaged places)
    given        the part its folder gave it, or ""          split   the one that the folders show
    pattern      name of frame i: "{:05d}.jpg", counted from `first`
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

    @property
    def stem(self) -> str:
        """The video's name without ending, which the folders of frames made elsewhere mostly do not have."""
        name = self.video.rpartition("/")[2]
        dot = name.rfind(".")
        has_ending = 0 < dot < len(name) - 1  # as pathlib has it, in a tenth of its time
        return name[:dot] if has_ending and (self.quality or VIDEO_ENDING.fullmatch(name[dot:])) else name

    def frame_name(self, index: int) -> str:
        """File name of stored frame `index`, counted from 0."""
        return self.pattern.format(self.first + index)


COLUMNS = tuple("class" if field.name == "label" else field.name for field in fields(VideoRow))


def read_manifest(frames: Path, name: str = NAME) -> list[VideoRow]:
    """The rows of a manifest. A last line without its end (a run that was killed) is left out of a partial one."""
    path = frames / name
    text = path.read_bytes().decode("utf-8", "surrogateescape")  # read_text would change a \r in a name
    if name == PARTIAL_NAME:
        text = _whole_lines(text)
    lines = csv.reader(io.StringIO(text, newline=""))
    header = next(lines, None)
    if header is None and name == PARTIAL_NAME:
        return []
    if header is None or tuple(header) != COLUMNS:
        raise UserError(f"{path} is not a manifest that this version reads. {START_ANEW}")
    rows, types = [], [field.type for field in fields(VideoRow)]
    try:
        for line in lines:
            rows.append(VideoRow(*[kind(value) for kind, value in zip(types, line, strict=True)]))
            if rows[-1].status == "ok" and min(rows[-1].num_frames, rows[-1].every, rows[-1].width) < 1:
                raise ValueError("a number below 1")
    except (ValueError, csv.Error) as error:
        raise UserError(f"{path}, line {lines.line_num}: damaged ({error}). {START_ANEW}") from error
    if not rows and name == NAME:
        raise UserError(f"{path} lists no video. {START_ANEW}")
    return rows


def _whole_lines(text: str) -> str:
    """Without a row that was not written to its end: no line end, or one inside quotes (a name may have it)."""
    while text and not (text.endswith("\n") and text.count('"') % 2 == 0):
        text = text[: text.rfind("\n", 0, len(text) - 1) + 1]
    return text


def write_manifest(frames: Path, rows: Iterable[VideoRow]) -> None:
    """Sorted by video, written to a temporary name and renamed."""
    _write_whole(frames / NAME, sorted(rows, key=lambda row: row.video))


def _write_whole(path: Path, rows: Iterable[VideoRow]) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("w", **ENCODING) as file:
            file.write(_header() + "".join(map(_line, rows)))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:  # a full disk keeps what it had
        temporary.unlink(missing_ok=True)
        raise


class PartialManifest:
    """Rows as they become ready, each flushed, so that a killed run loses no finished video."""

    def __init__(self, frames: Path, rows: Iterable[VideoRow]):
        path = frames / PARTIAL_NAME
        _write_whole(path, rows)
        self.file = path.open("a", **ENCODING)

    def add(self, row: VideoRow) -> None:
        self.file.write(_line(row))
        self.file.flush()

    def close(self) -> None:
        with contextlib.suppress(OSError):  # the disk is full, and the last row, which was not written, is redone
            self.file.close()


ENCODING = {"encoding": "utf-8", "errors": "surrogateescape", "newline": ""}


def _header() -> str:
    return ",".join(COLUMNS) + "\n"


def _line(row: VideoRow) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\r\n").writerow(astuple(row))  # with this end, a \r in a name is quoted
    return buffer.getvalue().removesuffix("\r\n") + "\n"


def is_complete(frames: Path) -> bool:
    """Whether a preprocessing run has ended there."""
    return (frames / NAME).is_file() and not (frames / PARTIAL_NAME).exists()


def usable(rows: Iterable[VideoRow]) -> list[VideoRow]:
    return [row for row in rows if row.status == "ok"]


def index_frames(frames: Path) -> list[VideoRow]:
    """Rows for a tree of frames that was made elsewhere: <frames>/[<train|val|test>/]<class>/<video>/<frame>.jpg.

    Names may be 00001.jpg, image_00001.jpg, img_00001.jpg, frame1.jpg, or 0000{i}.jpg without a fixed width; they are
    put in the order of their numbers, never of their letters. A gap in the numbers is an error that names the video.
    """
    import cv2

    rows = []
    for given, class_folder in _classes(frames):
        for folder in _folders_in(class_folder):
            pattern, first, count = _frame_pattern(folder)
            image = cv2.imread(str(folder / pattern.format(first)))
            if image is None:
                raise UserError(f"{folder / pattern.format(first)} is not a JPEG that can be read.")
            relative = folder.relative_to(frames).as_posix()
            rows.append(
                VideoRow(
                    video=f"{given}/{class_folder.name}/{folder.name}".lstrip("/"),
                    label=class_folder.name,
                    group=f"{class_folder.name}/{folder.name}",
                    folder=relative,
                    num_frames=count,
                    every=1,
                    quality=0,
                    width=image.shape[1],
                    height=image.shape[0],
                    fps=0.0,
                    source_width=0,
                    source_height=0,
                    source_bytes=0,
                    status="ok",
                    reason="",
                    given=given,
                    split="",
                    pattern=pattern,
                    first=first,
                )
            )
    if not rows:
        raise UserError(f"{frames} has no frames in it: <class>/<video>/00001.jpg is what is looked for.")
    return rows


def _classes(frames: Path) -> list[tuple[str, Path]]:
    folders = _folders_in(frames)
    if folders and all(folder.name in PART_FOLDERS for folder in folders):
        parts = [("" if part.name == "unused" else part.name, part) for part in folders]
        return [(given, folder) for given, part in parts for folder in _folders_in(part)]
    return [("", folder) for folder in folders]


def _folders_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _frame_pattern(folder: Path) -> tuple[str, int, int]:
    """(pattern, first number, number of frames) of a folder of frames."""
    by_prefix: dict[str, dict[int, str]] = defaultdict(dict)
    for path in folder.iterdir():
        match = FRAME_NAME.fullmatch(path.name)
        if match:
            prefix = path.name[: len(path.name) - len(path.suffix)].rstrip("0123456789")
            by_prefix[prefix + path.suffix][int(match.group(1))] = path.name
    if not by_prefix:
        raise UserError(f"{folder} has no frames named like 00001.jpg, image_00001.jpg or img_00001.jpg.")
    names = max(by_prefix.values(), key=len)
    numbers = sorted(names)
    if numbers[-1] - numbers[0] + 1 != len(numbers):
        missing = next(number for number in range(numbers[0], numbers[-1]) if number not in names)
        raise UserError(f"{folder} lacks frame {missing}: it has {len(numbers)} frames up to number {numbers[-1]}.")
    return _pattern_of(names, numbers), numbers[0], len(numbers)


def _pattern_of(names: dict[int, str], numbers: list[int]) -> str:
    """The format that gives every name: fixed width, no width, or a constant string of zeros in front."""
    name = names[numbers[0]]
    stem, suffix = name.rsplit(".", 1)
    digits = len(stem) - len(stem.rstrip("0123456789"))
    prefix = stem[: len(stem) - digits]
    zeros = digits - len(str(numbers[0]))
    for pattern in (f"{prefix}{{:0{digits}d}}.{suffix}", f"{prefix}{'0' * zeros}{{:d}}.{suffix}"):
        if all(pattern.format(number) == names[number] for number in numbers):
            return pattern
    raise UserError(f"The frames beside {name} are named in more than one way ({names[numbers[-1]]}).")
