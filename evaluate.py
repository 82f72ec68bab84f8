"""Checkpoint -> accuracy on the videos of a data set's test list.

    python evaluate.py run/r3d_18-ucf101-000
    python evaluate.py run/r3d_18-ucf101-000/best.pth --num-clips 10 --crops 3 --temporal
    torchrun --nproc-per-node=4 evaluate.py run/r3d_18-ucf101-000      each process its share, each video once
    python evaluate.py r3d_18.onnx                                     a file that export.py has written
    python evaluate.py run/c3d-ucf101-000 run/c3d-ucf101-001 run/c3d-ucf101-002     one a split: mean +- deviation

One answer a video: the softmax of N evenly spaced clips (or of every window), averaged. Clip accuracy is another number
and is named so. What each file and key means: docs/evaluation.md
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from common.cli import Parser, positive, run_cli
from common.errors import UsageError, UserError
from common.files import ROOT, relative_to_cwd
from common.torchrun import is_rank_zero, rank, world_size
from common.worker_process import num_processors
from dataloaders import open_dataset
from dataloaders.batch_sampler import EvalBatchSampler
from dataloaders.dataset import FRAME_ORDERS, EvalDataset, WindowDataset
from dataloaders.frame_set import FrameSet
from dataloaders.loader import ClipLoader
from dataloaders.sources.splits import SPLITS
from engine.evaluation.evaluate import Evaluation, evaluate, evaluate_answers
from engine.evaluation.leaks import find_leak, knows_its_training
from engine.evaluation.published import official_name, pretraining_of
from engine.evaluation.report import FORMAT, Analysis, is_logged, log_report, provenance, write_report
from engine.evaluation.summary import comparable, print_record, print_splits, where
from engine.export.runtimes import is_exported
from engine.hardware.device import device_name
from engine.hardware.distributed import process_group, rank_zero_first
from engine.predictor import Predictor, open_predictor
from engine.runs.checkpoint import TrainedModel, find_checkpoint
from engine.training.checks import other_classes
from network import InputSpec

__all__ = ["Evaluation", "evaluate", "main"]


def main(argv: Sequence[str]) -> list[dict[str, Evaluation]]:
    """Evaluates each checkpoint; returns {order of the frames: Evaluation} for each."""
    args = parse_args(argv)
    torch.backends.cudnn.allow_tf32 = False  # full float32, so that the batch size changes nothing beyond 1e-5
    with process_group(args.device):
        return evaluate_all(args)


def evaluate_all(args: argparse.Namespace) -> list[dict[str, Evaluation]]:
    """Raises UserError for a checkpoint that is refused before any of them is evaluated."""
    import mypath  # where run_cli sees what is wrong with it

    paths = [find_checkpoint(run, ROOT / mypath.RUNS) for run in args.checkpoints]
    trials = [prepare(path, args) for path in paths]
    evaluations, records = [], []
    for trial in trials:
        results, record = evaluate_checkpoint(trial, args)
        evaluations.append(results)
        records.append(record)
    print_splits(records)
    return evaluations


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser(prog="python evaluate.py", description=__doc__.split("\n")[0])
    parser.add_argument(
        "checkpoints",
        nargs="+",
        metavar="RUN|CHECKPOINT",
        help="a run's folder or file; a .onnx or .pt2 file of export.py",
    )
    parser.add_argument("--dataset", help="another data set than the run's, with the same classes")
    parser.add_argument("--frames", help="folder of the extracted frames, where it is not the usual one")
    parser.add_argument("--split", choices=SPLITS, help="another split than the run's")
    parser.add_argument("--on", choices=("test", "val"), default="test", help="which videos (default: test)")
    clips = parser.add_mutually_exclusive_group()
    clips.add_argument("--num-clips", type=positive, default=10, help="evenly spaced clips a video (default: 10)")
    clips.add_argument(
        "--windows", type=positive, metavar="STEP", help="every clip that fits, STEP frames apart (C3D's paper: 8)"
    )
    parser.add_argument("--crops", type=int, choices=(1, 3), default=1, help="1, the centre, or 3 (default: 1)")
    parser.add_argument("--temporal", action="store_true", help="also with frames shuffled, reversed and frozen")
    parser.add_argument(
        "--allow-leak", action="store_true", help="evaluate on recordings that were trained on, and mark the number"
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder for the results instead of the run's")
    parser.add_argument("--batch-size", type=positive, default=32, help="clips at once (default: 32)")
    parser.add_argument("--workers", type=positive, default=min(num_processors(), 8), help="threads that read clips")
    parser.add_argument("--device", default="auto", help="cuda, mps, cpu (default: the best there is)")
    return parser.parse_args(argv)


@dataclass(frozen=True)
class EvaluationJob:
    """A checkpoint and the videos it is to be tested on.

    own   these are the videos that its run left for testing (or, with --on val, for validation)
    leak  why the result will mean nothing, where --allow-leak wants it all the same
    """

    path: Path
    frame_set: FrameSet
    own: bool
    leak: str | None

    def folder(self, output: Path | None, several: bool) -> Path:
        if output is None:
            return self.path.parent
        return output / self.path.parent.name if several else output

    def stem(self, part: str) -> str:
        """test or val for what a run's best.pth is for, and longer names for all else, so that nothing is overwritten:
        last-test of its last.pth, model-onnx-test of model.onnx, test-ucf101-split2 on another split or data set."""
        of_run = self.path.name == "best.pth" and (self.path.parent / "config.json").is_file()
        name = self.path.name.replace(".", "-") if is_exported(self.path) else self.path.stem
        other = f"-{self.frame_set.source.name}-split{self.frame_set.split.name}"
        return ("" if of_run else f"{name}-") + part + ("" if self.own else other)


def prepare(path: Path, args: argparse.Namespace) -> EvaluationJob:
    """Raises UserError where the classes differ, where there is nothing to test on, and, without --allow-leak, where
    the checkpoint has seen the recordings that it is to be tested on."""
    if is_exported(path) and args.crops != 1:
        raise UsageError(f"--crops {args.crops}: {path.name} takes the middle of a frame itself. Give the run instead.")
    trained = open_predictor(path, args.device)
    checkpoint = trained.checkpoint
    frame_set = open_test_frames(trained, args.dataset, args.frames, args.split)
    if not frame_set.part(args.on):
        raise UserError(f"Split {frame_set.split.name} of {frame_set.source.name} has no {args.on} videos.")
    if not knows_its_training(checkpoint):
        print("Note: the checkpoint does not say which videos it was trained on, so an overlap cannot be noticed.")
    same_data = args.dataset in (None, checkpoint["config"].get("dataset"))
    leak = find_leak(checkpoint, frame_set, args.on, same_data)
    if leak and not args.allow_leak:
        raise UserError(
            f"{leak[0].upper()}{leak[1:]}, so its accuracy there would mean nothing. Evaluate it on the split it was "
            f"trained for, {checkpoint['split'].get('name')}, with the videos it had then; --allow-leak gives the "
            "number all the same, and marks it."
        )
    own = same_data and frame_set.split.hash == (checkpoint.get("split") or {}).get("hash")
    return EvaluationJob(path, frame_set, own, leak)


def open_test_frames(
    trained: TrainedModel | Predictor, dataset: str | None, frames: str | None, split: str | None
) -> FrameSet:
    """The frames that a checkpoint is to be evaluated on: its own data set and split where nothing else is said.
    Raises UserError where classes differ."""
    import mypath

    config = trained.checkpoint["config"]
    if not (dataset or config.get("dataset")):
        raise UserError("This checkpoint does not say which data set it was trained on. Name one: --dataset")
    frames = frames or (config.get("frames") if dataset is None else None)
    own = dataset is None and split in (None, config.get("split"))
    split, val = (config["split"], config["val"]) if own else (split, "auto")
    with rank_zero_first():
        name = dataset or config["dataset"]
        frame_set = open_dataset(name, trained.input_spec, split, val, datasets=mypath.DATASETS, frames=frames)
    if frame_set.classes != trained.classes:
        raise UserError(f"{other_classes(trained.classes, frame_set)} Evaluate it on the data set it was trained on.")
    return frame_set


def evaluate_checkpoint(trial: EvaluationJob, args: argparse.Namespace) -> tuple[dict[str, Evaluation], dict]:
    """Evaluates, prints, and leaves the results in the run's folder. -> {frame order: Evaluation}, and the record"""
    trained = open_predictor(trial.path, args.device)
    folder = trial.folder(args.output, several=len(args.checkpoints) > 1)
    folder.mkdir(parents=True, exist_ok=True)  # said before the work, where it cannot be written

    results, seconds = {}, {}
    for order in FRAME_ORDERS if args.temporal else FRAME_ORDERS[:1]:
        dataset = build_dataset(trial.frame_set, trained.input_spec, args, order)
        sampler = EvalBatchSampler(len(dataset), max(args.batch_size // dataset.clip_shape[0], 1), rank(), world_size())
        pinned = trained.device.type == "cuda" and torch.cuda.is_available()
        loader = ClipLoader(dataset, sampler.batch_size, args.workers, pinned, sampler)
        videos = dataset.videos if args.windows else None
        start = time.monotonic()
        what = f"Evaluating {order}"
        results[order] = evaluate_answers(trained.logits_of, loader, args.batch_size, what=what, videos=videos)
        seconds[order] = time.monotonic() - start

    normal, checkpoint = results["normal"], trained.checkpoint
    analysis = Analysis(trial.frame_set, args.on, normal.probs, normal.labels, normal.clips_right, normal.num_clips)
    numbers, pretraining = analysis.numbers(), pretraining_of(checkpoint["config"])
    record = {
        "format": FORMAT,
        "checkpoint": trial.path.name,
        "weights_hash": trained.weights_hash,
        "arithmetic": trained.arithmetic,
        "model": trained.name,
        "parameters": trained.parameters,
        "weights": checkpoint["config"].get("weights"),
        "pretraining": None if checkpoint.get("pretrained") else pretraining,
        "epoch": checkpoint.get("epoch", 0),
        "step": checkpoint.get("step", 0),
        "dataset": trial.frame_set.source.name,
        "official": official_name(trial.frame_set),
        "split": trial.frame_set.split.name,
        "split_hash": trial.frame_set.split.hash,
        "part": args.on,
        "leak": trial.leak,
        "training_known": knows_its_training(checkpoint),
        "num_clips": None if args.windows else args.num_clips,
        "windows": args.windows,
        "crops": args.crops,
        "input_spec": trained.input_spec.to_dict(),
        **normal.to_dict(),
        **numbers,
        "temporal": {order: result.top1 for order, result in results.items()} if args.temporal else None,
        "device": device_name(trained.device),
        "seconds": seconds["normal"],
        "clips_per_second": numbers["num_clips_total"] / seconds["normal"],
        **provenance(),
    }
    record["published"] = [asdict(row) for row in comparable(record)]
    print_record(trial.path, record)

    if is_rank_zero():
        write(folder, trial, args, record, analysis)
    return results, record


def write(folder: Path, trial: EvaluationJob, args: argparse.Namespace, record: dict, analysis: Analysis) -> None:
    """Files, and the tags test/... once for each result of what the run is for."""
    stem = trial.stem(args.on)
    file = folder / f"{stem}.json"
    logged = is_logged(file, record)
    title = f"{record['model']} on {where(record)}: video top-1 {record['top1']:.1f} %"
    pictures = write_report(folder, stem, record, analysis, title)
    if stem == "test" and args.output is None and not logged:
        log_report(folder, record, analysis, pictures)
    print(f"  {relative_to_cwd(file)}, and tables and pictures in {relative_to_cwd(folder / stem)}/")


def build_dataset(
    frame_set: FrameSet, spec: InputSpec, args: argparse.Namespace, order: str
) -> EvalDataset | WindowDataset:
    if args.windows:
        return WindowDataset(frame_set, spec, args.on, args.windows, args.crops, order)
    return EvalDataset(frame_set, spec, args.on, args.num_clips, args.crops, order)


if __name__ == "__main__":
    run_cli(main)
