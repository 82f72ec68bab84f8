"""Frames that training and evaluation find ready: what is missing is extracted, after a word on what that will take."""

import contextlib
import os
import shlex
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from common.console import duration, gigabytes, plural
from common.errors import UserError
from common.files import file_size
from common.worker_process import num_processors
from dataloaders.frames import manifest
from dataloaders.frames.foreign import index_frames
from dataloaders.frames.manifest import NO_PERMISSION
from dataloaders.frames.settings import Settings
from dataloaders.frames.store import is_packed
from dataloaders.preprocess.locks import LOCK
from dataloaders.preprocess.plan import has_content
from dataloaders.preprocess.run import make_demo_videos, preprocess
from dataloaders.preprocess.shards import Shard, shard_state
from dataloaders.preprocess.worker import Extractor
from dataloaders.sources.data_source import DataSource, class_names
from dataloaders.sources.demo import CLASSES
from dataloaders.sources.find import find_videos, list_changed_since
from dataloaders.sources.folder import has_videos
from dataloaders.sources.list_rows import listed_videos
from dataloaders.sources.splits import split_videos
from dataloaders.video import VideoError, VideoReader


def ensure_frames(
    source: DataSource,
    size: tuple[int, int],
    split: str | None = None,
    check: Callable[[list[str], str], None] | None = None,
) -> None:
    """Before training or evaluation: extracts what is missing, after saying what that will take.

    Frames that are all there cost a look at the videos' names and sizes. Frames made elsewhere are left as they are. A
    manifest that is damaged is rebuilt. Raises UserError where the disk is too small, a shard is missing, or --frames
    names those of other videos.
    """
    frames = source.frames_for(size)
    if is_packed(frames):
        return  # a pack is read as it is
    if manifest.is_complete(frames):
        if _is_damaged(frames):
            _rebuild(source, frames, size, split)
        elif _videos_changed(source, frames):
            preprocess(source, stored_settings(frames), split)
        return
    if frames.exists() and not frames.is_dir():
        raise UserError(f"{frames} is a file, not a folder of frames. Choose another --frames.")
    if frames.is_dir() and (state := shard_state(frames)):
        if state.missing:
            raise UserError(
                f"{frames} is extracted in shards, and {state} is missing. Extract it, or preprocess without --shard "
                "to extract only the missing videos."
            )
        rows, _ = manifest.salvage(frames, Shard(1, state.total).manifest_name)
        preprocess(source, rows[0].settings if rows else Settings(size), split)
        return
    if frames.is_dir() and not manifest.names(frames) and has_content(frames):
        if (frames / LOCK).exists():  # left by a run of ours, never by another program
            _rebuild(source, frames, size, split)
        return

    if check:
        labels = CLASSES if source.name == "demo" else (video.label for video in find_videos(source))
        check(class_names(source, set(labels)), source.name)
    make_demo_videos(source)
    split_videos(source, find_videos(source), split)  # what is wrong with the split is said before hours of work
    settings = Settings(size)
    if source.frames_given and not frames.exists() and (other := _frames_beside(source, frames, settings)):
        raise UserError(
            f"--frames {frames} does not exist, and {other} beside it holds the frames of these videos. Give that one, "
            f"or, to extract them once more, make the folder first: mkdir {shlex.quote(str(frames))}"
        )
    need = estimate(source, settings)
    print(
        f"Frames of '{source.name}' at {size[0]}x{size[1]} are not extracted yet: {plural(need.num_videos, 'video')}, "
        f"about {gigabytes(need.num_bytes)} and {duration(need.seconds)} into {frames}."
    )
    frames.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(frames).free
    already = sum(1 for _ in frames.rglob("*.jpg")) * need.num_bytes / max(need.num_frames, 1)
    if need.num_bytes - already > free:
        raise UserError(
            f"The disk of {frames} has {gigabytes(free)} free, which is too little. Free some space, or choose a "
            "folder on another disk: --frames DIR"
        )
    preprocess(source, settings, split)


def _frames_beside(source: DataSource, frames: Path, settings: Settings) -> Path | None:
    """A folder next to `frames` with complete frames of all these videos in these settings."""
    names = {video.video for video in find_videos(source)}
    for folder in sorted(frames.parent.iterdir()) if frames.parent.is_dir() else ():
        if folder.is_dir() and manifest.is_complete(folder) and not _is_damaged(folder):
            rows = manifest.read_manifest(folder)
            made_here = rows and rows[0].quality
            if made_here and rows[0].settings == settings and names <= {row.video for row in rows}:
                return folder
    return None


def _is_damaged(frames: Path) -> bool:
    try:
        manifest.read_manifest(frames)
    except manifest.DamagedManifest:
        return True
    return False


