"""A training run in memory, and its model input."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn as nn
from filelock import BaseFileLock

from common.console import plural
from common.torchrun import is_rank_zero, rank, world_size
from dataloaders import build_loaders
from dataloaders.augment import Augment
from dataloaders.batch_reader import Batch
from dataloaders.frame_set import FrameSet
from dataloaders.loader import ClipLoader, Pass, SharedReader
from dataloaders.mixup import Mixup
from dataloaders.transforms import to_model_input
from engine.evaluation.metrics import Mean
from engine.hardware.autocast_check import keep_wrong_layers_in_float32
from engine.hardware.device import CompiledModel, to_device
from engine.hardware.distributed import sync_batch_norms, wrap_ddp
from engine.hardware.fast_kernels import widen
from engine.runs.tracking import NoTracker, Tracker
from engine.training.config import TrainConfig
from engine.training.ema import WeightAverage
from engine.training.optimizer import Schedule, balance, build_optimizer
from network import InputSpec
from network.base import freeze

PARTS = (("training", "train"), ("validation", "val"))  # whose recordings a checkpoint has seen


@dataclass
class Progress:
    """Progress of a run. step counts optimiser steps from the beginning; epochs are trained and validated."""

    epoch: int = 0
    step: int = 0
    best_top1: float | None = None
    best_loss: float | None = None
    best_epoch: int = 0  # counted from 1; 0: none yet
    bad_step: torch.Tensor | None = None  # on the device: first step with a loss that is no number, else -1
    loss: Mean = field(default_factory=Mean)
    top1: Mean = field(default_factory=Mean)
    grad_norm: Mean = field(default_factory=Mean)

    def means(self) -> dict[str, Mean]:
        """The running means of the current epoch."""
        return {"loss": self.loss, "top1": self.top1, "grad_norm": self.grad_norm}

    def begin_means(self, device: torch.device) -> None:
        self.loss, self.top1, self.grad_norm = Mean(device), Mean(device), Mean(device)


@dataclass(frozen=True)
class StepResult:
    """Results of one step, still on the device (no synchronisation)."""

    loss: torch.Tensor  # this rank's part of the mean over the step's clips
    grad_norm: torch.Tensor
    lr: float
    num_clips: int  # of all ranks


@dataclass
class Run:
    """Everything that a run needs, made by begin_run or resume_run."""

    config: TrainConfig
    run_dir: Path
    device: torch.device
    amp: torch.dtype | None
    spec: InputSpec
    frame_set: FrameSet
    train_loader: ClipLoader
    val_loader: ClipLoader | None
    model: nn.Module
    compiled_model: Callable[[torch.Tensor], torch.Tensor]  # the model, parallel and compiled where asked for
    augment: Augment
    mixup: Mixup
    class_weights: torch.Tensor | None  # (K,) on the device
    ema: WeightAverage | None
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    scaler: torch.amp.GradScaler
    tracker: Tracker
    new_parameters: list[str]  # parameters that the weights to begin with did not bring
    seen: dict[str, list[str]]  # recordings, videos and content ids, of the run and of the weights it began with
    progress: Progress
    lock: BaseFileLock | None  # of the run's folder, on rank zero
    start: float
    curves_drawn: float  # time.monotonic() of the last curves.png


@dataclass(frozen=True)
class Machine:
    """The device that a run computes on, and its mixed precision (None: float32)."""

    device: torch.device
    amp: torch.dtype | None


@dataclass(frozen=True)
class Model:
    """A network on the CPU, and where its weights come from."""

    network: nn.Module
    new_parameters: list[str]  # that the pretrained weights do not contain
    seen: dict[str, list[str]]  # recordings and videos that the pretrained weights were trained on


def build_run(
    config: TrainConfig,
    run_dir: Path,
    machine: Machine,
    spec: InputSpec,
    frame_set: FrameSet,
    model: Model,
    progress: Progress,
    lock: BaseFileLock | None,
) -> Run:
    device, amp, network = machine.device, machine.amp, to_device(model.network, machine.device)
    clip_shape = (spec.channels, spec.clip_len, spec.crop_size, spec.crop_size)
    wrong = keep_wrong_layers_in_float32(network, clip_shape, device, amp)
    if wrong:
        print(
            f"WARNING: this machine computes {plural(len(wrong), 'convolution')} of the network wrongly in "
            f"{str(amp).removeprefix('torch.')}; float32 is used for: {', '.join(wrong[:2])}"
            f"{', ...' if wrong[2:] else ''}"
        )
    sync_batch_norms(network, config.batch_size, device)
    if device.type == "cuda" and amp:
        widen(network)
    freeze(network, config.freeze)
    wrapped = wrap_ddp(network)
    train_loader, val_loader = build_loaders(
        frame_set,
        spec,
        batch_size=config.batch_size,
        accumulate=config.accumulate,
        rank=rank(),
        processes=world_size(),
        val_clips=config.val_clips,
        flip=config.flip,
        seed=config.seed,
        clips_per_video=config.clips_per_video,
        stride_jitter=config.stride_jitter,
        num_workers=config.workers,
        pin_memory=device.type == "cuda",
        cache=config.cache,
    )
    progress.begin_means(device)
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
        model=network,
        compiled_model=CompiledModel(wrapped, config.batch_size) if config.compile == "on" else wrapped,
        augment=Augment(config.colour_jitter, config.zoom, config.seed),
        mixup=Mixup(config.mixup, config.cutmix, config.seed),
        class_weights=balance(train_loader.dataset.labels, len(frame_set.classes)).to(device)
        if config.class_weights == "balanced"
        else None,
        ema=WeightAverage(network, config.ema) if config.ema else None,
        optimizer=build_optimizer(network, config, model.new_parameters),
        schedule=Schedule(config, train_loader.batch_sampler.num_steps),
        scaler=torch.amp.GradScaler(device.type, enabled=amp == torch.float16),
        tracker=Tracker(run_dir, progress.step + 1 if progress.step else 0) if is_rank_zero() else NoTracker(),
        new_parameters=model.new_parameters,
        seen=seen_videos(frame_set) | model.seen,
        progress=progress,
        lock=lock,
        start=time.monotonic(),
        curves_drawn=time.monotonic(),
    )


def seen_videos(frame_set: FrameSet) -> dict[str, list[str]]:
    """training_groups, training_videos, training_content, and the same of validation: what evaluation must not use."""
    seen = {}
    for name, part in PARTS:
        rows = frame_set.part(part)
        seen[f"{name}_groups"] = sorted({row.group for row in rows})
        seen[f"{name}_videos"] = [row.video for row in rows]
        seen[f"{name}_content"] = frame_set.content_ids(rows)
    return seen


def shared_reader(run: Run) -> SharedReader:
    """One set of worker processes for all that is left of the run: the rest of the current epoch, its validation, once
    more for the moving average, then the next epoch."""
    loaders = [loader for loader in (run.train_loader, run.val_loader) if loader is not None]
    return SharedReader(loaders, _passes(run, run.progress.epoch, run.progress.step))


def _passes(run: Run, first_epoch: int, step: int) -> Iterator[Pass]:
    sampler = run.train_loader.batch_sampler
    first = sampler.first_batch(step - first_epoch * sampler.num_steps)
    validations = 0 if run.val_loader is None else 2 if run.ema else 1
    for epoch in range(first_epoch, run.config.epochs):
        yield run.train_loader, epoch, first if epoch == first_epoch else 0
        for _ in range(validations):
            yield run.val_loader, 0, 0


def model_input(run: Run, number: int, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Batch `number` of the epoch, augmented and normalised on the device.

    (B, T, H, W, 3) uint8, (B,) ids, (B,) mirrored -> (B, C, T, S, S) float; (B,) ids, with mixup (B, K) shares
    """
    clips, labels, mirrored = batch
    sampler, epoch = run.train_loader.batch_sampler, run.progress.epoch
    positions = list(sampler[number])  # of the clips in the epoch: their random numbers belong to them
    drawn = run.augment.draw(epoch, sampler.num_items)[positions]
    clips = run.augment.change_colours(clips, drawn)
    x = to_model_input(clips, run.spec, mirrored.bool() if run.config.flip else None)
    x = run.augment.enlarge(x, drawn)
    if not run.mixup:
        return x, labels
    drawn = run.mixup.draw(epoch, sampler.num_items)[positions]
    return run.mixup.mix(x, labels, len(run.frame_set.classes), drawn)


def out_of_patience(config: TrainConfig, progress: Progress) -> bool:
    """Whether --early-stopping ends the run: too many epochs without a better validation."""
    return bool(config.early_stopping) and progress.epoch - progress.best_epoch >= config.early_stopping
