"""Records of a run: TensorBoard curves, metrics.jsonl, best.pth, the progress bar and the lines on the console."""

import math
import shlex
import sys
import time
from contextlib import suppress
from dataclasses import dataclass

import torch
from tqdm import tqdm

from common.console import duration, plural
from common.drawing import save_picture
from common.files import relative_to_cwd
from common.torchrun import is_rank_zero, world_size
from dataloaders.batch_reader import StageSeconds
from engine.evaluation.evaluate import Evaluation
from engine.hardware.distributed import all_reduce_sum
from engine.runs.pictures import clip_sheet, save_curves, target_names
from engine.training.checkpointing import write_checkpoint
from engine.training.run import Progress, Run, StepResult, out_of_patience

LOG_EVERY = 20  # steps between two readings of the device's numbers
LINE_SECONDS, BAR_SECONDS, CURVES_SECONDS = 30.0, 1.0, 30.0  # between two lines, losses in the bar, and pictures
STAGE_ADVICE = {  # for a run that waits for data, by the stage that is busiest
    "read": "a faster disk, or python -m dataloaders.pack",
    "decode": "more --workers, or --cache ram",
    "copy": "fewer --workers leave more memory bandwidth",
}


@dataclass(frozen=True)
class EpochResult:
    """Validation of the weights and of their moving average (None: not made), and the epoch's measurements under their
    TensorBoard tags."""

    validation: Evaluation | None
    averaged: Evaluation | None
    measured: dict[str, float]
    seconds: float

    @property
    def judged(self) -> Evaluation | None:
        """The validation that chooses the best epoch: the moving average's, which evaluation and inference use too."""
        return self.averaged or self.validation


def stage_shares(run: Run, before: StageSeconds, seconds: float) -> dict[str, float]:
    """The share of the last `seconds` that each stage of reading clips was busy. 1: the stage can give no more."""
    now, workers = run.train_loader.seconds, max(run.train_loader.num_workers, 1)
    return {
        "time/read": (now.read - before.read) / workers / seconds,
        "time/decode": (now.decode - before.decode) / workers / seconds,
        "time/copy": (now.copy - before.copy) / seconds,
    }


class EpochBar:
    """The steps of an epoch from step `first`, on rank zero: a bar on a terminal, elsewhere (a log file, a notebook) a
    line every 30 s."""

    def __init__(self, run: Run, first: int):
        self.total, self.first, self.step = run.train_loader.batch_sampler.num_steps, first, first
        self.name = f"epoch {run.progress.epoch + 1:3}/{run.config.epochs}"
        self.begin = self.said = time.monotonic()
        self.bar = tqdm(
            total=self.total,
            initial=first,
            desc=self.name,
            unit=" steps",
            dynamic_ncols=True,
            leave=False,
            disable=not (is_rank_zero() and sys.stderr.isatty()),
        )

    def __enter__(self) -> "EpochBar":
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def update(self, run: Run) -> None:
        """After a step. The loss is read from the device, which waits for it, only where it is shown."""
        self.step += 1
        now = time.monotonic()
        pause = LINE_SECONDS if self.bar.disable else BAR_SECONDS
        if is_rank_zero() and now - self.said >= pause and self.step < self.total:
            self.said, loss = now, run.progress.loss.value()
            if self.bar.disable:
                seconds = (now - self.begin) / (self.step - self.first)  # a step
                steps_left = run.config.epochs * self.total - run.progress.step
                clips = run.config.batch_size * run.config.accumulate * world_size() / seconds
                print(
                    f"{self.name}  step {self.step:,}/{self.total:,}  loss {loss:6.3f}  {clips:6.1f} clips/s  "
                    f"left about {duration(seconds * steps_left)}",
                    flush=True,
                )
            else:
                self.bar.set_postfix_str(f"loss {loss:.3f}", refresh=False)
        self.bar.update()


def log_first_clips(run: Run, x: torch.Tensor, targets: torch.Tensor) -> None:
    """A picture of the first clips as the network gets them, x (B, C, T, H, W) normalised and augmented, with the names
    of their classes: in TensorBoard, and in the run's folder as train_clips.jpg."""
    if is_rank_zero():
        sheet = clip_sheet(x, run.spec, target_names(targets, run.frame_set.classes))
        run.tracker.picture("input/train_clips", sheet, 0)
        with suppress(OSError):  # a full disk, which the curves say
            save_picture(run.run_dir / "train_clips.jpg", sheet)


