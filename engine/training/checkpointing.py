"""Checkpoints of a run, saved and restored: settings, progress, and the state of optimiser and random generators."""

import time
from dataclasses import replace
from pathlib import Path

from common.console import plural
from common.errors import UserError, out_of_space
from common.torchrun import is_rank_zero, rank, world_size
from engine.hardware.distributed import all_gather, all_reduce_sum, broadcast, seed_process
from engine.runs.checkpoint import random_state, restore_random_state, save_checkpoint, versions
from engine.runs.environment import environment
from engine.training.config import TrainConfig
from engine.training.run import Progress, Run, out_of_patience

FULL_DISK_SECONDS = 10.0  # between two attempts


def checkpoint_content(run: Run, for_resume: bool) -> dict:
    """Plain values and tensors: enough to predict; with for_resume, to go on to the same weights as without a stop.

    All processes have to ask for that one together.
    """
    progress, split = run.progress, run.frame_set.split
    content = {
        "model": run.model.state_dict(),
        "model_options": run.model.options,
        "ema": run.ema.module.state_dict() if run.ema else None,
        "epoch": progress.epoch,
        "step": progress.step,
        "best_top1": progress.best_top1,
        "best_loss": progress.best_loss,
        "best_epoch": progress.best_epoch,
        "config": run.config.to_dict(),
        "input_spec": run.spec.to_dict(),
        "classes": run.frame_set.classes,
        "split": {"name": split.name, "hash": split.hash, "drawing": run.frame_set.source.drawing, **run.seen},
        "new_parameters": run.new_parameters,
        "processes": world_size(),
        "versions": versions(),
    }
    if for_resume:
        content |= {
            "optimizer": run.optimizer.state_dict(),
            "scheduler": run.schedule.state_dict(progress.step),
            "scaler": run.scaler.state_dict(),
            "means": {name: mean.state() for name, mean in progress.means().items()},
            "random": {str(number): state for number, state in enumerate(all_gather(random_state(run.device)))},
        }
    return content


def write_checkpoint(run: Run, name: str, for_resume: bool, may_fail: bool = False) -> None:
    """Writes a checkpoint from rank zero; all ranks call this together.

    Where the disk is full, --on-full-disk says whether this is an error or waits until there is space; with may_fail
    it is said, and the next checkpoint takes its place.
    """
    if for_resume:
        pool_means(run)
    content = checkpoint_content(run, for_resume)
    path, waits = run.run_dir / name, run.config.on_full_disk == "wait"
    said = False
    while full := broadcast(_no_space_for(content, path) if is_rank_zero() else None):
        if may_fail and not waits:
            print(f"WARNING: {full[1]}: {path}. Training goes on, and the next checkpoint takes its place.", flush=True)
            return
        if not waits:
            raise OSError(*full)
        if not said:
            print(f"{full[1]}: {path}. Training waits until there is space; Ctrl-C twice ends it.", flush=True)
        said = True
        time.sleep(FULL_DISK_SECONDS)
    if said:
        print("There is space again. Training goes on.", flush=True)


def _no_space_for(content: dict, path: Path) -> tuple[int, str, str] | None:
    """Saves a checkpoint; returns the error where the disk is full."""
    try:
        save_checkpoint(path, content)
    except OSError as error:
        if not out_of_space(error):
            raise
        return error.errno, error.strerror, str(path)
    return None


def pool_means(run: Run) -> None:
    """Adds up the means of all ranks on rank zero, which reports and saves them."""
    for mean in (run.progress.loss, run.progress.top1):
        total = all_reduce_sum(mean.state())
        mean.load(total if is_rank_zero() else [0.0, 0])


def restored_progress(path: Path, checkpoint: dict, config: TrainConfig, given: TrainConfig) -> Progress:
    """The progress that a checkpoint holds. Raises a UserError where early stopping has ended the run already."""
    best_epoch = checkpoint.get("best_epoch", checkpoint["epoch"])
    progress = Progress(
        checkpoint["epoch"], checkpoint["step"], checkpoint["best_top1"], checkpoint["best_loss"], best_epoch
    )
    if out_of_patience(config, progress):
        if not given.epochs:
            raise UserError(
                f"{path.parent} stopped early, {plural(config.early_stopping, 'epoch')} after its best one. To "
                f"continue nevertheless, give the number of epochs: --epochs {config.epochs}"
            )
        progress.best_epoch = progress.epoch  # patience begins anew
    return progress


def restore_state(run: Run, checkpoint: dict) -> None:
    """Loads what a checkpoint holds beside the weights: optimiser, scaler, moving average, means and random states."""
    run.optimizer.load_state_dict(checkpoint["optimizer"])  # after the model has moved: its state goes along
    run.scaler.load_state_dict(checkpoint["scaler"])
    if run.ema is not None:
        run.ema.module.load_state_dict(checkpoint["ema"])
    if is_rank_zero():
        for name, mean in run.progress.means().items():
            mean.load(checkpoint["means"][name])
        run.config.save(run.run_dir / "config.json", environment=environment(run.device))
    if str(rank()) in checkpoint["random"]:
        restore_random_state(checkpoint["random"][str(rank())], run.device)
    else:
        seed_process(run.config.seed + run.progress.step)
    run.tracker.drop_epochs(run.progress.epoch)


def changed(settings: TrainConfig, given: TrainConfig) -> TrainConfig:
    """A run's settings with those that may change when it is resumed. Data that moved are given anew."""
    moved = {"frames": given.frames} if given.frames else {}
    if given.dataset and given.dataset != settings.dataset:
        moved = {"dataset": given.dataset, "frames": given.frames}
    return replace(
        settings,
        **moved,
        epochs=given.epochs or settings.epochs,
        workers=settings.workers if given.workers is None else given.workers,
        cache=given.cache or settings.cache,
        on_full_disk=given.on_full_disk or settings.on_full_disk,
        test=given.test or settings.test,
        device=settings.device if given.device == "auto" else given.device,
    )


def regrouped(config: TrainConfig, saved_world_size: int) -> TrainConfig:
    """Settings with as many clips per step on another number of ranks: with more or fewer batches, and smaller ones
    where a rank's share of a step is less than a batch."""
    if saved_world_size == world_size():
        return config
    clips = config.batch_size * config.accumulate * saved_world_size
    if clips % world_size():
        raise UserError(
            f"This run makes steps of {clips} clips, which {world_size()} processes cannot share evenly. Resume it "
            f"with a number of processes that divides {clips}."
        )
    share = clips // world_size()
    batch_size = max(size for size in range(1, min(config.batch_size, share) + 1) if share % size == 0)
    print(
        f"On {plural(world_size(), 'process')} instead of {saved_world_size}, steps stay at {clips} clips "
        f"({share // batch_size} x {batch_size} on each)."
    )
    return replace(config, batch_size=batch_size, accumulate=share // batch_size)
