"""Finding data sets (a name of mypath.py, a folder, a list) and their videos."""

import glob
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from common.console import plural, print_once
from common.errors import UsageError, UserError, unknown_name
from common.files import VIDEO_SUFFIXES, same_spelling
from dataloaders.frames import manifest
from dataloaders.frames.manifest import VideoRow
from dataloaders.sources.data_source import DataSource, SourceVideo
from dataloaders.sources.entries import source_of_entry
from dataloaders.sources.folder import (
    PARTS,
    class_folders,
    find_lists,
    packed_videos,
    part_lists,
    stray_videos,
    subfolders,
    unpack_commands,
    video_files,
    why_no_videos,
)
from dataloaders.sources.layout import layout_of
from dataloaders.sources.list_rows import listed_videos, read_video_list
from dataloaders.sources.recordings import groups_of
from dataloaders.sources.video_list import SUFFIXES, check_files


def find_source(name: str, datasets: dict[str, dict], root: Path, frames: str | None = None) -> DataSource:
    """A name from mypath.py, a folder of class folders, or a list. Relative paths in mypath.py count from its own
    folder.

    frames: where its frames lie instead (--frames). Where they are there, the folder of the videos need not be.
    """
    if name in datasets:
        return with_frames(_from_mypath(name, datasets[name], root), frames)

    path = Path(name).expanduser().resolve()
    if path.is_dir() and (lists := lists_in(path)):
        path = lists
    listed = path.is_file() or path.suffix.lower() in SUFFIXES
    whole = path.parent if part_lists(path) else path.with_suffix("") if listed else path
    if not path.exists() and PARTS.get(path.stem.lower()) == "train" and _frames_of(path.parent):
        whole = path.parent  # three lists that are gone
    source = DataSource(
        name=whole.name,
        videos=path.parent if listed else path,
        frames=whole.with_name(f"{whole.name}-frames"),
        list=path if listed else None,
    )
    source = with_frames(source, frames)
    if path.is_file():
        _refuse_video(path)
        return _with_layout(source)
    if path.is_dir():
        _refuse_flat_folder(path)
        return _with_layout(source)

    extracted = [source.frames] if frames and source.frames.is_dir() else [] if frames else _frames_of(whole)
    if extracted:
        return _with_layout_of_frames(source, extracted[0])
    if listed:
        raise UserError(
            f"There is no list '{name}'. --dataset takes a list of videos, or a folder of class folders; where a run's "
            "data has moved, give the new place."
        )
    if "/" in name or "\\" in name or name.startswith("."):
        raise UserError(
            f"There is no folder '{name}'. --dataset takes a folder of class folders with videos in them; where a "
            "run's data has moved, give the new place."
        )
    raise UsageError(
        unknown_name("data set", name, sorted(datasets)) + " A folder of class folders works too: --dataset my/videos"
    )


def _frames_of(videos: Path) -> list[Path]:
    """Folders with the usual names for frames of these videos, in any size."""
    return sorted(folder for folder in videos.parent.glob(f"{glob.escape(videos.name)}-frames*") if folder.is_dir())


def _from_mypath(name: str, entry: dict, root: Path) -> DataSource:
    source = source_of_entry(name, entry, root)
    if source.list is not None and source.list.is_file() and "layout" not in entry:
        return _with_layout(source)
    return with_lists(source)


def _refuse_video(path: Path) -> None:
    takes = "--dataset takes a folder of class folders, or a list (.csv, .txt)."
    if path.suffix.lower() in VIDEO_SUFFIXES:
        raise UserError(f"{path} is a single video. {takes}")
    if path.suffix.lower() in (".md", ".py", ".html", ".pdf", ".doc", ".docx", ".xls", ".xlsx"):
        raise UserError(f"{path} is not a list of videos. {takes}")


def lists_in(folder: Path) -> Path | None:
    """The training list of a folder that holds lists for its parts, and no folders for them."""
    lists = (path for path in sorted(folder.iterdir()) if path.suffix.lower() in SUFFIXES and part_lists(path))
    found = next(lists, None)
    return None if found is None or any(given for given, _ in class_folders(folder)) else found


def _refuse_flat_folder(folder: Path) -> None:
    if not subfolders(folder):
        why = why_no_videos(folder, folder)
        example = f"A data set is a folder of class folders: {folder.name}/<class>/<video>."
        if any(path.suffix.lower() in VIDEO_SUFFIXES for path in video_files(folder)):
            example += f" If it is a class itself, give {folder.resolve().parent}."
        raise UserError(why or f"{folder} has no folders. {example}")


def _with_layout(source: DataSource) -> DataSource:
    """Sets the layout that the videos' names show. A list with a split column keeps its own."""
    if source.list is not None:
        listed = read_video_list(source)
        if listed.has_split:
            return source
        return with_lists(replace(source, layout=layout_of([Path(video.video).stem for video in listed.videos])))
    return with_lists(replace(source, layout=detect_layout(source.videos)))


def detect_layout(videos: Path) -> str:
    return layout_of([path.stem for _, folder in class_folders(videos) for path in video_files(folder)])


