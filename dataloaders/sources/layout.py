"""The layouts of data sets: names, groups, official splits and archives. A file of this folder that registers a Layout
is found by itself, so that adding a data set touches one file."""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol

from common.console import plural
from common.errors import UserError
from common.files import same_spelling

SPLIT_NUMBERS = ("1", "2", "3")  # what --split calls official splits


class Video(Protocol):
    """The fields of a video that splits use; SourceVideo and VideoRow have them."""

    video: str  # path relative to the videos folder
    label: str
    group: str
    given: str  # "train", "val" or "test" where the folders or a list divide the videos, else ""

    @property
    def stem(self) -> str: ...


class Source(Protocol):
    """The fields of a data set that layouts use; DataSource has them."""

    name: str
    videos: Path
    frames: Path
    splits: Path | None  # folder of the official list files


@dataclass(frozen=True)
class Archive:
    """A file to fetch. folder: what it unpacks to. about: its size in bytes, roughly, where no server tells."""

    name: str
    folder: str
    urls: tuple[str, ...]
    sha256: str
    about: int


@dataclass(frozen=True)
class Download:
    """Addresses of a data set, and the numbers of videos, classes and lists of a complete copy."""

    page: str
    videos: Archive
    lists: Archive
    num_videos: int
    num_classes: int
    num_lists: int
    unpacked: int  # bytes


class Layout:
    """Class folders of which nothing more is known. A data set's own file overrides what it knows better.

    name              as mypath.py's 'layout' and `python -m dataloaders.download` call it
    splits            official splits, as --split calls them
    list_files        pattern of the official list files; list_folders: names of the folders that hold them
    needs_lists       the official splits cannot be told from the names of the videos
    names_hold_group  a video's name tells its group, whoever divided the videos
    same_groups       groups are called the same in every copy of the data set
    duplicates_note   added to the advice about equal files, where the published data set has some
    """

    name = "folder"
    splits: tuple[str, ...] = ()
    list_files: str | None = None
    list_folders: tuple[str, ...] = ()
    needs_lists = False
    names_hold_group = False
    same_groups = False
    duplicates_note = ""
    download: Download | None = None

    def matches(self, stem: str) -> bool:
        """Whether a video's name, without ending, is one of this data set."""
        return False

    def group(self, label: str, stem: str) -> str:
        """The recording that a video was cut from. Here each video is its own."""
        return f"{label}/{stem}"

    def official_split(self, source: Source, videos: Sequence[Video], split: str) -> tuple[dict[str, str], list[str]]:
        """Part ("train", "test" or "unused") of each video by its path, and notes for the user."""
        raise AssertionError(f"{self.name} has no official splits")

    def validates(self, video: Video) -> bool:
        """Whether a training video belongs to the validation videos that the data set's split leaves free."""
        return False

    def unpack_commands(self, archive: str) -> str | None:
        """Shell commands for an archive, by its lower-case name, that holds further archives."""
        return None


LAYOUTS: dict[str, Layout] = {"folder": Layout()}


def register_layout(layout: type[Layout]) -> type[Layout]:
    """Class decorator: makes a layout known under its name."""
    LAYOUTS[layout.name] = layout()
    return layout


def layouts() -> dict[str, Layout]:
    """Returns all layouts by name, "folder" included."""
    _import_layouts()
    return LAYOUTS


def layout(name: str) -> Layout:
    """A layout by its name, which find_source has checked."""
    return layouts()[name]


@cache
def _import_layouts() -> None:
    for path in sorted(Path(__file__).parent.glob("*.py")):
        if f"\n@{register_layout.__name__}\n" in path.read_text(encoding="utf-8"):
            importlib.import_module(f"{__package__}.{path.stem}")


def layout_of(stems: Sequence[str]) -> str:
    """The layout that more than half of the names belong to, else "folder".

    A few other names do not change it: as "folder", the whole set would be divided without regard to its groups.
    """
    return next(
        (name for name, known in layouts().items() if 2 * sum(map(known.matches, stems)) > len(stems)), "folder"
    )


def split_by_lists(
    source: Source, videos: Sequence[Video], read: Callable[[Path], dict[str, str]]
) -> tuple[dict[str, str], list[str]]:
    """official_split from list files. read(folder) -> {"<class>/<name without ending>": part}."""
    listed = {same_spelling(key): part for key, part in read(source.splits).items()}
    parts = {video.video: listed.get(_key(video), "unused") for video in videos}
    unlisted = [video.video for video in videos if _key(video) not in listed]
    notes = []
    if len(unlisted) == len(parts):
        raise UserError(
            f"None of the {plural(len(parts), 'video')} of '{source.name}' is in the lists in {source.splits} "
            f"(first video: {unlisted[0]}). Is this the right folder of lists?"
        )
    if unlisted:
        notes.append(f"Unused, because in no list: {plural(len(unlisted), 'video')} (first: {unlisted[0]}).")
    here, labels = {_key(video) for video in videos}, {video.label for video in videos}
    absent = [key for key in listed if key not in here and key.partition("/")[0] in labels and listed[key] != "unused"]
    if absent:
        notes.append(
            f"In the lists, but missing or unusable here: {plural(len(absent), 'video')} of these classes "
            f"(first: {absent[0]})."
        )
    return parts, notes


def _key(video: Video) -> str:
    """<class>/<name without ending>: lists say .avi, the files may have been converted."""
    return same_spelling(f"{video.label}/{video.stem}")
