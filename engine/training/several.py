"""Several runs, one after the other, from one command: for networks, folds of a cross-validation, shares of a list."""

import gc
import shlex
import sys
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from common.cli import fail
from common.console import plural
from common.dataclass_flags import flag_name
from common.errors import Stopped, UsageError, UserError
from common.files import relative_to_cwd
from common.torchrun import is_rank_zero, world_size
from dataloaders.frame_set import FrameSet
from engine.evaluation.evaluate import Evaluation
from engine.evaluation.job import evaluate_run
from engine.evaluation.learning_curve import CurveRun, read_right, write_curve
from engine.evaluation.pooled import ANSWERS, pool_folds, save_answers
from engine.hardware.device import pick_device
from engine.hardware.distributed import broadcast
from engine.runs.checkpoint import load_checkpoint
from engine.runs.environment import environment
from engine.runs.folder import create_run_dir, folds_of, is_curve, record_launch
from engine.training.config import TrainConfig, saved_settings
from engine.training.recipes import recipe_for
from engine.training.setup import default_workers, open_data, read_input, with_address

MOST_FOLDS = 100  # with --folds groups
SHARES, DRAWS = (1, 2, 4, 8), 2  # eighths of the training recordings in a learning curve, and how often each is drawn
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


def several_runs(config: TrainConfig, runs: Path) -> Callable[..., Path] | None:
    """Returns the function that trains a configuration of several runs, begun or resumed; None for a single run."""
    folder = _folder_of(config.resume, runs) if config.resume else None
    if config.learning_curve or (folder and is_curve(folder)):
        return train_curve
    return train_folds if config.folds or (folder and folds_of(folder)) else None


def _folder_of(run: str, runs: Path) -> Path | None:
    """The folder of several runs by its path or name; None for a single run."""
    return next((path for path in (Path(run).expanduser(), runs / run) if folds_of(path) or is_curve(path)), None)


def _begin(given: TrainConfig, config: TrainConfig, frame_set: FrameSet, runs: Path, kind: str) -> Path:
    """Makes the folder of several runs. config: `given` as the folder keeps it."""
    folder = None
    if is_rank_zero():
        folder = create_run_dir(runs, f"{config.model}-{frame_set.source.name}-{kind}", config.name)
        record_launch(folder, given.to_dict())
        config.save(folder / "config.json", environment(pick_device(config.device)))
    return broadcast(folder)


def _continue(given: TrainConfig, runs: Path) -> tuple[Path, TrainConfig]:
    folder = broadcast(_folder_of(given.resume, runs))
    config, _ = broadcast(saved_settings(folder / "config.json"))
    if changed := next((name for name in ("epochs", "dataset", "frames") if getattr(given, name) is not None), None):
        kind = "learning curve" if config.learning_curve else "cross-validation"
        raise UsageError(f"{flag_name(changed)} cannot be changed within a {kind}. Begin a new one.")
    machine = {name: getattr(given, name) for name in OF_THE_MACHINE if getattr(given, name) is not None}
    return folder, replace(config, **machine)


def _train_one(settings: TrainConfig, given: TrainConfig, train: Callable[[TrainConfig], Path]) -> Path:
    """Trains one of several runs, or continues it; returns its folder."""
    run_dir = Path(settings.runs) / settings.name
    if broadcast((run_dir / "config.json").is_file()):
        machine = {name: getattr(given, name) for name in OF_THE_MACHINE}
        settings = TrainConfig(resume=str(run_dir), runs=settings.runs, **machine)
    if not broadcast(_has_ended(run_dir)):
        train(settings)
    _free_memory()
    return run_dir


def _has_ended(run_dir: Path) -> bool:
    if not (run_dir / "last.pth").is_file():
        return False
    checkpoint = load_checkpoint(run_dir / "last.pth")
    return checkpoint["epoch"] >= checkpoint["config"]["epochs"]


def _test(run_dir: Path, config: TrainConfig, datasets: dict[str, dict]) -> tuple[FrameSet, Evaluation]:
    workers = default_workers() if config.workers is None else config.workers
    frame_set, evaluations = evaluate_run(run_dir, config.device, workers, datasets)
    return frame_set, evaluations["normal"]


# --- cross-validation


