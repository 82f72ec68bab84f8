"""Runs whose numbers leave the range of floating point, or that need more memory than the machine has."""

import math

import torch
import torch.nn as nn

from common.errors import UserError, UserErrorOnAllRanks
from common.files import relative_to_cwd
from engine.evaluation.evaluate import Evaluation
from engine.hardware.distributed import all_gather
from engine.training.config import TrainConfig
from engine.training.run import Progress, Run

FAR_ABOVE_CHANCE = 10  # times the loss of guessing, in the mean over an epoch


def note_bad_loss(progress: Progress, loss: torch.Tensor) -> None:
    """Keeps the first step whose loss is not finite, on the device (no synchronisation)."""
    bad = ~torch.isfinite(loss.detach()) & (progress.bad_step < 0)
    progress.bad_step = progress.bad_step.masked_fill(bad, progress.step)  # torch.where would copy the number over


def check_loss(run: Run) -> None:
    """Raises a UserError where a loss has been nan or infinite, before a checkpoint holds the spoilt weights."""
    bad_steps = [step for step in all_gather(int(run.progress.bad_step.item())) if step >= 0]
    if bad_steps:
        raise diverged(run, min(bad_steps))


def check_weights(run: Run, validation: Evaluation | None = None) -> None:
    """Raises a UserError where weights are not finite; called before every checkpoint, since a finite loss can leave
    weights that are not."""
    finite = torch.stack([torch.isfinite(value).all() for value in run.model.state_dict().values()]).all()
    if not finite.item() or (validation is not None and not math.isfinite(validation.loss)):
        raise diverged(run, run.progress.step - 1)


def check_epoch(run: Run) -> None:
    """Raises a UserError after an epoch whose mean loss is far above that of guessing: training has diverged, though
    its numbers are finite."""
    chance = math.log(max(len(run.frame_set.classes), 2))
    loss = max(all_gather(run.progress.loss.value()), key=lambda value: value if value == value else 0.0)
    if loss > FAR_ABOVE_CHANCE * chance:
        what = f"The loss of epoch {run.progress.epoch + 1} is {loss:.3g}, where guessing gives {chance:.2f}"
        raise diverged(run, run.progress.step - 1, what)


def diverged(run: Run, step: int, what: str = "") -> UserError:
    """The error of a run whose loss or weights are no finite numbers any more, or far from all that can be learnt."""
    lr = run.schedule.factor(step) * run.config.lr
    advice = f"Try a lower rate (--lr {run.config.lr / 10:g})"
    if run.amp == torch.float16:
        advice += ", --amp bf16"
    if not any(isinstance(module, nn.modules.batchnorm._NormBase) for module in run.model.modules()):
        advice += ", or a model with normalisation layers (c3d_bn)"
    kept = f" {relative_to_cwd(run.run_dir / 'last.pth')} holds the epoch before." if run.progress.epoch else ""
    what = what or f"The loss is not a number since step {step}"
    return UserErrorOnAllRanks(f"{what} (learning rate {lr:g}). {advice}.{kept}")


def out_of_memory(config: TrainConfig) -> UserError:
    """The error of a batch that does not fit, with flags for half of it at once and as many clips per step."""
    batch_size, accumulate = config.batch_size, config.accumulate
    if batch_size == 1:
        advice = "A single clip does not fit: lower --clip-len or --crop-size, or take a smaller --model."
    else:
        half = -(-batch_size // 2)
        advice = f"--batch-size {half} --accumulate {2 * accumulate} takes about half of the memory, "
        advice += "for the same steps." if batch_size % 2 == 0 else f"for steps of {2 * half * accumulate} clips."
    return UserError(
        f"Out of memory with --batch-size {batch_size} (clips of {config.clip_len} frames, {config.crop_size}x"
        f"{config.crop_size}). {advice}"
    )
