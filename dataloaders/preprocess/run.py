"""Extracts what is not extracted yet of a data set, in processes of its own."""

import errno
import secrets
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from common.console import gigabytes, plural, progress
from common.errors import Stopped, UserError
from common.files import printable, put_in_place
from dataloaders.frames import manifest
from dataloaders.frames.manifest import VideoRow
from dataloaders.frames.settings import Settings, size_text
from dataloaders.frames.store import is_packed
from dataloaders.preprocess import messages
from dataloaders.preprocess.extract import Extracted
from dataloaders.preprocess.locks import only_one_run, whole_folder
from dataloaders.preprocess.plan import (
    ExistingFrames,
    ExtractionPlan,
    check_folder_is_ours,
    is_outdated,
    make_plan,
    read_existing_frames,
)
from dataloaders.preprocess.shards import Shard, check_division, merge_shards, shard_state
from dataloaders.preprocess.worker import Limits, extract_all
from dataloaders.sources.data_source import DataSource, SourceVideo
from dataloaders.sources.find import find_videos
from dataloaders.sources.splits import split_videos
from dataloaders.video import DECODER


def make_demo_videos(source: DataSource) -> None:
    """Generates the demo data set where it is asked for and not there yet."""
    if source.name == "demo":
        from dataloaders.sources.demo import generate_demo

        generate_demo(source.videos)


def preprocess(
    source: DataSource,
    settings: Settings,
    split: str | None = None,
    workers: int | None = None,
    shard: Shard | None = None,
    limits: Limits | None = None,
) -> list[VideoRow]:
    """Extracts what is not extracted yet, and returns the rows of all its videos (of the shard's, where one is given).
    Prints what it does and what it refused."""
    videos = find_videos(source)
    shown = split_videos(source, videos, split)
    frames = source.frames_for(settings.size)
    if is_packed(frames):
        raise UserError(f"{frames} is a pack, which cannot be extended. Extract into another folder: --frames DIR")
    frames.mkdir(parents=True, exist_ok=True)
    check_folder_is_ours(frames)

    with only_one_run(frames, shard, wait=True):
        manifest.clear_merged(frames)
        if shard:
            check_division(frames, shard)
        existing = read_existing_frames(frames, settings)
        if existing.split not in ("", shown.name):
            messages.print_split(existing.split, shown.name)
            shown = split_videos(source, videos, existing.split)
        plan = make_plan(source, videos, shown.parts, existing, frames, shard)
        messages.print_removed(plan.gone, source.videos)
        messages.print_missing(plan.lost)
        messages.print_retried([job.video for job in plan.jobs if is_outdated(existing.rows.get(job.video))])
        if plan.is_done and manifest.is_complete(frames):
            (frames / manifest.NAME).touch()  # so that ensure_frames need not read a list again
            messages.print_nothing_to_do(frames, plan.done)
            return plan.done

        outcome = _extract(source, settings, shown.name, workers, limits, frames, plan, existing, shard)
        rows = sorted([*plan.done, *outcome.rows], key=lambda row: row.video)
        if shard is None:
            manifest.replace_all(frames, rows)
        else:
            manifest.write_manifest(frames, rows, shard.manifest_name)
            (frames / shard.partial_name).unlink()
        if shard is not None:
            _merge_or_say_what_is_missing(frames, videos)
        if plan.jobs:
            messages.print_summary(frames, rows, outcome)
        else:
            messages.print_nothing_to_do(frames, rows)
        return rows