def log_curves(run: Run) -> None:
    """Draws curves.png at the run's end and, before, at most once in 30 s."""
    is_last = run.progress.epoch >= run.config.epochs or out_of_patience(run.config, run.progress)
    now = time.monotonic()
    if is_rank_zero() and (is_last or now - run.curves_drawn >= CURVES_SECONDS):
        run.curves_drawn = now
        with suppress(OSError):
            save_curves(run.run_dir)


def log_step(run: Run, step: StepResult) -> None:
    """Writes a step's loss, learning rate and gradient norm to TensorBoard. All ranks call this together."""
    loss = all_reduce_sum([step.loss.item()])[0]
    scalars = {"train/loss": loss, "train/lr": step.lr, "train/grad_norm": step.grad_norm.item()}
    run.tracker.scalars(scalars, run.progress.step)


def keep_if_best(run: Run, result: EpochResult) -> None:
    """Writes best.pth where the epoch's validation is the best so far, or where nothing validates."""
    progress, judged = run.progress, result.judged
    if judged is None or _is_better(judged, progress):
        if judged is not None:
            progress.best_top1, progress.best_loss = judged.top1, judged.loss
        progress.best_epoch = progress.epoch
        write_checkpoint(run, "best.pth", for_resume=False)


def _is_better(validation: Evaluation, progress: Progress) -> bool:
    """Whether video top-1 is higher; at equal top-1, which small validation lists often give, whether loss is lower."""
    if progress.best_top1 is None:
        return True
    return (validation.top1, -validation.loss) > (progress.best_top1, -progress.best_loss)


def log_epoch(run: Run, result: EpochResult) -> None:
    """Writes the epoch to TensorBoard and metrics.jsonl."""
    progress, validation, averaged = run.progress, result.validation, result.averaged
    scalars = {"train/top1": progress.top1.value(), "time/epoch_seconds": result.seconds, **result.measured}
    means = {
        "train/loss": progress.loss.value(),
        "train/lr": run.schedule.factor(progress.step - 1) * run.config.lr,
        "train/grad_norm": progress.grad_norm.value(),
    }
    if run.train_loader.batch_sampler.num_steps < LOG_EVERY:  # else the curves have log_step's points
        scalars |= means
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
    record = {"epoch": progress.epoch - 1, "step": progress.step, **scalars, **means}
    run.tracker.epoch({key: value for key, value in record.items() if not math.isnan(value)})
    run.tracker.flush()


def print_epoch(run: Run, result: EpochResult) -> None:
    """Prints the epoch's line: loss, accuracies, speed and the time left."""
    progress, config, validation, measured = run.progress, run.config, result.validation, result.measured
    ema = f", of the average {result.averaged.top1:5.1f}" if result.averaged else ""
    val = f"val top1 {validation.top1:5.1f}{ema} (best {progress.best_top1:5.1f})" if validation else "no validation"
    top1 = "" if math.isnan(progress.top1.value()) else f"  top1 {progress.top1.value():5.1f}"
    left = result.seconds * (config.epochs - progress.epoch)
    print(
        f"epoch {progress.epoch:3}/{config.epochs}  loss {progress.loss.value():6.3f}{top1}  {val}  "
        f"{measured.get('time/clips_per_second', 0):6.1f} clips/s  "
        f"{data_wait(measured)}  left {duration(left)}",
        flush=True,
    )


def data_wait(measured: dict[str, float]) -> str:
    """The share of time without data; above 10 % with the busiest stage of reading and what relieves it."""
    wait = measured.get("time/data_wait", 0)
    busy, stage = max((measured.get(f"time/{stage}", 0), stage) for stage in STAGE_ADVICE)
    advice = f" ({stage}: {STAGE_ADVICE[stage]})" if wait > 0.1 and busy > 0.3 else ""
    return f"data wait {100 * wait:2.0f} %{advice}"


def print_end(run: Run) -> None:
    """Prints how the run ended and the commands that come next."""
    progress, run_dir = run.progress, shlex.quote(relative_to_cwd(run.run_dir))
    if progress.epoch < run.config.epochs:
        print(f"Stopped early: {plural(run.config.early_stopping, 'epoch')} without better validation.")
    best = "" if progress.best_top1 is None else f", best validation video top-1 {progress.best_top1:.2f} %"
    print(f"Done in {duration(time.monotonic() - run.start)}: {run_dir}{best}")
    if run.frame_set.part("test") and not run.config.test:
        print(f"Test it:    python evaluate.py {run_dir}")
    print(f"Look at it: tensorboard --logdir {shlex.quote(relative_to_cwd(run.run_dir.parent))}")
