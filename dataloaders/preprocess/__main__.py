"""Extracts videos into folders of JPEG frames, with a manifest.

    python -m dataloaders.preprocess --dataset ucf101
    python -m dataloaders.preprocess --dataset my/videos --size 80x60 --workers 8

A video's folder appears whole or not at all. After an interruption, the same command continues.
"""

import argparse
from collections.abc import Sequence

from common.cli import Parser, positive, run_cli
from common.errors import UsageError
from common.files import ROOT
from dataloaders.frames.settings import DEFAULT_SIZE, Settings, parse_size
from dataloaders.preprocess.run import make_demo_videos, preprocess
from dataloaders.preprocess.shards import read_shard
from dataloaders.sources.find import find_source
from dataloaders.sources.splits import SPLITS


def main(argv: Sequence[str]) -> None:
    import mypath

    args = parse_args(argv)
    if args.fps and args.every != 1:
        raise UsageError("--fps and --every both select frames. Give only one of them.")
    settings = Settings(args.size, args.every, args.quality, args.fps)
    source = find_source(args.dataset or mypath.DEFAULT_DATASET, mypath.DATASETS, ROOT, args.frames)
    make_demo_videos(source)
    preprocess(source, settings, args.split, args.workers, args.shard)


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser(prog="python -m dataloaders.preprocess", description=__doc__.split("\n")[0])
    parser.add_argument("--dataset", help="name in mypath.py, a folder of class folders, or a list (.csv, .txt)")
    parser.add_argument("--frames", help="folder for the frames (default: as in mypath.py, or FOLDER-frames)")
    parser.add_argument("--split", choices=SPLITS, help="split to arrange the folders by (default: 1, given or random)")
    parser.add_argument("--workers", type=positive, default=None, help="worker processes (default: one per processor)")
    parser.add_argument(
        "--size",
        type=parse_size,
        default=DEFAULT_SIZE,
        help="size of stored frames: 171x128 (width x height, default), or short:256 (shorter side, aspect kept)",
    )
    parser.add_argument("--every", type=positive, default=1, help="store every N-th frame (default: 1, all)")
    parser.add_argument("--fps", type=rate, help="resample to this frame rate (default: the video's own)")
    parser.add_argument("--quality", type=percent, default=95, help="JPEG quality, 1 to 100 (default: 95)")
    parser.add_argument(
        "--shard", type=read_shard, metavar="K/N", help="extract part K of N, on N machines that share the folder"
    )
    return parser.parse_args(argv)


def rate(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1000:
        raise argparse.ArgumentTypeError(f"'{text}' is not a frame rate, such as 15 or 12.5")
    return value


def percent(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 100:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number from 1 to 100")
    return int(text)


if __name__ == "__main__":
    run_cli(main)
