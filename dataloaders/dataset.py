"""Clips out of frame folders: random ones for training, evenly spaced ones for evaluation."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

import cv2
import numpy as np

from common.errors import UserError
from common.input_spec import InputSpec
from common.random_streams import order_stream, sample_stream
from dataloaders.clips import (
    clip_indices,
    clip_span,
    clip_step,
    random_start,
    random_step,
    uniform_starts,
    window_starts,
)
from dataloaders.crops import cut_offsets, random_crop_offset
from dataloaders.frame_set import FrameSet, frame_size
from dataloaders.frames.manifest import VideoRow
from dataloaders.frames.memory_cache import FrameCache
from dataloaders.frames.store import read_frames

FRAME_ORDERS = ("normal", "shuffled", "reversed", "frozen")


class ClipSource:
    """Base of the data sets for training and evaluation: reads frames and cuts clips out of them."""

    def __init__(self, frame_set: FrameSet, part: str, spec: InputSpec):
        self.store = frame_set.store
        self.cache: FrameCache | None = None
        self.rows = frame_set.part(part)
        self.spec = spec
        ids = {name: number for number, name in enumerate(frame_set.classes)}
        self.labels = np.array([ids[row.label] for row in self.rows], dtype=np.int64)
        self.steps = [_step(row, spec) for row in self.rows]
        self.spans = [clip_span(spec.read_len, step) for step in self.steps]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def read_seconds(self) -> float:
        """Seconds that this process has spent on reading frames' files."""
        return self.store.read_seconds

    def read_clips(self, number: int, views: Sequence[tuple[np.ndarray, tuple[int, int]]], out: np.ndarray) -> None:
        """Fills out (N, T, h, w, 3) uint8 RGB with N views of video `number`, each (frame indices, (top, left)); (w, h)
        is the spec's cut_size.

        A frame that is wanted several times (clips overlap, short videos repeat, crops share it) is decoded once.
        """
        width, height = self.spec.cut_size
        places: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for view, (indices, _) in enumerate(views):
            for place, index in enumerate(indices.tolist()):
                places[index].append((view, place))

        indices = sorted(places)
        for index, image in zip(indices, self._images(number, indices), strict=True):
            for view, place in places[index]:
                top, left = views[view][1]
                out[view, place] = image[top : top + height, left : left + width]

    def keep_decoded(self) -> None:
        """Keeps decoded frames in memory from now on (--cache ram)."""
        self.cache = FrameCache(self.rows, [frame_size(row, self.spec) for row in self.rows])

    def _images(self, number: int, indices: Sequence[int]) -> Iterator[np.ndarray]:
        """(H, W, 3) uint8 RGB, the stored frames `indices` (rising, each once) of video `number`."""
        if self.cache is None:
            yield from self._decoded(self.rows[number], indices)
            return
        missing = self.cache.missing(number, indices)
        for index, image in zip(missing, self._decoded(self.rows[number], missing), strict=True):
            self.cache.put(number, index, image)
        for index in indices:
            yield self.cache.get(number, index)

    def _decoded(self, row: VideoRow, indices: Sequence[int]) -> Iterator[np.ndarray]:
        width, height = frame_size(row, self.spec)
        for index, image in zip(indices, read_frames(self.store, row, indices), strict=True):
            if not row.quality:
                image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
            if image.shape != (height, width, 3):
                raise UserError(
                    f"The frame {self.store.place(row, index)} is {image.shape[1]}x{image.shape[0]}, not "
                    f"{width}x{height} as in the manifest. {self.store.advice(row)}"
                )
            yield image


class TrainDataset(ClipSource):
    """Random clips, clips_per_video of each in an epoch: random start, random crop, mirrored or not where `flip` is
    set, and their frames as far apart as random_step says.

    All of it is drawn from (seed, epoch, position), so neither workers nor an interruption change a sample.
    """

    def __init__(
        self,
        frame_set: FrameSet,
        spec: InputSpec,
        flip: bool = False,
        seed: int = 0,
        part: str = "train",
        clips_per_video: int = 1,
        stride_jitter: float = 0.0,
    ):
        super().__init__(frame_set, part, spec)
        self.flip, self.seed = flip, seed
        self.clips_per_video, self.stride_jitter = clips_per_video, stride_jitter
        self.clip_shape = (spec.read_len, spec.crop_size, spec.crop_size, 3)
        self._epoch_order: tuple[int, np.ndarray] = (-1, np.empty(0))

    def order(self, epoch: int) -> np.ndarray:
        """(len,) the video at each position of an epoch."""
        return order_stream(self.seed, epoch).permutation(len(self)) % len(self.rows)

    def __len__(self) -> int:
        return len(self.rows) * self.clips_per_video

    def _order(self, epoch: int) -> np.ndarray:
        """order(epoch), drawn once for all samples of an epoch."""
        known, order = self._epoch_order
        if known != epoch:
            order = self.order(epoch)
            self._epoch_order = (epoch, order)
        return order

    def load(self, epoch: int, position: int, out: np.ndarray) -> tuple[int, int]:
        """Fills out (T, S, S, 3) uint8; returns (label, 1 if the clip is to be mirrored)."""
        number = int(self._order(epoch)[position])
        rng = sample_stream(self.seed, epoch, position)
        row = self.rows[number]
        step, span = self.steps[number], self.spans[number]
        if self.stride_jitter:
            step = random_step(step, self.stride_jitter, self.spec.read_len, row.num_frames, rng)
            span = clip_span(self.spec.read_len, step)
        start = random_start(row.num_frames, span, rng)
        indices = clip_indices(start, self.spec.read_len, step, row.num_frames)
        offset = random_crop_offset(*frame_size(row, self.spec), self.spec.crop_size, rng)
        self.read_clips(number, [(indices, offset)], out[None])
        return int(self.labels[number]), int(rng.integers(2)) if self.flip else 0


