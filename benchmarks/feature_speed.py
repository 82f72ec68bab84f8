"""Speed of features.py extract, compared with its network alone and its reading alone by turns in one run.

    python benchmarks/feature_speed.py
    python benchmarks/feature_speed.py --models r2plus1d_18 --layer pool --videos 64 --batch-size 64     (on a GPU)

network   the layer read from windows that lie on the device already
videos    windows cut from video files by --workers threads (decoded, resized, cropped), no network
frames    the same from extracted JPEG frames
extract   what features.py does from each of the two: reading, network, pooling, a file a video

`of the network` says which part of the network's speed is left; 100 % means that the network is the bound, not the
decoding. On a CPU both want the same cores, so no more than 1 / (1 / network + 1 / reading) can be had ("bound").
Weights are random, the arithmetic is the same. Medians over rounds; figures of one table belong together.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import date
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.inference_speed import make_video
from benchmarks.loader_speed import make_frames
from benchmarks.machine import processor
from common.cli import positive, run_cli
from common.worker_process import num_processors
from dataloaders.dataset import WindowDataset
from dataloaders.frame_set import FrameSet, open_frames
from dataloaders.loader import ClipLoader
from dataloaders.sources.find import find_source
from engine.features.extraction import (
    FeatureExtractor,
    cut_windows,
    entries_of_frames,
    extract_data_set,
    extract_videos,
)
from engine.features.layers import layer_reader
from engine.features.store import LAYERS, SETTINGS, FeatureEntry, FeatureWriter
from engine.hardware.device import device_name, pick_device, to_device
from engine.hardware.low_precision import LowPrecisionModel, features_differ, pick_precision
from engine.inference.read_ahead import read_ahead
from network import create_model, input_spec

NUM_CLASSES, STEP = 101, 8


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="feature_speed.py", description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="+", default=["c3d"])
    parser.add_argument("--layer", choices=LAYERS, default="pool")
    parser.add_argument("--videos", type=positive, default=6, help="of 320x240, made here (default: 6)")
    parser.add_argument("--num-frames", type=positive, default=72, help="of each (default: 72)")
    parser.add_argument("--batch-size", type=positive, default=16)
    parser.add_argument("--workers", type=positive, default=min(num_processors(), 8))
    parser.add_argument("--rounds", type=positive, default=2)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--amp", default="auto", choices=("auto", "off", "bf16"))
    args = parser.parse_args(argv)
    device = pick_device(args.device)
    where = device_name(device) if device.type == "cuda" else f"{processor()}, {device_name(device)}"
    print(f"{date.today()}, {where}, torch {torch.__version__}, {args.workers} workers, batch {args.batch_size}")
    print("| model | from | windows/s: network | reading | extract | bound | of the network |")
    print("|---|---|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        for name in args.models:
            compare(name, Path(folder) / name, device, args)


def compare(name: str, folder: Path, device: torch.device, args: argparse.Namespace) -> None:
    spec = input_spec(name)
    torch.manual_seed(0)
    model = to_device(create_model(name, NUM_CLASSES).eval(), device)
    precision = pick_precision(args.amp, device)
    reader = LowPrecisionModel(model, lambda m: layer_reader(m, args.layer), device, precision, features_differ)
    extractor = FeatureExtractor(reader, spec, device)
    folder.mkdir()
    videos = make_videos(folder / "videos", args.videos, args.num_frames)
    make_frames(folder / "frames", args.videos, args.num_frames, spec.resize)
    frame_set = open_frames(find_source(str(folder / "videos"), {}, folder, str(folder / "frames")), spec, val="none")

    outputs = iter(range(1_000_000))

    def writer() -> FeatureWriter:
        settings = dict.fromkeys(SETTINGS) | {"per_window": False, "input_spec": spec.to_dict()}
        return FeatureWriter(folder / f"out{next(outputs)}", settings)

    def from_videos() -> int:
        with_files = writer()
        extract_videos(extractor, videos, with_files, STEP, args.batch_size, args.workers, unwatched)
        return count_windows(with_files)

    def from_frames() -> int:
        with_files = writer()
        entries = entries_of_frames(frame_set, {}, same_data=False)
        extract_data_set(extractor, frame_set, entries, with_files, STEP, args.batch_size, args.workers, unwatched)
        return count_windows(with_files)

    clips = torch.randint(
        0, 256, (args.batch_size, spec.read_len, spec.crop_size, spec.crop_size, 3), dtype=torch.uint8, device=device
    )
    num_batches = max(args.videos * args.num_frames // STEP // args.batch_size, 1)
    ways: dict[str, Callable[[], int]] = {
        "network": lambda: sum(len(extractor.windows(clips)) for _ in range(num_batches)),
        "videos": lambda: read_videos(videos, extractor, args),
        "frames": lambda: read_frames(frame_set, extractor, args),
        "extract videos": from_videos,
        "extract frames": from_frames,
    }
    extractor.windows(clips)  # the first time pays for memory
    rates: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(args.rounds):
        for way, run in ways.items():
            start = time.perf_counter()
            num_windows = run()
            rates[way].append(num_windows / (time.perf_counter() - start))

    median = {way: statistics.median(values) for way, values in rates.items()}
    for kind in ("videos", "frames"):
        network, reading, extract = median["network"], median[kind], median[f"extract {kind}"]
        bound = min(network, reading) if device.type == "cuda" else 1 / (1 / network + 1 / reading)
        print(
            f"| `{name}` {args.layer} | {kind} | {network:.1f} | {reading:.1f} | {extract:.1f} | {bound:.1f} | "
            f"{100 * extract / network:.0f} % |",
            flush=True,
        )


def make_videos(folder: Path, number: int, num_frames: int) -> list[tuple[Path, FeatureEntry]]:
    """Copies of one file below two class folders: decoding one costs what decoding another would."""
    made: list[tuple[Path, FeatureEntry]] = []
    for index in range(number):
        label, name = f"class{index % 2}", f"video{index:05d}"
        path = folder / label / f"{name}.avi"
        path.parent.mkdir(parents=True, exist_ok=True)
        if made:
            path.write_bytes(made[0][0].read_bytes())
        else:
            make_video(path, num_frames)
        made.append((path, FeatureEntry(f"{label}/{name}.avi", label, "", f"{label}/{name}.npy")))
    return made


def read_videos(
    videos: Sequence[tuple[Path, FeatureEntry]], extractor: FeatureExtractor, args: argparse.Namespace
) -> int:
    def read(item: tuple[Path, FeatureEntry]) -> Iterable:
        return cut_windows(item[0], extractor.spec, STEP)

    with read_ahead(videos, read, args.workers, waiting=2 * args.batch_size) as reading:
        return sum(1 for _, clips in reading for _ in clips)


def read_frames(frame_set: FrameSet, extractor: FeatureExtractor, args: argparse.Namespace) -> int:
    dataset = WindowDataset(frame_set, extractor.spec, "train", STEP)
    return sum(len(clips) for clips, _, _ in ClipLoader(dataset, args.batch_size, args.workers))


def unwatched(items: Iterable, _: int) -> Iterable:
    return items


def count_windows(writer: FeatureWriter) -> int:
    writer.finish()
    return sum(entry["num_windows"] for entry in writer.done.values())


if __name__ == "__main__":
    run_cli(main)
