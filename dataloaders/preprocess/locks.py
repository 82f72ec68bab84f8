"""Locks of frames folders (flock), which end with their process."""

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from common.errors import UserError
from dataloaders.preprocess.shards import Shard

LOCK = ".lock"  # of the whole folder; of a shard: .lock-3-of-8
PATIENCE = 30.0  # seconds; the others of its shards hold the folder for no longer than a merge takes


@contextmanager
def only_one_run(frames: Path, shard: Shard | None = None) -> Iterator[None]:
    """Locks the folder, or a shard of it, for this process. Raises UserError where another process holds it."""
    with ExitStack() as stack:
        if shard is None:
            stack.enter_context(_held(frames, LOCK))
            for path in sorted(frames.glob(f"{LOCK}-*-of-*")):
                stack.enter_context(_held(frames, path.name))
        else:
            with whole_folder(frames):
                stack.enter_context(_held(frames, f"{LOCK}-{shard.name}"))
        yield


@contextmanager
def whole_folder(frames: Path) -> Iterator[None]:
    """For a moment, beside the shards that run: to begin and to merge."""
    with _held(frames, LOCK, PATIENCE):
        yield


@contextmanager
def _held(frames: Path, name: str, patience: float = 0.0) -> Iterator[None]:
    owner = frames / name.replace(LOCK, ".owner")
    lock = FileLock(frames / name, timeout=patience)
    try:
        lock.acquire()
    except Timeout as error:
        who = owner.read_text(encoding="utf-8") if owner.exists() else "another process"
        raise UserError(f"{who} is writing into {frames} right now. Wait until it is done.") from error
    try:
        owner.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
        yield
    finally:
        lock.release()
