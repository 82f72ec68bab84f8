"""Compares settings of training: trains each on a data set with several seeds and compares accuracies.

    python benchmarks/recipes.py --dataset FOLDER --split 2 --models r3d_10 --settings rgb diff
    python benchmarks/recipes.py --dataset FOLDER --split 2 --settings rgb "wide=--crop-size 60 --lr 1e-3" --seeds 5
    python benchmarks/recipes.py --dataset FOLDER --split 2 --settings rgb diff --on test      the same runs, tested

A setting is a name from the table below, or NAME=FLAGS, flags of train.py. Each run keeps the epoch that is best on the
validation videos, whole recordings of the training list; it is then looked at once, with 10 clips a video: on the
validation videos, by which settings are to be chosen, or, with --on test, on the test list, which chooses nothing.

A line of recipes.jsonl is a run that was looked at. Started again after an interruption, the same command goes on:
what the log has is not done again, a run that was stopped is resumed.
"""

import argparse
import hashlib
import json
import shlex
import shutil
import string
import subprocess
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import mypath
from benchmarks.machine import processor
from common.cli import positive, run_cli
from common.console import duration
from common.errors import UsageError, UserError
from dataloaders.dataset import EvalDataset
from dataloaders.loader import ClipLoader
from engine.evaluation.bootstrap import bootstrap_interval, mean_and_deviation
from engine.evaluation.evaluate import evaluate
from engine.evaluation.job import EvaluationOptions, open_test_frames
from engine.hardware.device import device_name, pick_device, to_device
from engine.runs.checkpoint import load_model
from engine.runs.tracking import read_metrics

SETTINGS = {
    "rgb": "",
    "diff": "--input diff",
    "rgb+diff": "--input rgb+diff",
    # the plain loop: SGD and steps, without a warm-up
    "sgd1e-3": "--optimizer sgd --lr 1e-3 --weight-decay 5e-4 --schedule step --warmup-epochs 0",
    "sgd1e-2": "--optimizer sgd --lr 1e-2 --weight-decay 5e-4 --schedule step --warmup-epochs 0",
    # one thing at a time
    "smoothing": "--label-smoothing 0.1",
    "mixup": "--mixup 0.2",
    "cutmix": "--cutmix 1",
    "ema": "--ema 0.999",
    "clip": "--clip-grad 1",
    "balanced": "--class-weights balanced",
    "dropout": "--dropout 0.5",
    "zoom": "--zoom 0.6",
    "colours": "--colour-jitter 0.3",
    # and together
    "three-diff": "--input diff --colour-jitter 0.3 --label-smoothing 0.1 --clip-grad 1",
    "scratch": "--recipe scratch",
    "scratch-both": "--recipe scratch --input rgb+diff",
}


FINISHED = "training.log"  # what train.py printed, in the folder of a run that has ended
NAME_LETTERS = set(string.ascii_letters + string.digits + "+-_.")


def main(argv: Sequence[str]) -> int:
    args = parse_args(argv)
    settings = dict(map(read_setting, args.settings))
    print(f"{date.today()}, {machine(args.device)}, torch {torch.__version__}; {args.dataset}, split {args.split}")
    jobs = [
        (model, name, flags, seed)
        for seed in range(args.seeds)  # seeds outermost: an interrupted series has compared all settings so far
        for model in args.models
        for name, flags in settings.items()
    ]
    for number, (model, name, flags, seed) in enumerate(jobs, 1):
        if find_record(args, model, name, flags, seed) is None:
            print(f"[{number}/{len(jobs)}] {model} {name} seed {seed}: {flags or 'the defaults'}", flush=True)
            record = look_at(args, train_or_resume(args, model, name, flags, seed))
            write_record(args, {**key_of(args, model, name, flags, seed), **record})
            print(f"    {args.on} top-1 {record['top1']:.2f} after {duration(record['train_seconds'])}", flush=True)
    print()
    print_table(args, settings)
    return 0


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python benchmarks/recipes.py", description=__doc__.split("\n")[0])
    parser.add_argument("--dataset", required=True, help="as of train.py")
    parser.add_argument("--split", default="2", help="default: 2")
    parser.add_argument("--models", nargs="+", default=["r3d_10"], metavar="NAME", help="default: r3d_10")
    parser.add_argument(
        "--settings", nargs="+", default=["rgb", "diff", "rgb+diff"], metavar="NAME[=FLAGS]", help=", ".join(SETTINGS)
    )
    parser.add_argument(
        "--common", default="", metavar="FLAGS", help="given to every run, such as '--flip --epochs 60'"
    )
    parser.add_argument("--seeds", type=positive, default=3, help="runs of each setting: seeds 0, 1, ... (default: 3)")
    parser.add_argument(
        "--on", choices=("val", "test"), default="val", help="which videos are looked at (default: val)"
    )
    parser.add_argument("--num-clips", type=positive, default=10, help="a video, when it is looked at (default: 10)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--workers", type=positive, default=2)
    parser.add_argument("--log", type=Path, default=Path("recipes.jsonl"), help="default: recipes.jsonl")
    return parser.parse_args(argv)


