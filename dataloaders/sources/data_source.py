"""A data set as its owner has it: videos in class folders or in a list, and the folder of their frames."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.class_names import read_class_names
from common.console import plural
from common.errors import UserError
from dataloaders.frames.settings import DEFAULT_SIZE, FrameSize, size_name
from dataloaders.sources.layout import Layout, layout
from dataloaders.sources.video_list import class_file

DRAWING = 2


@dataclass(frozen=True)
class DataSource:
    """A data set as its owner has it.

    layout   "ucf101", "hmdb51", ...: names, groups and official splits are those of that data set; "folder": any other
    videos   <videos>/<class>/<video>, or <videos>/<train|val|test>/<class>/<video>; with a list, what its paths count
             from
    frames   where its frames lie at 171x128; other sizes go beside it, with the size in the name
    splits   folder of the official list files, or None
    flip     whether a mirrored video still shows the same action; None: not known
    groups   regular expression on the file name without ending; videos whose match (first bracket, if any) is equal
             were cut from one recording and stay together in every split. None: each video is its own group
    list     text or csv file with one line per video (see video_list.py), instead of class folders
    classes  file that names the classes of a list, in their order
    drawing  how recordings are told from names, and random splits drawn; 1: as runs made before this was stored had it
    """

    name: str
    videos: Path
    frames: Path
    layout: str = "folder"
    splits: Path | None = None
    flip: bool | None = None
    groups: str | None = None
    frames_given: bool = False  # by --frames: that very folder, whatever the size
    list: Path | None = None
    classes: Path | None = None
    drawing: int = DRAWING

    @property
    def kind(self) -> Layout:
        """The layout, which knows names, groups and official splits."""
        return layout(self.layout)

    @property
    def address(self) -> str:
        """The value of --dataset that finds this data set again where mypath.py has no entry."""
        return str(self.list or self.videos)

    def frames_for(self, size: FrameSize) -> Path:
        """The frames folder for another stored size."""
        if size == DEFAULT_SIZE or self.frames_given:
            return self.frames
        return self.frames.with_name(f"{self.frames.name}-{size_name(size)}")


@dataclass(frozen=True)
class SourceVideo:
    """A file among the videos: its path relative to the videos folder, class, group, and the part that it was given."""

    video: str
    label: str
    group: str
    given: str

    @property
    def stem(self) -> str:
        return Path(self.video).stem


def class_names(source: DataSource, labels: set[str]) -> list[str]:
    """Classes in the data set's own order, which gives them their ids.

    That of classInd.txt where it lies with the official lists, or of a list's class file; else alphabetical without
    regard to case (Hammering before HammerThrow, as in classInd.txt). Numeric labels of a list are sorted as numbers.
    """
    own = class_file(source.list, source.classes) if source.list else None
    official = source.splits / "classInd.txt" if source.splits is not None else None
    ordered = _ordered_by(own, labels) if own is not None else None
    if ordered is None and source.list is not None and all(label.isdecimal() for label in labels):
        return sorted(labels, key=int)
    if ordered is None and official is not None and official.is_file():
        ordered = _ordered_by(official, labels)
    return ordered or sorted(labels, key=lambda name: (name.lower(), name))


def _ordered_by(file: Path, labels: set[str]) -> list[str] | None:
    """The labels in the order of a class file; None where it does not name all of them."""
    names = read_class_names(file)
    return [names[n] for n in sorted(names) if names[n] in labels] if labels <= set(names.values()) else None


def check_classes(classes: Sequence[str], advice: str, found: list[str], name: str) -> None:
    """Raises a UserError, with the advice, where the classes found in data set `name` are not those of a checkpoint."""
    if found != list(classes):
        raise UserError(f"{_other_classes(classes, found, name)} {advice}")


def _other_classes(classes: Sequence[str], found: list[str], name: str) -> str:
    """A sentence on how the classes of a checkpoint and of a data set differ."""
    new = [label for label in found if label not in set(classes)]
    missing = [label for label in classes if label not in set(found)]
    if not new and not missing:
        place = next(i for i, pair in enumerate(zip(classes, found, strict=True)) if pair[0] != pair[1])
        return f"Class {place} of the checkpoint is '{classes[place]}', and that of {name} is '{found[place]}'."
    differences = [
        f"'{labels[0]}'{f' and {len(labels) - 1} more are' if labels[1:] else ' is'} {what}"
        for labels, what in ((new, "new"), (missing, "missing"))
        if labels
    ]
    return (
        f"The checkpoint has {plural(len(classes), 'class')}, and {name} has {len(found)}: "
        + f"{', '.join(differences)}."
    )
