"""Trains a network on a data set: one loop for every model.

    python train.py --dataset demo --model r3d_10
    python train.py --dataset my/videos --model r2plus1d_18 --weights kinetics400
    python train.py --resume r3d_10-demo-000

Writes run/<model>-<dataset>-NNN: config.json, TensorBoard events, metrics.jsonl, last.pth (to go on with) and best.pth
(the epoch with the best validation accuracy).
"""

import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F
from tqdm import tqdm

import mypath
from dataloaders import build_loaders
from dataloaders.dataset import FrameSet, open_frames
from dataloaders.loader import ClipLoader
from dataloaders.preprocess import ensure_frames, num_processors
from dataloaders.source import DataSource, find_source, with_frames
from dataloaders.splits import leaking_groups
from dataloaders.transforms import to_model_input
from engine.checkpoint import (
    config_of,
    find_checkpoint,
    load_checkpoint,
    random_state,
    restore_random_state,
    save_checkpoint,
    versions,
)
from engine.config import TrainConfig, parse_config
from engine.console import count, duration
from engine.device import autocast, cudnn_warning, device_name, pick_amp, pick_device
from engine.errors import ROOT, Stopped, UserError, run_cli
from engine.metrics import Mean, topk_correct
from engine.optim import Schedule, build_optimizer
from engine.runs import create_run_dir, shown
from engine.tracking import Tracker
from evaluate import Evaluation, evaluate
from network import InputSpec, create_model, input_spec, model_entry
from network.weights import load_into, read_weights

LOG_EVERY = 20  # steps between two looks at the device's numbers


def cli(argv: Sequence[str]) -> None:
    main(parse_config(argv, mypath.DEFAULT_DATASET, mypath.DEFAULT_MODEL))


def main(config: TrainConfig) -> Path:
    """Trains as the configuration says; returns the run's folder."""
    run = resume_run(config) if config.resume else begin_run(config)
    with StopRequest() as stop:
        fit(run, stop)
    print(f"Done in {duration(time.monotonic() - run.start)}: {shown(run.run_dir)}{_best(run.progress)}")
    print(f"Test it:    python evaluate.py {shown(run.run_dir)}")
    print(f"Look at it: tensorboard --logdir {shown(run.run_dir.parent)}")
    return run.run_dir


@dataclass
class Progress:
    """Where a run stands. step counts optimiser steps from the beginning; epochs are those trained and validated."""

    epoch: int = 0
    step: int = 0
    best_top1: float | None = None
    best_loss: float | None = None
    bad_step: torch.Tensor | None = None  # on the device: first step with a loss that is no number, else -1
    loss: Mean = field(default_factory=Mean)
    top1: Mean = field(default_factory=Mean)


@dataclass
class Run:
    """All that a run needs, made by begin_run or resume_run."""

    config: TrainConfig
    run_dir: Path
    device: torch.device
    amp: torch.dtype | None
    spec: InputSpec
    frame_set: FrameSet
    train_loader: ClipLoader
    val_loader: ClipLoader | None
    model: nn.Module
    forward: Callable[[torch.Tensor], torch.Tensor]  # the model, compiled where that was asked for
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    scaler: torch.amp.GradScaler
    tracker: Tracker
    pretrained: bool
    progress: Progress
    start: float


def begin_run(config: TrainConfig) -> Run:
    """Everything is checked before the run's folder is made, so that a mistake leaves nothing behind."""
    device = pick_device(config.device)
    amp = pick_amp(config.amp, device)
    spec = input_spec(config.model)
    source = with_frames(find_source(config.dataset, mypath.DATASETS, ROOT), config.frames)
    weights = read_weights(config.weights, config.model) if config.weights else None
    spec = config.adapt(weights.input_spec if weights and weights.input_spec else spec)

    ensure_frames(source, spec.resize, config.split)
    frame_set = open_frames(source, spec, config.split, config.val)
    check_parts(frame_set, config)
    config = replace(
        config,
        dataset=config.dataset if config.dataset in mypath.DATASETS else str(source.videos),
        frames=str(source.frames) if config.frames else None,
    ).resolved(spec, pick_flip(config, source), frame_set.split.name, min(num_processors(), 8))

    torch.manual_seed(config.seed)
    model = create_model(config.model, len(frame_set.classes))
    if weights:
        print(load_into(model, weights, frame_set.classes).table())
    run_dir = create_run_dir(ROOT / mypath.RUNS, f"{config.model}-{source.name}", config.name)
    config.save(run_dir / "config.json")
    run = build_run(config, run_dir, device, amp, spec, frame_set, model, weights is not None, Progress())
    describe(run)
    run.tracker.hparams(run.config.to_dict())
    return run


