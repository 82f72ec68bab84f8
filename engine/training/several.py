"""Several runs, one after the other, from one command: one for each network, or for each fold of a cross-validation."""

import gc
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from common.cli import fail
from common.console import plural
from common.dataclass_flags import flag_name
from common.errors import Stopped, UsageError
from common.files import relative_to_cwd
from common.torchrun import is_rank_zero, world_size
from engine.evaluation.job import evaluate_run
from engine.evaluation.pooled import ANSWERS, pool_folds, save_answers
from engine.hardware.device import pick_device
from engine.hardware.distributed import broadcast
from engine.runs.checkpoint import load_checkpoint
from engine.runs.environment import environment
from engine.runs.folder import create_run_dir, folds_of, record_launch
from engine.training.config import TrainConfig, saved_settings
from engine.training.setup import default_workers, open_data, read_input, with_address

MOST_FOLDS = 100  # with --folds groups
OF_THE_MACHINE = ("workers", "cache", "device", "on_full_disk")  # what --resume may change


def train_each(configs: Sequence[TrainConfig], train: Callable[[TrainConfig], Path]) -> int:
    """Trains a run for each configuration; returns the exit status.

    A run that fails prints its error, the others are trained all the same, and the status is 1. Ranks cannot go on
    without each other, so under torchrun the first failure ends all runs.
    """
    runs, failed = [], []
    for number, config in enumerate(configs):
        if number:
            print()
        print(f"Run {number + 1} of {len(configs)}: {config.model}", flush=True)
        try:
            runs.append(train(config))
        except Stopped:
            rest = " ".join(later.model for later in configs[number + 1 :])
            if rest and is_rank_zero():
                print(f"Not started: {rest}", file=sys.stderr)
            raise
        except Exception as error:
            if world_size() > 1 or isinstance(error, BrokenPipeError):
                raise
            failed.append(config.model)
            try:
                fail(error)
            except Exception:  # a bug, which may be that of one network alone
                traceback.print_exc()
        _free_memory()
    if runs:
        print(f"\nCompare them: python compare.py {shlex.join(relative_to_cwd(run) for run in runs)}")
    if failed:
        print(f"Failed: {', '.join(failed)}. See their messages above.", file=sys.stderr)
    return 1 if failed else 0


def _free_memory() -> None:
    gc.collect()  # what a failed run leaves behind would be missing to the next
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


# --- cross-validation


def train_folds(
    given: TrainConfig, datasets: dict[str, dict], runs: Path, train: Callable[[TrainConfig], Path]
) -> Path:
    """Cross-validation: trains a run for each fold of the recordings, tests it on that fold, and pools the answers.

    Returns the folder of all these runs, which --resume continues: folds that are done are left as they are.
    """
    folder, config = _continue_folds(given, runs) if given.resume else _begin_folds(given, datasets, runs)
    num_folds = int(config.folds)
    for number in range(1, num_folds + 1):
        run_dir = folder / f"fold-{number}"
        if broadcast((run_dir / ANSWERS).is_file()):
            print(f"Fold {number} of {num_folds} is done.")
            continue
        print(f"\nFold {number} of {num_folds}", flush=True)
        split = f"fold-{number}-of-{num_folds}"
        settings = replace(config, folds=None, split=split, name=run_dir.name, runs=str(folder), test=False)
        if broadcast((run_dir / "config.json").is_file()):
            machine = {name: getattr(given, name) for name in OF_THE_MACHINE}
            settings = TrainConfig(resume=str(run_dir), runs=str(folder), **machine)
        if not broadcast(_has_ended(run_dir)):
            train(settings)
        workers = default_workers() if config.workers is None else config.workers
        frame_set, evaluations = evaluate_run(run_dir, config.device, workers, datasets)
        if is_rank_zero():
            save_answers(run_dir, frame_set, evaluations["normal"])
        _free_memory()
    print()
    if is_rank_zero():
        pool_folds(folder, num_folds, datasets)
    return folder


def _begin_folds(given: TrainConfig, datasets: dict[str, dict], runs: Path) -> tuple[Path, TrainConfig]:
    """Opens the data to see that it can be divided, and makes the folder."""
    spec, _ = read_input(given)
    wanted = "2" if given.folds == "groups" else given.folds
    frame_set = open_data(replace(given, folds=None, split=f"fold-1-of-{wanted}"), spec, datasets, any_aspect=True)
    groups = {row.group for row in frame_set.rows}
    if given.folds == "groups" and len(groups) > MOST_FOLDS:
        raise UsageError(f"--folds groups would train {len(groups)} runs, one for each recording. Give a number.")
    config = replace(given, folds=str(len(groups)) if given.folds == "groups" else given.folds)
    config = with_address(config, frame_set, datasets)
    folder = None
    if is_rank_zero():
        stem = f"{config.model}-{frame_set.source.name}-{config.folds}fold"
        folder = create_run_dir(runs, stem, config.name)
        record_launch(folder, given.to_dict())
        config.save(folder / "config.json", environment(pick_device(config.device)))
    print(
        f"Cross-validation: {plural(int(config.folds), 'fold')} of {plural(len(frame_set.rows), 'video')} and "
        f"{plural(len(groups), 'recording')}; each fold tests the recordings that its run has not seen."
    )
    return broadcast(folder), config


def _continue_folds(given: TrainConfig, runs: Path) -> tuple[Path, TrainConfig]:
    folder = broadcast(find_folds(given.resume, runs))
    config, _ = broadcast(saved_settings(folder / "config.json"))
    changed = next((name for name in ("epochs", "dataset", "frames") if getattr(given, name) is not None), None)
    if changed:
        raise UsageError(f"{flag_name(changed)} cannot be changed within a cross-validation. Begin a new one.")
    machine = {name: getattr(given, name) for name in OF_THE_MACHINE if getattr(given, name) is not None}
    return folder, replace(config, **machine)


def find_folds(run: str, runs: Path) -> Path | None:
    """The folder of a cross-validation by its path or name; None for any other run."""
    return next((path for path in (Path(run).expanduser(), runs / run) if folds_of(path)), None)


def _has_ended(run_dir: Path) -> bool:
    if not (run_dir / "last.pth").is_file():
        return False
    checkpoint = load_checkpoint(run_dir / "last.pth")
    return checkpoint["epoch"] >= checkpoint["config"]["epochs"]
