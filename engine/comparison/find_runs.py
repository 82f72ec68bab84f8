"""The run folders to compare, and their results."""

from collections.abc import Sequence
from pathlib import Path

from common.errors import UserError
from common.files import relative_to_cwd
from engine.comparison.cross_validation import read_entry
from engine.comparison.run_result import RunResult
from engine.comparison.test_result import one_line
from engine.runs.checkpoint import find_checkpoint


def find_runs(names: Sequence[str], runs: Path) -> list[Path]:
    """The folders of the named runs, or of all runs. Raises UserError for an unknown name."""
    if not names:
        found = sorted(path for path in runs.iterdir() if path.is_dir()) if runs.is_dir() else []
        if not found:
            raise UserError(f"There are no runs in {relative_to_cwd(runs)} yet. Train one: python train.py")
        return found
    return list(dict.fromkeys(find_run(name, runs) for name in names))


def find_run(name: str, runs: Path) -> Path:
    for folder in (Path(name).expanduser(), runs / name):
        if folder.is_dir():
            return folder.resolve()
    path = find_checkpoint(name, runs)
    if path.name != "best.pth":
        raise UserError(f"{relative_to_cwd(path)} is a file. Give a run's folder; runs are compared by their best.pth.")
    return path.resolve().parent


def read_runs(folders: Sequence[Path]) -> tuple[list[RunResult], list[str]]:
    """Returns the results of the runs, and a message for each folder that cannot be compared."""
    runs, left_out = [], []
    names = [folder.name for folder in folders]
    for folder in folders:
        name = folder.name if names.count(folder.name) == 1 else relative_to_cwd(folder)
        try:
            runs.append(read_entry(folder, name))
        except (UserError, OSError) as error:
            left_out.append(one_line(f"{name}: {error}"))
    return runs, left_out
