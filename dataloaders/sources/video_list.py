"""A list of videos as a data set: a text or csv file with one line per video.

    clips/a.avi run                     path and label, with a space (the label is the last word)
    clips/a.avi,run                     path,label     with commas, semicolons or tabs
    clips/a.avi,run,anna                path,label,group
    clips/a.avi,run,anna,train          path,label,group,split
    path,label,split                    or in any order, where the first line names the columns

train.csv, val.csv and test.csv in one folder are one list with three parts (part_lists).
A name that contains a comma needs quotes. A # alone or before a space begins a comment. Errors name file and line.
"""

import csv
import glob
import os
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from common.class_names import read_class_names
from common.errors import UserError
from common.files import is_comment, read_lines, same_spelling, unfit_for_windows
from dataloaders.sources.folder import PARTS

SUFFIXES = frozenset(".csv .tsv .txt .list .lst".split())
SHAPES = "path label; path,label; path,label,group; path,label,group,split"
CLASS_FILES = ("classes.txt", "classInd.txt", "labels.txt", "label_map.txt")  # looked for beside the list

# What the first line may call its columns.
COLUMNS = {
    "path": tuple("path video video_path video_name file filename file_name filepath file_path clip clip_path".split()),
    "label": ("label", "class", "class_name", "action", "category", "target", "tag"),
    "group": ("group", "recording", "subject", "person", "source"),
    "split": ("split", "part", "subset", "set"),
}
SPLIT_NAMES = PARTS | {"validate": "val", "unused": "", "": ""}


@dataclass(frozen=True)
class ListedVideo:
    """A line of a list file: the video's path (normalised), its class, group ("": not given) and part ("": unused)."""

    file: Path
    line: int
    video: str
    label: str
    group: str
    given: str


@dataclass(frozen=True)
class VideoList:
    """A list as it was read. notes: what was understood where the file left a choice."""

    path: Path
    videos: list[ListedVideo]
    has_split: bool
    notes: list[str]


def parse_video_list(path: Path, root: Path, classes: Path | None = None) -> VideoList:
    """Reads a list whose paths count from `root`; `classes` names the classes where labels are numbers.

    Looks at one file to tell the columns apart; check_files looks at all. Raises UserError that names file and line.
    """
    lines = _read_lines(path)
    if not lines:
        raise UserError(f"{path} lists no video. Each line must be one of: {SHAPES}.")
    rows, notes = _split_columns(path, root, lines), []
    columns = _columns(path, rows, notes)
    if columns.pop("header"):
        del rows[0]
        if not rows:
            raise UserError(f"{path} has a line with the names of the columns, and no video.")

    width = columns.pop("width")
    videos = [_listed(path, root, number, cells, columns, width) for number, cells in rows]
    refuse_contradictions(videos)
    videos, note = _with_class_names(path, videos, classes)
    notes += [note] if note else []
    return VideoList(path, videos, "split" in columns, notes)


def check_files(listed: VideoList, root: Path) -> None:
    """Raises UserError for files that are not there: the first one by its line, and how many."""
    missing = [video for video in listed.videos if not (root / video.video).is_file()]
    if not missing:
        return
    first = missing[0]
    more = f" (and {len(missing) - 1:,} more of {len(listed.videos):,})" if len(missing) > 1 else ""
    hint = f"Paths are relative to {root}."
    if first is listed.videos[0]:
        hint += " A first line that names the columns says at least path and label."
    if re.search(r" \d+$", first.video) and first.label.isdecimal():
        hint += " Lists of frame folders (path, number of frames, label) are not accepted: give the frames as --frames."
    elif " " in first.video and not (root / first.video).exists():
        hint += " A label of several words needs a comma or a tab before it."
    elif any("\udc80" <= sign <= "\udcff" for sign in first.video):
        hint += " The list is not UTF-8 (cp1252, perhaps): save it as UTF-8."
    elif "\\" in first.video:
        hint += " Write / between folders."
    elif found := next(root.glob(f"*/{glob.escape(first.video)}"), None):
        hint += f" It lies in {found.parent.name}/: give the list with {found.parent.name}/ before each name."
    elif (root / first.video).is_dir():
        raise UserError(
            f"{first.file}, line {first.line}: {first.video} is a folder{more}. A list names videos; frames of "
            "another program are given as --frames DIR, a folder of <class>/<video>/."
        )
    raise UserError(f"{first.file}, line {first.line}: there is no file {first.video}{more}. {hint}")


