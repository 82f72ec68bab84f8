"""A data set whose frames are ready to be read: its rows, classes and split, checked against a network's input."""

import gc
import hashlib
import shlex
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from common.errors import UserError
from common.input_spec import InputSpec
from common.torchrun import local_world_size
from dataloaders.frames import manifest
from dataloaders.frames.foreign import index_frames
from dataloaders.frames.manifest import VideoRow
from dataloaders.frames.memory_cache import check_memory
from dataloaders.frames.store import FrameStore, check_manifest, is_packed, open_store, read_frames
from dataloaders.sources.data_source import DataSource, class_names
from dataloaders.sources.list_rows import with_groups
from dataloaders.sources.splits import Split, split_videos

READERS = 8  # threads: a file system over a network answers many questions at once


@dataclass(frozen=True)
class FrameSet:
    """A data set ready to be read: usable videos, classes in the order of their ids, and who trains and who tests."""

    source: DataSource
    frames: Path
    rows: list[VideoRow]
    classes: list[str]
    split: Split
    store: FrameStore

    def part(self, name: str) -> list[VideoRow]:
        """Rows of "train", "val", "test", "unused" or "all", in the manifest's order."""
        return [row for row in self.rows if name in ("all", self.split.parts[row.video])]

    def read_frames(self, row: VideoRow, indices: Sequence[int]) -> Iterator[np.ndarray]:
        """Yields the stored frames `indices` (rising, each once), (H, W, 3) uint8 RGB."""
        return read_frames(self.store, row, indices)

    def content_ids(self, rows: Sequence[VideoRow]) -> list[str]:
        """Ids of the videos' content, whatever their files and folders are called: a hash of the number of frames and
        of the first, middle and last JPEG."""

        def content_id(row: VideoRow) -> str:
            hashed = hashlib.sha256(str(row.num_frames).encode())
            for content in self.store.read(row, sorted({0, row.num_frames // 2, row.num_frames - 1})):
                hashed.update(content)
            return hashed.hexdigest()[:16]

        with ThreadPoolExecutor(READERS) as pool:
            return list(pool.map(content_id, rows))

    def changed(self, rows: Sequence[VideoRow], ids: Sequence[str], most: int | None = None) -> list[VideoRow]:
        """Rows whose content has another id than the one in `ids` at their place. most: looks at about as many, evenly
        spread."""
        pairs = list(zip(rows, ids, strict=False))
        pairs = pairs[:: max(len(pairs) // most, 1)] if most else pairs
        now = self.content_ids([row for row, _ in pairs])
        return [row for (row, known), own in zip(pairs, now, strict=True) if own != known]


def open_frames(
    source: DataSource, spec: InputSpec, split: str | None = None, val: str = "auto", any_aspect: bool = False
) -> FrameSet:
    """Reads the manifest of the frames that fit the spec, and divides its videos.

    any_aspect: for a network that is still to be trained, which takes frames that keep their aspect as well as others.
    Raises UserError where nothing is extracted, or at another size than the spec's.
    """
    frames = source.frames_for(spec.resize)
    if not frames.is_dir():
        raise UserError(f"There are no frames in {frames}. {_how_to_extract(source, spec)}")
    if is_packed(frames):
        check_manifest(frames)
    if not manifest.names(frames):
        manifest.write_manifest(frames, index_frames(frames))
    if not manifest.is_complete(frames):
        raise UserError(f"The extraction into {frames} was interrupted. {_how_to_extract(source, spec)}")

    with _collector_paused():
        return _divided(source, frames, spec, split, val, any_aspect)


def _divided(
    source: DataSource, frames: Path, spec: InputSpec, split: str | None, val: str, any_aspect: bool
) -> FrameSet:
    in_manifest = manifest.read_manifest(frames)
    rows = with_groups(source, in_manifest)
    usable = manifest.usable(rows)
    if not usable:
        raise UserError(f"None of the {len(rows)} videos in {frames / manifest.NAME} can be used.")
    _check_size(source, frames, usable, spec, any_aspect)
    classes = class_names(source, {row.label for row in rows})
    store = open_store(frames, manifest.usable(in_manifest))
    return FrameSet(source, frames, usable, classes, split_videos(source, usable, split, val), store)


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Rows of many videos are no garbage, and to look through all of them again and again takes longer than to read
    them."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _check_size(source: DataSource, frames: Path, rows: Sequence[VideoRow], spec: InputSpec, any_aspect: bool) -> None:
    """Frames must be of the spec's size; where they keep their aspect, their shorter side must be, and the spec must
    say that the network learnt from such frames, or is about to (any_aspect)."""
    for row in rows:
        if row.quality and not _fits(row, spec, any_aspect):
            kept = keeps_aspect(row)
            held = f"frames with a shorter side {row.size[6:]}" if kept else f"frames of {row.width}x{row.height}"
            wanted = f"{spec.resize[0]}x{spec.resize[1]}"
            if spec.keep_aspect:
                wanted = f"frames that keep their aspect (--size short:{min(spec.resize)})"
            other = "" if spec.keep_aspect else f" (or --size short:{min(spec.resize)}: aspect kept)" * any_aspect
            raise UserError(
                f"{frames} holds {held}; this model expects {wanted}. Choose another --frames folder for them. "
                f"{_how_to_extract(source, spec)}{other}"
            )


def _fits(row: VideoRow, spec: InputSpec, any_aspect: bool) -> bool:
    if keeps_aspect(row):
        return (any_aspect or spec.keep_aspect) and min(row.width, row.height) == min(spec.resize)
    return not spec.keep_aspect and (row.width, row.height) == spec.resize


def keeps_aspect(row: VideoRow) -> bool:
    return row.size.startswith("short:")


def of_frames(spec: InputSpec, frame_set: FrameSet) -> InputSpec:
    """The spec of a network that learns from these frames: with their aspect, and with the rate that --fps stored them
    at, at which inference then reads other videos too."""
    first = frame_set.rows[0]
    return replace(spec, keep_aspect=keeps_aspect(first), fps=spec.fps or first.resampled or None)


def check_cache_memory(frame_set: FrameSet, spec: InputSpec) -> None:
    """Prints the memory that --cache ram will take; raises UserError where that is too much."""
    rows = frame_set.part("train") + frame_set.part("val")
    check_memory(rows, [frame_size(row, spec) for row in rows], local_world_size())  # each rank keeps its own


def _how_to_extract(source: DataSource, spec: InputSpec) -> str:
    dataset = source.address if source.frames.parent == Path(source.address).parent else source.name
    size = f"short:{min(spec.resize)}" if spec.keep_aspect else f"{spec.resize[0]}x{spec.resize[1]}"
    return f"To extract: python -m dataloaders.preprocess --dataset {shlex.quote(dataset)} --size {size}" + (
        " --frames DIR" if source.frames_given else ""
    )


def frame_size(row: VideoRow, spec: InputSpec) -> tuple[int, int]:
    """(width, height) of a row's frames as they are read: frames made elsewhere are resized to the spec."""
    return (row.width, row.height) if row.quality else spec.resize