def resume_run(given: TrainConfig) -> Run:
    """A run as its last.pth left it; --epochs, --workers and --device may be others."""
    path = find_checkpoint(given.resume, ROOT / mypath.RUNS, "last.pth")
    checkpoint = load_checkpoint(path)
    if "optimizer" not in checkpoint:
        raise UserError(f"{path} holds weights only. A run is resumed from its last.pth: --resume {path.parent}")
    config = config_of(checkpoint)
    config = replace(
        config,
        epochs=given.epochs or config.epochs,
        workers=config.workers if given.workers is None else given.workers,
        device=config.device if given.device == "auto" else given.device,
    )
    if checkpoint["epoch"] >= config.epochs:
        raise UserError(
            f"{path.parent} has done all its {count(config.epochs, 'epoch')}. To go on, give more: --epochs"
        )

    device = pick_device(config.device)
    spec = InputSpec.from_dict(checkpoint["input_spec"])
    source = with_frames(find_source(config.dataset, mypath.DATASETS, ROOT), config.frames)
    ensure_frames(source, spec.resize, config.split)
    frame_set = open_frames(source, spec, config.split, config.val)
    if frame_set.split.hash != checkpoint["split"]["hash"] or frame_set.classes != checkpoint["classes"]:
        raise UserError(
            f"The videos of '{source.name}' or their division are not those this run began with, so it cannot go on "
            "where it was. Begin a new run; --weights takes this one's best.pth."
        )

    model = create_model(config.model, len(frame_set.classes))
    model.load_state_dict(checkpoint["model"])
    progress = Progress(checkpoint["epoch"], checkpoint["step"], checkpoint["best_top1"], checkpoint["best_loss"])
    amp = pick_amp(config.amp, device)
    pretrained = checkpoint["pretrained"]
    run = build_run(config, path.parent, device, amp, spec, frame_set, model, pretrained, progress)
    run.optimizer.load_state_dict(checkpoint["optimizer"])  # after the model has moved: its state goes along
    run.scaler.load_state_dict(checkpoint["scaler"])
    run.progress.loss.load(checkpoint["means"]["loss"])
    run.progress.top1.load(checkpoint["means"]["top1"])
    restore_random_state(checkpoint["random"])
    run.tracker.drop_epochs(run.progress.epoch)
    config.save(run.run_dir / "config.json")
    describe(run)
    print(f"Going on after {count(progress.epoch, 'epoch')} and {count(progress.step, 'step')}.")
    return run


def build_run(
    config: TrainConfig,
    run_dir: Path,
    device: torch.device,
    amp: torch.dtype | None,
    spec: InputSpec,
    frame_set: FrameSet,
    model: nn.Module,
    pretrained: bool,
    progress: Progress,
) -> Run:
    model.to(device, memory_format=torch.channels_last_3d)
    torch.backends.cudnn.benchmark = True
    train_loader, val_loader = build_loaders(
        frame_set,
        spec,
        batch_size=config.batch_size,
        val_clips=config.val_clips,
        flip=config.flip,
        seed=config.seed,
        num_workers=config.workers,
        pin_memory=device.type == "cuda",
    )
    progress.loss, progress.top1 = Mean(device), Mean(device)
    progress.bad_step = torch.full((), -1, device=device)
    return Run(
        config=config,
        run_dir=run_dir,
        device=device,
        amp=amp,
        spec=spec,
        frame_set=frame_set,
        train_loader=train_loader,
        val_loader=val_loader,
        model=model,
        forward=torch.compile(model) if config.compile else model,
        optimizer=build_optimizer(model, config, pretrained),
        schedule=Schedule(config, len(train_loader)),
        scaler=torch.amp.GradScaler(device.type, enabled=amp == torch.float16),
        tracker=Tracker(run_dir, first_step=progress.step + 1 if progress.step else 0),
        pretrained=pretrained,
        progress=progress,
        start=time.monotonic(),
    )