def train_folds(
    given: TrainConfig, datasets: dict[str, dict], runs: Path, train: Callable[[TrainConfig], Path]
) -> Path:
    """Cross-validation: trains a run for each fold of the recordings, tests it on that fold, and pools the answers.

    Returns the folder of all these runs, which --resume continues: folds that are done are left as they are.
    """
    folder, config = _continue(given, runs) if given.resume else _begin_folds(given, datasets, runs)
    num_folds = int(config.folds)
    for number in range(1, num_folds + 1):
        if broadcast((folder / f"fold-{number}" / ANSWERS).is_file()):
            print(f"Fold {number} of {num_folds} is done.")
            continue
        print(f"\nFold {number} of {num_folds}", flush=True)
        split = "-".join(filter(None, [f"fold-{number}-of-{num_folds}", config.split]))
        settings = replace(config, folds=None, split=split, name=f"fold-{number}", runs=str(folder), test=False)
        run_dir = _train_one(settings, given, train)
        frame_set, evaluation = _test(run_dir, config, datasets)
        if is_rank_zero():
            save_answers(run_dir, frame_set, evaluation)
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
    folder = _begin(given, config, frame_set, runs, f"{config.folds}fold")
    print(
        f"Cross-validation: {plural(int(config.folds), 'fold')} of {plural(len(frame_set.rows), 'video')} and "
        f"{plural(len(groups), 'recording')}; each fold tests the recordings that its run has not seen."
    )
    return folder, config


# --- learning curve


def train_curve(
    given: TrainConfig, datasets: dict[str, dict], runs: Path, train: Callable[[TrainConfig], Path]
) -> Path:
    """Learning curve: trains and tests runs on nested shares of the training recordings, and fits a law through them.

    All runs make as many steps: on a share, more clips are drawn from each video. Returns the folder of all runs, which
    --resume continues.
    """
    folder, config = _continue(given, runs) if given.resume else _begin_curve(given, datasets, runs)
    clips = config.clips_per_video or recipe_for(config.recipe, set()).get("clips_per_video", 1)
    names = {f"train-{share}-of-{SHARES[-1]}-draw-{draw}": (share, draw) for share in SHARES for draw in range(DRAWS)}
    for number, (name, (share, draw)) in enumerate(names.items(), 1):
        if broadcast((folder / name / "test.json").is_file()):
            print(f"Run {number} of {len(names)}, {name}, is done.")
            continue
        print(f"\nRun {number} of {len(names)}: {share}/{SHARES[-1]} of the recordings", flush=True)
        run_dir = _train_one(
            replace(
                config,
                learning_curve=False,
                split="-".join(filter(None, [config.split, name])),
                clips_per_video=clips * SHARES[-1] // share,
                seed=config.seed + draw,
                name=name,
                runs=str(folder),
                test=False,
            ),
            given,
            train,
        )
        if not config.folds:
            _test(run_dir, config, datasets)
    print()
    if is_rank_zero():
        title = f"{config.model} on {Path(config.dataset).name}"
        write_curve(folder, title, _curve_runs(folder, names, config, datasets))
    return folder


def _begin_curve(given: TrainConfig, datasets: dict[str, dict], runs: Path) -> tuple[Path, TrainConfig]:
    frame_set = _open_whole(given, datasets)
    groups = {row.group for row in frame_set.part("train")}
    if len(groups) < SHARES[-1] or not frame_set.part("test"):
        raise UserError(
            f"--learning-curve needs {SHARES[-1]} training recordings and a test list; {frame_set.source.name} has "
            f"{plural(len(groups), 'training recording')} and {plural(len(frame_set.part('test')), 'test video')}."
        )
    config = with_address(given, frame_set, datasets)
    folder = _begin(given, config, frame_set, runs, "curve")
    print(
        f"Learning curve: {len(SHARES) * DRAWS} runs on {', '.join(f'{share}/{SHARES[-1]}' for share in SHARES)} of "
        f"{plural(len(groups), 'training recording')}, {DRAWS} draws each."
    )
    return folder, config


def _open_whole(config: TrainConfig, datasets: dict[str, dict]) -> FrameSet:
    spec, _ = read_input(config)
    split = f"fold-1-of-{config.folds}" if config.folds else config.split
    return open_data(replace(config, folds=None, split=split), spec, datasets, any_aspect=True)


def _curve_runs(
    folder: Path, names: dict[str, tuple[int, int]], config: TrainConfig, datasets: dict[str, dict]
) -> list[CurveRun]:
    labels_of: dict[str, set[str]] = defaultdict(set)
    for row in _open_whole(config, datasets).rows:
        labels_of[row.group].add(row.label)
    found, videos = [], None
    for name, (share, _) in names.items():
        run_dir = folder / name / "fold-1" if config.folds else folder / name
        trained = load_checkpoint(run_dir / "best.pth")["split"]["training_groups"]
        in_class = Counter(label for group in trained for label in labels_of[group])
        answers = read_right(folder / name)
        videos = videos or sorted(answers)
        right, groups, labels = zip(*(answers[video] for video in videos), strict=True)
        found.append(CurveRun(share, len(trained), dict(in_class), np.array(right), list(groups), list(labels)))
    return found
