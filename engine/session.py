"""A training run from its configuration or its checkpoint: everything the loop needs, in one place."""

import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
import torch.nn as nn

from dataloaders import build_loaders
from dataloaders.augment import Augment
from dataloaders.dataset import FrameSet, TrainDataset, check_cache_memory, open_frames
from dataloaders.extractor import num_processors
from dataloaders.findings import leak_warning
from dataloaders.loader import ClipLoader
from dataloaders.ready import ensure_frames
from dataloaders.source import DataSource, find_source
from engine.checkpoint import (
    fill,
    find_checkpoint,
    load_checkpoint,
    random_state,
    restore_random_state,
    spec_of,
    versions,
)
from engine.config import TrainConfig
from engine.console import count
from engine.device import (
    autocast,
    check_compiler,
    compile_model,
    cudnn_version,
    cudnn_warning,
    device_name,
    pick_amp,
    pick_device,
    place,
)
from engine.ema import WeightAverage
from engine.errors import ROOT, UserError
from engine.metrics import Mean
from engine.mixing import Mixing
from engine.optim import Schedule, balance, build_optimizer
from engine.precision import keep_wrong_layers_in_float32
from engine.runs import create_run_dir, shown
from engine.tracking import Tracker
from network import InputSpec, create_model, freeze, input_spec, model_entry
from network.importers import LoadedWeights
from network.weights import load_into, read_weights

BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
SEEN = {"rgb": "frames", "diff": "differences of frames", "rgb+diff": "frames with their differences"}
PARTS = (("training", "train"), ("validation", "val"))  # whose recordings a checkpoint has seen


@dataclass
class Progress:
    """Where a run stands. step counts optimiser steps from the beginning; epochs are those trained and validated."""

    epoch: int = 0
    step: int = 0
    best_top1: float | None = None
    best_loss: float | None = None
    best_epoch: int = 0  # counted from 1; 0: none yet
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
    augment: Augment
    mixing: Mixing
    class_weights: torch.Tensor | None  # (K,) on the device
    average: WeightAverage | None
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    scaler: torch.amp.GradScaler
    tracker: Tracker
    new: list[str]  # parameters that the weights to begin with did not bring
    seen: list[str]  # recordings that the weights to begin with were trained on
    progress: Progress
    start: float


def begin_run(config: TrainConfig, datasets: dict[str, dict], runs: Path) -> Run:
    """Everything is checked before the run's folder is made, so that a mistake leaves nothing behind."""
    device = pick_device(config.device)
    amp = pick_amp(config.amp, device)
    spec = input_spec(config.model)
    source = find_source(config.dataset, datasets, ROOT, config.frames)
    weights = read_weights(config.weights, config.model) if config.weights else None
    spec = config.adapt(weights.input_spec if weights and weights.input_spec else spec)

    ensure_frames(source, spec.resize, config.split)
    frame_set = open_frames(source, spec, config.split, config.val)
    check_parts(frame_set, spec)
    warn_of_leaks(frame_set, config)
    if config.early_stopping and not frame_set.part("val"):
        raise UserError(f"--early-stopping goes by the validation, and {source.name} has no validation videos.")
    if config.cache == "ram":
        check_cache_memory(frame_set, spec)
    config = replace(
        config,
        dataset=config.dataset if config.dataset in datasets else source.address,
        frames=str(source.frames) if config.frames else None,
    ).resolved(spec, pick_flip(config, source), frame_set.split.name, min(num_processors(), 8))

    torch.manual_seed(config.seed)
    options = (weights.options if weights else {}) | config.build_options()
    if spec.channels != options.get("in_channels", 3):
        options["in_channels"] = spec.channels
    model = create_model(config.model, len(frame_set.classes), **options)
    new, seen = [], []
    if weights:
        seen = seen_recordings(weights, config.dataset, frame_set)
        report = load_into(model, weights, frame_set.classes)
        print(report.table())
        new = list(report.reinitialised)
        refuse_frozen_chance(freeze(model, config.freeze), new, weights.origin)
        if report.widened and config.freeze != "none":
            raise UserError(
                f"--freeze would keep the first layer blind to half of its input: {report.widened} Train without "
                "--freeze, or with another --input."
            )
        saw = weights.input_spec.input if weights.input_spec else "rgb"
        if spec.input != saw and not report.widened:
            print(f"Note: the weights saw {SEEN[saw]}; from here on the network sees {SEEN[spec.input]}.")
    try_out(place(model, device, amp), spec, device, amp)
    if config.compile:
        check_compiler(device)
    run_dir = create_run_dir(runs, f"{config.model}-{source.name}", config.name)
    config.save(run_dir / "config.json")
    run = build_run(config, run_dir, device, amp, spec, frame_set, model, new, seen, Progress())
    describe(run)
    run.tracker.hparams(run.config.to_dict())
    return run