def _read_lines(path: Path) -> list[tuple[int, str]]:
    """(number, text) of the lines that say something. Names may hold bytes that are no UTF-8."""
    try:
        lines = read_lines(path, "surrogateescape")
    except UserError as error:
        raise UserError(f"{error} --dataset takes a folder of class folders, or a list (.csv, .txt).") from error
    lines = [(number, line) for number, line in enumerate(lines, 1) if line.strip() and not is_comment(line)]
    if lines and (path.suffix == ".json" or lines[0][1].lstrip().startswith(("{", "["))):
        raise UserError(f"{path} is JSON (annotations of another program?). Write a list: {SHAPES}.")
    return lines


Rows = list[tuple[int, list[str]]]


def _split_columns(path: Path, root: Path, lines: Sequence[tuple[int, str]]) -> Rows:
    """Cells of each line. What is between the columns is seen from the first two lines (one may be a header): the sign
    with which a path is that of a file; else the first of tab, comma, semicolon and space that is in them."""

    def splits(sign: str) -> bool:
        return any(len(_cells(line, sign)) > 1 for _, line in lines[:2])

    def finds_file(sign: str) -> bool:
        return any((root / cell).is_file() for _, line in lines[:2] for cell in _cells(line, sign) if cell)

    signs = [sign for sign in "\t,; " if splits(sign)]
    sign = next((sign for sign in signs if finds_file(sign)), signs[0] if signs else " ")
    if told := re.fullmatch(r"sep=(.)", lines[0][1].strip()):  # as spreadsheets write it
        sign, lines = told[1], lines[1:]
    if sign == " ":
        return [(number, _cells(line, sign)) for number, line in lines]
    reader = csv.reader((line for _, line in lines), delimiter=sign, skipinitialspace=True, strict=True)
    rows = []
    try:
        for cells in reader:
            rows.append((lines[reader.line_num - 1][0], [cell.strip() for cell in cells]))
    except csv.Error as error:
        began = lines[len(rows)][0]
        raise UserError(f"{path}, line {began}: a quotation mark that begins there does not end ({error}).") from error
    return rows


def _cells(line: str, sign: str) -> list[str]:
    if sign == " ":
        quoted = re.fullmatch(r'\s*"([^"]+)"\s+"?([^"]+?)"?\s*', line)
        return list(quoted.groups()) if quoted else line.rsplit(maxsplit=1)
    return [cell.strip() for cell in next(csv.reader([line], delimiter=sign, skipinitialspace=True), [])]


def _columns(path: Path, rows: Rows, notes: list[str]) -> dict[str, int]:
    """Positions of the columns, {"path": 0, "label": 1, ...}; "header": whether the first line names them, "width":
    their number."""
    first = [cell.lower() for cell in rows[0][1]]
    names = {
        kind: next((first.index(name) for name in names if name in first), None) for kind, names in COLUMNS.items()
    }
    if names["path"] is not None and names["label"] is not None:
        columns = {kind: index for kind, index in names.items() if index is not None}
        unused = [name for index, name in enumerate(rows[0][1]) if name and index not in columns.values()]
        if unused:
            notes.append(f"Note: columns of {path.name} that are not used: {', '.join(unused)}.")
        return columns | {"header": 1, "width": len(first)}

    width = len(rows[0][1])
    if "youtube_id" in first:
        raise UserError(f"{path} lists YouTube clips (as Kinetics does), not files. Write a list of yours: {SHAPES}.")
    if width > 4:
        raise UserError(
            f"{path}, line {rows[0][0]}: {width} columns, where at most 4 are known ({SHAPES}). Name the columns in "
            "the first line, or put a name with a comma in quotes."
        )
    columns = dict(zip(("path", "label", "group", "split"), range(max(width, 2)), strict=False))
    if width == 3 and all(len(cells) == 3 and cells[2].lower() in PARTS for _, cells in rows):
        columns["split"] = columns.pop("group")
        notes.append(f"Note: the third column of {path.name} has train, val or test and is used as the split.")
    return columns | {"header": 0, "width": width}


NO_FOLDER_NAME = re.compile(r"^\.|[/\\\0-\x1f]")


