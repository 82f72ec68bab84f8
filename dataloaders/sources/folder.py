"""A folder of videos as people have it: which folders are classes, where its lists lie, what is in the way."""

import os
import shlex
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from common.files import VIDEO_SUFFIXES
from dataloaders.sources.layout import Layout, layouts
from dataloaders.video import is_video_name

PARTS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val"}
PARTS |= {"test": "test", "testing": "test"}
IMAGE_SUFFIXES = frozenset(".jpg .jpeg .png".split())
ARCHIVE_SUFFIXES = frozenset(".rar .zip .7z .tar .tgz .gz".split())


def class_folders(videos: Path) -> list[tuple[str, Path]]:
    """(given part or "", class folder), by name without regard to case.

    Folders of list files are no classes. Where all classes lie one folder deeper (UCF101.rar unpacks to UCF-101/), they
    are found there, and so are the videos of a class in a folder of its own name (class/class/video.avi).
    """
    folders = [folder for folder in subfolders(videos) if not holds_lists_only(folder)]
    if folders and all(folder.name.lower() in PARTS for folder in folders) and "train" in _parts(folders):
        return [(PARTS[part.name.lower()], _doubled(folder)) for part in folders for folder in subfolders(part)]
    if len(folders) == 1 and not video_files(folders[0]):
        inner = class_folders(folders[0])
        if sum(bool(video_files(folder)) for _, folder in inner) > 1:
            return inner
    return [("", _doubled(folder)) for folder in folders]


def _doubled(folder: Path) -> Path:
    """class/class, where an archive with a folder in it was unpacked into a folder of the same name."""
    inner = folder / folder.name
    return inner if inner.is_dir() and not video_files(folder) and video_files(inner) else folder


def _parts(folders: list[Path]) -> set[str]:
    return {PARTS[folder.name.lower()] for folder in folders}


def has_videos(videos: Path) -> bool:
    """Whether the videos are (still) there: frames suffice without them."""
    return videos.is_dir() and any(video_files(folder) for _, folder in class_folders(videos))


def subfolders(folder: Path) -> list[Path]:
    found = [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
    return sorted(found, key=lambda path: (path.name.lower(), path.name))


def video_files(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:  # which know what is a folder, where a path would have to ask the disk
        return sorted(Path(entry.path) for entry in entries if is_video_name(Path(entry.name)) and not entry.is_dir())


def stray_videos(videos: Path, folders: list[Path]) -> list[Path]:
    """Files that are named as videos but lie beside the class folders, or in folders inside of them."""
    above = dict.fromkeys([videos, *(folder.parent for folder in folders)])
    known = set(folders)
    inside = [inner for folder in folders for inner in subfolders(folder) if inner not in known]
    return [
        path
        for folder in [*above, *inside]
        for path in video_files(folder)
        if path.suffix.lower() in VIDEO_SUFFIXES and folder not in known
    ]


def find_lists(kind: Layout, *places: Path) -> Path | None:
    """The folder with a data set's official lists: one of the places, or a folder in one of them, one or two deep
    (archives are unpacked with and without a folder around)."""
    for place in places:
        named = [place / name for name in kind.list_folders]
        for folder in [place, *named, *(inner for name in named for inner in _subfolders_or_none(name))]:
            if _holds_lists(kind, folder):
                return folder
        for folder in _subfolders_or_none(place):
            if _holds_lists(kind, folder):
                return folder
    return None


def part_lists(path: Path) -> dict[str, Path]:
    """{"train": train.csv, "test": test.csv}, with "val" where it is there: a training list and those beside it with
    the same suffix. {} for any other list."""
    if PARTS.get(path.stem.lower()) != "train" or not path.is_file():
        return {}
    found = {PARTS.get(file.stem.lower()): file for file in sorted(path.parent.glob(f"*{path.suffix}"))}
    found["train"] = path
    return {part: found[part] for part in ("train", "val", "test") if part in found} if len(found) > 1 else {}


def _holds_lists(kind: Layout, folder: Path) -> bool:
    return folder.is_dir() and any(folder.glob(kind.list_files))


def _subfolders_or_none(folder: Path) -> list[Path]:
    return subfolders(folder) if folder.is_dir() else []


def holds_lists_only(folder: Path) -> bool:
    """Whether a folder among the class folders is one of list files, with or without a folder around them."""
    kind = next((kind for kind in layouts().values() if folder.name in kind.list_folders), None)
    return kind is not None and find_lists(kind, folder) is not None and not video_files(folder)


def why_no_videos(folder: Path, root: Path) -> str:
    """A sentence on what a folder holds instead of videos, and what to do; "" where nothing is known. `root` is the
    data set."""
    image = next((path for path in _below(folder, 3) if path.suffix.lower() in IMAGE_SUFFIXES), None)
    if image is not None:
        return (
            f"{root} holds frames ({image.relative_to(root).as_posix()}), not videos. Give it as --frames: "
            f"--dataset NAME --frames {shlex.quote(str(root))}, with an entry of mypath.py or any other word as NAME."
        )
    archives = _archives(folder) or _archives(root)
    if archives:
        where = archives[0].parent
        number = f"{len(archives)} archives" if len(archives) > 1 else archives[0].name
        return f"{where} holds {number}, not unpacked. Run: {unpack_commands(where, archives)}"
    video = next((path for path in _below(folder, 3) if path.suffix.lower() in VIDEO_SUFFIXES), None)
    if video is not None and video.parent != folder:
        return (
            f"Its videos are deeper ({video.relative_to(folder).as_posix()}). A data set is <folder>/<class>/<video>."
        )
    return ""


def unpack_commands(folder: Path, archives: list[Path]) -> str:
    """Shell commands that unpack archives where they lie."""
    go = f"cd {shlex.quote(str(folder))}"
    for path in archives:
        for kind in layouts().values():
            if commands := kind.unpack_commands(path.name.lower()):
                return f"{go} && {commands}"
    if len(archives) > 1 and all(path.suffix.lower() == ".rar" for path in archives):
        return f'{go} && for f in *.rar; do unrar x "$f"; done'
    commands = {".rar": "unrar x", ".zip": "unzip", ".7z": "7z x"}
    commands = [f"{commands.get(path.suffix.lower(), 'tar xf')} {shlex.quote(path.name)}" for path in archives[:3]]
    return " && ".join([go, *commands])


def _archives(folder: Path) -> list[Path]:
    found = [path for path in folder.iterdir() if path.suffix.lower() in ARCHIVE_SUFFIXES and path.is_file()]
    return sorted(path for path in found if not path.name.startswith("."))


def packed_videos(videos: Path) -> list[Path]:
    """Archives of known data sets that lie where a folder of videos is missing, or in it."""
    names = {kind.download.videos.name.lower() for kind in layouts().values() if kind.download}
    places = [place for place in (videos, videos.parent) if place.is_dir()]
    return [path for place in places for path in _archives(place) if path.name.lower() in names]


def _below(folder: Path, depth: int) -> Iterator[Path]:
    """A few files of a folder and of the first folders in it: enough to see what it holds, however large it is."""
    folders = []
    entries = (path for path in folder.iterdir() if not path.name.startswith("."))
    for path in sorted(islice(entries, 200)):
        if path.is_dir():
            folders.append(path)
        else:
            yield path
    if depth > 1:
        for inner in folders[:5]:
            yield from _below(inner, depth - 1)
