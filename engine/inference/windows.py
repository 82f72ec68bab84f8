"""Windows that slide over a video: each frame is prepared once and kept while a window needs it."""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import av
import cv2
import numpy as np

from dataloaders.clips import clip_indices, clip_span, clip_step, uniform_starts
from dataloaders.crops import cut_offsets
from dataloaders.frames.settings import stored_size
from dataloaders.video import VideoReader, to_array
from engine.inference.sources import FrameFolder, open_video, watch

if TYPE_CHECKING:  # a process that only decodes loads no torch
    from network import InputSpec

KEPT = 1_000_000_000  # bytes of prepared frames that one video may take; beyond that it is decoded twice


class SlidingClips:
    """Iterating gives (first_frame, last_frame, clip (T, H, W, 3) uint8) of each window; num_frames counts the frames.

        clip_len=4, step=2, stride=3, 12 frames     f.f.f.f.....    span 7
                                                    ...f.f.f.f..

    Frames are prepared once, those that no window shows not at all, and held until the last window that shows them: of
    a long video never more than `span` at a time.
    """

    def __init__(
        self, frames: Iterable, prepare: Callable[[object], np.ndarray], clip_len: int, step: float, stride: int
    ):
        self.frames, self.prepare = frames, prepare
        self.clip_len, self.step, self.stride = clip_len, step, stride
        self.num_frames = 0

    def __iter__(self) -> Iterator[tuple[int, int, np.ndarray]]:
        span = clip_span(self.clip_len, self.step)
        offsets = clip_indices(0, self.clip_len, self.step, span)
        shown_places = {int(offset) % self.stride for offset in offsets}  # windows start at multiples of the stride

        held: dict[int, np.ndarray] = {}
        start = 0
        for index, frame in enumerate(self.frames):
            self.num_frames = index + 1
            # A video that ends before the first window does is repeated, and then each of its frames may be shown.
            if index >= start and (index < span or index % self.stride in shown_places):
                held[index] = self.prepare(frame)
            if index == start + span - 1:
                yield start, index, np.stack([held[i] for i in start + offsets])
                start += self.stride
                held = {i: pixels for i, pixels in held.items() if i >= start}

        if start == 0:
            yield 0, self.num_frames - 1, np.stack([held[i] for i in self.shown(0)])

    def shown(self, first: int) -> np.ndarray:
        """(T,) the frames of the source in the window that begins at frame `first`, once it has come."""
        return clip_indices(first, self.clip_len, self.step, self.num_frames)


class Clock:
    """Counts the frames that pass through, and notes when each is shown.

    times   what Prediction.times says: None where frames come evenly, or where their time stamps cannot be believed
            (in AVI files with B-frames they are missing or out of order)
    """

    def __init__(self, reader: VideoReader | FrameFolder, frames: Iterable[av.VideoFrame]):
        self.reader, self.frames = reader, frames
        self.stamps: list[float | None] = []

    def __iter__(self) -> Iterator[av.VideoFrame]:
        for frame in self.frames:
            self.stamps.append(frame.time)
            yield frame

    @property
    def num_frames(self) -> int:
        return len(self.stamps)

    @property
    def times(self) -> np.ndarray | None:
        if None in self.stamps or self.num_frames < 2:
            return None
        times = np.array(self.stamps, dtype=np.float64)
        times -= times[0]
        if not (np.diff(times) > 0).all():
            return None
        fps = self.reader.fps
        # Containers round their stamps, Matroska to milliseconds; half a frame is more than that.
        if fps and np.abs(times - np.arange(len(times)) / fps).max() < 0.5 / fps:
            return None
        return times


def evenly_spaced_clips(
    video: Path, spec: "InputSpec", num_clips: int, fps: float | None = None
) -> tuple[list[tuple[int, int]], np.ndarray, Clock]:
    """The clips that evaluation takes of a video: (first, last) frame of each, and (N, T, h, w, 3) uint8.

    fps: of a folder of frames, which does not say it
    How many frames there are is known at the end. Until then all are kept, prepared; a video with too many of them is
    decoded a second time.
    """
    size = math.prod(spec.cut_size) * 3
    kept: list[np.ndarray] = []
    with open_video(video, fps) as reader:
        clock = Clock(reader, reader)
        for frame in clock:
            if (len(kept) + 1) * size <= KEPT:
                kept.append(prepare_frame(frame, spec))

    step = clip_step(spec.frame_stride, 1, spec.fps, reader.fps)
    span = clip_span(spec.read_len, step)
    starts = uniform_starts(clock.num_frames, span, num_clips)
    views = [clip_indices(start, spec.read_len, step, clock.num_frames) for start in starts]
    frames = kept if len(kept) == clock.num_frames else read_frames(video, spec, set(np.concatenate(views).tolist()))
    clips = np.stack([np.stack([frames[i] for i in view]) for view in views])
    return [(start, min(start + span, clock.num_frames) - 1) for start in starts], clips, clock


def read_frames(video: Path, spec: "InputSpec", wanted: set[int]) -> dict[int, np.ndarray]:
    with open_video(video) as reader:
        return {index: prepare_frame(frame, spec) for index, frame in enumerate(reader) if index in wanted}


@contextmanager
def sliding_clips(
    video: Path,
    spec: "InputSpec",
    stride: int,
    label: str = "Recognising",
    show_progress: bool = False,
    fps: float | None = None,
) -> Iterator[tuple[SlidingClips, Clock]]:
    """The windows of an open video, and the clock that knows its length and times when they are through."""
    with open_video(video, fps) as reader:
        frames = watch(reader, reader.expected_frames, f"{label} {video.name}", show_progress)
        yield slide_over(reader, frames, spec, stride)


def slide_over(
    reader: VideoReader | FrameFolder, frames: Iterable[av.VideoFrame], spec: "InputSpec", stride: int
) -> tuple[SlidingClips, Clock]:
    """Slides windows over frames that come from a reader through another iterator."""
    clock = Clock(reader, frames)
    step = clip_step(spec.frame_stride, 1, spec.fps, reader.fps)
    return SlidingClips(clock, lambda frame: prepare_frame(frame, spec), spec.read_len, step, stride), clock


def prepare_frame(frame: av.VideoFrame, spec: "InputSpec") -> np.ndarray:
    """A decoded frame -> (h, w, 3) uint8 RGB, resized as preprocessing does it and cut as evaluation does it."""
    return prepare_pixels(to_array(frame, "bgr24"), spec)


def prepare_pixels(pixels: np.ndarray, spec: "InputSpec") -> np.ndarray:
    """(H, W, 3) uint8 BGR -> (h, w, 3) uint8 RGB; (w, h) is spec.cut_size, the network's square or, for an exported
    file, which cuts that out itself, more."""
    size = resized(spec, *pixels.shape[1::-1])
    pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR)
    [(top, left)] = cut_offsets(*size, spec)
    width, height = spec.cut_size
    return cv2.cvtColor(pixels[top : top + height, left : left + width], cv2.COLOR_BGR2RGB)


def resized(spec: "InputSpec", width: int, height: int) -> tuple[int, int]:
    """(width, height) of the frames from which the network's square is cut."""
    return stored_size(min(spec.resize) if spec.keep_aspect else spec.resize, width, height)


def batches(items: Iterable, size: int) -> Iterator[list]:
    """Lists of `size` items, the last one with what is left."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
