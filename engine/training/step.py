"""One optimiser step: its batches through the network, their gradients added, the weights changed once."""

import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F

from common.errors import UserError
from common.torchrun import world_size
from dataloaders.loader import Batch
from dataloaders.transforms import to_model_input
from engine.evaluation.metrics import topk_correct
from engine.hardware.device import autocast
from engine.training.config import TrainConfig
from engine.training.run import Run


@dataclass
class StepResult:
    """What a step leaves, on the device: nothing here has waited for it."""

    loss: torch.Tensor  # this process's part of the mean over the step's clips
    grad_norm: torch.Tensor
    lr: float
    num_clips: int  # of all processes
    waited: float  # seconds, for data


def train_step(run: Run, batches: Iterator[Batch]) -> StepResult:
    """Makes step run.progress.step. Its loss is divided by the clips of the whole step, however many batches and
    processes they are divided among and however full the last one is, so that all ways equal one large batch."""
    progress, plan = run.progress, run.train_loader.batch_sampler
    step = progress.step - progress.epoch * plan.num_steps  # of this epoch
    num_clips, num_batches, first = len(plan.positions(step)), plan.num_batches(step), plan.first_batch(step)
    lr = run.schedule.set_lr(run.optimizer, progress.step)
    run.optimizer.zero_grad(set_to_none=True)

    total, waited = torch.zeros((), device=run.device), 0.0
    for number in range(first, first + num_batches):
        asked = time.monotonic()
        clips, labels, mirrored = next(batches)
        waited += time.monotonic() - asked
        places = list(plan[number])  # of the batch's clips in the epoch
        drawn = run.augment.draw(progress.epoch, plan.num_items)[places]
        clips = run.augment.change_colours(clips, drawn)
        x = to_model_input(clips, run.spec, mirrored.bool() if run.config.flip else None)  # (B, C, T, S, S)
        x = run.augment.enlarge(x, drawn)
        targets = labels
        if run.mixup:
            drawn = run.mixup.draw(progress.epoch, plan.num_items)[places]
            x, targets = run.mixup.mix(x, labels, len(run.frame_set.classes), drawn)
        if progress.step == 0 and number == 0:
            run.tracker.clips(x, run.spec, 0)

        # processes exchange gradients once a step, with the last batch
        with run.compiled_model.no_sync() if world_size() > 1 and number < first + num_batches - 1 else nullcontext():
            with autocast(run.device, run.amp):
                logits = run.compiled_model(x)  # (B, K)
                losses = F.cross_entropy(
                    logits, targets, run.class_weights, label_smoothing=run.config.label_smoothing, reduction="none"
                )  # (B,)
            loss = losses.sum() / num_clips
            if plan.is_stand_in(number):
                loss = loss * 0
            run.scaler.scale(loss * world_size()).backward()  # DistributedDataParallel divides the sum by them
        if not plan.is_stand_in(number):
            total += loss.detach()
            progress.loss.add(losses)
            if not run.mixup:  # a mixed clip has no one right answer
                progress.top1.add(100 * topk_correct(logits, labels))

    run.scaler.unscale_(run.optimizer)
    gradients = [parameter.grad for parameter in run.model.parameters() if parameter.grad is not None]
    grad_norm = nn.utils.get_total_norm(gradients)
    if run.config.clip_grad:
        nn.utils.clip_grads_with_norm_(run.model.parameters(), run.config.clip_grad, grad_norm)
    run.scaler.step(run.optimizer)
    run.scaler.update()
    if run.ema is not None:
        run.ema.update(run.model, progress.step)
    # a step that the scaler leaves out moves nothing
    progress.grad_norm.add(grad_norm.nan_to_num(0.0, 0.0) if run.scaler.is_enabled() else grad_norm)
    return StepResult(total, grad_norm, lr, num_clips, waited)


def out_of_memory(config: TrainConfig) -> UserError:
    """What to do where a batch does not fit: half of it at once, and as many clips a step."""
    batch_size, accumulate = config.batch_size, config.accumulate
    if batch_size == 1:
        advice = "A single clip does not fit: lower --clip-len or --crop-size, or take a smaller --model."
    else:
        half = -(-batch_size // 2)
        advice = f"--batch-size {half} --accumulate {2 * accumulate} takes about half of it, "
        advice += "for the same steps." if batch_size % 2 == 0 else f"for steps of {2 * half * accumulate} clips."
    return UserError(
        f"Out of memory with --batch-size {batch_size} (clips of {config.clip_len} frames, {config.crop_size}x"
        f"{config.crop_size}). {advice}"
    )
