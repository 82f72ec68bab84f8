"""Trains a network on a data set: one loop for every model.

    python train.py --dataset demo --model r3d_10
    python train.py --dataset my/videos --model r2plus1d_18 --weights kinetics400
    python train.py --dataset my/videos --model r3d_18 c3d_bn        a run each, to be compared
    python train.py --resume r3d_10-demo-000
    torchrun --nproc-per-node=4 train.py --dataset my/videos         on four GPUs

Writes run/<model>-<dataset>-NNN: config.json, TensorBoard events, metrics.jsonl, last.pth (to go on with) and best.pth
(the epoch with the best validation accuracy).
"""

import gc
import math
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn as nn
from tqdm import tqdm

from common.cli import fail, run_cli
from common.console import duration, plural
from common.errors import Stopped, UserError, is_out_of_memory
from common.files import ROOT, relative_to_cwd
from common.torchrun import is_rank_zero, world_size
from dataloaders.prefetch import prefetch
from engine.evaluation.evaluate import Evaluation, evaluate
from engine.hardware.distributed import all_gather, all_reduce_sum, broadcast, broadcast_buffers, process_group
from engine.runs.folder import find_launched, finish_launch
from engine.training.config import TrainConfig, parse_configs
from engine.training.run import Progress, Run, out_of_patience, pool_means, write_checkpoint
from engine.training.setup import begin_run, resume_run
from engine.training.step import out_of_memory, train_step
from engine.training.stop_request import StopRequest

LOG_EVERY = 20  # steps between two looks at the device's numbers


def cli(argv: Sequence[str]) -> int:
    import mypath  # where run_cli sees what is wrong with it

    configs = parse_configs(argv, mypath.DEFAULT_DATASET, mypath.DEFAULT_MODEL)
    if len(configs) == 1:
        main(configs[0])
        return 0
    with process_group(configs[0].device):
        return train_each(configs)


def train_each(configs: Sequence[TrainConfig]) -> int:
    """A run for each, one after the other. One that fails says so, and the others are trained all the same; the exit
    status is then 1. Of several processes one cannot go on without the others, so there the first failure ends all."""
    runs, failed = [], []
    for number, config in enumerate(configs):
        if number:
            print()
        print(f"Run {number + 1} of {len(configs)}: {config.model}", flush=True)
        try:
            runs.append(main(config))
        except Stopped:
            rest = " ".join(later.model for later in configs[number + 1 :])
            if rest and is_rank_zero():
                print(f"Not begun: {rest}", file=sys.stderr)
            raise
        except Exception as error:
            if world_size() > 1 or isinstance(error, BrokenPipeError):
                raise
            failed.append(config.model)
            try:
                fail(error)
            except Exception:  # a bug, which may be that of one network alone
                traceback.print_exc()
        gc.collect()  # what a failed run leaves behind would be missing to the next
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    if runs:
        print(f"\nCompare them: python compare.py {' '.join(relative_to_cwd(run) for run in runs)}")
    if failed:
        print(f"Failed: {', '.join(failed)}. What each said stands above.", file=sys.stderr)
    return 1 if failed else 0


def main(config: TrainConfig) -> Path:
    """Trains as the configuration says; returns the run's folder."""
    import mypath

    runs = ROOT / mypath.RUNS
    with process_group(config.device):
        earlier = broadcast(find_launched(runs, config.to_dict()) if is_rank_zero() and not config.resume else None)
        if earlier:
            run_dir, done = earlier
            if done:
                print(f"This launch has done its run already: {relative_to_cwd(run_dir)}")
                return run_dir
            print(f"This launch has begun {relative_to_cwd(run_dir)} and goes on there.")
            config = replace(config, resume=str(run_dir))
        begin = resume_run if config.resume else begin_run
        run = begin(config, mypath.DATASETS, runs)
        with StopRequest() as stop:
            fit(run, stop)
        if is_rank_zero():
            finish_launch(run.run_dir)
        if run.progress.epoch < run.config.epochs:
            print(f"Stopped early: {plural(run.config.early_stopping, 'epoch')} without a better validation.")
        print(f"Done in {duration(time.monotonic() - run.start)}: {relative_to_cwd(run.run_dir)}{_best(run.progress)}")
        if run.frame_set.part("test"):
            print(f"Test it:    python evaluate.py {relative_to_cwd(run.run_dir)}")
        print(f"Look at it: tensorboard --logdir {relative_to_cwd(run.run_dir.parent)}")
        return run.run_dir