def _rebuild(source: DataSource, frames: Path, size: tuple[int, int], split: str | None) -> None:
    """Rebuilds a missing or damaged manifest: by preprocessing, or by index_frames where another program made the
    frames."""
    rows, problems = manifest.salvage(frames) if (frames / manifest.NAME).is_file() else ([], ["it is gone"])
    if not (frames / LOCK).exists() and not any(row.quality for row in rows):
        print(f"{frames / manifest.NAME} is damaged: {problems[0]}. It is rebuilt from the folders.")
        manifest.write_manifest(frames, index_frames(frames))
        return
    if not source.videos.is_dir():
        raise UserError(
            f"{frames / manifest.NAME} is damaged: {problems[0]}. Rebuilding needs the videos, but there is no "
            f"folder {source.videos}. Restore the manifest from a copy."
        )
    preprocess(source, rows[0].settings if rows else Settings(size), split)


def stored_settings(frames: Path) -> Settings:
    """Settings of the frames in a folder."""
    return manifest.read_manifest(frames)[0].settings


def _videos_changed(source: DataSource, frames: Path) -> bool:
    """Whether videos were added, replaced or removed, one that could not be read can be read now, or the list is
    younger, unless the frames were made elsewhere. Videos that are gone altogether, and those that --frames has beside
    others, need nothing. Raises UserError where --frames names those of other videos, which would be lost."""
    rows = {row.video: row for row in manifest.read_manifest(frames)}
    is_there = has_videos(source.videos) if source.list is None else source.list.is_file()
    if not is_there or not all(row.quality for row in rows.values()):
        return False
    videos = find_videos(source) if source.list is None else listed_videos(source)
    sizes = {video.video: file_size(source.videos / video.video) for video in videos}
    same = [name for name, size in sizes.items() if name in rows and size in (rows[name].source_bytes, 0)]
    new = [name for name, size in sizes.items() if size and name not in rows]
    replaced = len(sizes.keys() & rows) - len(same)
    readable = any(
        row.reason == NO_PERMISSION and os.access(source.videos / row.video, os.R_OK) for row in rows.values()
    )
    younger = list_changed_since(source, (frames / manifest.NAME).stat().st_mtime)
    if source.frames_given and 2 * len(same) < len(rows) and (new or replaced):
        where = source.list or source.videos
        raise UserError(
            f"{frames} has the frames of {plural(len(rows), 'video')}, and {len(same) or 'none'} of them "
            f"{'is' if len(same) < 2 else 'are'} in {where} unchanged. Choose another --frames folder for "
            f"'{source.name}'; to replace the frames there: python -m dataloaders.preprocess --dataset "
            f"{shlex.quote(source.address)} --frames {shlex.quote(str(frames))}"
        )
    removed = not source.frames_given and source.list is None and len(rows) > len(sizes.keys() & rows)
    return bool(new or replaced or removed or readable or (younger and not source.frames_given))


@dataclass(frozen=True)
class Estimate:
    """Estimated time and disk space of an extraction, from a few videos."""

    num_videos: int
    num_frames: float
    num_bytes: float
    seconds: float


def estimate(source: DataSource, settings: Settings, workers: int | None = None, num_samples: int = 12) -> Estimate:
    """Extracts the beginning of a few videos, spread over the data set, and scales by the lengths in their headers."""
    videos = find_videos(source)
    samples = videos[:: max(len(videos) // num_samples, 1)][:num_samples]
    num_frames = num_bytes = tried_frames = tried = 0
    seconds = 0.0
    with tempfile.TemporaryDirectory() as folder, contextlib.closing(Extractor()) as extractor:
        extractor.worker.start()
        for number, video in enumerate(samples):
            path = source.videos / video.video
            start = time.monotonic()
            result = extractor.extract(path, Path(folder) / str(number), **asdict(settings), limit=32)
            if result.refused:
                continue
            seconds += time.monotonic() - start
            length = _header_frames(path)
            tried += 1
            tried_frames += result.num_frames
            num_bytes += result.num_bytes
            num_frames += max(length // settings.every, result.num_frames)
    if not tried:
        return Estimate(len(videos), 0.0, 0.0, 0.0)
    total_frames = num_frames / tried * len(videos)
    return Estimate(
        num_videos=len(videos),
        num_frames=total_frames,
        num_bytes=total_frames * num_bytes / tried_frames,
        seconds=total_frames * seconds / tried_frames / (workers or num_processors()),
    )


def _header_frames(path: Path) -> int:
    """Frames as the header has them: good enough for an estimate, and for nothing else."""
    try:
        with VideoReader(path) as reader:
            seconds = (reader.container.duration or 0) / 1e6
            return reader.stream.frames or int(seconds * (reader.fps or 25))
    except VideoError:
        return 0
