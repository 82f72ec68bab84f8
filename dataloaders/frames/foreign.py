"""A tree of frames that was made elsewhere, as other programs leave it -> rows of a manifest."""

import re
from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np

from common.errors import UserError
from dataloaders.frames.manifest import VideoRow
from dataloaders.sources.folder import PARTS, holds_lists_only

FRAME_NAME = re.compile(r"(?:(?:image|img|im|frame|thumb)[_-]?)?0*(\d+)\.(?:jpe?g|png)", re.IGNORECASE)


def index_frames(frames: Path) -> list[VideoRow]:
    """Rows for a tree of frames that was made elsewhere: <frames>/[<train|val|test>/]<class>/<video>/<frame>.jpg.

    Names may be 00001.jpg, image_00001.jpg, img_00001.jpg, frame1.png, or 0000{i}.jpg without a fixed width; they are
    put in the order of their numbers, never of their letters. A gap in the numbers, two series in one folder and a
    class without videos are errors that name the folder.
    """
    rows = []
    for given, class_folder in _classes(frames):
        folders = _folders_in(class_folder)
        if not folders:
            raise UserError(_no_videos(class_folder, frames))
        for folder in folders:
            pattern, first, count = frame_pattern(folder)
            content = (folder / pattern.format(first)).read_bytes()  # imread crashes on names that are no UTF-8
            image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR) if content else None
            if image is None:
                raise UserError(f"{folder / pattern.format(first)} is not a readable picture.")
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
        raise UserError(f"{frames} has no frames. The expected layout is <class>/<video>/00001.jpg.")
    return rows


def _classes(frames: Path) -> list[tuple[str, Path]]:
    known = PARTS | {"unused": ""}
    folders = [folder for folder in _folders_in(frames) if not holds_lists_only(folder)]
    if folders and all(folder.name.lower() in known for folder in folders):
        parts = [(known[part.name.lower()], part) for part in folders]
        return [(given, folder) for given, part in parts for folder in _folders_in(part)]
    return [("", folder) for folder in folders]


def _no_videos(class_folder: Path, frames: Path) -> str:
    if any(FRAME_NAME.fullmatch(path.name) for path in class_folder.iterdir()):
        return f"{class_folder} has frames instead of folders of frames. The layout is {frames}/<class>/<video>/."
    return f"{class_folder} has no folders of frames. Add its videos' frames, or remove the folder."


def _folders_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def frame_pattern(folder: Path) -> tuple[str, int, int]:
    """(pattern, first number, number of frames) of a folder of frames."""
    by_prefix: dict[str, dict[int, str]] = defaultdict(dict)
    for path in folder.iterdir():
        match = FRAME_NAME.fullmatch(path.name)
        if match:
            prefix = path.name[: len(path.name) - len(path.suffix)].rstrip("0123456789")
            other = by_prefix[prefix + path.suffix].setdefault(int(match.group(1)), path.name)
            if other != path.name:
                raise UserError(f"{folder} has one frame twice: {min(other, path.name)} and {max(other, path.name)}.")
    if not by_prefix:
        raise UserError(f"{folder} has no frames named like 00001.jpg, image_00001.jpg or img_00001.jpg.")
    if len(by_prefix) > 1:
        series = " and ".join(sorted(min(names.values()) for names in by_prefix.values()))
        raise UserError(f"{folder} has more than one series of frames (from {series}). Remove all but one.")
    (names,) = by_prefix.values()
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
