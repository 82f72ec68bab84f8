"""What a data set's names say: its layout, the recording that a video was cut from, the order of the classes."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import UserError
from dataloaders.sources.video_list import class_file, read_class_names

if TYPE_CHECKING:
    from dataloaders.sources.data_source import DataSource

UCF101_NAME = re.compile(r"v_.+_g(\d\d)_c\d\d")
HMDB51_NAME = re.compile(r".+_[fhlu]_(?:cm|nm)_np\d_(?:ba|fr|le|ri)_(?:bad|goo|med)_\d+")


def layout_of(names: list[str]) -> str:
    for layout, pattern in (("ucf101", UCF101_NAME), ("hmdb51", HMDB51_NAME)):
        if 2 * sum(bool(pattern.fullmatch(name)) for name in names) > len(names):
            return layout
    return "folder"


def group_of(source: "DataSource", label: str, stem: str) -> str:
    """What recording a video was cut from. Qualified by class in UCF101 and HMDB51, where group 1 of two classes are
    two recordings; global elsewhere (the subject who performs all actions stays in one part)."""
    if source.groups is not None:
        match = re.search(source.groups, stem)
        if match:
            return next((part for part in match.groups() if part is not None), match.group(0))
        return f"{label}/{stem}"
    if source.layout == "ucf101":
        match = UCF101_NAME.fullmatch(stem)
        if match is None:
            raise UserError(
                f"'{stem}' in class {label} is not named as UCF101 names its videos: v_<Class>_gNN_cNN. Take it out, "
                "or give the data set an entry with layout 'folder' in mypath.py."
            )
        return f"{label}/g{match.group(1)}"
    if source.layout == "hmdb51":
        return f"{label}/{stem.rsplit(f'_{label}_', 1)[0]}"  # a title may have the word too: How_to_pour_..._pour_u_nm
    return f"{label}/{stem}"


def class_names(source: "DataSource", labels: set[str]) -> list[str]:
    """Classes in the data set's own order: classInd.txt's where it lies with the lists, the class file's of a list,
    else alphabetical by letter, not by character code (HammerThrow after Hammering, as in classInd.txt). Classes of a
    list that are called by numbers have the order of the numbers."""
    file = class_file(source.list, source.classes) if source.list else None
    if file is not None:
        names = read_class_names(file)
        if labels <= set(names):
            return [name for name in names if name in labels]
    if source.list is not None and all(label.isdecimal() for label in labels):
        return sorted(labels, key=int)
    if source.splits is not None and (source.splits / "classInd.txt").is_file():
        official = [line.split()[1] for line in read_lines(source.splits / "classInd.txt")]
        if labels <= set(official):
            return [name for name in official if name in labels]
    return sorted(labels, key=lambda name: (name.lower(), name))


def read_lines(path: Path) -> list[str]:
    """Lines without their ends (CRLF too), empty ones left out."""
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
