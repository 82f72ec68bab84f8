"""Clips a second out of JPEG folders, packs and memory, against the plain way in the same run.

    python benchmarks/loader_speed.py [--frames DIR] [--videos 40] [--num-frames 190] [--rounds 5]

The plain way reads all frames of a video into one array with cv2.imread, takes 16 of them, crops, and normalises them
as float32, in a torch Dataset and DataLoader. Rounds go through all ways in turn; medians over the rounds are printed,
of clips a second and of the ratio to the plain way in the same round. Loaders are timed alone, and beside a thread that
launches small operations as a training loop does: "launches kept" is the share of its rate that a loader leaves it.
"""

import argparse
import contextlib
import io
import itertools
import os
import statistics
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.machine import processor
from common.console import plural
from common.input_spec import InputSpec
from dataloaders.batch_reader import BATCHES_AHEAD
from dataloaders.dataset import TrainDataset
from dataloaders.frame_set import open_frames
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
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4], help="processes of a loader")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="about how long one way takes in one round")
    args = parser.parse_args()

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        frames = Path(args.frames).resolve() if args.frames else Path(folder) / "frames"
        if not args.frames:
            make_frames(frames, args.videos, args.num_frames, SPEC.resize)
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

    ways = {"plain, no workers": plain_batches(plain, args.batch_size, 0)}
    ways[f"plain, {max(args.workers)} processes"] = plain_batches(plain, args.batch_size, max(args.workers))
    for name, dataset in {"JPEG folders": folders, "packed": pack_, "--cache ram, filled": cached}.items():
        for workers in args.workers:
            loader = ClipLoader(Repeated(dataset, 10**9), args.batch_size, workers)
            ways[f"{name}, {plural(workers, 'process')}"] = loader.batches()
    for workers in args.workers:
        ways[f"JPEG folders, {plural(workers, 'thread')}"] = by_threads(folders, args.batch_size, workers)
    compare_loaders(f"Loader, {plural(cores, 'core')}", ways, args)


def compare_loaders(title: str, ways: dict[str, Iterator], args: argparse.Namespace) -> None:
    """ways: endless batches, alone and beside a thread that launches small operations as a training loop does."""
    in_flight = BATCHES_AHEAD * max(args.workers) + 1  # read while others were timed
    alone: dict[str, list[float]] = {name: [] for name in ways}
    beside, launches = {name: [] for name in ways}, {name: [] for name in ways}
    undisturbed = []
    for _ in range(args.rounds):
        with Launcher() as launcher:
            time.sleep(args.seconds)
        undisturbed.append(launcher.rate)
        for name, batches in ways.items():
            alone[name].append(rate_of(batches, args.seconds, in_flight))
            with Launcher() as launcher:
                beside[name].append(rate_of(batches, args.seconds, in_flight))
            launches[name].append(launcher.rate / undisturbed[-1])

    print(f"\n{title:38}{'clips/s':>10}{'ratio':>8}{'beside':>10}{'launches kept':>15}")
    for name in ways:
        pairs = zip(alone[name], next(iter(alone.values())), strict=True)
        print(
            f"  {name:36}{statistics.median(alone[name]):10.1f}{statistics.median(a / b for a, b in pairs):8.1f}"
            f"{statistics.median(beside[name]):10.1f}{100 * statistics.median(launches[name]):13.0f} %"
        )
    print(f"  (alone, the thread launches {statistics.median(undisturbed):,.0f} operations a second)")


def rate_of(batches: Iterator, seconds: float, in_flight: int) -> float:
    """Clips a second in the steady state, once the batches that were read ahead are used up."""
    for _ in range(in_flight):
        next(batches)
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        count += len(next(batches)[0])
    return count / (time.perf_counter() - start)