def with_lists(source: DataSource) -> DataSource:
    """Sets the folder that holds the official lists: the given one or a folder in it. Where none is given and the
    layout needs lists (HMDB51): a folder among the videos, beside them or beside the frames."""
    kind = source.kind
    if kind.list_files is None:
        return source
    if source.splits is not None:
        return replace(source, splits=find_lists(kind, source.splits) or source.splits)
    if kind.needs_lists:
        return replace(source, splits=find_lists(kind, source.videos, source.videos.parent, source.frames.parent))
    return source


def _with_layout_of_frames(source: DataSource, frames: Path) -> DataSource:
    """Sets the layout from extracted frames, where the videos are gone. The manifest holds the split of a list."""
    if (frames / manifest.NAME).is_file():
        rows = manifest.read_manifest(frames)
        if source.list is not None and any(row.given for row in rows):
            return source
        names = [Path(row.video).stem for row in rows]
    else:
        names = [video.name for _, folder in class_folders(frames) for video in subfolders(folder)]
    return with_lists(replace(source, layout=layout_of(names)))


def find_videos(source: DataSource, empty_too: bool = False) -> list[SourceVideo]:
    """Every file that may be a video, sorted by path; with a list, those that it names. Raises UserError for a missing
    folder or file, for an empty class (unless empty_too), and for lines that contradict each other. Says what it leaves
    out."""
    if source.list is not None:
        return _listed_videos(source)
    if not source.videos.is_dir():
        raise UserError(_missing_videos(source))
    return _videos_in_folders(source, empty_too)


def _videos_in_folders(source: DataSource, empty_too: bool) -> list[SourceVideo]:
    found = []
    folders = class_folders(source.videos)
    empty = [folder for _, folder in folders if not video_files(folder)]
    if empty and not (empty_too and len(empty) < len(folders)):
        raise UserError(
            why_no_videos(empty[0], source.videos)
            or f"The class folder {empty[0]} has no videos (hidden files are ignored). Add videos or remove it."
        )
    for given, folder in folders:
        files = video_files(folder)
        for path in files:
            label = same_spelling(folder.name)
            found.append(SourceVideo(path.relative_to(source.videos).as_posix(), label, "", given))
    if not found:
        why = why_no_videos(source.videos, source.videos)
        raise UserError(why or f"{source.videos} has no class folders. The expected layout is <class>/<video>.")
    stray = stray_videos(source.videos, [folder for _, folder in folders])
    if stray:
        first = stray[0].relative_to(source.videos).as_posix()
        number = plural(len(stray), "video")
        print_once(f"Note: not used, because not directly in a class folder: {number} (first: {first}).")
    _refuse_doubled_parts(found)
    groups = groups_of(source, [(video.label, video.stem) for video in found])
    return [replace(video, group=group) for video, group in zip(found, groups, strict=True)]


def _listed_videos(source: DataSource) -> list[SourceVideo]:
    check_files(read_video_list(source), source.videos)
    found = [SourceVideo(video.video, video.label, video.group, video.given) for video in listed_videos(source)]
    return sorted(found, key=lambda video: video.video)


def _missing_videos(source: DataSource) -> str:
    if source.videos.as_posix().startswith("/path/to/"):
        return (
            f"mypath.py is not edited yet: its folder of the videos of '{source.name}' is {source.videos}. Enter the "
            "real folder, download the videos (python -m dataloaders.download, for UCF101 and HMDB51), or use the "
            "generated data set: --dataset demo"
        )
    packed = packed_videos(source.videos)
    if packed:
        commands = unpack_commands(packed[0].parent, packed)
        return f"There is no folder {source.videos}, but {packed[0]}, which is not unpacked. Run: {commands}"
    return (
        f"There is no folder {source.videos} for the videos of '{source.name}'. Correct it in mypath.py, or create "
        "the folder."
    )


def _refuse_doubled_parts(videos: list[SourceVideo]) -> None:
    """`val/` and `validation/` in one folder would both extract to val/<class>/<video>."""
    parts: dict[tuple[str, str], str] = {}
    for video in videos:
        if video.given:
            first = parts.setdefault((video.given, video.label), video.video.split("/")[0])
            if first != video.video.split("/")[0]:
                raise UserError(f"Both {first}/ and {video.video.split('/')[0]}/ are there. Keep one of them.")


def with_frames(source: DataSource, frames: str | None) -> DataSource:
    """Sets another folder of frames (--frames)."""
    return replace(source, frames=Path(frames).expanduser().resolve(), frames_given=True) if frames else source


def still_valid(rows: Iterable[VideoRow], videos: Sequence[SourceVideo], sizes: dict[str, int]) -> dict[str, VideoRow]:
    """Rows of earlier runs, by path, whose videos still have the same number of bytes and the same class; with the
    group and the part that a list gives them now."""
    now = {video.video: video for video in videos}
    valid = {}
    for row in rows:
        video = now.get(row.video)
        if video is not None and row.source_bytes == sizes[row.video] and row.label == video.label:
            same = (row.group, row.given) == (video.group, video.given)
            valid[row.video] = row if same else replace(row, group=video.group, given=video.given)
    return valid


def list_changed_since(source: DataSource, seconds: float) -> bool:
    """Whether a list is younger than a time."""
    files = [source.list, *part_lists(source.list).values()] if source.list is not None else []
    return any(file.is_file() and file.stat().st_mtime > seconds for file in files)