def fit(run: Run, stop: StopRequest) -> None:
    """Epochs of training and validation; last.pth after each, best.pth where validation says so."""
    progress = run.progress
    try:
        while progress.epoch < run.config.epochs and not out_of_patience(run.config, progress):
            epoch_start = time.monotonic()
            measured = train_one_epoch(run, stop)
            validation = averaged = None
            stop.agree()
            if run.val_loader is not None and not stop.agreed:
                validation, averaged = validate(run, stop)
                stop.agree()
            if stop.agreed:
                check_weights(run)
                write_checkpoint(run, "last.pth", for_resume=True)
                raise Stopped(
                    stop.agreed,
                    f"Stopped by {signal.Signals(stop.agreed).name} after step {progress.step}. "
                    f"To go on: python train.py --resume {relative_to_cwd(run.run_dir)}",
                )
            finish_epoch(run, validation, averaged, measured, time.monotonic() - epoch_start)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise out_of_memory(run.config) from error
    finally:
        run.tracker.close()


def train_one_epoch(run: Run, stop: StopRequest) -> dict[str, float]:
    """The rest of the epoch that the run is in; returns what was measured, by its TensorBoard tag. The step itself
    never waits for the device."""
    progress, plan = run.progress, run.train_loader.batch_sampler
    first = progress.step - progress.epoch * plan.num_steps
    run.model.train()
    if run.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(run.device)
    num_clips, waited, start = 0, 0.0, time.monotonic()
    saved = start
    batches = prefetch(run.train_loader.batches(progress.epoch, plan.first_batch(first)), run.device)
    with epoch_bar(run, first) as bar:
        for _ in range(first, plan.num_steps):
            due = is_rank_zero() and 0 < 60 * run.config.save_every <= time.monotonic() - saved
            if stop.agree(due) and not stop.agreed:
                check_loss(run)
                check_weights(run)
                write_checkpoint(run, "last.pth", for_resume=True)
                saved = time.monotonic()
            if stop.agreed:
                break
            step = train_step(run, batches)
            note_bad_loss(progress, step.loss)
            progress.step += 1
            num_clips += step.num_clips
            waited += step.waited
            bar.update()
            if progress.step % LOG_EVERY == 0 and plan.num_steps >= LOG_EVERY:  # finish_epoch logs shorter epochs
                check_loss(run)
                loss = all_reduce_sum([step.loss.item()])[0]
                scalars = {"train/loss": loss, "train/lr": step.lr, "train/grad_norm": step.grad_norm.item()}
                run.tracker.scalars(scalars, progress.step)
    batches.close()
    check_loss(run)
    seconds = time.monotonic() - start
    measured = {"time/clips_per_second": num_clips / seconds, "time/data_wait": waited / seconds} if num_clips else {}
    if run.device.type == "cuda":
        measured["time/gpu_memory_gb"] = torch.cuda.max_memory_allocated(run.device) / 1e9
    return measured


def validate(run: Run, stop: StopRequest) -> tuple[Evaluation | None, Evaluation | None]:
    """Of the weights as they are, and of their moving average where one is kept."""
    how = (run.val_loader, run.spec, run.device, run.amp, run.config.batch_size, stop, "Validating")
    broadcast_buffers(run.model)
    validation, averaged = evaluate(run.model, *how), None
    if run.ema is not None and validation is not None:
        with run.ema.in_place_of(run.model):
            broadcast_buffers(run.model)
            averaged = evaluate(run.model, *how)
    return validation, averaged


