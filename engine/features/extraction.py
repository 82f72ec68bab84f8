"""Windows of videos -> features, through one network, in batches that reach over videos."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from common.errors import UserError
from dataloaders.dataset import WindowDataset
from dataloaders.frame_set import FrameSet
from dataloaders.frames.manifest import VideoRow
from dataloaders.loader import ClipLoader
from dataloaders.transforms import to_model_input
from engine.features.pooling import pool_windows
from engine.features.store import FeatureEntry, FeatureWriter
from engine.inference.read_ahead import read_ahead
from engine.inference.windows import batches, sliding_clips
from network import InputSpec


@dataclass
class Pending:
    """A video whose windows are being computed. is_read: all its num_windows windows have been read."""

    entry: FeatureEntry
    rows: list[np.ndarray] = field(default_factory=list)  # (D,) each
    num_windows: int = 0
    is_read: bool = False


@dataclass(frozen=True)
class FeatureExtractor:
    """read: clips (B, C, T, H, W) -> (B, D) float32, on the device; see reading.LayerReader."""

    read: Callable[[torch.Tensor], torch.Tensor]
    spec: InputSpec
    device: torch.device
    pooling: str = "mean"
    norm: str = "after"
    per_window: bool = False

    @torch.inference_mode()
    def windows(self, clips: torch.Tensor) -> np.ndarray:
        """(B, T, S, S, 3) uint8 -> (B, D) float32"""
        said = self.read(to_model_input(clips.to(self.device, non_blocking=True), self.spec))
        values = said.cpu().numpy()
        if not np.isfinite(values).all():
            raise UserError("The network's features are not numbers (NaN): its weights are damaged, or diverged.")
        return values

    def finish(self, rows: list[np.ndarray]) -> np.ndarray:
        """The windows of one video -> what is written: (D,), or (N, D)."""
        stacked = np.stack(rows)
        return stacked if self.per_window else pool_windows(stacked, self.pooling, self.norm)

    def video(self, path: Path, step: int, batch_size: int) -> np.ndarray:
        parts = batches(cut_windows(path, self.spec, step), batch_size)
        return self.finish([row for part in parts for row in self.windows(torch.from_numpy(np.stack(part)))])


def extract_data_set(
    extractor: FeatureExtractor,
    frame_set: FrameSet,
    entries: Sequence[FeatureEntry],
    writer: FeatureWriter,
    step: int,
    batch_size: int,
    workers: int,
    watch: Callable[[Iterable, int], Iterable],
) -> int:
    """Extracts features from the frames of all videos that the folder lacks; returns their number."""
    entries = {entry.video: entry for entry in entries}
    rows = [row for row in frame_set.rows if row.video not in writer.done]
    if not rows:
        return 0
    everyone = replace(frame_set.split, parts={row.video: "all" for row in rows})
    dataset = WindowDataset(replace(frame_set, rows=rows, split=everyone), extractor.spec, "all", step)
    pin = extractor.device.type == "cuda"
    loader = ClipLoader(dataset, batch_size, workers, pin)
    counts = np.bincount(dataset.videos, minlength=len(rows))
    pending: dict[int, list[np.ndarray]] = {}
    for clips, _, positions in watch(loader, len(loader)):
        for position, values in zip(positions.tolist(), extractor.windows(clips[:, 0]), strict=True):
            number = int(dataset.videos[position])
            pending.setdefault(number, []).append(values)
            if len(pending[number]) == counts[number]:
                entry = replace(entries[rows[number].video], num_windows=int(counts[number]))
                writer.add(entry, extractor.finish(pending.pop(number)))
    assert not pending, "each video is finished"
    return len(rows)


def entries_of_frames(frame_set: FrameSet, split: dict, same_data: bool) -> list[FeatureEntry]:
    """An entry for each video. split: of a checkpoint, which says what its network has seen; {} for other weights.
    same_data: that network was trained on this data set, so that equal names mean the same."""
    rows, files = frame_set.rows, feature_files(frame_set.rows)

    def seen(kind: str) -> set[str]:
        return {name for part in ("training", "validation", "seen") for name in split.get(f"{part}_{kind}", [])}

    content, groups, videos = seen("content"), seen("groups"), seen("videos")
    return [
        FeatureEntry(
            row.video,
            row.label,
            row.group,
            files[row.video],
            given=row.given,
            content=content_id,
            seen=content_id in content or (same_data and (row.group in groups or row.video in videos)),
        )
        for row, content_id in zip(rows, frame_set.content_ids(rows), strict=True)
    ]


def feature_files(rows: Sequence[VideoRow]) -> dict[str, str]:
    """The file of each video's feature: <class>/<name>.npy, with the part in front of names that train/ and test/ both
    have."""
    names = {row.video: f"{row.label}/{Path(row.folder).name}.npy" for row in rows}
    count = Counter(name.lower() for name in names.values())
    for row in rows:
        if count[names[row.video].lower()] > 1:
            names[row.video] = f"{row.label}/{row.folder.replace('/', '_')}.npy"
    return names


def extract_videos(
    extractor: FeatureExtractor,
    videos: list[tuple[Path, FeatureEntry]],
    writer: FeatureWriter,
    step: int,
    batch_size: int,
    workers: int,
    watch: Callable[[Iterable, int], Iterable],
) -> list[UserError]:
    """Video files that the folder does not hold yet. -> what could not be used, by its reason; the rest is written."""
    todo = [(path, entry) for path, entry in videos if "file" not in writer.done.get(entry.video, {})]
    refused: list[UserError] = []
    batch: list[tuple[Pending, np.ndarray]] = []  # (video, clip)

    def flush() -> None:
        if not batch:
            return
        values = extractor.windows(torch.from_numpy(np.stack([clip for _, clip in batch])))
        for (video, _), row in zip(batch, values, strict=True):
            video.rows.append(row)
            settle(video)
        batch.clear()

    def settle(video: Pending) -> None:
        if video.is_read and len(video.rows) == video.num_windows:
            writer.add(replace(video.entry, num_windows=video.num_windows), extractor.finish(video.rows))

    def read(item: tuple[Path, FeatureEntry]) -> Iterator[np.ndarray | UserError]:
        try:
            yield from cut_windows(item[0], extractor.spec, step)
        except UserError as error:
            yield error

    with read_ahead(todo, read, workers, waiting=2 * batch_size) as reading:
        for (_, entry), clips in watch(reading, len(todo)):
            video = Pending(entry)
            for clip in clips:
                if isinstance(clip, UserError):
                    refused.append(clip)
                    writer.refuse(entry.video, str(clip))
                    break
                batch.append((video, clip))
                video.num_windows += 1
                if len(batch) == batch_size:
                    flush()
            else:
                video.is_read = True
                settle(video)
    flush()
    return refused


def cut_windows(path: Path, spec: InputSpec, step: int) -> Iterator[np.ndarray]:
    """A video file -> its windows (T, S, S, 3) uint8, `step` frames apart, as many as fit; a video shorter than one has
    one, in which it repeats. Raises UserError for what is no video."""
    with sliding_clips(path, spec, step) as (windows, _):
        for _, _, clip in windows:
            yield clip
