"""Trains a network on a data set: one loop for every model.

    python train.py --dataset demo --model r3d_10
    python train.py --dataset my/videos --model r2plus1d_18 --weights kinetics400
    python train.py --dataset my/videos --model r3d_18 c3d_bn        a run each, to be compared
    python train.py --dataset my/videos --folds 5                    cross-validation: every video is tested once
    python train.py --resume r3d_10-demo-000
    torchrun --nproc-per-node=4 train.py --dataset my/videos         on four GPUs

Writes run/<model>-<dataset>-NNN: config.json, TensorBoard events, metrics.jsonl, last.pth (to go on with) and best.pth
(the epoch with the best validation accuracy).
"""

import shlex
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from common.cli import parse_before_imports, run_cli
from common.files import ROOT, relative_to_cwd
from engine.training.command_line import parse_configs
from engine.training.config import TrainConfig


def parse_args(argv: Sequence[str]) -> list[TrainConfig]:
    import mypath  # here, where run_cli reports a mistake in it

    return parse_configs(argv, mypath.DEFAULT_DATASET, mypath.DEFAULT_MODEL, ROOT / mypath.RUNS)


if __name__ == "__main__":
    parse_before_imports(parse_args)

import torch
import torch.nn as nn
import torch.nn.functional as F

from common.errors import Stopped, UserError, is_out_of_memory
from common.torchrun import is_rank_zero, world_size
from dataloaders.batch_reader import Batch, WorkerLost
from dataloaders.prefetch import prefetch
from engine.evaluation.evaluate import Evaluation, evaluate
from engine.evaluation.job import evaluate_run
from engine.evaluation.metrics import topk_correct
from engine.hardware.device import autocast
from engine.hardware.distributed import broadcast, broadcast_buffers, process_group
from engine.runs.folder import find_launched, finish_launch, whole_of
from engine.training.checkpointing import pool_means, write_checkpoint
from engine.training.divergence import check_epoch, check_loss, check_weights, note_bad_loss, out_of_memory
from engine.training.optimizer import clip_weights
from engine.training.records import (
    LOG_EVERY,
    EpochBar,
    EpochResult,
    keep_if_best,
    log_curves,
    log_epoch,
    log_first_clips,
    log_step,
    print_end,
    print_epoch,
    stage_shares,
)
from engine.training.run import Run, StepResult, model_input, out_of_patience, shared_reader
from engine.training.setup import begin_run, resume_run
from engine.training.several import several_runs, train_each
from engine.training.stop_request import StopRequest


def cli(argv: Sequence[str]) -> int:
    configs = parse_args(argv)
    if len(configs) == 1:
        main(configs[0])
        return 0
    with process_group(configs[0].device):
        return train_each(configs, main)


def train(**settings: object) -> Path:
    """Trains one run, as the command with the flags of these names; returns its folder.

    train(dataset="my/videos", model="r3d_18", epochs=10)
    """
    import mypath

    return main(TrainConfig(**{"dataset": mypath.DEFAULT_DATASET, "model": mypath.DEFAULT_MODEL} | settings))


def main(config: TrainConfig) -> Path:
    """Trains one run as the configuration says; returns its folder."""
    import mypath

    runs = Path(config.runs).expanduser() if config.runs else ROOT / mypath.RUNS
    with process_group(config.device):
        earlier = broadcast(find_launched(runs, config.to_dict()) if is_rank_zero() and not config.resume else None)
        if earlier:
            run_dir, done = earlier
            if done:
                print(f"This launch has already completed its run: {relative_to_cwd(run_dir)}")
                return run_dir
            print(f"This launch continues its run {relative_to_cwd(run_dir)}.")
            config = replace(config, resume=str(run_dir))
        if train_several := several_runs(config, runs):
            folder = train_several(config, mypath.DATASETS, runs, main)
            if is_rank_zero():
                finish_launch(folder)
            return folder
        run = resume_run(config, mypath.DATASETS, runs) if config.resume else begin_run(config, mypath.DATASETS, runs)
        with StopRequest() as stop:
            fit(run, stop)
        if is_rank_zero():
            finish_launch(run.run_dir)
        print_end(run)
        if run.config.test:
            evaluate_run(run.run_dir, run.config.device, run.config.workers, mypath.DATASETS)
        return run.run_dir


