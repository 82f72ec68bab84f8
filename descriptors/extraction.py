"""Windows of videos -> descriptors, through one network, in batches that reach over videos."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from dataloaders.clips import clip_indices, clip_span, clip_step, window_starts
from dataloaders.dataset import FrameSet
from dataloaders.loader import ClipLoader
from dataloaders.transforms import to_model_input
from dataloaders.windows import WindowDataset
from descriptors.pooling import pool_windows
from descriptors.store import Described, FeatureWriter
from engine.device import autocast
from engine.errors import UserError
from network import InputSpec
from recognition.sources import open_video
from recognition.windows import prepare_frame


@dataclass
class Pending:
    """A video whose windows are on their way."""

    entry: Described
    rows: list[np.ndarray] = field(default_factory=list)  # (D,) each


@dataclass(frozen=True)
class Describer:
    """read: clips (B, C, T, H, W) -> (B, D), on the device; see layers.layer_reader."""

    read: Callable[[torch.Tensor], torch.Tensor]
    spec: InputSpec
    device: torch.device
    amp: torch.dtype | None = None
    pooling: str = "mean"
    norm: str = "after"
    per_window: bool = False

    @torch.inference_mode()
    def windows(self, clips: torch.Tensor) -> np.ndarray:
        """(B, T, S, S, 3) uint8 -> (B, D) float32"""
        with autocast(self.device, self.amp):
            said = self.read(to_model_input(clips.to(self.device, non_blocking=True), self.spec))
        values = said.float().cpu().numpy()
        if not np.isfinite(values).all():
            raise UserError("The network's descriptors are no numbers (NaN): its weights are damaged, or diverged.")
        return values

    def finish(self, rows: list[np.ndarray]) -> np.ndarray:
        """The windows of one video -> what is written: (D,), or (N, D)."""
        stacked = np.stack(rows)
        return stacked if self.per_window else pool_windows(stacked, self.pooling, self.norm)

    def video(self, path: Path, step: int, batch_size: int) -> np.ndarray:
        clips = cut_windows(path, self.spec, step)
        parts = [self.windows(torch.from_numpy(part)) for part in split_rows(clips, batch_size)]
        return self.finish(list(np.concatenate(parts)))


def describe_data_set(
    describer: Describer,
    frame_set: FrameSet,
    writer: FeatureWriter,
    step: int,
    batch_size: int,
    workers: int,
    watch: Callable[[Iterable, int], Iterable],
) -> int:
    """All videos of a data set that the folder does not hold yet, from their frames. -> how many"""
    rows = [row for row in frame_set.rows if row.video not in writer.done]
    if not rows:
        return 0
    everyone = replace(frame_set.split, parts={row.video: "all" for row in rows})
    dataset = WindowDataset(replace(frame_set, rows=rows, split=everyone), describer.spec, "all", step)
    pin = describer.device.type == "cuda"
    loader = ClipLoader(dataset, batch_size, workers, pin)
    counts = np.bincount(dataset.videos, minlength=len(rows))
    pending: dict[int, list[np.ndarray]] = {}
    for clips, _, positions in watch(loader, len(loader)):
        for position, values in zip(positions.tolist(), describer.windows(clips[:, 0]), strict=True):
            number = int(dataset.videos[position])
            pending.setdefault(number, []).append(values)
            if len(pending[number]) == counts[number]:
                row = rows[number]
                file = f"{row.label}/{Path(row.folder).name}.npy"
                entry = Described(row.video, row.label, row.group, file, int(counts[number]), row.given)
                writer.add(entry, describer.finish(pending.pop(number)))
    assert not pending, "each video is finished"
    return len(rows)


def describe_videos(
    describer: Describer,
    videos: list[tuple[Path, Described]],
    writer: FeatureWriter,
    step: int,
    batch_size: int,
    workers: int,
    watch: Callable[[Iterable, int], Iterable],
) -> list[UserError]:
    """Video files that the folder does not hold yet. -> what could not be used, by its reason; the rest is written."""
    todo = [(path, entry) for path, entry in videos if "file" not in writer.done.get(entry.video, {})]
    refused: list[UserError] = []
    batch: list[tuple[Pending, int, np.ndarray]] = []  # (video, its number of windows, clip)

    def flush() -> None:
        if not batch:
            return
        values = describer.windows(torch.from_numpy(np.stack([clip for _, _, clip in batch])))
        for (video, num_windows, _), row in zip(batch, values, strict=True):
            video.rows.append(row)
            if len(video.rows) == num_windows:
                writer.add(replace(video.entry, num_windows=num_windows), describer.finish(video.rows))
        batch.clear()

    for entry, clips in watch(_read_ahead(todo, describer.spec, step, workers), len(todo)):
        try:
            cut = clips.result()
        except UserError as error:
            refused.append(error)
            writer.refuse(entry.video, str(error))
            continue
        video = Pending(entry)
        for clip in cut:
            batch.append((video, len(cut), clip))
            if len(batch) == batch_size:
                flush()
    flush()
    return refused


def _read_ahead(
    videos: list[tuple[Path, Described]], spec: InputSpec, step: int, workers: int
) -> Iterator[tuple[Described, Future]]:
    """The windows of each video, the next ones decoded while the network is at work."""
    ahead: list[tuple[Described, Future]] = []
    with ThreadPoolExecutor(max(workers, 1), thread_name_prefix="decode") as pool:
        try:
            for path, entry in videos:
                ahead.append((entry, pool.submit(cut_windows, path, spec, step)))
                if len(ahead) > workers + 1:
                    yield ahead.pop(0)
            while ahead:
                yield ahead.pop(0)
        finally:
            pool.shutdown(cancel_futures=True)


def cut_windows(path: Path, spec: InputSpec, step: int) -> np.ndarray:
    """A video file -> its windows (N, T, S, S, 3) uint8, `step` frames apart, as many as fit; a video shorter than one
    has one, in which it repeats. Raises UserError for what is no video."""
    frames = []
    with open_video(path) as reader:
        for frame in reader:
            frames.append(prepare_frame(frame, spec))
    distance = clip_step(spec.frame_stride, 1, spec.fps, reader.fps)
    starts = window_starts(len(frames), clip_span(spec.read_len, distance), step)
    stacked = np.stack(frames)
    return stacked[np.stack([clip_indices(start, spec.read_len, distance, len(frames)) for start in starts])]


def split_rows(clips: np.ndarray, size: int) -> list[np.ndarray]:
    return np.split(clips, range(size, len(clips), size))
