"""Trains a network on a data set: one loop for every model.

    python train.py --dataset demo --model r3d_10
    python train.py --dataset my/videos --model r2plus1d_18 --weights kinetics400
    python train.py --resume r3d_10-demo-000

Writes run/<model>-<dataset>-NNN: config.json, TensorBoard events, metrics.jsonl, last.pth (to go on with) and best.pth
(the epoch with the best validation accuracy).
"""

import math
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn as nn
from tqdm import tqdm

import mypath
from engine.checkpoint import save_checkpoint
from engine.config import TrainConfig, parse_config
from engine.console import count, duration
from engine.errors import ROOT, Stopped, UserError, run_cli
from engine.metrics import Mean
from engine.prefetch import prefetch
from engine.runs import shown
from engine.session import Progress, Run, begin_run, checkpoint_content, out_of_patience, resume_run
from engine.step import train_step
from engine.stopping import StopRequest
from evaluate import Evaluation, evaluate

LOG_EVERY = 20  # steps between two looks at the device's numbers


def cli(argv: Sequence[str]) -> None:
    main(parse_config(argv, mypath.DEFAULT_DATASET, mypath.DEFAULT_MODEL))


def main(config: TrainConfig) -> Path:
    """Trains as the configuration says; returns the run's folder."""
    begin = resume_run if config.resume else begin_run
    run = begin(config, mypath.DATASETS, ROOT / mypath.RUNS)
    with StopRequest() as stop:
        fit(run, stop)
    if run.progress.epoch < run.config.epochs:
        print(f"Stopped early: {count(run.config.early_stopping, 'epoch')} without a better validation.")
    print(f"Done in {duration(time.monotonic() - run.start)}: {shown(run.run_dir)}{_best(run.progress)}")
    if run.frame_set.part("test"):
        print(f"Test it:    python evaluate.py {shown(run.run_dir)}")
    print(f"Look at it: tensorboard --logdir {shown(run.run_dir.parent)}")
    return run.run_dir


def fit(run: Run, stop: StopRequest) -> None:
    """Epochs of training and validation; last.pth after each, best.pth where validation says so."""
    progress = run.progress
    try:
        while progress.epoch < run.config.epochs and not out_of_patience(run.config, progress):
            epoch_start = time.monotonic()
            clips_per_second, data_wait = train_one_epoch(run, stop)
            validation = averaged = None
            if run.val_loader is not None and not stop.signum:
                validation, averaged = validate(run, stop)
            if stop.signum:
                check_weights(run)
                save_checkpoint(run.run_dir / "last.pth", checkpoint_content(run, for_resume=True))
                raise Stopped(
                    stop.signum,
                    f"Stopped by {signal.Signals(stop.signum).name} after step {progress.step}. "
                    f"To go on: python train.py --resume {shown(run.run_dir)}",
                )
            finish_epoch(run, validation, averaged, clips_per_second, data_wait, time.monotonic() - epoch_start)
    finally:
        run.tracker.close()


def train_one_epoch(run: Run, stop: StopRequest) -> tuple[float, float]:
    """The rest of the epoch that the run is in; returns clips a second, and the share of the time spent waiting for
    data. The step itself never waits for the device."""
    progress, plan = run.progress, run.train_loader.plan
    first = progress.step - progress.epoch * plan.num_steps
    run.model.train()
    num_clips, waited, start = 0, 0.0, time.monotonic()
    batches = prefetch(run.train_loader.batches(progress.epoch, plan.first_batch(first)), run.device)
    with epoch_bar(run, first) as bar:
        for _ in range(first, plan.num_steps):
            if stop.signum:
                break
            step = train_step(run, batches)
            note_bad_loss(progress, step.loss)
            progress.step += 1
            num_clips += step.num_clips
            waited += step.waited
            bar.update()
            if progress.step % LOG_EVERY == 0:
                check_loss(run)
                run.tracker.scalars({"train/loss": step.loss.item(), "train/lr": step.lr}, progress.step)
    batches.close()
    check_loss(run)
    seconds = time.monotonic() - start
    return (num_clips / seconds, waited / seconds) if num_clips else (math.nan, math.nan)


def validate(run: Run, stop: StopRequest) -> tuple[Evaluation | None, Evaluation | None]:
    """Of the weights as they are, and of their moving average where one is kept."""
    how = (run.val_loader, run.spec, run.device, run.amp, run.config.batch_size, stop, "Validating")
    validation, averaged = evaluate(run.model, *how), None
    if run.average is not None and not stop.signum:
        with run.average.in_place_of(run.model):
            averaged = evaluate(run.model, *how)
    return validation, averaged


