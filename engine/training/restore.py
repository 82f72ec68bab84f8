"""The parts of resuming a run: its settings, its progress and the state of optimiser and random generators."""

from dataclasses import replace
from pathlib import Path

from common.console import plural
from common.errors import UserError
from common.torchrun import is_rank_zero, rank, world_size
from engine.hardware.distributed import seed_process
from engine.runs.checkpoint import restore_random_state
from engine.runs.environment import environment
from engine.training.config import TrainConfig
from engine.training.run import Progress, Run, out_of_patience


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
        device=settings.device if given.device == "auto" else given.device,
    )


def regrouped(config: TrainConfig, saved_world_size: int) -> TrainConfig:
    """Settings with as many clips per step on another number of ranks, by accumulating more or fewer batches."""
    if saved_world_size == world_size():
        return config
    clips = config.batch_size * config.accumulate * saved_world_size
    at_once = config.batch_size * world_size()
    if clips % at_once:
        raise UserError(
            f"This run makes steps of {clips} clips, {config.batch_size} at once on each of {saved_world_size} "
            f"processes. Batches on {world_size()} processes cannot give that size: resume it with a number of "
            "processes that "
            f"divides {clips // config.batch_size}."
        )
    print(f"On {plural(world_size(), 'process')} instead of {saved_world_size}, steps stay at {clips} clips.")
    return replace(config, accumulate=clips // at_once)