class EvalDataset(ClipSource):
    """One video per item, with all its views: num_clips evenly spaced clips x 1 or 3 crops, without random choices.

    order   "normal", or how the frames of each clip are disturbed to see whether a network uses motion: "shuffled"
            (by a fixed permutation for each clip), "reversed", "frozen" (the middle frame throughout)
    """

    def __init__(
        self,
        frame_set: FrameSet,
        spec: InputSpec,
        part: str = "val",
        num_clips: int = 10,
        crops: int = 1,
        order: str = "normal",
    ):
        super().__init__(frame_set, part, spec)
        self.num_clips, self.crops, self.order = num_clips, crops, order
        self.clip_shape = (num_clips * crops, spec.read_len, *spec.cut_size[::-1], 3)

    def load(self, epoch: int, position: int, out: np.ndarray) -> tuple[int, int]:
        """Fills out (N, T, h, w, 3) uint8; returns (label, position). The epoch makes no difference."""
        row = self.rows[position]
        offsets = cut_offsets(*frame_size(row, self.spec), self.spec, self.crops)
        views = []
        for clip, start in enumerate(uniform_starts(row.num_frames, self.spans[position], self.num_clips)):
            indices = clip_indices(start, self.spec.read_len, self.steps[position], row.num_frames)
            indices = reorder_frames(indices, self.order, seed=(position, clip))
            views += [(indices, offset) for offset in offsets]
        self.read_clips(position, views, out)
        return int(self.labels[position]), position


def reorder_frames(indices: np.ndarray, order: str, seed: tuple[int, ...]) -> np.ndarray:
    """Puts a clip's frames into another order, for evaluate.py --temporal."""
    if order == "shuffled":
        return np.random.default_rng(seed).permutation(indices)
    if order == "reversed":
        return indices[::-1]
    if order == "frozen":
        return np.full_like(indices, indices[len(indices) // 2])
    return indices


def _step(row: VideoRow, spec: InputSpec) -> float:
    if row.resampled and spec.fps and row.fps < min(spec.fps, row.source_fps):
        raise UserError(
            f"{row.video} is stored at {row.fps:g} frames a second instead of {row.source_fps:g}; this model expects "
            f"{spec.fps:g}. Preprocess with --fps {spec.fps:g}, or without, into another folder (--frames)."
        )
    try:
        return clip_step(spec.frame_stride, row.every, spec.fps, row.fps or None)
    except ValueError as error:
        raise UserError(
            f"{row.video}: {error}. Give a --frame-stride that {row.every} divides, or preprocess with --every 1 into "
            "another folder (--frames)."
        ) from error


class WindowDataset(ClipSource):
    """One window at a time, in 1 or 3 crops: clips of clip_len frames that begin every `window_step` source frames.

    Long videos have more of them, so an item is a window; videos[i] is the number of the video that item i belongs to.
    The order of the frames is as in EvalDataset.
    """

    def __init__(
        self, frame_set: FrameSet, spec: InputSpec, part: str, window_step: int, crops: int = 1, order: str = "normal"
    ):
        super().__init__(frame_set, part, spec)
        self.crops, self.order = crops, order
        self.clip_shape = (crops, spec.read_len, *spec.cut_size[::-1], 3)
        self.starts = []  # of each video's windows, in stored frames
        for row, span in zip(self.rows, self.spans, strict=True):
            if window_step % row.every:
                raise UserError(
                    f"{row.video}: only one in {row.every} frames of the source is stored. Give --windows a number "
                    f"that {row.every} divides, such as {row.every * max(round(window_step / row.every), 1)}."
                )
            self.starts.append(window_starts(row.num_frames, span, window_step // row.every))
        counts = [len(starts) for starts in self.starts]
        self.videos = np.repeat(np.arange(len(counts)), counts)  # (I,)
        self.firsts = np.cumsum(counts) - counts  # item of each video's first window

    def __len__(self) -> int:
        return len(self.videos)

    def load(self, epoch: int, position: int, out: np.ndarray) -> tuple[int, int]:
        """Fills out (crops, T, h, w, 3) uint8; returns (label, position). The epoch makes no difference."""
        number = int(self.videos[position])
        row, window = self.rows[number], position - int(self.firsts[number])
        indices = clip_indices(self.starts[number][window], self.spec.read_len, self.steps[number], row.num_frames)
        indices = reorder_frames(indices, self.order, seed=(number, window))
        offsets = cut_offsets(*frame_size(row, self.spec), self.spec, self.crops)
        self.read_clips(number, [(indices, offset) for offset in offsets], out)
        return int(self.labels[number]), position
