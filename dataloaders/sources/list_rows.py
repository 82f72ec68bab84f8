"""A list of videos as a data set: the class, group and part that its lines give to videos and to extracted frames."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from common.console import plural, print_once
from common.errors import UserError
from common.files import same_spelling
from dataloaders.frames.manifest import VideoRow
from dataloaders.sources.data_source import DataSource
from dataloaders.sources.folder import class_folders, part_lists, video_files
from dataloaders.sources.layout import layouts
from dataloaders.sources.recordings import groups_of
from dataloaders.sources.video_list import ListedVideo, VideoList, class_file, parse_video_list, refuse_contradictions


def read_video_list(source: DataSource) -> VideoList:
    """The list, read again where it or the file of its classes has changed."""
    if not source.list.is_file():
        raise UserError(f"There is no list {source.list} of the videos of '{source.name}'.")
    names = class_file(source.list, source.classes)
    states = [_state(file) for file in [*part_lists(source.list).values(), source.list, *([names] if names else [])]]
    listed = _read_once(source.list, source.videos, source.classes, *states)
    for note in listed.notes:
        print_once(note)
    return listed


def _state(file: Path) -> tuple[int, ...]:
    if not file.is_file():
        return ()
    stat = file.stat()
    return stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_ino


@lru_cache(maxsize=1)  # a run asks several times, and 240,000 lines take seconds
def _read_once(path: Path, root: Path, classes: Path | None, *_: object) -> VideoList:
    listed, lists = parse_video_list(path, root, classes), part_lists(path)
    if not lists or listed.has_split:
        return listed
    parts = {part: listed if file == path else parse_video_list(file, root, classes) for part, file in lists.items()}
    videos = [replace(video, given=part) for part, found in parts.items() for video in found.videos]
    refuse_contradictions(videos)
    sizes = ", ".join(f"{file.name} ({len(parts[part].videos):,})" for part, file in lists.items())
    notes = [note for found in parts.values() for note in found.notes]
    return VideoList(path, videos, True, [f"Lists that divide the videos: {sizes}.", *notes])


def listed_videos(source: DataSource) -> list[ListedVideo]:
    """The videos of a list, each with its group: the one in the list, else the one that its name tells."""
    named = [kind for kind in layouts().values() if kind.names_hold_group] if source.groups is None else []
    found = list(read_video_list(source).videos)
    unnamed = []
    for index, video in enumerate(found):
        stem = Path(video.video).stem
        kind = None if video.group else next((kind for kind in named if kind.matches(stem)), None)
        if kind:
            found[index] = replace(video, group=kind.group(video.label, stem))
        elif not video.group:
            unnamed.append((index, (video.label, stem)))
    groups = groups_of(source, [name for _, name in unnamed])
    for (index, _), group in zip(unnamed, groups, strict=True):
        found[index] = replace(found[index], group=group)
    return found


def with_groups(source: DataSource, rows: Iterable[VideoRow]) -> list[VideoRow]:
    """Rows of a manifest as names, folders and lists are now: with the groups that mypath.py gives, and without videos
    that are not in the folder; with the class, group and part that a list gives, and without videos that it does not
    name. Says which those are."""
    rows = list(rows)
    if source.list is None:
        rows = _in_folder(source, rows)
        groups = groups_of(source, [(row.label, row.stem) for row in rows])
        return [
            row if row.group == group else replace(row, group=group) for row, group in zip(rows, groups, strict=True)
        ]
    if not source.list.is_file() and all(row.quality for row in rows):
        return rows  # the list was there when they were made, and the manifest has what it said

    videos = listed_videos(source)
    lines = _lines_of(source, videos, rows)
    found = [(row, line) for row, line in zip(rows, lines, strict=True) if line is not None]
    left_out = [row.video for row, line in zip(rows, lines, strict=True) if line is None]
    seen = {line.video for _, line in found}
    missing = [video.video for video in videos if video.video not in seen]
    _say_what_differs(source.list, rows, left_out, missing)
    return [_changed(row, line.label, line.group, line.given) for row, line in found]


def _in_folder(source: DataSource, rows: list[VideoRow]) -> list[VideoRow]:
    """Rows whose videos are in the folder; all of them, where it is gone, or some of frames made elsewhere are."""
    folders = class_folders(source.videos) if source.videos.is_dir() else []
    found = [(same_spelling(folder.name), path) for _, folder in folders for path in video_files(folder)]
    if not found:
        return rows
    if not all(row.quality for row in rows):
        names = {(label, path.stem) for label, path in found}
        if not any((row.label, row.stem) in names for row in rows):
            _say_what_differs(source.videos, rows, [row.video for row in rows], [])
        return rows
    paths = {path.relative_to(source.videos).as_posix() for _, path in found}
    left_out = [row.video for row in rows if row.video not in paths]
    missing = sorted(paths - {row.video for row in rows})
    _say_what_differs(source.videos, rows, left_out, missing)
    return [row for row in rows if row.video in paths]


def _say_what_differs(where: Path, rows: list[VideoRow], left_out: list[str], missing: list[str]) -> None:
    """Prints the number of videos that only the frames have, and that only the list or folder has. Raises a UserError
    where they have none in common."""
    if len(left_out) == len(rows):
        raise UserError(
            f"None of the {plural(len(rows), 'video')} that have frames is in {where} (first: {left_out[0]}). Are "
            "these the frames of that data set?"
        )
    if left_out:
        print_once(
            f"Note: left out, because not in {where.name}: {plural(len(left_out), 'video')} (first: {left_out[0]})."
        )
    if missing:
        print_once(f"Note: no frames of {plural(len(missing), 'video')} of {where.name} (first: {missing[0]}).")


def _lines_of(source: DataSource, videos: Sequence[ListedVideo], rows: Sequence[VideoRow]) -> list[ListedVideo | None]:
    """The line of each row: by its path; of frames made elsewhere, whose videos may have lain anywhere, by class and
    name without ending. Raises UserError where such a name stands for two videos."""
    if all(row.quality for row in rows):
        by_path = {video.video: video for video in videos}
        return [by_path.get(row.video) for row in rows]

    by_name: dict[tuple[str, str], list[ListedVideo]] = {}
    for video in videos:
        by_name.setdefault((video.label, Path(video.video).stem), []).append(video)
    lines = [by_name.get((row.label, row.stem), []) for row in rows]
    for row, found in zip(rows, lines, strict=True):
        if len(found) > 1:
            raise UserError(
                f"{found[0].file}, lines {found[0].line} and {found[1].line}: both may be the video of the frames "
                f"{row.folder}. Frames made elsewhere are known by class and name: give the two different names."
            )
    return [found[0] if found else None for found in lines]


def _changed(row: VideoRow, label: str, group: str, given: str) -> VideoRow:
    if (row.label, row.group, row.given) == (label, group, given):
        return row
    return replace(row, label=label, group=group, given=given)