def fit(run: Run, stop: "StopRequest") -> None:
    """Epochs of training and validation; last.pth after each, best.pth where validation says so."""
    progress = run.progress
    try:
        while progress.epoch < run.config.epochs:
            epoch_start = time.monotonic()
            clips_per_second, data_wait = train_one_epoch(run, stop)
            validation = None
            if run.val_loader is not None and not stop.signum:
                validation = evaluate(
                    run.model, run.val_loader, run.spec, run.device, run.amp, run.config.batch_size, stop, "Validating"
                )
            if stop.signum:
                save_last(run)
                raise Stopped(
                    stop.signum,
                    f"Stopped by {signal.Signals(stop.signum).name} after step {progress.step}. "
                    f"To go on: python train.py --resume {shown(run.run_dir)}",
                )
            finish_epoch(run, validation, clips_per_second, data_wait, time.monotonic() - epoch_start)
    finally:
        run.tracker.close()


def train_one_epoch(run: Run, stop: "StopRequest") -> tuple[float, float]:
    """The rest of the epoch that the run is in; returns clips a second, and the share of the time spent waiting for
    data. The step itself never waits for the device."""
    progress, config = run.progress, run.config
    first = progress.step - progress.epoch * len(run.train_loader)
    run.model.train()
    num_clips, waited, start = 0, 0.0, time.monotonic()
    batches = run.train_loader.batches(progress.epoch, first)
    with epoch_bar(run, first) as bar:
        while not stop.signum:
            asked = time.monotonic()
            batch = next(batches, None)
            waited += time.monotonic() - asked
            if batch is None:
                break
            clips, labels, mirrored = (part.to(run.device, non_blocking=True) for part in batch)
            x = to_model_input(clips, run.spec, mirrored.bool() if config.flip else None)  # (B, 3, T, S, S)
            if progress.step == 0:
                run.tracker.clips(x, run.spec, 0)

            lr = run.schedule.set_lr(run.optimizer, progress.step)
            run.optimizer.zero_grad(set_to_none=True)
            with autocast(run.device, run.amp):
                logits = run.forward(x)  # (B, K)
                losses = F.cross_entropy(logits, labels, reduction="none")  # (B,)
            loss = losses.mean()
            run.scaler.scale(loss).backward()
            run.scaler.step(run.optimizer)
            run.scaler.update()

            progress.loss.add(losses)
            progress.top1.add(100 * topk_correct(logits, labels))
            note_bad_loss(progress, loss)
            progress.step += 1
            num_clips += len(labels)
            bar.update()
            if progress.step % LOG_EVERY == 0:
                check_loss(run, lr)
                run.tracker.scalars({"train/loss": loss.item(), "train/lr": lr}, progress.step)
    batches.close()
    check_loss(run, run.schedule.factor(max(progress.step - 1, 0)) * config.lr)
    seconds = time.monotonic() - start
    return num_clips / seconds, waited / seconds