def _listed(path: Path, root: Path, number: int, cells: list[str], columns: dict[str, int], width: int) -> ListedVideo:
    where = f"{path}, line {number}"
    if max(columns["path"], columns["label"]) >= len(cells):
        raise UserError(f"{where}: no label in '{' '.join(cells)}'. A line is one of: {SHAPES}.")
    if len(cells) > width:
        raise UserError(f"{where}: {len(cells)} columns, {width} above it. A name that contains a comma needs quotes.")

    def cell(kind: str) -> str:
        return cells[columns[kind]] if kind in columns and columns[kind] < len(cells) else ""

    label, split = same_spelling(cell("label")), cell("split").lower()
    if not cell("path") or not label:
        raise UserError(f"{where}: the {'label' if cell('path') else 'path'} is empty.")
    if NO_FOLDER_NAME.search(label):
        raise UserError(
            f"{where}: the label '{label}' cannot be the name of a folder. Leave out / and \\ and a first dot."
        )
    if os.name == "nt" and unfit_for_windows(label):
        raise UserError(f"{where}: the label '{label}' cannot be the name of a folder on Windows. Choose another one.")
    if split not in SPLIT_NAMES:
        raise UserError(f"{where}: the split '{split}' is not one of train, val, test (or empty, for unused).")
    return ListedVideo(path, number, _tidy(cell("path"), root), label, cell("group"), SPLIT_NAMES[split])


UNTIDY = re.compile(
    r"^[/~]|^[A-Za-z]:|\\|//|(?:^|/)\.{1,2}/"
)  # all others are spelled in the one way (240,000 Paths: 5 s)


def _tidy(video: str, root: Path) -> str:
    """One spelling for one file: relative to the root where it lies there, with / between folders."""
    if not video.isascii() and not (root / video).exists():  # accented letters as one sign or as two
        forms = (unicodedata.normalize(form, video) for form in ("NFC", "NFD"))
        video = next((form for form in forms if (root / form).exists()), video)
    if not UNTIDY.search(video):
        return video
    if video.startswith("/") and (root / video[1:]).is_file() and not Path(video).exists():  # /train/a.mp4
        video = video[1:]
    full = Path(os.path.normpath(root / Path(video).expanduser()))
    if full.is_relative_to(root):
        return full.relative_to(root).as_posix()
    return full.as_posix() if Path(video).expanduser().is_absolute() else Path(os.path.normpath(video)).as_posix()


def refuse_contradictions(videos: Sequence[ListedVideo]) -> None:
    first: dict[str, ListedVideo] = {}
    for video in videos:
        other = first.setdefault(video.video, video)
        if other is video:
            continue
        lines = f"{video.file}, lines {other.line} and {video.line}"
        if video.file != other.file:
            lines = f"{other.file}, line {other.line}, and {video.file.name}, line {video.line}"
        if other.label != video.label:
            raise UserError(f"{lines}: {video.video} has two labels, {other.label} and {video.label}.")
        if other.given != video.given:
            parts = f"{other.given or 'unused'} and {video.given or 'unused'}"
            raise UserError(f"{lines}: {video.video} is in two splits, {parts}.")
        raise UserError(f"{lines}: {video.video} is listed twice. Take one of them out.")


def _with_class_names(path: Path, videos: list[ListedVideo], classes: Path | None) -> tuple[list[ListedVideo], str]:
    """Videos with the names of their classes where the labels are numbers, and a word on where the names are from."""
    numbers = all(video.label.isdecimal() for video in videos)
    file = class_file(path, classes)
    if not numbers:
        return (_known(videos, path, classes) if classes else videos), ""
    if file is None:
        return videos, (
            f"Note: the labels of {path.name} are numbers, without a {CLASS_FILES[0]} beside it: the numbers are the "
            "class names."
        )
    names = read_class_names(file)
    unnamed = next((video for video in videos if int(video.label) not in names), None)
    if unnamed is not None:
        raise UserError(
            f"{path}, line {unnamed.line}: the label {unnamed.label} has no name in {file}, which names "
            f"{min(names)} to {max(names)}."
        )
    named = [replace(video, label=names[int(video.label)]) for video in videos]
    return (
        named,
        f"The labels of {path.name} are numbers; {file.name} names them (first: {min(names)} {names[min(names)]}).",
    )


def _known(videos: list[ListedVideo], path: Path, classes: Path) -> list[ListedVideo]:
    names = set(read_class_names(classes).values())
    unknown = next((video for video in videos if video.label not in names), None)
    if unknown is not None:
        raise UserError(f"{path}, line {unknown.line}: the label '{unknown.label}' is not in {classes}.")
    return videos


def class_file(path: Path, classes: Path | None) -> Path | None:
    """The file that names the classes of a list: the one that was given, else one beside the list."""
    if classes is not None:
        return classes
    beside = [path.with_name(name) for name in CLASS_FILES]
    return next((file for file in beside if file.is_file() and file != path), None)