def resume_run(given: TrainConfig, datasets: dict[str, dict], runs: Path) -> Run:
    """A run as its last.pth left it; --epochs, --workers, --cache and --device may be others."""
    path = find_checkpoint(given.resume, runs, "last.pth")
    checkpoint = load_checkpoint(path, for_resume=True)
    config = TrainConfig.from_dict(checkpoint["config"])
    config = replace(
        config,
        epochs=given.epochs or config.epochs,
        workers=config.workers if given.workers is None else given.workers,
        cache=given.cache or config.cache,
        device=config.device if given.device == "auto" else given.device,
    )
    if checkpoint["epoch"] >= config.epochs:
        raise UserError(
            f"{path.parent} has done all its {count(config.epochs, 'epoch')}. To go on, give more: --epochs"
        )

    device = pick_device(config.device)
    if config.compile:
        check_compiler(device)
    spec = spec_of(path, checkpoint)
    source = find_source(config.dataset, datasets, ROOT, config.frames)
    ensure_frames(source, spec.resize, config.split)
    frame_set = open_frames(source, spec, config.split, config.val)
    if frame_set.split.hash != checkpoint["split"]["hash"] or frame_set.classes != checkpoint["classes"]:
        raise UserError(
            f"The videos of '{source.name}' or their division are not those this run began with, so it cannot go on "
            "where it was. Begin a new run; --weights takes this one's best.pth."
        )

    if config.cache == "ram":
        check_cache_memory(frame_set, spec)
    model = create_model(config.model, len(frame_set.classes), **checkpoint.get("model_options", {}))
    fill(model, checkpoint["model"], path)
    best_epoch = checkpoint.get("best_epoch", checkpoint["epoch"])
    best = checkpoint["best_top1"], checkpoint["best_loss"], best_epoch
    progress = Progress(checkpoint["epoch"], checkpoint["step"], *best)
    if out_of_patience(config, progress):
        if not given.epochs:
            raise UserError(
                f"{path.parent} stopped early, {count(config.early_stopping, 'epoch')} after its best one. To go on "
                f"all the same, say how far: --epochs {config.epochs}"
            )
        progress.best_epoch = progress.epoch  # patience begins anew
    amp = pick_amp(config.amp, device)
    new, seen = checkpoint["new_parameters"], checkpoint["split"].get("seen_groups", [])
    run = build_run(config, path.parent, device, amp, spec, frame_set, model, new, seen, progress)
    run.optimizer.load_state_dict(checkpoint["optimizer"])  # after the model has moved: its state goes along
    run.scaler.load_state_dict(checkpoint["scaler"])
    if run.average is not None:
        run.average.load(checkpoint["ema"])
    run.progress.loss.load(checkpoint["means"]["loss"])
    run.progress.top1.load(checkpoint["means"]["top1"])
    restore_random_state(checkpoint["random"])
    run.tracker.drop_epochs(run.progress.epoch)
    config.save(run.run_dir / "config.json")
    describe(run)
    print(f"Going on after {count(progress.epoch, 'epoch')} and {count(progress.step, 'step')}.")
    return run