def finish_epoch(
    run: Run, validation: Evaluation | None, clips_per_second: float, data_wait: float, seconds: float
) -> None:
    """Counts the epoch, logs it, and writes last.pth and perhaps best.pth."""
    progress = run.progress
    progress.epoch += 1
    train_loss, train_top1 = progress.loss.value(), progress.top1.value()
    better = validation is None or _is_better(validation, progress)
    if better and validation is not None:
        progress.best_top1, progress.best_loss = validation.top1, validation.loss
    progress.loss, progress.top1 = Mean(run.device), Mean(run.device)
    save_last(run)
    if better:
        save_checkpoint(run.run_dir / "best.pth", checkpoint_content(run, for_resume=False))

    scalars = {
        "train/top1": train_top1,
        "time/clips_per_second": clips_per_second,
        "time/data_wait": data_wait,
    }
    if len(run.train_loader) < LOG_EVERY:
        scalars["train/loss"] = train_loss
        scalars["train/lr"] = run.schedule.factor(progress.step - 1) * run.config.lr
    if validation is not None:
        scalars |= {
            "val/loss": validation.loss,
            "val/top1": validation.top1,
            "val/top5": validation.top5,
            "val/clip_top1": validation.clip_top1,
            "best/val_top1": progress.best_top1,
        }
    run.tracker.scalars(scalars, progress.step)
    run.tracker.epoch({"epoch": progress.epoch - 1, "step": progress.step, **scalars, "train/loss": train_loss})
    run.tracker.flush()

    val = f"val top1 {validation.top1:5.1f} (best {progress.best_top1:5.1f})" if validation else "no validation"
    left = seconds * (run.config.epochs - progress.epoch)
    print(
        f"epoch {progress.epoch:3}/{run.config.epochs}  loss {train_loss:6.3f}  top1 {train_top1:5.1f}  {val}  "
        f"{clips_per_second:6.1f} clips/s  data wait {100 * data_wait:2.0f} %  left {duration(left)}",
        flush=True,
    )


def _is_better(validation: Evaluation, progress: Progress) -> bool:
    """Higher video top-1; at equal top-1, which small validation lists often give, the lower loss."""
    if progress.best_top1 is None:
        return True
    return (validation.top1, -validation.loss) > (progress.best_top1, -progress.best_loss)


def note_bad_loss(progress: Progress, loss: torch.Tensor) -> None:
    """Keeps the first step whose loss is no finite number, on the device, without waiting for it."""
    bad = ~torch.isfinite(loss.detach()) & (progress.bad_step < 0)
    progress.bad_step = torch.where(bad, progress.step, progress.bad_step)


def check_loss(run: Run, lr: float) -> None:
    """Ends the run where the loss has become nan or infinite, before any checkpoint holds the spoilt weights."""
    bad_step = int(run.progress.bad_step.item())
    if bad_step < 0:
        return
    advice = f"Try a lower rate (--lr {run.config.lr / 10:g})"
    if run.amp == torch.float16:
        advice += ", --amp bf16"
    if not any(isinstance(module, nn.modules.batchnorm._NormBase) for module in run.model.modules()):
        advice += ", or a model with normalisation layers (c3d_bn)"
    kept = f" {shown(run.run_dir / 'last.pth')} holds the epoch before." if run.progress.epoch else ""
    raise UserError(
        f"The loss is not a number any more, from step {bad_step} on (learning rate {lr:g}). {advice}.{kept}"
    )


def save_last(run: Run) -> None:
    save_checkpoint(run.run_dir / "last.pth", checkpoint_content(run, for_resume=True))


def checkpoint_content(run: Run, for_resume: bool) -> dict:
    """Plain values and tensors: enough to predict; with for_resume, to go on to the same weights as without a stop."""
    progress, split = run.progress, run.frame_set.split
    training_groups = {row.group for part in ("train", "val") for row in run.frame_set.part(part)}
    content = {
        "model": run.model.state_dict(),
        "ema": None,
        "epoch": progress.epoch,
        "step": progress.step,
        "best_top1": progress.best_top1,
        "best_loss": progress.best_loss,
        "config": run.config.to_dict(),
        "input_spec": run.spec.to_dict(),
        "classes": run.frame_set.classes,
        "split": {"name": split.name, "hash": split.hash, "training_groups": sorted(training_groups)},
        "pretrained": run.pretrained,
        "versions": versions(),
    }
    if for_resume:
        content |= {
            "optimizer": run.optimizer.state_dict(),
            "scheduler": run.schedule.state_dict(progress.step),
            "scaler": run.scaler.state_dict(),
            "means": {"loss": progress.loss.state(), "top1": progress.top1.state()},
            "random": random_state(),
        }
    return content