def fit(run: Run, stop: StopRequest) -> None:
    """Trains and validates epoch by epoch. last.pth is written last, so a run that is killed in between makes the epoch
    again and loses nothing."""
    progress = run.progress
    try:
        with shared_reader(run):
            while progress.epoch < run.config.epochs and not out_of_patience(run.config, progress):
                start = time.monotonic()
                measured = train_one_epoch(run, stop)
                validation = averaged = None
                if run.val_loader is not None and not stop.vote().stop:
                    validation, averaged = validate(run, stop)
                if signum := stop.vote().stop:
                    end_early(run, signum)
                check_weights(run, validation)
                check_epoch(run)
                progress.epoch += 1
                pool_means(run)
                result = EpochResult(validation, averaged, measured, time.monotonic() - start)
                keep_if_best(run, result)
                log_epoch(run, result)
                log_curves(run)
                print_epoch(run, result)
                progress.begin_means(run.device)
                write_checkpoint(run, "last.pth", for_resume=True)
    except WorkerLost as error:
        if world_size() > 1:  # the other ranks wait in the next exchange of gradients, until the launcher ends them
            raise
        raise UserError(f"{error} Saved {save_unfinished(run)}") from error
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise out_of_memory(run.config) from error
    finally:
        run.tracker.close()
        if run.lock is not None:
            run.lock.release()


def train_one_epoch(run: Run, stop: StopRequest) -> dict[str, float]:
    """Makes the remaining steps of the current epoch; returns measurements under their TensorBoard tags. The host never
    waits for the device but to log."""
    progress, sampler = run.progress, run.train_loader.batch_sampler
    first = progress.step - progress.epoch * sampler.num_steps
    run.model.train()
    if run.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(run.device)
    num_clips, start = 0, time.monotonic()
    saved, stages = start, replace(run.train_loader.seconds)
    batches = TimedBatches(prefetch(run.train_loader.batches(progress.epoch, sampler.first_batch(first)), run.device))
    with EpochBar(run, first) as bar:
        for _ in range(first, sampler.num_steps):
            vote = stop.vote(save=is_rank_zero() and 0 < 60 * run.config.save_every <= time.monotonic() - saved)
            if vote.stop:
                break
            if vote.save:
                check_loss(run)
                check_weights(run)
                write_checkpoint(run, "last.pth", for_resume=True, may_fail=True)
                saved = time.monotonic()
            step = train_step(run, batches)
            note_bad_loss(progress, step.loss)
            progress.step += 1
            num_clips += step.num_clips
            bar.update(run)
            if progress.step % LOG_EVERY == 0 and sampler.num_steps >= LOG_EVERY:  # log_epoch does shorter epochs
                check_loss(run)
                log_step(run, step)
    batches.close()
    check_loss(run)
    seconds = time.monotonic() - start
    measured = {}
    if num_clips:
        measured = {"time/clips_per_second": num_clips / seconds, "time/data_wait": batches.waited / seconds}
        measured |= stage_shares(run, stages, seconds)
    if run.device.type == "cuda":
        measured["time/gpu_memory_gb"] = torch.cuda.max_memory_allocated(run.device) / 1e9
    return measured