def out_of_patience(config: TrainConfig, progress: Progress) -> bool:
    """--early-stopping: so many epochs without a better validation have gone by."""
    return bool(config.early_stopping) and progress.epoch - progress.best_epoch >= config.early_stopping


def seen_recordings(weights: LoadedWeights, dataset: str, frame_set: FrameSet) -> list[str]:
    """Recordings that the weights' own training has seen, where their names mean the same here; with a warning where
    they are tested on. They go into the checkpoint, and evaluate.py refuses what would mean nothing."""
    if weights.trained_on != dataset and frame_set.source.layout not in ("ucf101", "hmdb51"):
        return []
    tested = {row.group for row in frame_set.part("test")} & set(weights.seen_groups)
    if tested:
        print(
            f"WARNING: {weights.origin} was trained on {count(len(tested), 'recording')} that split "
            f"{frame_set.split.name} tests on (first: {min(tested)}). evaluate.py will refuse that test."
        )
    return weights.seen_groups


def refuse_frozen_chance(frozen: tuple[str, ...], new: list[str], origin: str) -> None:
    """What the weights do not bring is not to be frozen at the random values it was built with."""
    inside = tuple(f"{part}." for part in frozen)
    lost = [name for name in new if name.startswith(inside) and not name.endswith(BUFFERS)]
    if frozen and lost:
        raise UserError(
            f"--freeze would keep {count(len(lost), 'parameter')} at random values: {origin} does not bring {lost[0]}. "
            "Train without --freeze."
        )


def try_out(model: nn.Module, spec: InputSpec, device: torch.device, amp: torch.dtype | None) -> None:
    """One clip through the network, so that a size it cannot take is said before a run is begun."""
    clip = torch.zeros(1, spec.channels, spec.clip_len, spec.crop_size, spec.crop_size, device=device)
    model.eval()
    with torch.inference_mode(), autocast(device, amp):
        model(clip)


def build_run(
    config: TrainConfig,
    run_dir: Path,
    device: torch.device,
    amp: torch.dtype | None,
    spec: InputSpec,
    frame_set: FrameSet,
    model: nn.Module,
    new: list[str],
    seen: list[str],
    progress: Progress,
) -> Run:
    place(model, device, amp)
    clip_shape = (spec.channels, spec.clip_len, spec.crop_size, spec.crop_size)
    wrong = keep_wrong_layers_in_float32(model, clip_shape, device, amp)
    if wrong:
        print(
            f"WARNING: {str(amp).removeprefix('torch.')} is wrong on this machine in {count(len(wrong), 'convolution')}"
            f", which stay in float32: {', '.join(wrong[:2])}{', ...' if wrong[2:] else ''}"
        )
    freeze(model, config.freeze)
    torch.backends.cudnn.benchmark = True
    train_loader, val_loader = build_loaders(
        frame_set,
        spec,
        batch_size=config.batch_size,
        accumulate=config.accumulate,
        val_clips=config.val_clips,
        flip=config.flip,
        seed=config.seed,
        num_workers=config.workers,
        pin_memory=device.type == "cuda",
        cache=config.cache,
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
        forward=compile_model(model) if config.compile else model,
        augment=Augment(config.colour_jitter, config.zoom, config.seed),
        mixing=Mixing(config.mixup, config.cutmix, config.seed),
        class_weights=balance(train_loader.dataset.labels, len(frame_set.classes)).to(device)
        if config.class_weights == "balanced"
        else None,
        average=WeightAverage(model, config.ema) if config.ema else None,
        optimizer=build_optimizer(model, config, new),
        schedule=Schedule(config, train_loader.plan.num_steps),
        scaler=torch.amp.GradScaler(device.type, enabled=amp == torch.float16),
        tracker=Tracker(run_dir, first_step=progress.step + 1 if progress.step else 0),
        new=new,
        seen=seen,
        progress=progress,
        start=time.monotonic(),
    )