class StopRequest:
    """Ctrl-C and SIGTERM ask the run to end after the running step; a second Ctrl-C ends it at once."""

    def __init__(self) -> None:
        self.signum = 0

    def __call__(self) -> bool:
        return bool(self.signum)

    def __enter__(self) -> "StopRequest":
        self.before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _note(self, signum: int, _: object) -> None:
        if self.signum:
            raise KeyboardInterrupt
        self.signum = signum
        print("\nEnding after this step; once more ends at once.", file=sys.stderr)


def check_parts(frame_set: FrameSet, config: TrainConfig) -> None:
    """Says what the split left over, and refuses one that leaves nothing to train on."""
    for note in frame_set.split.notes:
        print(f"Note: {note}")
    if not frame_set.part("train"):
        raise UserError(f"Split {frame_set.split.name} of {frame_set.source.name} has no training videos.")
    if len(frame_set.classes) < 2:
        raise UserError(f"{frame_set.source.name} has only the class '{frame_set.classes[0]}'. It takes two to learn.")
    untrained = sorted(set(frame_set.classes) - {row.label for row in frame_set.part("train")})
    if untrained:
        print(f"WARNING: no training video in {count(len(untrained), 'class')}: {', '.join(untrained[:5])}")
    leaking = leaking_groups(frame_set.split, frame_set.rows)
    if leaking:
        print(
            f"WARNING: {count(len(leaking), 'recording')} with videos both in training and in test (first: "
            f"{leaking[0]}): the test accuracy will be too good."
        )


def pick_flip(config: TrainConfig, source: DataSource) -> bool:
    if config.flip is not None:
        return config.flip
    if source.flip is None:
        print("Clips are not mirrored. If a mirrored video shows the same action here, add --flip.")
    return bool(source.flip)


def describe(run: Run) -> None:
    """What is about to be trained, on what, where."""
    config, spec, frame_set = run.config, run.spec, run.frame_set
    videos = {part: len(frame_set.part(part)) for part in ("train", "val", "test", "unused")}
    parts = ", ".join(f"{number:,} {part}" for part, number in videos.items() if number)
    rate = f"{spec.fps:g} frames/s" if spec.fps else f"every {spec.frame_stride}. frame"
    values = sum(parameter.numel() for parameter in run.model.parameters())
    print(f"Model    {config.model}, {values / 1e6:.1f} M parameters, {count(len(frame_set.classes), 'class')}")
    print(f"Data     {frame_set.source.name}, split {frame_set.split.name}: {parts} videos")
    print(
        f"Clips    {spec.clip_len} frames, {rate}, {spec.crop_size}x{spec.crop_size} of "
        f"{spec.resize[0]}x{spec.resize[1]}, {'mirrored at random' if config.flip else 'not mirrored'}"
    )
    print(
        f"Training {count(config.epochs, 'epoch')}, {config.optimizer} {config.lr:g}, batches of {config.batch_size}, "
        f"on {device_name(run.device)}, {str(run.amp or torch.float32).removeprefix('torch.')}"
    )
    print(f"Run      {shown(run.run_dir)}")
    advice = model_entry(config.model).defaults.from_scratch
    if advice and not run.pretrained:
        print(f"Note: {advice}")
    if run.amp and cudnn_warning():
        print(cudnn_warning())


def epoch_bar(run: Run, first: int) -> tqdm:
    return tqdm(
        total=len(run.train_loader),
        initial=first,
        desc=f"epoch {run.progress.epoch + 1}/{run.config.epochs}",
        unit=" steps",
        dynamic_ncols=True,
        leave=False,
        disable=not sys.stderr.isatty(),
    )


def _best(progress: Progress) -> str:
    return "" if progress.best_top1 is None else f", best validation video top-1 {progress.best_top1:.2f} %"


if __name__ == "__main__":
    run_cli(cli)
