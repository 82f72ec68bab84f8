"""Files that appear whole or not at all."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av

from engine import runs
from engine.errors import UsageError, UserError


def same_file(left: Path, right: Path) -> bool:
    return left.exists() and right.exists() and left.samefile(right)


def identity(path: Path) -> tuple[int, int] | None:
    """Which file it is, whatever its name; None where there is none, or where it may not be looked at."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_dev, stat.st_ino


def check_writable(path: Path) -> None:
    """Makes the folder and tries to create a file in it."""
    if identity(path) and path.is_dir():
        raise UsageError(f"{shown(path)} is a folder, and a file is to be written there. Choose another name.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = runs.temporary_name(path)
        temporary.touch()
        temporary.unlink(missing_ok=True)  # another process may try the same
    except OSError as error:
        raise UserError(f"{shown(path)} cannot be written: {error.strerror}. Choose another folder.") from error


def write_json(path: Path, content: dict | list[dict]) -> None:
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """As engine/runs.py has it; a disk or an encoder that fails is a UserError."""
    try:
        with runs.written_whole(path) as temporary:
            yield temporary
    except (OSError, av.error.FFmpegError) as error:
        raise UserError(f"{shown(path)} cannot be written: {error.strerror}.") from error


def shown(path: str | Path) -> str:
    """A path as text that can be printed, whatever bytes its name has."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