def checkpoint_content(run: Run, for_resume: bool) -> dict:
    """Plain values and tensors: enough to predict; with for_resume, to go on to the same weights as without a stop."""
    progress, split = run.progress, run.frame_set.split
    groups = {f"{name}_groups": sorted({row.group for row in run.frame_set.part(part)}) for name, part in PARTS}
    content = {
        "model": run.model.state_dict(),
        "model_options": run.model.options,
        "ema": run.average.state if run.average else None,
        "epoch": progress.epoch,
        "step": progress.step,
        "best_top1": progress.best_top1,
        "best_loss": progress.best_loss,
        "best_epoch": progress.best_epoch,
        "config": run.config.to_dict(),
        "input_spec": run.spec.to_dict(),
        "classes": run.frame_set.classes,
        "split": {"name": split.name, "hash": split.hash, **groups, "seen_groups": run.seen},
        "new_parameters": run.new,
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


def check_parts(frame_set: FrameSet, spec: InputSpec) -> None:
    """Says what the split left over, and refuses one that leaves nothing to train on."""
    for note in frame_set.split.notes:
        print(f"Note: {note}")
    if not frame_set.part("train"):
        raise UserError(f"Split {frame_set.split.name} of {frame_set.source.name} has no training videos.")
    if len(frame_set.classes) < 2:
        raise UserError(f"{frame_set.source.name} has only the class '{frame_set.classes[0]}'. It takes two to learn.")
    if not frame_set.part("test"):
        print(f"WARNING: split {frame_set.split.name} has no test videos of {frame_set.source.name}.")
    TrainDataset(frame_set, spec)  # says so where the stored frames do not give the clips that are asked for
    untrained = sorted(set(frame_set.classes) - {row.label for row in frame_set.part("train")})
    if untrained:
        print(f"WARNING: no training video in {count(len(untrained), 'class')}: {', '.join(untrained[:5])}")


def warn_of_leaks(frame_set: FrameSet, config: TrainConfig) -> None:
    """A split that leaks is refused nothing, but said."""
    words = ["--dataset", config.dataset, "--split", frame_set.split.name]
    words += ["--frames", config.frames] if config.frames else []
    words += ["--val", "none"] if config.val == "none" else []
    warning = leak_warning(
        frame_set.source, frame_set.split, frame_set.rows, f"python -m dataloaders.audit {shlex.join(words)}"
    )
    if warning:
        print(warning)


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
    rate = f"{spec.fps:g} a second" if spec.fps else f"stride {spec.frame_stride}"
    values = sum(parameter.numel() for parameter in run.model.parameters())
    print(f"Model    {config.model}, {values / 1e6:.1f} M parameters, {count(len(frame_set.classes), 'class')}")
    recordings = len({row.group for row in frame_set.rows})
    print(
        f"Data     {frame_set.source.name}, split {frame_set.split.name}: {parts} videos, of "
        f"{count(recordings, 'recording')}"
    )
    print(
        f"Clips    {spec.clip_len} {SEEN[spec.input]}, {rate}, {spec.crop_size}x{spec.crop_size} of "
        f"{spec.resize[0]}x{spec.resize[1]}, {'mirrored at random' if config.flip else 'not mirrored'}"
    )
    print(
        f"Training {count(config.epochs, 'epoch')}, {config.optimizer} {config.lr:g}, {_step_size(config)}, "
        f"on {device_name(run.device)}, {str(run.amp or torch.float32).removeprefix('torch.')}"
    )
    print(f"Run      {shown(run.run_dir)}")
    advice = model_entry(config.model).defaults.from_scratch
    if advice and not config.weights:
        print(f"Note: {advice}")
    warning = cudnn_warning(cudnn_version())
    if run.amp and warning:
        print(warning)


def _step_size(config: TrainConfig) -> str:
    if config.accumulate == 1:
        return f"batches of {config.batch_size}"
    return f"steps of {config.accumulate * config.batch_size} clips in {config.accumulate} batches"