def finish_epoch(
    run: Run,
    validation: Evaluation | None,
    averaged: Evaluation | None,
    clips_per_second: float,
    data_wait: float,
    seconds: float,
) -> None:
    """Counts the epoch: best.pth where it is the best so far, the records, and last.pth at the end, so that a run that
    is killed in between makes this epoch again and loses nothing. Where a moving average is kept, it is what evaluation
    and inference use, so its validation says which epoch is the best."""
    progress, judged = run.progress, averaged or validation
    check_weights(run, validation)
    progress.epoch += 1
    train_loss, train_top1 = progress.loss.value(), progress.top1.value()
    if judged is None or _is_better(judged, progress):
        if judged is not None:
            progress.best_top1, progress.best_loss = judged.top1, judged.loss
        progress.best_epoch = progress.epoch
        save_checkpoint(run.run_dir / "best.pth", checkpoint_content(run, for_resume=False))

    scalars = {"train/top1": train_top1, "time/clips_per_second": clips_per_second, "time/data_wait": data_wait}
    if run.train_loader.plan.num_steps < LOG_EVERY:
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
    if averaged is not None:
        scalars |= {"val/ema_top1": averaged.top1, "val/ema_loss": averaged.loss}
    run.tracker.scalars(scalars, progress.step)
    numbers = {tag: value for tag, value in scalars.items() if not math.isnan(value)}
    run.tracker.epoch({"epoch": progress.epoch - 1, "step": progress.step, **numbers, "train/loss": train_loss})
    run.tracker.flush()
    progress.loss, progress.top1 = Mean(run.device), Mean(run.device)
    save_checkpoint(run.run_dir / "last.pth", checkpoint_content(run, for_resume=True))

    ema = f", of the average {averaged.top1:5.1f}" if averaged else ""
    val = f"val top1 {validation.top1:5.1f}{ema} (best {progress.best_top1:5.1f})" if validation else "no validation"
    top1 = "" if math.isnan(train_top1) else f"  top1 {train_top1:5.1f}"
    left = seconds * (run.config.epochs - progress.epoch)
    print(
        f"epoch {progress.epoch:3}/{run.config.epochs}  loss {train_loss:6.3f}{top1}  {val}  "
        f"{clips_per_second:6.1f} clips/s  data wait {100 * data_wait:2.0f} %  left {duration(left)}",
        flush=True,
    )


def check_weights(run: Run, validation: Evaluation | None = None) -> None:
    """A finite loss can leave weights that are not: looked at before any checkpoint is written."""
    finite = torch.stack([torch.isfinite(value).all() for value in run.model.state_dict().values()]).all()
    if not finite.item() or (validation is not None and not math.isfinite(validation.loss)):
        raise diverged(run, run.progress.step - 1)


def _is_better(validation: Evaluation, progress: Progress) -> bool:
    """Higher video top-1; at equal top-1, which small validation lists often give, the lower loss."""
    if progress.best_top1 is None:
        return True
    return (validation.top1, -validation.loss) > (progress.best_top1, -progress.best_loss)


def note_bad_loss(progress: Progress, loss: torch.Tensor) -> None:
    """Keeps the first step whose loss is no finite number, on the device, without waiting for it."""
    bad = ~torch.isfinite(loss.detach()) & (progress.bad_step < 0)
    progress.bad_step = progress.bad_step.masked_fill(bad, progress.step)  # torch.where would copy the number over


def check_loss(run: Run) -> None:
    """Ends the run where the loss has become nan or infinite, before any checkpoint holds the spoilt weights."""
    bad_step = int(run.progress.bad_step.item())
    if bad_step >= 0:
        raise diverged(run, bad_step)


def diverged(run: Run, step: int) -> UserError:
    """What to say of a run whose numbers have left the range of numbers."""
    lr = run.schedule.factor(step) * run.config.lr
    advice = f"Try a lower rate (--lr {run.config.lr / 10:g})"
    if run.amp == torch.float16:
        advice += ", --amp bf16"
    if not any(isinstance(module, nn.modules.batchnorm._NormBase) for module in run.model.modules()):
        advice += ", or a model with normalisation layers (c3d_bn)"
    kept = f" {shown(run.run_dir / 'last.pth')} holds the epoch before." if run.progress.epoch else ""
    return UserError(f"The loss is not a number any more, from step {step} on (learning rate {lr:g}). {advice}.{kept}")


def epoch_bar(run: Run, first: int) -> tqdm:
    return tqdm(
        total=run.train_loader.plan.num_steps,
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
