"""The folders under run/."""

import json
import re
from pathlib import Path

from filelock import BaseFileLock

from common.errors import UserError
from common.files import Busy, take_lock, write_atomically
from common.torchrun import has_lasting_id, launch_id, num_restarts

LAUNCH = "launch.json"
LOCK = ".lock"
PATIENCE = 60.0  # seconds; a job that is queued again may begin while the one before it still saves


def create_run_dir(runs: Path, stem: str, name: str | None = None) -> Path:
    """run/<name>, or run/<stem>-NNN with the next free number. Another run may ask at the same moment."""
    runs.mkdir(parents=True, exist_ok=True)
    if name is not None:
        try:
            (runs / name).mkdir()
        except FileExistsError as error:
            advice = f", or continue it: --resume {name}" if (runs / name / "last.pth").is_file() else ""
            raise UserError(f"The run {runs / name} exists already. Choose another --name{advice}.") from error
        return runs / name
    while True:
        run_dir = runs / f"{stem}-{_next_number(runs, stem):03d}"
        try:
            run_dir.mkdir()
            return run_dir
        except FileExistsError:
            continue


def _next_number(runs: Path, stem: str) -> int:
    """Compared as numbers: run 1000 comes after run 999, and 10 after 9."""
    numbers = [re.fullmatch(re.escape(stem) + r"-(\d+)", path.name) for path in runs.iterdir()]
    return max((int(match.group(1)) for match in numbers if match), default=-1) + 1


def lock_run(run_dir: Path, patience: float = PATIENCE) -> BaseFileLock:
    """Makes this process the only one that writes the run, until the lock is released or the process ends. Raises
    UserError, which names the process that writes it already."""
    try:
        lock = take_lock(run_dir / LOCK)
    except Busy as error:
        print(f"{error} Waiting for up to {patience:.0f} s.", flush=True)
        try:
            lock = take_lock(run_dir / LOCK, patience)
        except Busy as still:
            raise UserError(f"{still} Stop it, or wait until it ends; then continue the run.") from still
    for path in run_dir.glob("*.pth.*tmp"):  # of a process that was killed
        path.unlink()
    return lock


def record_launch(run_dir: Path, settings: dict) -> None:
    """Notes in the run's folder which launch of torchrun begins it, with which settings."""
    if launch_id() is not None:
        record = {"id": launch_id(), "settings": settings, "done": False}
        write_atomically(run_dir / LAUNCH, json.dumps(record, indent=2) + "\n")


def finish_launch(run_dir: Path) -> None:
    """Notes that the run has come to its end."""
    path = run_dir / LAUNCH
    if path.is_file():
        write_atomically(
            path, json.dumps(json.loads(path.read_text(encoding="utf-8")) | {"done": True}, indent=2) + "\n"
        )


def empty_run_dir(run_dir: Path) -> None:
    """Clears away the records of an attempt that left no checkpoint."""
    for path in [*run_dir.glob("events.out.*"), *run_dir.glob("metrics.jsonl"), *run_dir.glob("*.pth.*tmp")]:
        path.unlink()


def folds_of(folder: Path) -> int | None:
    """The number of folds of a cross-validation's folder; None of any other folder."""
    settings = _settings(folder)
    return int(settings["folds"]) if settings.get("folds") and not settings.get("learning_curve") else None


def is_curve(folder: Path) -> bool:
    """Whether the folder is that of a learning curve."""
    return bool(_settings(folder).get("learning_curve"))


def whole_of(run_dir: Path) -> Path:
    """The folder of the cross-validation or learning curve that a run is part of; that of a run by itself."""
    while folds_of(run_dir.parent) or is_curve(run_dir.parent):
        run_dir = run_dir.parent
    return run_dir


def _settings(folder: Path) -> dict:
    try:
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return settings if isinstance(settings, dict) else {}
    except (OSError, ValueError):
        return {}


def find_unsaved(run: str, runs: Path) -> Path | None:
    """The folder of a run that ended before it had written anything to go on from but its settings."""
    for path in (Path(run).expanduser(), runs / run):
        if (path / "config.json").is_file():
            return path if not any(path.glob("*.pth")) else None
    return None


def find_launched(runs: Path, settings: dict) -> tuple[Path, bool] | None:
    """The youngest run that this very launch began with these settings, and whether it is done.

    A worker that torchrun starts again finds its run here. So does a job that is queued again under its old id, as
    long as the run is not done; then the same command begins another run.
    """
    if launch_id() is None or not (num_restarts() or has_lasting_id()):
        return None
    found = []
    for path in runs.glob(f"*/{LAUNCH}"):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            if record["id"] == launch_id() and record["settings"] == settings:
                found.append((path.stat().st_mtime, path.parent, record["done"]))
        except (OSError, ValueError, KeyError, TypeError):  # another program's file, or one just being removed
            continue
    if not found:
        return None
    _, run_dir, done = max(found)
    return (run_dir, done) if num_restarts() or not done else None
