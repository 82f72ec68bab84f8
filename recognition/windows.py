"""Windows that slide over a video: each frame is prepared once and kept while a window needs it."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

import av
import cv2
import numpy as np

from dataloaders.clips import clip_indices, clip_span
from dataloaders.transforms import crop_offsets
from dataloaders.video import to_array
from network import InputSpec


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
            indices = clip_indices(0, self.clip_len, self.step, self.num_frames)
            yield 0, self.num_frames - 1, np.stack([held[i] for i in indices])


def prepare_frame(frame: av.VideoFrame, spec: InputSpec) -> np.ndarray:
    """A decoded frame -> (S, S, 3) uint8 RGB, resized as preprocessing does it and cropped as evaluation does it."""
    pixels = cv2.resize(to_array(frame, "bgr24"), spec.resize, interpolation=cv2.INTER_LINEAR)
    [(top, left)] = crop_offsets(*spec.resize, spec.crop_size)
    crop = pixels[top : top + spec.crop_size, left : left + spec.crop_size]
    return cv2.cvtColor(crop, cv2.COLOR_BGR2RGB)


def batches(items: Iterable, size: int) -> Iterator[list]:
    """Lists of `size` items, the last one with what is left."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