class Launcher:
    """A thread that makes tiny additions in a loop, as a training loop launches kernels. rate: of them a second."""

    def __enter__(self) -> "Launcher":
        self.count, self.ended = 0, threading.Event()
        self.start = time.perf_counter()
        self.thread = threading.Thread(target=self._launch)
        self.thread.start()
        return self

    def _launch(self) -> None:
        tensor = torch.zeros(8)
        while not self.ended.is_set():
            tensor.add_(1)
            self.count += 1

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.thread.join()
        self.rate = self.count / (time.perf_counter() - self.start)


def by_threads(dataset: TrainDataset, batch_size: int, threads: int) -> Iterator[tuple[torch.Tensor]]:
    """What the loader did before it had worker processes: threads fill one array a batch, three batches ahead."""
    repeated, ahead = Repeated(dataset, 10**9), deque()
    with ThreadPoolExecutor(threads) as pool:
        for first in itertools.count(0, batch_size):
            clips = torch.empty((batch_size, *dataset.clip_shape), dtype=torch.uint8)
            arrays = list(clips.numpy())
            ahead.append((clips, [pool.submit(repeated.load, 0, first + n, out) for n, out in enumerate(arrays)]))
            if len(ahead) > 3:
                clips, futures = ahead.popleft()
                for future in futures:
                    future.result()
                yield (clips,)


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


class PlainClips(Dataset):
    """The common way: every frame of the video into one array, then 16 of them cropped and normalised as float32."""

    def __init__(self, frames: Path, rows: list[VideoRow], spec: InputSpec = SPEC):
        self.folders, self.spec = [frames / row.folder for row in rows], spec
        self.length = len(rows)
        self.mean = np.array(spec.mean, np.float32) * 255
        self.std = np.array(spec.std, np.float32) * 255

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, position: int) -> tuple[torch.Tensor, int]:
        folder = self.folders[position % len(self.folders)]
        names = sorted(name for name in os.listdir(folder) if name.endswith(".jpg"))  # noqa: PTH208
        video = np.stack([cv2.imread(f"{folder}/{name}") for name in names])  # (frames, H, W, 3)
        rng = np.random.default_rng(position)
        start = int(rng.integers(len(video) - self.spec.clip_len + 1))
        side = self.spec.crop_size
        top, left = (int(rng.integers(length - side + 1)) for length in video.shape[1:3])
        clip = video[start : start + self.spec.clip_len, top : top + side, left : left + side, ::-1].astype(np.float32)
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


def plain_batches(dataset: Dataset, batch_size: int, workers: int) -> Iterator[list[torch.Tensor]]:
    yield from DataLoader(dataset, batch_size, sampler=itertools.count(), num_workers=workers)


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
    """Clips of at most `most` videos, all of them in the training part."""
    source = DataSource("benchmark", frames, frames, frames_given=True)
    frame_set = open_frames(source, SPEC, "random", val="none")
    rows = frame_set.rows[:: max(len(frame_set.rows) // most, 1)][:most]
    parts = dict.fromkeys(frame_set.split.parts, "unused") | {row.video: "train" for row in rows}
    return TrainDataset(replace(frame_set, split=replace(frame_set.split, parts=parts)), SPEC)


def make_frames(folder: Path, num_videos: int, num_frames: int, size: tuple[int, int]) -> None:
    """<folder>/train/<class>/<video>/00001.jpg: two classes, pictures about as hard to decode as a film's."""
    rng = np.random.default_rng(0)
    width, height = size
    jpegs = []
    for _ in range(64):
        coarse = rng.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
        picture = cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC).astype(np.int16)
        picture += rng.integers(-6, 7, picture.shape, dtype=np.int16)
        jpegs.append(cv2.imencode(".jpg", picture.clip(0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 95])[1])
    for number in range(num_videos):
        video = folder / "train" / f"class{number % 2}" / f"video{number:05d}"
        video.mkdir(parents=True)
        for index in range(num_frames):
            (video / f"{index + 1:05d}.jpg").write_bytes(jpegs[(number + index) % len(jpegs)])


if __name__ == "__main__":
    main()
