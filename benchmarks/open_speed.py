"""Seconds from the start of opening a data set to its training and validation samples, at the sizes of real ones.

    python benchmarks/open_speed.py [--rounds 3]

The manifests are generated and there is not one frame behind them: what is timed touches no folder of a video. It is
what train.py does: frames found ready, manifest read and checked, videos divided, leaks looked for, samples laid out.
"""

import argparse
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.loader_speed import SPEC
from benchmarks.machine import processor
from dataloaders.dataset import EvalDataset, TrainDataset
from dataloaders.frame_set import open_frames
from dataloaders.frames import manifest
from dataloaders.frames.manifest import VideoRow
from dataloaders.preprocess.ensure import ensure_frames
from dataloaders.sources.data_source import DataSource
from dataloaders.sources.splits import leaking_groups


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()

    cases = {
        "UCF101, split 1": (DataSource("ucf101", Path(), Path(), "ucf101"), ucf101_rows()),
        "Kinetics-400, given split": (DataSource("kinetics", Path(), Path()), kinetics_rows("train", "val", "test")),
        "Kinetics-400, drawn split": (DataSource("kinetics", Path(), Path()), kinetics_rows("")),
    }
    print(f"{date.today()}, {processor()}, one core, median of {args.rounds}")
    print(f"{'data set':28}{'videos':>9}{'seconds':>9}{'manifest':>10}")
    for name, (source, rows) in cases.items():
        with tempfile.TemporaryDirectory() as folder:
            manifest.write_manifest(Path(folder), rows)
            source = DataSource(name, Path(folder) / "videos", Path(folder), source.layout, frames_given=True)
            size = (Path(folder) / manifest.NAME).stat().st_size
            seconds = statistics.median(duration_of(lambda source=source: open_all(source)) for _ in range(args.rounds))
        print(f"{name:28}{len(rows):9,}{seconds:9.2f}{size / 1e6:7.0f} MB")
    print(f"most memory at any time: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")


def duration_of(work: Callable[[], None]) -> float:
    manifest._read_once.cache_clear()  # a run reads it once
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def open_all(source: DataSource) -> None:
    ensure_frames(source, SPEC.resize)
    frame_set = open_frames(source, SPEC)
    TrainDataset(frame_set, SPEC)
    EvalDataset(frame_set, SPEC)
    leaking_groups(frame_set.split, frame_set.rows)


def ucf101_rows() -> list[VideoRow]:
    """13,320 rows with the names of UCF101: 101 classes of 25 groups."""
    places = [(label, group, clip) for label in range(101) for group in range(1, 26) for clip in range(1, 8)]
    rows = []
    for number in range(13_320):
        label, group, clip = places[number * len(places) // 13_320]
        name = f"Class{label:03d}/v_Class{label:03d}_g{group:02d}_c{clip:02d}"
        rows.append(replace(row_of(f"{name}.avi", f"train/{name}", 186), group=f"Class{label:03d}/g{group:02d}"))
    return rows


def kinetics_rows(*parts: str) -> list[VideoRow]:
    """240,000 rows with names as Kinetics-400 has them: 400 classes, each video a recording of its own."""
    rows = []
    for number in range(240_000):
        name = f"class {number % 400}/{number * 2654435761 % 2**32:011d}_000010_000020"
        part = parts[max(number % 20 - 17, 0) if len(parts) > 1 else 0]  # 18 of 20 train, one validates, one tests
        rows.append(row_of(f"{name}.mp4", f"train/{name}", 300, part))
    return rows


if __name__ == "__main__":
    main()


def row_of(video: str, folder: str, num_frames: int, given: str = "") -> VideoRow:
    return VideoRow(
        video=video,
        label=video.split("/")[0],
        group=video.rpartition(".")[0],
        folder=folder,
        num_frames=num_frames,
        every=1,
        quality=95,
        width=171,
        height=128,
        fps=25.0,
        source_width=320,
        source_height=240,
        source_bytes=500_000,
        status="ok",
        reason="",
        given=given,
        split="random",
        size="171x128",
    )
