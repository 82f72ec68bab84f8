"""The command line of features.py."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from common.cli import Parser, above_zero, positive
from common.errors import UsageError
from common.worker_process import num_processors
from dataloaders.sources.splits import SPLITS
from engine.features.layers import LAYERS
from engine.features.pooling import NORMS, POOLINGS

STEP = 8  # frames from one window to the next


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser(prog="python features.py", description="Descriptors of videos, and a linear SVM on them.")
    commands = parser.add_subparsers(dest="command", required=True)

    one = commands.add_parser("extract", help="videos -> a descriptor each", description="Videos -> a descriptor each.")
    one.add_argument("sources", nargs="*", metavar="SOURCE", help="video files, or folders of them")
    one.add_argument("--dataset", metavar="NAME|FOLDER", help="a data set instead: from its extracted frames")
    one.add_argument("--frames", metavar="DIR", help="folder of the extracted frames, where it is not the usual one")
    add_network(one)
    one.add_argument("--layer", choices=LAYERS, default="pool", help="fc6, fc7: C3D's; pool: what the last layer gets")
    one.add_argument("--step", type=positive, default=STEP, help=f"frames between windows (default: {STEP})")
    one.add_argument("--pooling", choices=POOLINGS, default="mean", help="of the windows (default: mean)")
    one.add_argument("--norm", choices=NORMS, default="after", help="length 1 after pooling (default), before it, none")
    one.add_argument("--per-window", action="store_true", help="keep every window: files of (N, D), nothing pooled")
    one.add_argument("--output", type=Path, required=True, metavar="DIR", help="<DIR>/<class>/<video>.npy, index.json")
    one.add_argument("--workers", type=positive, default=min(num_processors(), 8), help="threads that read videos")

    two = commands.add_parser("svm", help="descriptors -> accuracy", description="Trains and tests a linear SVM.")
    two.add_argument("features", nargs="*", type=Path, metavar="DIR", help="folder of descriptors")
    two.add_argument(
        "--features", dest="more", nargs="+", type=Path, default=[], metavar="DIR", help="put side by side"
    )
    two.add_argument("--dataset", metavar="NAME|FOLDER", help="whose splits count (default: told from the names)")
    two.add_argument("--split", choices=(*SPLITS, "all"), help="all: the three official ones (default: the first)")
    two.add_argument("--pca", type=positive, nargs="+", default=[], metavar="N", help="also with N values after PCA")
    how = two.add_mutually_exclusive_group()
    how.add_argument("--c", type=above_zero, default=1.0, metavar="C", help="weight of mistakes (default: 1.0)")
    how.add_argument("--search-c", action="store_true", help="choose it by groups held out of the training list")
    two.add_argument("--allow-leak", action="store_true", help="also where the network was trained on test recordings")
    two.add_argument("--output", type=Path, metavar="DIR", help="for the results (default: DIR/svm)")

    three = commands.add_parser("predict", help="video -> label", description="Raw videos -> labels with margins.")
    three.add_argument("videos", nargs="+", metavar="VIDEO", help="video files, or folders of them")
    three.add_argument("--svm", type=Path, required=True, metavar="FILE", help="what `svm` has written: split1.npz")
    add_network(three)
    three.add_argument("--top", type=positive, default=3, help="how many classes are named (default: 3)")

    args = parser.parse_args(argv)
    if args.command == "svm":
        args.features = [*args.features, *args.more]
        if not args.features:
            raise UsageError("Which descriptors? Name their folder: python features.py svm DIR")
    if args.command == "extract" and bool(args.sources) == bool(args.dataset):
        raise UsageError("Describe what? Give videos or folders, or --dataset NAME|FOLDER, and not both.")
    if args.command == "extract" and args.frames and not args.dataset:
        raise UsageError("--frames is the folder of a data set's frames: give --dataset, too.")
    if args.command == "extract" and args.per_window and (args.pooling, args.norm) != ("mean", "after"):
        raise UsageError("--per-window keeps each window as it is. Leave --pooling and --norm out.")
    return args


def add_network(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", help="of a training run: the file, the run's folder, or its name")
    parser.add_argument("--model", help="name of a network, for weights that are no checkpoint of this program")
    parser.add_argument("--weights", help="with --model: a file, or a name such as kinetics400")
    parser.add_argument("--device", default="auto", help="cuda, cuda:1, mps, cpu; auto takes the best there is")
    parser.add_argument(
        "--amp", default="auto", choices=("auto", "off", "bf16"), help="auto: bf16 where the device computes in it"
    )
    parser.add_argument("--batch-size", type=positive, default=16, help="windows at once (default: 16)")
