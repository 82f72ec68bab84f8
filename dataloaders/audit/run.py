from dataclasses import replace
from pathlib import Path

from common.console import plural, progress
from common.errors import UserError
from common.worker_process import num_processors
from dataloaders.audit.duplicates import same_files, same_frames
from dataloaders.audit.findings import find_all
from dataloaders.audit.frames_folders import folders_of, frames_folders
from dataloaders.audit.probe import VideoInfo, probe_videos
from dataloaders.audit.report import Audit
from dataloaders.frames import manifest
from dataloaders.frames.foreign import index_frames
from dataloaders.frames.manifest import VideoRow
from dataloaders.preprocess.plan import is_outdated
from dataloaders.sources.data_source import DataSource, class_names
from dataloaders.sources.find import find_videos
from dataloaders.sources.list_rows import read_video_list, with_groups
from dataloaders.sources.splits import split_videos


def audit_source(
    source: DataSource,
    split: str | None = None,
    val: str = "auto",
    span: int = 16,
    decode: bool = False,
    workers: int | None = None,
) -> Audit:
    """Probes every video and checks the split. Where only frames exist, their manifest takes the videos' place.

    span: frames from a clip's first to its last. Raises UserError where there is no data set, or nothing in it can be
    used; UsageError for a split that it does not have.
    """
    frames = _frames_folder(source)
    if frames is None and source.frames_given:
        raise UserError(f"There are no frames in {source.frames}. Correct --frames, or leave it out.")
    videos_there = _videos_there(source)
    rows = {row.video: row for row in _read_rows(frames, videos_there)} if frames else {}
    if videos_there or not rows:
        videos = find_videos(source, empty_too=True)
        paths = {video.video: source.videos / video.video for video in videos}
        looks = probe_videos(list(paths.values()), decode, workers or num_processors())
        looks = progress(looks, len(paths), "Looking", "videos")
        facts = dict(zip(paths, looks, strict=True))
        if not decode:
            facts = {name: _with_row(fact, rows.get(name)) for name, fact in facts.items()}
        duplicates = same_files(paths)
    else:
        if decode:
            raise UserError(f"--decode decodes videos, and there are none in {source.videos}. Leave it out.")
        videos = with_groups(source, rows.values())
        facts = {video.video: _facts_of(video) for video in videos}
        equal = same_frames(frames, manifest.usable(rows.values()))
        known = [[name for name in names if name in facts] for names in equal]  # a list may leave some out
        duplicates = [names for names in known if len(names) > 1]

    usable = [video for video in videos if not facts[video.video].unreadable]
    if not usable:
        first = videos[0].video
        raise UserError(
            f"None of the {plural(len(videos), 'file')} of '{source.name}' can be used (first: {first}: "
            f"{facts[first].unreadable})."
        )
    divided = split_videos(source, usable, split, val)
    findings = find_all(source, videos, facts, divided, duplicates, span)
    classes = class_names(source, {video.label for video in videos})
    return Audit(source, videos, facts, divided, classes, span, findings, frames_folders(source), videos_there)


def _videos_there(source: DataSource) -> bool:
    if source.list is None:
        return source.videos.is_dir()
    if not source.list.is_file():
        return False
    return any((source.videos / video.video).is_file() for video in read_video_list(source).videos)


def _frames_folder(source: DataSource) -> Path | None:
    """Frames of any size serve: the first folder that has some."""
    return next(iter(folders_of(source)), None)


def _read_rows(frames: Path, videos_there: bool) -> list[VideoRow]:
    """Rows of the frames' manifest. Where the videos exist, frames without a manifest or with a damaged one are
    ignored."""
    try:
        if (frames / manifest.NAME).is_file():
            return manifest.read_manifest(frames)
    except manifest.DamagedManifest as error:
        if not videos_there:
            raise
        print(f"Note: {error}")
    return [] if videos_there or (frames / manifest.PARTIAL_NAME).exists() else index_frames(frames)


def _with_row(fact: VideoInfo, row: VideoRow | None) -> VideoInfo:
    """A look, with what preprocessing has decoded of the same file."""
    if row is None or row.source_bytes != fact.num_bytes or not row.quality or is_outdated(row):
        return fact
    if row.status == "refused":
        return VideoInfo(fact.num_bytes, row.reason)
    if fact.unreadable or row.every != 1 or row.resampled:  # these frames do not count the video's
        return fact
    return replace(fact, num_frames=row.num_frames, counted="manifest")


def _facts_of(row: VideoRow) -> VideoInfo:
    if row.status == "refused":
        return VideoInfo(row.source_bytes, row.reason)
    size = (row.source_width, row.source_height) if row.quality else (row.width, row.height)
    return VideoInfo(row.source_bytes, "", row.num_frames * row.every, "manifest", 0, row.fps, *size)
