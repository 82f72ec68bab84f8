"""Evaluates checkpoints on the videos of a data set's test list.

    python evaluate.py run/r3d_18-ucf101-000
    python evaluate.py run/r3d_18-ucf101-000/best.pth --num-clips 10 --crops 3 --temporal
    torchrun --nproc-per-node=4 evaluate.py run/r3d_18-ucf101-000      each process a share, each video once
    python evaluate.py r3d_18.onnx                                     a file written by export.py
    python evaluate.py run/r3d_18-ucf101-000 run/r3d_18-ucf101-001 --fuse     the mean of their answers, and its gain
    python evaluate.py run/c3d-ucf101-000 run/c3d-ucf101-001 run/c3d-ucf101-002     one per split: mean +- deviation

A video has one answer: the softmax of N evenly spaced clips (or of every window), averaged. Clip accuracy is another
number and is printed under its own name. The files and their keys: docs/evaluation.md
"""

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from common.cli import Parser, at_least, positive, run_cli
from common.files import ROOT
from common.worker_process import num_processors
from dataloaders.sources.splits import SPLITS

if TYPE_CHECKING:
    from engine.evaluation.evaluate import Evaluation
    from engine.evaluation.report import EvaluationRecord


def main(argv: Sequence[str]) -> "list[dict[str, Evaluation]]":
    """Evaluates each checkpoint; returns {order of the frames: Evaluation} for each."""
    return [evaluations for evaluations, _ in run_command(argv)]


def run_command(argv: Sequence[str]) -> "list[tuple[dict[str, Evaluation], EvaluationRecord]]":
    """Evaluates each checkpoint. One that is refused ends the command before any of them is evaluated."""
    args = vars(parse_args(argv))

    # PyTorch takes two seconds, which --help and a misspelt flag do not need
    import torch

    import mypath
    from engine.evaluation.fusion import check_fusion, fuse_runs
    from engine.evaluation.job import EvaluationOptions, evaluate_job, prepare
    from engine.evaluation.summary import print_splits
    from engine.hardware.distributed import process_group
    from engine.runs.checkpoint import find_checkpoint

    torch.backends.cudnn.allow_tf32 = False  # full float32, so that the batch size changes nothing beyond 1e-5
    runs = args.pop("runs")
    paths = [find_checkpoint(run, runs or ROOT / mypath.RUNS) for run in args.pop("checkpoints")]
    fuse = args.pop("fuse")
    options = EvaluationOptions(**args)
    if fuse:
        check_fusion(paths, options)
    with process_group(options.device):
        jobs = [prepare(path, options, mypath.DATASETS, len(paths) > 1 and not fuse) for path in paths]
        if fuse:
            return [({}, fuse_runs(jobs, options, fuse == "weights", mypath.DATASETS))]
        results = [evaluate_job(job, options, several=len(jobs) > 1) for job in jobs]
        print_splits([record for _, record in results])
    return results


def evaluate(run: str | Path | Sequence[str | Path], **flags: object) -> dict:
    """Evaluates a run, as the command with the flags of these names; returns the content of its test.json.

    evaluate("run/r3d_18-ucf101-000", num_clips=10, on="val")
    evaluate(["run/r3d_18-ucf101-000", "run/r3d_18-ucf101-001"], fuse="mean")
    """
    runs = [run] if isinstance(run, str | Path) else run
    words = [f"--{name.replace('_', '-')}" + ("" if value is True else f"={value}") for name, value in flags.items()]
    return asdict(run_command([*map(str, runs), *words])[0][1])


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser(prog="python evaluate.py", description=__doc__.split("\n")[0])
    parser.add_argument(
        "checkpoints",
        nargs="*",
        metavar="RUN|CHECKPOINT",
        help="a run's folder or name, a checkpoint, or an exported .onnx or .pt2 file (also --checkpoint RUN)",
    )
    parser.add_argument("--checkpoint", nargs="+", action="extend", default=[], help=argparse.SUPPRESS)
    parser.add_argument("--runs", type=Path, metavar="DIR", help="folder of the runs (default: as in mypath.py)")
    parser.add_argument("--dataset", help="another data set with the same classes (default: the run's)")
    parser.add_argument("--frames", help="folder of the extracted frames (default: the run's)")
    parser.add_argument("--split", choices=SPLITS, help="another split (default: the run's)")
    parser.add_argument(
        "--on", choices=("test", "val", "train", "all"), default="test",
        help="videos to evaluate on: of a part (train: how much is learnt by heart), or all of another data set, "
        "undivided (default: test)",
    )  # fmt: skip
    clips = parser.add_mutually_exclusive_group()
    clips.add_argument("--num-clips", type=positive, default=10, help="evenly spaced clips per video (default: 10)")
    clips.add_argument(
        "--stride",
        "--windows",
        dest="windows",
        type=positive,
        metavar="N",
        help="instead: all full clips, N frames apart (C3D paper: 8)",
    )
    parser.add_argument("--crops", type=int, choices=(1, 3), default=1, help="1: centre crop; 3: at both ends as well")
    parser.add_argument("--temporal", action="store_true", help="repeat with frames shuffled, reversed and frozen")
    parser.add_argument(
        "--fuse", nargs="?", const="mean", choices=("mean", "weights"),
        help="also average the probabilities of the runs; weights: weighted by their validation videos",
    )  # fmt: skip
    parser.add_argument(
        "--allow-leak", action="store_true", help="evaluate on recordings from training too, and mark the result"
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder for the results (default: the run's)")
    parser.add_argument("--batch-size", type=positive, default=32, help="clips per batch (default: 32)")
    parser.add_argument(
        "--workers", type=at_least(0), default=min(num_processors(), 16), help="worker processes for clips; 0: none"
    )
    parser.add_argument("--device", default="auto", help="cuda, mps or cpu (default: a GPU if present)")
    args = parser.parse_args(argv)
    args.checkpoints += args.checkpoint
    if not args.checkpoints:
        parser.error("there is no run: python evaluate.py RUN")
    del args.checkpoint
    return args


if __name__ == "__main__":
    run_cli(main)