def finish_epoch(
    run: Run,
    validation: Evaluation | None,
    averaged: Evaluation | None,
    measured: dict[str, float],
    seconds: float,
) -> None:
    """Counts the epoch: best.pth where it is the best so far, the records, and last.pth at the end, so that a run that
    is killed in between makes this epoch again and loses nothing. Where a moving average is kept, it is what evaluation
    and inference use, so its validation says which epoch is the best."""
    progress, judged = run.progress, averaged or validation
    check_weights(run, validation)
    progress.epoch += 1
    pool_means(run)
    train_loss, train_top1 = progress.loss.value(), progress.top1.value()
    if judged is None or _is_better(judged, progress):
        if judged is not None:
            progress.best_top1, progress.best_loss = judged.top1, judged.loss
        progress.best_epoch = progress.epoch
        write_checkpoint(run, "best.pth", for_resume=False)

    scalars = {"train/top1": train_top1, "time/epoch_seconds": seconds, **measured}
    of_epoch = {
        "train/loss": train_loss,
        "train/lr": run.schedule.factor(progress.step - 1) * run.config.lr,
        "train/grad_norm": progress.grad_norm.value(),
    }
    if run.train_loader.batch_sampler.num_steps < LOG_EVERY:  # else the curves have points of their own
        scalars |= of_epoch
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
    record = {"epoch": progress.epoch - 1, "step": progress.step, **scalars, **of_epoch}
    run.tracker.epoch({key: value for key, value in record.items() if not math.isnan(value)})
    run.tracker.flush()
    progress.begin_means(run.device)
    write_checkpoint(run, "last.pth", for_resume=True)

    ema = f", of the average {averaged.top1:5.1f}" if averaged else ""
    val = f"val top1 {validation.top1:5.1f}{ema} (best {progress.best_top1:5.1f})" if validation else "no validation"
    top1 = "" if math.isnan(train_top1) else f"  top1 {train_top1:5.1f}"
    left = seconds * (run.config.epochs - progress.epoch)
    pace = f"{measured.get('time/clips_per_second', 0):6.1f} clips/s"
    print(
        f"epoch {progress.epoch:3}/{run.config.epochs}  loss {train_loss:6.3f}{top1}  {val}  "
        f"{pace}  data wait {100 * measured.get('time/data_wait', 0):2.0f} %  left {duration(left)}",
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
    bad_steps = [step for step in all_gather(int(run.progress.bad_step.item())) if step >= 0]
    if bad_steps:
        raise diverged(run, min(bad_steps))


def diverged(run: Run, step: int) -> UserError:
    """What to say of a run whose numbers have left the range of numbers."""
    lr = run.schedule.factor(step) * run.config.lr
    advice = f"Try a lower rate (--lr {run.config.lr / 10:g})"
    if run.amp == torch.float16:
        advice += ", --amp bf16"
    if not any(isinstance(module, nn.modules.batchnorm._NormBase) for module in run.model.modules()):
        advice += ", or a model with normalisation layers (c3d_bn)"
    kept = f" {relative_to_cwd(run.run_dir / 'last.pth')} holds the epoch before." if run.progress.epoch else ""
    where = f"from step {step} on (learning rate {lr:g})"
    error = UserError(f"The loss is not a number any more, {where}. {advice}.{kept}")
    error.everywhere = True
    return error


def epoch_bar(run: Run, first: int) -> tqdm:
    return tqdm(
        total=run.train_loader.batch_sampler.num_steps,
        initial=first,
        desc=f"epoch {run.progress.epoch + 1}/{run.config.epochs}",
        unit=" steps",
        dynamic_ncols=True,
        leave=False,
        disable=not (is_rank_zero() and sys.stderr.isatty()),
    )


def _best(progress: Progress) -> str:
    return "" if progress.best_top1 is None else f", best validation video top-1 {progress.best_top1:.2f} %"


if __name__ == "__main__":
    run_cli(cli)
