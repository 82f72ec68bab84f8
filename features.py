"""Extracts features of videos and trains a linear SVM on them, as the C3D paper does.

    python features.py extract --dataset ucf101 --model c3d --weights sports1m.pth --layer fc6 --output ucf101-fc6
    python features.py svm ucf101-fc6 --split all
    python features.py predict clip.mp4 --svm ucf101-fc6/svm/split1.npz --model c3d --weights sports1m.pth

A feature is the output of a layer for windows of 16 frames, 8 apart, averaged over the windows of a video and scaled
to length 1 (Tran et al.: "Learning Spatiotemporal Features with 3D Convolutional Networks", ICCV 2015).
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from common.cli import Parser, above_zero, positive, run_cli
from common.errors import UsageError
from common.files import ROOT
from common.worker_process import num_processors
from dataloaders.sources.splits import SPLITS
from engine.features.store import LAYERS, NORMS, POOLINGS, STEP
from network.flags import CHECKPOINT_HELP, add_network_flags, check_network_flags


def main(argv: Sequence[str]) -> int | None:
    args = parse_args(argv)

    # PyTorch takes two seconds, which --help and a misspelt flag do not need
    import av

    import mypath
    from engine.features import job

    av.logging.set_level(av.logging.PANIC)  # our own messages say what is wrong with a video
    command = {"extract": job.extract, "svm": job.svm, "predict": job.predict}[args.command]
    return command(args, ROOT / mypath.RUNS, mypath.DATASETS)


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser(prog="python features.py", description="Features of videos, and a linear SVM trained on them.")
    commands = parser.add_subparsers(dest="command", required=True)

    one = commands.add_parser("extract", help="write features", description="Writes a feature for each video.")
    one.add_argument("sources", nargs="*", metavar="SOURCE", help="video files, or folders of them")
    one.add_argument("--dataset", metavar="NAME|FOLDER", help="instead of SOURCE: a data set with extracted frames")
    one.add_argument("--frames", metavar="DIR", help="folder of the extracted frames (default: as in mypath.py)")
    _add_network(one)
    one.add_argument("--layer", choices=LAYERS, default="pool", help="fc6, fc7: C3D; pool: last layer's input")
    one.add_argument(
        "--stride", "--step", dest="step", type=positive, default=STEP, help=f"frames between windows (default: {STEP})"
    )
    one.add_argument("--pooling", choices=POOLINGS, default="mean", help="over the windows of a video (default: mean)")
    one.add_argument(
        "--norm", choices=NORMS, default="after", help="scale to length 1 after pooling (default), before it, or not"
    )
    one.add_argument("--per-window", action="store_true", help="write every window, (N, D), without pooling")
    one.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder for the features")
    one.add_argument(
        "--workers", type=positive, default=min(num_processors(), 16), help="processes that read frames or videos"
    )

    two = commands.add_parser("svm", help="train and test a linear SVM", description="Trains and tests a linear SVM.")
    two.add_argument("features", nargs="*", type=Path, metavar="DIR", help="folder of features")
    two.add_argument(
        "--features", dest="more", nargs="+", type=Path, default=[], metavar="DIR", help="folders to concatenate"
    )
    two.add_argument("--dataset", metavar="NAME|FOLDER", help="data set of the splits (default: from video names)")
    two.add_argument("--split", choices=(*SPLITS, "all"), help="all: the three official splits (default: the first)")
    two.add_argument("--pca", type=positive, nargs="+", default=[], metavar="N", help="also on N principal components")
    weight = two.add_mutually_exclusive_group()
    weight.add_argument(
        "--c", type=above_zero, default=1.0, metavar="C", help="penalty for errors, C of the SVM (default: 1)"
    )
    weight.add_argument("--search-c", action="store_true", help="choose C on groups held out of the training list")
    two.add_argument("--allow-leak", action="store_true", help="allow a network that was trained on test recordings")
    two.add_argument("--output", type=Path, metavar="DIR", help="folder for the results (default: DIR/svm)")

    three = commands.add_parser("predict", help="label videos", description="Labels videos, with SVM margins.")
    three.add_argument("videos", nargs="+", metavar="VIDEO", help="video files, or folders of them")
    three.add_argument("--svm", type=Path, required=True, metavar="FILE", help="output of svm, such as split1.npz")
    _add_network(three)
    three.add_argument("--top", type=positive, default=3, help="classes to list (default: 3)")

    args = parser.parse_args(argv)
    if args.command != "svm":
        check_network_flags(args)
    if args.command == "svm":
        args.features = [*args.features, *args.more]
        if not args.features:
            raise UsageError("No features are given. Name their folder: python features.py svm DIR")
    if args.command == "extract" and bool(args.sources) == bool(args.dataset):
        raise UsageError("Give either videos or folders of them, or --dataset NAME|FOLDER.")
    if args.command == "extract" and args.frames and not args.dataset:
        raise UsageError("--frames is the folder of a data set's frames: give --dataset, too.")
    if args.command == "extract" and args.per_window and (args.pooling, args.norm) != ("mean", "after"):
        raise UsageError("--per-window does not pool. Leave --pooling and --norm out.")
    return args


def _add_network(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", help=CHECKPOINT_HELP)
    add_network_flags(parser, labels=False)
    parser.add_argument("--batch-size", type=positive, default=16, help="windows per batch (default: 16)")


if __name__ == "__main__":
    run_cli(main)
