"""One optimiser step: its batches through the network, their gradients added, the weights changed once."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F

from dataloaders.loader import Batch
from dataloaders.transforms import to_model_input
from engine.device import autocast
from engine.metrics import topk_correct
from engine.session import Run


@dataclass
class Step:
    """What a step leaves, on the device: nothing here has waited for it."""

    loss: torch.Tensor  # mean over the step's clips
    lr: float
    num_clips: int
    waited: float  # seconds, for data


def train_step(run: Run, batches: Iterator[Batch]) -> Step:
    """Makes step run.progress.step. Its loss is divided by the clips of the whole step, however many batches they come
    in and however full the last one is, so that accumulating equals one large batch."""
    progress, plan = run.progress, run.train_loader.plan
    step = progress.step - progress.epoch * plan.num_steps  # of this epoch
    num_clips = len(plan.positions(step))
    lr = run.schedule.set_lr(run.optimizer, progress.step)
    run.optimizer.zero_grad(set_to_none=True)

    total, waited = torch.zeros((), device=run.device), 0.0
    for number in range(plan.first_batch(step), plan.first_batch(step) + plan.num_batches(step)):
        asked = time.monotonic()
        clips, labels, mirrored = next(batches)
        waited += time.monotonic() - asked
        places = list(plan[number])  # of the batch's clips in the epoch
        drawn = run.augment.draw(progress.epoch, plan.num_items)[places]
        clips = run.augment.change_colours(clips, drawn)
        x = to_model_input(clips, run.spec, mirrored.bool() if run.config.flip else None)  # (B, C, T, S, S)
        x = run.augment.enlarge(x, drawn)
        targets = labels
        if run.mixing:
            drawn = run.mixing.draw(progress.epoch, plan.num_items)[places]
            x, targets = run.mixing.mix(x, labels, len(run.frame_set.classes), drawn)
        if progress.step == 0 and progress.loss.count == 0:
            run.tracker.clips(x, run.spec, 0)

        with autocast(run.device, run.amp):
            logits = run.forward(x)  # (B, K)
            losses = F.cross_entropy(
                logits, targets, run.class_weights, label_smoothing=run.config.label_smoothing, reduction="none"
            )  # (B,)
        loss = losses.sum() / num_clips
        run.scaler.scale(loss).backward()

        total += loss.detach()
        progress.loss.add(losses)
        if not run.mixing:  # a mixed clip has no one right answer
            progress.top1.add(100 * topk_correct(logits, labels))
    if run.config.clip_grad:
        run.scaler.unscale_(run.optimizer)
        nn.utils.clip_grad_norm_(run.model.parameters(), run.config.clip_grad)
    run.scaler.step(run.optimizer)
    run.scaler.update()
    if run.average is not None:
        run.average.update(run.model, progress.step)
    return Step(total, lr, num_clips, waited)
