"""A cross-validation as one entry of a comparison."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from common.errors import UserError
from engine.comparison.run_result import RunResult, read_run
from engine.comparison.test_result import one_line, read_test
from engine.runs.folder import folds_of, is_curve


def read_entry(folder: Path, name: str) -> RunResult:
    """A run, or a cross-validation: the pooled test result with the means of its folds. name: under which it is to be
    shown. Raises UserError as read_run does."""
    if is_curve(folder):
        raise UserError(f"a learning curve, whose result is {name}/curve.png")
    num_folds = folds_of(folder)
    if not num_folds:
        return read_run(folder, name)
    names = [f"fold-{number}" for number in range(1, num_folds + 1)]
    begun = [fold for fold in names if (folder / fold / "best.pth").is_file()]
    if not begun:
        raise UserError("no fold has a best.pth (yet)")
    folds = [read_run(folder / fold, fold) for fold in begun]
    notes = list(dict.fromkeys(f"{fold.name}: {note}" for fold in folds for note in fold.notes))
    test = None
    if (folder / "test.json").is_file() and len(begun) == num_folds:
        test = read_test(folder, f"python train.py --resume {folder.name}", notes)
    else:
        done = sum((folder / fold / "test.json").is_file() for fold in names)
        notes.append(f"{done} of {num_folds} folds are done: python train.py --resume {folder.name}")
    return replace(
        folds[0],
        path=folder,
        name=one_line(name),
        split=f"{num_folds}-fold",
        epochs=_over(folds, lambda fold: fold.epochs, max),
        best_val=_over(folds, lambda fold: fold.best_val, statistics.fmean),
        test=test,
        clips_per_second=_over(folds, lambda fold: fold.clips_per_second, statistics.median),
        memory_gb=_over(folds, lambda fold: fold.memory_gb, max),
        hours=_over(folds, lambda fold: fold.hours, sum),
        curve=_mean_curve([fold.curve for fold in folds]),
        notes=notes,
    )


def _over(folds: Sequence[RunResult], value: Callable[[RunResult], float | None], join: Callable) -> float | None:
    """None where a fold does not say."""
    values = [value(fold) for fold in folds]
    return None if None in values else join(values)


def _mean_curve(curves: Sequence[list[tuple[int, float]]]) -> list[tuple[int, float]]:
    """The mean over folds at the epochs that all have."""
    tables = [dict(curve) for curve in curves]
    epochs = sorted(set.intersection(*(set(table) for table in tables)))
    return [(epoch, statistics.fmean(table[epoch] for table in tables)) for epoch in epochs]