def _extract(
    source: DataSource,
    settings: Settings,
    split: str,
    workers: int | None,
    limits: Limits | None,
    frames: Path,
    plan: ExtractionPlan,
    existing: ExistingFrames,
    shard: Shard | None,
) -> messages.Outcome:
    """Does the plan's jobs."""
    for job in plan.jobs:  # frames of a source that has changed
        if job.known is None:
            shutil.rmtree(frames / plan.folders[job.video], ignore_errors=True)
    temporary_root = frames / (f".partial-{shard.name}" if shard else ".partial")
    shutil.rmtree(temporary_root, ignore_errors=True)
    if shard is None:
        for path in frames.glob(".partial-*-of-*"):  # of shards that were killed
            shutil.rmtree(path, ignore_errors=True)
    partial = manifest.PartialManifest(frames, plan.done, shard.partial_name if shard else manifest.PARTIAL_NAME)
    start, outcome = time.monotonic(), messages.Outcome()
    settings_known = bool(existing.rows) or not existing.is_damaged
    # a name of its own: the workers of a run that was killed may still be writing for a moment
    temporary = temporary_root / secrets.token_hex(4)
    results = extract_all(source.videos, plan.jobs, temporary, asdict(settings), workers, limits)
    try:
        for job, made, result in progress(results, len(plan.jobs), "Extracting", "videos"):
            folder = frames / plan.folders[job.video]
            if job.known and not result.confirmed and not result.refused and not settings_known:
                raise UserError(_other_settings(folder, settings))
            settings_known = settings_known or result.confirmed
            if not result.confirmed:
                shutil.rmtree(folder, ignore_errors=True)
            if result.refused:
                shutil.rmtree(made, ignore_errors=True)
            elif not result.confirmed:
                folder.parent.mkdir(parents=True, exist_ok=True)
                put_in_place(made, folder)
            video = plan.videos[job.video]
            row = _row(video, plan.folders[job.video], plan.sizes[job.video], result, settings, split)
            partial.add(row)
            outcome.rows.append(row)
            outcome.num_bytes += result.num_bytes
            if result.confirmed:
                outcome.confirmed.add(job.video)
    except OSError as error:
        raise _explain(error, frames, len(plan.jobs), len(outcome.rows), outcome.num_bytes) from error
    except (KeyboardInterrupt, Stopped):
        print(f"{len(outcome.rows)} of {plural(len(plan.jobs), 'video')} done; the same command continues.")
        raise
    finally:
        results.close()  # ends the workers, which would go on writing
        partial.close()
        shutil.rmtree(temporary_root, ignore_errors=True)
    outcome.seconds = time.monotonic() - start
    return outcome


def _other_settings(folder: Path, settings: Settings) -> str:
    return (
        f"{folder} differs from its video at {settings}, and the manifest with the settings is damaged. Give the "
        "settings of these frames, or delete the folder if it is damaged too."
    )


def _merge_or_say_what_is_missing(frames: Path, videos: Sequence[SourceVideo]) -> None:
    with whole_folder(frames):
        rows = merge_shards(frames)
        state = shard_state(frames)
    if rows is None and state is not None:
        print(f"Missing: {state}. The last shard to end writes {frames / manifest.NAME}.")
    elif rows is not None:
        missing = sorted({video.video for video in videos} - {row.video for row in rows})
        if missing:
            print(
                f"In no shard: {plural(len(missing), 'video')} (first: {printable(missing[0])}), added since. "
                "Preprocess without --shard to extract them."
            )


def _row(
    video: SourceVideo, folder: str, source_bytes: int, result: Extracted, settings: Settings, split: str
) -> VideoRow:
    return VideoRow(
        video=video.video,
        label=video.label,
        group=video.group,
        folder="" if result.refused else folder,
        num_frames=result.num_frames,
        every=settings.every,
        quality=settings.quality,
        width=result.stored_width,
        height=result.stored_height,
        fps=0.0 if result.refused else settings.fps or round(result.fps, 6),
        source_width=result.width,
        source_height=result.height,
        source_bytes=source_bytes,
        status="refused" if result.refused else "ok",
        reason=result.refused or result.note,
        given=video.given,
        split=split,
        pattern=DECODER if result.refused else VideoRow.pattern,
        size=size_text(settings.size),
        source_fps=round(result.fps, 6),
        resampled=settings.fps or 0.0,
    )


def _explain(error: OSError, frames: Path, num_todo: int, num_done: int, num_bytes: int) -> Exception:
    """A full disk, with the space that is still needed; any other error as it is."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return error
    needed = f" (about {gigabytes(num_bytes / num_done * (num_todo - num_done))} more)" if num_bytes else ""
    return UserError(
        f"The disk of {frames} is full. Extracted videos are kept: free some space{needed} and repeat the command, "
        "or choose another folder (--frames DIR)."
    )
