"""The plan of an extraction: frames that exist, and videos that remain."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from common.errors import UserError
from common.files import file_size
from dataloaders.frames import manifest
from dataloaders.frames.manifest import NO_PERMISSION, VideoRow
from dataloaders.frames.settings import Settings
from dataloaders.preprocess import messages
from dataloaders.preprocess.locks import LOCK
from dataloaders.preprocess.shards import Shard
from dataloaders.preprocess.worker import Job
from dataloaders.sources.data_source import DataSource, SourceVideo
from dataloaders.sources.find import still_valid
from dataloaders.video import DECODER


@dataclass(frozen=True)
class ExistingFrames:
    """Contents of a frames folder: rows by video, the split that its folders show, and whether its manifest was
    damaged."""

    rows: dict[str, VideoRow]
    split: str
    is_damaged: bool


def check_folder_is_ours(frames: Path) -> None:
    """A folder in which a run of this program began has its lock."""
    if not manifest.names(frames) and not (frames / LOCK).exists() and has_content(frames):
        raise UserError(
            f"{frames} has files that preprocessing did not write. Training can read frames of other programs; to "
            "extract, choose another folder: --frames DIR"
        )


def read_existing_frames(frames: Path, settings: Settings) -> ExistingFrames:
    """Rows of earlier runs, which must have had the same settings."""
    rows: dict[str, VideoRow] = {}
    names = manifest.names(frames)
    is_damaged = not names and has_content(frames)
    if is_damaged:
        print(f"The manifest of {frames} is gone. It is rebuilt from the frames and the videos.")
    for name in names:
        found, problems = manifest.salvage(frames, name)
        if problems:
            is_damaged = True
            messages.print_damage(frames / name, problems, len(found))
        rows.update({row.video: row for row in found})
    for row in rows.values():
        if not row.quality:
            raise UserError(f"{frames} has frames of another program. Choose another folder: --frames DIR")
        if row.settings != settings:
            raise UserError(
                f"{frames} has frames at {row.settings}, not at {settings}. "
                "Choose another folder (--frames DIR), or delete that one."
            )
    return ExistingFrames(rows, next((row.split for row in rows.values()), ""), is_damaged)


@dataclass(frozen=True)
class ExtractionPlan:
    """done: rows that stay as they are; jobs: videos to extract, or to confirm where their folder exists; videos,
    folders and sizes by the name of the video; gone: rows of videos that were removed; lost: videos whose frames were
    removed; is_done: nothing is left for any shard."""

    done: list[VideoRow]
    jobs: list[Job]
    videos: dict[str, SourceVideo]
    folders: dict[str, str]
    sizes: dict[str, int]
    gone: list[VideoRow]
    lost: list[str]
    is_done: bool


def make_plan(
    source: DataSource,
    videos: Sequence[SourceVideo],
    parts: dict[str, str],
    existing: ExistingFrames,
    frames: Path,
    shard: Shard | None,
) -> ExtractionPlan:
    folders = _folders(videos, parts)
    sizes = {video.video: file_size(source.videos / video.video) for video in videos}
    valid = still_valid(existing.rows.values(), videos, sizes)
    done, jobs, lost, num_open = [], [], [], 0
    for video in videos:
        name, row = video.video, valid.get(video.video)
        is_done = row is not None and not is_outdated(row) and _has_frames(frames, row)
        num_open += not is_done or row != existing.rows[name]
        if shard is not None and not shard.takes(name):
            continue
        if is_done:
            done.append(row)
            continue
        if row is not None and not is_outdated(row):
            lost.append(name)
        folder = frames / folders[name]
        jobs.append(Job(name, folder if name not in existing.rows and folder.is_dir() else None))
    gone = [row for row in existing.rows.values() if row.video not in sizes]
    return ExtractionPlan(
        done=done,
        jobs=jobs,
        videos={video.video: video for video in videos},
        folders=folders,
        sizes=sizes,
        gone=[row for row in gone if shard is None or shard.takes(row.video)],
        lost=lost,
        is_done=not num_open and not gone and not existing.is_damaged,
    )


def is_outdated(row: VideoRow | None) -> bool:
    """Whether the video was refused by another decoder than this one, before versions were recorded, or because it may
    not be read, which may have changed."""
    return row is not None and row.status == "refused" and (row.pattern != DECODER or row.reason == NO_PERMISSION)


def _has_frames(frames: Path, row: VideoRow) -> bool:
    """Whether the row's frames exist, and none after them. (A refused video has none.)"""
    if row.status != "ok":
        return True
    try:
        with os.scandir(frames / row.folder) as entries:
            there = {entry.name for entry in entries if entry.name.endswith(".jpg")}
    except (FileNotFoundError, NotADirectoryError):
        return False
    return len(there) == row.num_frames and all(row.frame_name(index) in there for index in range(row.num_frames))


def _folders(videos: Sequence[SourceVideo], parts: dict[str, str]) -> dict[str, str]:
    """Folder of each video. `a.avi` and `a.mp4` of one class keep their endings, `A.avi` beside `a.avi` too."""
    stems = Counter((video.given, video.label.lower(), Path(video.video).stem.lower()) for video in videos)
    names = Counter((video.given, video.label.lower(), Path(video.video).name.lower()) for video in videos)
    folders = {}
    for video in videos:
        path = Path(video.video)
        label = video.label.lower()
        name = path.stem if stems[video.given, label, path.stem.lower()] == 1 else path.name
        if names[video.given, label, path.name.lower()] > 1:  # a list may name a/1.avi and b/1.avi
            name += f"-{sha256(os.fsencode(video.video)).hexdigest()[:8]}"
        folders[video.video] = f"{parts[video.video]}/{video.label}/{name}"
    return folders


def has_content(folder: Path) -> bool:
    """Anything but hidden files."""
    return any(not path.name.startswith(".") for path in folder.iterdir())
