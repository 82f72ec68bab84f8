"""Checkpoint -> accuracy on the videos of a data set's test list.

    python evaluate.py run/r3d_18-ucf101-000
    python evaluate.py run/r3d_18-ucf101-000/best.pth --num-clips 10 --crops 3 --temporal
    torchrun --nproc-per-node=4 evaluate.py run/r3d_18-ucf101-000      each process its share, each video once

One answer a video: the softmax of N evenly spaced clips, averaged. Clip accuracy is another number and is named so.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

import mypath
from dataloaders.dataset import FRAME_ORDERS, EvalDataset, FrameSet, open_frames
from dataloaders.loader import ClipLoader
from dataloaders.plan import EvalPlan
from dataloaders.preprocess import num_processors
from dataloaders.ready import ensure_frames
from dataloaders.source import find_source
from dataloaders.splits import SPLITS
from dataloaders.transforms import to_model_input
from engine.arguments import positive
from engine.checkpoint import TrainedModel, find_checkpoint, load_model
from engine.console import count, progress
from engine.device import autocast, pick_device, place
from engine.distributed import gather, in_turn, joined
from engine.errors import ROOT, UserError, run_cli
from engine.launch import is_first, processes, rank
from engine.metrics import topk_correct
from engine.runs import shown, write_whole
from engine.tracking import Tracker
from network import InputSpec


@dataclass(frozen=True)
class Evaluation:
    """Accuracies in percent, and what they were computed from.

    top1, top5   of videos: softmax averaged over a video's clips; top5 is top-min(5, classes)
    clip_top1    of single clips
    loss         mean cross-entropy of clips
    probs        (V, K) float64, a row a video       labels  (V,) class ids
    """

    top1: float
    top5: float
    clip_top1: float
    loss: float
    probs: np.ndarray
    labels: np.ndarray

    def to_dict(self) -> dict:
        return {
            "top1": self.top1,
            "top5": self.top5,
            "clip_top1": self.clip_top1,
            "loss": self.loss,
            "num_videos": len(self.labels),
        }


def evaluate(
    model: nn.Module,
    loader: ClipLoader,
    spec: InputSpec,
    device: torch.device,
    amp: torch.dtype | None = None,
    clips_at_once: int = 32,
    stop: Callable[[], bool] = lambda: False,
    what: str = "Evaluating",
) -> Evaluation | None:
    """Runs every video of an EvalDataset through the network. None if `stop` says so between two batches.

    Where several processes work together, each runs its loader's share, and all return the whole. The network is left
    in the mode it was in. Nothing is drawn at random, so the same weights give the same numbers.
    """
    was_training = model.training
    model.eval()
    rows, stopped = [], False  # a row a batch: positions (B,), probs (B, K), labels (B,), clip hits, clip losses (B, N)
    try:
        for clips, labels, positions in progress(loader, len(loader), what, "batches"):
            if stop():
                stopped = True
                break
            num_videos, num_clips = clips.shape[:2]
            clips = clips.flatten(0, 1)  # (B * N, T, S, S, 3)
            parts = []
            for part in clips.split(clips_at_once):
                with torch.inference_mode(), autocast(device, amp):
                    parts.append(model(to_model_input(part.to(device, non_blocking=True), spec)))
            logits = torch.cat(parts).float().cpu()  # (B * N, K)
            clip_labels = labels.repeat_interleave(num_clips)
            hits = topk_correct(logits, clip_labels).view(num_videos, num_clips)
            losses = F.cross_entropy(logits, clip_labels, reduction="none").view(num_videos, num_clips)
            probs = logits.double().softmax(1).view(num_videos, num_clips, -1).mean(1)  # (B, K)
            rows.append((positions, probs, labels, hits, losses))
    finally:
        model.train(was_training)

    shares = gather(None if stopped else rows)
    if any(share is None for share in shares):
        return None
    columns = zip(*[row for share in shares for row in share], strict=True)
    positions, probs, labels, clip_hits, clip_losses = (torch.cat(column) for column in columns)
    order = positions.argsort()
    assert torch.equal(positions[order], torch.arange(len(loader.dataset))), "each video once"
    probs, labels = probs[order], labels[order]
    return Evaluation(
        top1=100 * topk_correct(probs, labels).double().mean().item(),
        top5=100 * topk_correct(probs, labels, 5).double().mean().item(),
        clip_top1=100 * clip_hits.double().mean().item(),
        loss=clip_losses[order].double().mean().item(),
        probs=probs.numpy(),
        labels=labels.numpy(),
    )


def main(argv: Sequence[str]) -> list[dict[str, Evaluation]]:
    """Evaluates each checkpoint; returns {order of the frames: Evaluation} for each."""
    args = parse_args(argv)
    torch.backends.cudnn.allow_tf32 = False  # full float32, so that the batch size changes nothing beyond 1e-5
    with joined(args.device):
        return evaluate_all(args, pick_device(args.device))


def evaluate_all(args: argparse.Namespace, device: torch.device) -> list[dict[str, Evaluation]]:
    evaluations = []
    for path in [find_checkpoint(run, ROOT / mypath.RUNS) for run in args.checkpoints]:
        trained = load_model(path)
        place(trained.model, device)
        frame_set = open_test_frames(trained, args.dataset, args.frames, args.split, args.on)
        evaluations.append(evaluate_checkpoint(path, trained, frame_set, args, device))
    return evaluations


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python evaluate.py", description=__doc__.split("\n")[0])
    parser.add_argument("checkpoints", nargs="+", metavar="RUN|CHECKPOINT", help="a run's folder or .pth file")
    parser.add_argument("--dataset", help="another data set than the run's, with the same classes")
    parser.add_argument("--frames", help="folder of the extracted frames, where it is not the usual one")
    parser.add_argument("--split", choices=SPLITS, help="another split than the run's")
    parser.add_argument("--on", choices=("test", "val"), default="test", help="which videos (default: test)")
    parser.add_argument("--num-clips", type=positive, default=10, help="evenly spaced clips a video (default: 10)")
    parser.add_argument("--crops", type=int, choices=(1, 3), default=1, help="1, the centre, or 3 (default: 1)")
    parser.add_argument("--temporal", action="store_true", help="also with frames shuffled, reversed and frozen")
    parser.add_argument("--batch-size", type=positive, default=32, help="clips at once (default: 32)")
    parser.add_argument("--workers", type=positive, default=min(num_processors(), 8), help="threads that read clips")
    parser.add_argument("--device", default="auto", help="cuda, mps, cpu (default: the best there is)")
    return parser.parse_args(argv)


def open_test_frames(
    trained: TrainedModel, dataset: str | None, frames: str | None, split: str | None, part: str = "test"
) -> FrameSet:
    """The frames that a checkpoint is to be evaluated on: its own data set and split where nothing else is said.

    Raises UserError where classes differ, and where the videos of `part` are of recordings that the checkpoint has
    seen in training (for the test list: or in validation).
    """
    config, seen = trained.checkpoint["config"], trained.checkpoint.get("split") or {}
    if not (dataset or config.get("dataset")):
        raise UserError("This checkpoint does not say which data set it was trained on. Name one: --dataset")
    frames = frames or (config.get("frames") if dataset is None else None)
    source = find_source(dataset or config["dataset"], mypath.DATASETS, ROOT, frames)
    own = dataset is None and split in (None, config.get("split"))
    split, val = (config["split"], config["val"]) if own else (split, "auto")
    with in_turn():
        ensure_frames(source, trained.input_spec.resize, split)
    frame_set = open_frames(source, trained.input_spec, split, val)
    if frame_set.classes != trained.classes:
        raise UserError(_other_classes(trained.classes, frame_set))

    if not seen.get("training_groups"):
        print("Note: the checkpoint does not say which videos it was trained on, so an overlap cannot be noticed.")
    # names of recordings mean the same in another folder only where the data set gives them out, as UCF101 does
    if dataset is None or source.layout in ("ucf101", "hmdb51"):
        groups = set(seen.get("seen_groups", [])) if part == "test" else set()  # by the weights that it began with
        if frame_set.split.hash != seen.get("hash"):
            groups |= set(seen.get("training_groups", []))
            groups |= set(seen.get("validation_groups", [])) if part == "test" else set()
        shared = sorted(groups & {row.group for row in frame_set.part(part)})
        if shared:
            raise UserError(
                f"This checkpoint has seen {len(shared)} of the recordings that split {frame_set.split.name} has for "
                f"{part} (first: {shared[0]}), so its accuracy there would mean nothing. Evaluate it on the split it "
                f"was trained for, {seen.get('name')}, with the videos it had then."
            )
    return frame_set


def _other_classes(classes: list[str], frame_set: FrameSet) -> str:
    if len(classes) != len(frame_set.classes):
        return (
            f"The checkpoint knows {count(len(classes), 'class')} ({classes[0]}, ...), and {frame_set.source.name} has "
            f"{len(frame_set.classes)} ({frame_set.classes[0]}, ...). Evaluate it on the data set it was trained on."
        )
    place = next(i for i, pair in enumerate(zip(classes, frame_set.classes, strict=True)) if pair[0] != pair[1])
    return (
        f"Class {place} of the checkpoint is '{classes[place]}', and that of {frame_set.source.name} is "
        f"'{frame_set.classes[place]}'. Evaluate it on the data set it was trained on."
    )


def evaluate_checkpoint(
    path: Path, trained: TrainedModel, frame_set: FrameSet, args: argparse.Namespace, device: torch.device
) -> dict[str, Evaluation]:
    """Evaluates, prints, and leaves test.json and test/... tags in the run's folder. -> {frame order: Evaluation}"""
    results = {}
    for order in FRAME_ORDERS if args.temporal else FRAME_ORDERS[:1]:
        dataset = EvalDataset(frame_set, trained.input_spec, args.on, args.num_clips, args.crops, order)
        if not len(dataset):
            raise UserError(f"Split {frame_set.split.name} of {frame_set.source.name} has no {args.on} videos.")
        views = args.num_clips * args.crops
        plan = EvalPlan(len(dataset), max(args.batch_size // views, 1), rank(), processes())
        loader = ClipLoader(dataset, plan.batch_size, args.workers, device.type == "cuda", plan)
        results[order] = evaluate(
            trained.model, loader, trained.input_spec, device, clips_at_once=args.batch_size, what=f"Evaluating {order}"
        )

    normal = results["normal"]
    print(
        f"{shown(path)} ({trained.name}) on {frame_set.source.name}, split {frame_set.split.name}, {args.on}: "
        f"{count(len(normal.labels), 'video')}, {count(args.num_clips, 'clip')} x {count(args.crops, 'crop')}"
    )
    k = min(5, len(trained.classes))
    print(
        f"  video top-1  {normal.top1:6.2f}\n"
        f"  video top-{k}  {normal.top5:6.2f}\n"
        f"  clip top-1   {normal.clip_top1:6.2f}"
    )
    if args.temporal:
        print("  video top-1 by order of the frames:")
        for order, result in results.items():
            print(f"    {order:10} {result.top1:6.2f}")
    if args.on == "test" and is_first():
        _record(path, trained, frame_set, args, results)
    return results


def _record(
    path: Path,
    trained: TrainedModel,
    frame_set: FrameSet,
    args: argparse.Namespace,
    results: dict[str, Evaluation],
) -> None:
    """test.json beside the checkpoint of a run, and the tags test/... once for each state of the run."""
    run_dir = path.parent
    own = frame_set.split.hash == (trained.checkpoint.get("split") or {}).get("hash")
    if not own or not (run_dir / "config.json").is_file():
        return
    normal, step = results["normal"], trained.checkpoint.get("step", 0)
    record = {
        "checkpoint": path.name,
        "step": step,
        "dataset": frame_set.source.name,
        "split": frame_set.split.name,
        "num_clips": args.num_clips,
        "crops": args.crops,
        **normal.to_dict(),
    }
    if args.temporal:
        record["temporal"] = {order: result.top1 for order, result in results.items()}
    file = run_dir / "test.json"
    logged = file.is_file() and f'"step": {step},' in file.read_text(encoding="utf-8", errors="replace")
    write_whole(file, json.dumps(record, indent=2) + "\n")
    if not logged:
        tracker = Tracker(run_dir)
        tags = {"test/top1": normal.top1, "test/top5": normal.top5, "test/clip_top1": normal.clip_top1}
        tracker.scalars(tags, step)
        tracker.close()


if __name__ == "__main__":
    run_cli(main)
