"""Clips a second out of JPEG folders, packs and memory, against the plain way in the same run.

    python benchmarks/loader_speed.py [--frames DIR] [--videos 40] [--num-frames 190] [--rounds 5]

The plain way reads all frames of a video into one array with cv2.imread, takes 16 of them, crops, and normalises them
as float32, in a torch Dataset and DataLoader. Rounds go through all ways in turn; what is printed is the median over
the rounds, of clips a second and of the ratio to the plain way in the same round. Without --frames it makes its own.
"""

import argparse
import contextlib
import io
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.machine import processor
from common.input_spec import InputSpec
from dataloaders.dataset import TrainDataset
from dataloaders.frame_set import FrameSet, open_frames
from dataloaders.frames.manifest import VideoRow
from dataloaders.loader import ClipLoader
from dataloaders.pack import pack
from dataloaders.sources.data_source import DataSource

SPEC = InputSpec(clip_len=16, frame_stride=1, crop_size=112)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--frames", help="a folder of 171x128 frames with its manifest, instead of generated ones")
    parser.add_argument("--videos", type=int, default=40)
    parser.add_argument("--num-frames", type=int, default=190, help="of each generated video")
    parser.add_argument("--workers", type=int, default=2, help="threads, or processes, of a loader")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="about how long one way takes in one round")
    args = parser.parse_args()

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        frames = Path(args.frames).resolve() if args.frames else Path(folder) / "frames"
        if not args.frames:
            make_frames(frames, args.videos, args.num_frames)
        packed = Path(folder) / "packed"
        with contextlib.redirect_stdout(io.StringIO()):
            pack(frames, packed)
        measure(frames, packed, args)


def measure(frames: Path, packed: Path, args: argparse.Namespace) -> None:
    folders, pack_, cached = (training_clips(path, args.videos) for path in (frames, packed, frames))
    cached.keep_decoded()
    for number, row in enumerate(cached.rows):
        for _ in cached._images(number, range(row.num_frames)):
            pass
    plain = PlainClips(frames, folders.rows)

    num_frames = statistics.mean(row.num_frames for row in folders.rows)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    print(
        f"{date.today()}, {processor()}, {cores} cores, {len(folders.rows)} videos of {num_frames:.0f} frames, "
        f"clips of {SPEC.clip_len} frames, batches of {args.batch_size}"
    )

    reading = {
        "plain": lambda count: read_plain(plain, count),
        "JPEG folders": lambda count: read_ours(folders, count),
        "packed": lambda count: read_ours(pack_, count),
        "--cache ram, filled": lambda count: read_ours(cached, count),
    }
    with one_core():
        compare("Reading clips, one core", reading, args)

    workers, batch = args.workers, args.batch_size
    loading = {
        "plain, no workers": lambda count: drain(torch_loader(plain, count, batch, 0)),
        f"plain, {workers} processes": Persistent(plain, batch, workers),
        f"JPEG folders, {workers} processes": Persistent(Uint8Clips(folders), batch, workers),
        f"packed, {workers} processes": Persistent(Uint8Clips(pack_), batch, workers),
        f"JPEG folders, {workers} threads": lambda count: drain(ClipLoader(Repeated(folders, count), batch, workers)),
        f"packed, {workers} threads": lambda count: drain(ClipLoader(Repeated(pack_, count), batch, workers)),
        f"--cache ram, filled, {workers} threads": lambda count: drain(
            ClipLoader(Repeated(cached, count), batch, workers)
        ),
    }
    compare(f"Loader, {cores} cores", loading, args)


def compare(title: str, ways: dict[str, Callable[[int], None]], args: argparse.Namespace) -> None:
    """ways: each reads as many clips as it is asked for; the first is what the others are compared with."""
    counts = {}
    for name, read in ways.items():  # also warms up: page cache, processes
        seconds = duration_of(read, 2 * args.batch_size)
        counts[name] = max(int(2 * args.batch_size * args.seconds / seconds), 2 * args.batch_size)
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(args.rounds):
        for name, read in ways.items():
            rates[name].append(counts[name] / duration_of(read, counts[name]))

    print(f"\n{title:40}{'clips/s':>10}{'ratio':>8}")
    reference = rates[next(iter(ways))]
    for name, measured in rates.items():
        ratio = statistics.median(rate / other for rate, other in zip(measured, reference, strict=True))
        print(f"  {name:38}{statistics.median(measured):10.1f}{ratio:8.1f}")


def duration_of(read: Callable[[int], None], count: int) -> float:
    start = time.perf_counter()
    read(count)
    return time.perf_counter() - start


def read_plain(plain: "PlainClips", count: int) -> None:
    for position in range(count):
        plain[position]


def read_ours(dataset: TrainDataset, count: int) -> None:
    repeated = Repeated(dataset, count)
    out = np.empty(dataset.clip_shape, np.uint8)
    for position in range(count):
        repeated.load(0, position, out)


def drain(batches) -> None:
    for _ in batches:
        pass