def train_step(run: Run, batches: Iterator[Batch]) -> StepResult:
    """Forward and backward over the batches of one step, then one change of the weights.

    Each loss is divided by the clips of the whole step, so that any number of batches and ranks, and a last batch of
    any size, add up to the gradient of one large batch.
    """
    progress, sampler = run.progress, run.train_loader.batch_sampler
    step = progress.step - progress.epoch * sampler.num_steps  # of this epoch
    num_clips, numbers = len(sampler.positions(step)), sampler.batches_of(step)
    lr = run.schedule.set_lr(run.optimizer, progress.step)
    run.optimizer.zero_grad(set_to_none=True)

    total = torch.zeros((), device=run.device)
    # all are read before the first is used: where one cannot be read, the weights and norms are those of a whole step
    for number, batch in [(number, next(batches)) for number in numbers]:
        clips, labels, mirrored = batch  # (B, T, H, W, 3) uint8, (B,), (B,)
        x, targets = model_input(run, number, batch)  # (B, C, T, S, S), (B,) or (B, K)
        if progress.step == 0 and number == 0:
            log_first_clips(run, x, targets)

        # ranks exchange gradients once per step, with its last batch
        with run.compiled_model.no_sync() if world_size() > 1 and number < numbers[-1] else nullcontext():
            with autocast(run.device, run.amp):
                logits = run.compiled_model(x)  # (B, K)
                smoothing = run.config.label_smoothing
                losses = F.cross_entropy(logits, targets, label_smoothing=smoothing, reduction="none")  # (B,)
                if run.class_weights is not None:
                    losses = losses * clip_weights(run.class_weights, targets)
            loss = losses.sum() / num_clips
            if sampler.is_stand_in(number):  # a rank without clips of its own in this batch
                loss = loss * 0
            run.scaler.scale(loss * world_size()).backward()  # DistributedDataParallel divides by the world size
        if not sampler.is_stand_in(number):
            total += loss.detach()
            progress.loss.add(losses)
            if not run.mixup:  # a mixed clip has two right answers
                progress.top1.add(100 * topk_correct(logits, labels))

    run.scaler.unscale_(run.optimizer)
    grad_norm = nn.utils.get_total_norm([p.grad for p in run.model.parameters() if p.grad is not None])
    if run.config.clip_grad:
        nn.utils.clip_grads_with_norm_(run.model.parameters(), run.config.clip_grad, grad_norm)
    run.scaler.step(run.optimizer)
    run.scaler.update()
    if run.ema is not None:
        run.ema.update(run.model, progress.step)
    # with fp16 a norm can overflow; the scaler leaves such a step out
    progress.grad_norm.add(grad_norm.nan_to_num(0.0, 0.0) if run.scaler.is_enabled() else grad_norm)
    return StepResult(total, grad_norm, lr, num_clips)


class TimedBatches:
    """Passes batches on and adds up the seconds that the training loop waited for them."""

    def __init__(self, batches: Iterator[Batch]):
        self.batches, self.waited = batches, 0.0
        self.close = batches.close

    def __next__(self) -> Batch:
        start = time.monotonic()
        batch = next(self.batches)
        self.waited += time.monotonic() - start
        return batch


def validate(run: Run, stop: StopRequest) -> tuple[Evaluation | None, Evaluation | None]:
    """Evaluates the weights, and their moving average where one is kept, on the validation videos."""

    def evaluated(model: nn.Module) -> Evaluation | None:
        broadcast_buffers(model)
        return evaluate(model, run.val_loader, run.spec, run.device, run.amp, run.config.batch_size, stop, "Validating")

    validation = evaluated(run.model)
    averaged = evaluated(run.ema.module) if run.ema is not None and validation is not None else None
    return validation, averaged


def end_early(run: Run, signum: int) -> None:
    """Writes last.pth after a signal and raises Stopped."""
    raise Stopped(signum, f"Stopped by {signal.Signals(signum).name} {save_unfinished(run)}")


def save_unfinished(run: Run) -> str:
    """Writes last.pth in the middle of an epoch; returns the end of a message, which tells how to go on."""
    check_weights(run)
    write_checkpoint(run, "last.pth", for_resume=True)
    run_dir = shlex.quote(relative_to_cwd(whole_of(run.run_dir)))
    return f"after step {run.progress.step}. To continue: python train.py --resume {run_dir}"


if __name__ == "__main__":
    run_cli(cli)