def read_setting(text: str) -> tuple[str, str]:
    """rgb -> ("rgb", its flags); mine=--lr 0.1 -> ("mine", "--lr 0.1")"""
    name, equals, flags = text.partition("=")
    if not equals and name not in SETTINGS:
        raise UsageError(f"Unknown setting '{name}'. Known: {', '.join(SETTINGS)}; or give NAME=FLAGS.")
    if not name or not set(name) <= NAME_LETTERS:
        raise UsageError(f"The setting's name '{name}' goes into a folder's name: letters, digits, + - _ and . only.")
    return name, flags if equals else SETTINGS[name]


def train_or_resume(args: argparse.Namespace, model: str, name: str, flags: str, seed: int) -> Path:
    """Trains in a process of its own; returns the run's folder. A finished run is left as it is."""
    words = ["--dataset", args.dataset, "--split", args.split, "--model", model, "--seed", str(seed)]
    words += [*shlex.split(args.common), *shlex.split(flags)]
    # the same name with other flags is another run
    number = hashlib.sha1(shlex.join(words).encode()).hexdigest()[:6]
    run_dir = ROOT / mypath.RUNS / f"recipe-{model}-{name}-{seed}-{number}"
    if (run_dir / FINISHED).is_file():
        return run_dir

    if (run_dir / "last.pth").is_file():
        argv = ["--resume", run_dir.name, "--workers", str(args.workers)]
    else:
        shutil.rmtree(run_dir, ignore_errors=True)  # killed before it had anything to go on with
        argv = [*words, "--name", run_dir.name, "--device", args.device, "--workers", str(args.workers)]
    done = subprocess.run([sys.executable, str(ROOT / "train.py"), *argv], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode and not is_whole(run_dir):
        raise UserError(f"python train.py {shlex.join(argv)} ended with status {done.returncode}.")
    (run_dir / FINISHED).write_text(done.stdout, encoding="utf-8")
    return run_dir


def is_whole(run_dir: Path) -> bool:
    """All epochs are made; the script was killed before it could note so."""
    records = read_metrics(run_dir) if (run_dir / "last.pth").is_file() else []
    epochs = json.loads((run_dir / "config.json").read_text(encoding="utf-8"))["epochs"] if records else 0
    return bool(records) and records[-1]["epoch"] + 1 >= epochs


def look_at(args: argparse.Namespace, run_dir: Path) -> dict:
    """Evaluates a run's best.pth once. -> accuracies, and each video's hit with the recording that it is of."""
    device = pick_device(args.device)
    torch.backends.cudnn.allow_tf32 = False
    trained = load_model(run_dir / "best.pth")
    to_device(trained.model, device)
    frame_set = open_test_frames(trained, EvaluationOptions(), mypath.DATASETS)
    dataset = EvalDataset(frame_set, trained.input_spec, args.on, args.num_clips)
    loader = ClipLoader(dataset, 4, args.workers, device.type == "cuda")
    result = evaluate(trained.model, loader, trained.input_spec, device)

    records, config = read_metrics(run_dir), trained.checkpoint["config"]
    clips_per_epoch = records[-1]["step"] / len(records) * config["batch_size"] * config.get("accumulate", 1)
    return {
        "top1": result.top1,
        "clip_top1": result.clip_top1,
        "epochs": len(records),
        "best_epoch": trained.checkpoint["epoch"],
        "best_val_top1": records[-1].get("best/val_top1"),
        "train_top1": records[-1].get("train/top1"),
        "train_seconds": round(sum(clips_per_epoch / record["time/clips_per_second"] for record in records), 1),
        "run": run_dir.name,
        "machine": machine(args.device),
        "date": str(date.today()),
        "hits": (result.probs.argmax(1) == result.labels).astype(int).tolist(),
        "groups": [row.group for row in dataset.rows],
    }


def key_of(args: argparse.Namespace, model: str, name: str, flags: str, seed: int) -> dict:
    """What a line of the log is found by."""
    asked = {"dataset": args.dataset, "split": args.split, "on": args.on, "num_clips": args.num_clips}
    return {"model": model, "setting": name, "flags": f"{args.common} {flags}".strip(), "seed": seed, **asked}


def find_record(args: argparse.Namespace, model: str, name: str, flags: str, seed: int) -> dict | None:
    key = key_of(args, model, name, flags, seed)
    lines = args.log.read_text(encoding="utf-8").splitlines() if args.log.is_file() else []
    records = [json.loads(line) for line in lines if line.endswith("}")]  # a killed script may leave half a line
    return next((record for record in records if key.items() <= record.items()), None)


def write_record(args: argparse.Namespace, record: dict) -> None:
    before = args.log.read_text(encoding="utf-8") if args.log.is_file() else ""
    with args.log.open("a", encoding="utf-8") as file:
        file.write("\n" * (before[-1:] not in ("", "\n")) + json.dumps(record) + "\n")


def print_table(args: argparse.Namespace, settings: dict[str, str]) -> None:
    """A line a model and setting: mean and deviation over seeds; 95 % interval of that mean, recordings drawn anew; the
    same for what it has over the model's first setting."""
    wide = max(len(name) for name in [*args.models, *settings]) + 2
    columns = (("top-1", 7), ("+-", 6), ("95 % interval", 16), (f"over {next(iter(settings))}", 16))
    columns += (("95 % interval", 16), ("train", 8), ("minutes", 9))
    print(f"Video top-1 in percent, {args.on} videos, {args.num_clips} clips each, {args.seeds} seeds")
    print(f"{'model':{wide}}{'setting':{wide}}" + "".join(f"{title:>{width}}" for title, width in columns))
    for model in args.models:
        first = None
        for name, flags in settings.items():
            records = [find_record(args, model, name, flags, seed) for seed in range(args.seeds)]
            hits = np.mean([record["hits"] for record in records], axis=0)  # (V,) share of the seeds that are right
            first = hits if first is None else first
            groups = records[0]["groups"]
            mean, deviation = mean_and_deviation([record["top1"] for record in records])
            gain = f"{100 * (hits - first).mean():+.1f}" if hits is not first else ""
            train_top1 = [record["train_top1"] for record in records]
            train = "" if None in train_top1 else f"{np.mean(train_top1):.1f}"
            minutes = np.mean([record["train_seconds"] for record in records]) / 60
            print(
                f"{model:{wide}}{name:{wide}}{mean:7.1f}{deviation:6.1f}{interval(hits, groups):>16}{gain:>16}"
                f"{interval(hits - first, groups) if gain else '':>16}{train:>8}{minutes:9.1f}"
            )


def interval(values: np.ndarray, groups: Sequence[str]) -> str:
    bounds = bootstrap_interval(100 * values, groups)
    return f"{bounds[0]:.1f} to {bounds[1]:.1f}" if bounds else "none"


def machine(device: str) -> str:
    device = pick_device(device)
    return processor() if device.type == "cpu" else f"{device_name(device)}, {processor()}"


if __name__ == "__main__":
    run_cli(main)