class PlainClips(Dataset):
    """The common way: every frame of the video into one array, then 16 of them cropped and normalised as float32."""

    def __init__(self, frames: Path, rows: list[VideoRow]):
        self.folders = [frames / row.folder for row in rows]
        self.length = len(rows)
        self.mean = np.array(SPEC.mean, np.float32) * 255
        self.std = np.array(SPEC.std, np.float32) * 255

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, position: int) -> tuple[torch.Tensor, int]:
        folder = self.folders[position % len(self.folders)]
        names = sorted(name for name in os.listdir(folder) if name.endswith(".jpg"))  # noqa: PTH208
        video = np.stack([cv2.imread(f"{folder}/{name}") for name in names])  # (frames, H, W, 3)
        rng = np.random.default_rng(position)
        start = int(rng.integers(len(video) - SPEC.clip_len + 1))
        top, left = int(rng.integers(128 - SPEC.crop_size + 1)), int(rng.integers(171 - SPEC.crop_size + 1))
        side = SPEC.crop_size
        clip = video[start : start + SPEC.clip_len, top : top + side, left : left + side, ::-1].astype(np.float32)
        clip = (clip - self.mean) / self.std
        return torch.from_numpy(clip.transpose(3, 0, 1, 2).copy()), 0  # (3, T, S, S)


class Repeated:
    """A data set's clips, epoch after epoch, as one epoch of `length`: long enough to be timed."""

    def __init__(self, dataset: TrainDataset, length: int):
        self.dataset, self.length = dataset, length
        self.clip_shape = dataset.clip_shape

    def __len__(self) -> int:
        return self.length

    def load(self, epoch: int, position: int, out: np.ndarray) -> tuple[int, int]:
        more, position = divmod(position, len(self.dataset))
        return self.dataset.load(epoch + more, position, out)


class Uint8Clips(Dataset):
    """Our clips in torch's own worker processes, to compare with threads."""

    def __init__(self, dataset: TrainDataset):
        self.dataset, self.length = dataset, len(dataset)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, position: int) -> tuple[torch.Tensor, int]:
        clip = torch.empty(self.dataset.clip_shape, dtype=torch.uint8)
        more, position = divmod(position, len(self.dataset))
        label, _ = self.dataset.load(more, position, clip.numpy())
        return clip, label


class Positions:
    """A sampler whose length is set before each epoch, so that worker processes can stay."""

    def __init__(self):
        self.count = 0

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.count))


class Persistent:
    """A DataLoader whose processes are started once, since an epoch's start-up is not what is compared."""

    def __init__(self, dataset: Dataset, batch_size: int, workers: int):
        self.positions = Positions()
        self.loader = DataLoader(
            dataset, batch_size, sampler=self.positions, num_workers=workers, persistent_workers=workers > 0
        )

    def __call__(self, count: int) -> None:
        self.positions.count = count
        drain(self.loader)


def torch_loader(dataset: Dataset, count: int, batch_size: int, workers: int) -> DataLoader:
    return DataLoader(dataset, batch_size, sampler=range(count), num_workers=workers)


@contextlib.contextmanager
def one_core() -> Iterator[None]:
    """Where the system allows it, on one core and no other."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def training_clips(frames: Path, most: int) -> TrainDataset:
    source = DataSource("benchmark", frames, frames, frames_given=True)
    frame_set = all_in_training(open_frames(source, SPEC, "random", val="none"), most)
    return TrainDataset(frame_set, SPEC)


def all_in_training(frame_set: FrameSet, most: int) -> FrameSet:
    names = [row.video for row in frame_set.rows[:: max(len(frame_set.rows) // most, 1)][:most]]
    parts = dict.fromkeys(frame_set.split.parts, "unused") | dict.fromkeys(names, "train")
    return replace(frame_set, split=replace(frame_set.split, parts=parts))


@dataclass(frozen=True)
class Texture:
    """A picture with detail at all scales, as photographs have: its JPEGs are about as large as theirs."""

    pixels: np.ndarray  # (H, W, 3) uint8

    @classmethod
    def draw(cls, rng: np.random.Generator, side: int = 512) -> "Texture":
        picture = np.zeros((side, side, 3), np.float32)
        for level in range(2, 10):
            noise = rng.standard_normal((2**level, 2**level, 3)).astype(np.float32) * 0.5 ** (level * 0.6)
            picture += cv2.resize(noise, (side, side), interpolation=cv2.INTER_CUBIC)
        picture = 128 + 60 * picture / picture.std()
        return cls(picture.clip(0, 255).astype(np.uint8))


def make_frames(frames: Path, num_videos: int, num_frames: int) -> None:
    """Frames of generated videos in two classes, each a window that wanders over a texture; indexed when opened."""
    rng = np.random.default_rng(0)
    num_bytes = 0
    for number in range(num_videos):
        texture = Texture.draw(rng).pixels
        folder = f"train/class{number % 2}/video{number:05d}"
        (frames / folder).mkdir(parents=True)
        for index in range(num_frames):
            top, left = (index * 2 + number) % 380, (index + number * 7) % 340
            path = frames / folder / f"{index + 1:05d}.jpg"
            picture = np.ascontiguousarray(texture[top : top + 128, left : left + 171])
            cv2.imwrite(str(path), picture, [cv2.IMWRITE_JPEG_QUALITY, 95])
            num_bytes += path.stat().st_size
    print(
        f"Made {num_videos} videos of {num_frames} frames, {num_bytes / num_videos / num_frames / 1000:.1f} kB a frame"
    )


if __name__ == "__main__":
    main()
