"""Locks of frames folders, which end with their process."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from common.errors import UserError
from common.files import Busy, held
from dataloaders.preprocess.shards import Shard

LOCK = ".lock"  # of the whole folder; of a shard: .lock-3-of-8
PATIENCE = 30.0  # seconds; the others of its shards hold the folder for no longer than a merge takes


@contextmanager
def only_one_run(frames: Path, shard: Shard | None = None, wait: bool = False) -> Iterator[None]:
    """Locks the folder, or a shard of it, for this process. Raises UserError where another process holds it; with
    `wait`, says so and waits until it ends."""
    said = False
    while True:
        with ExitStack() as stack:
            try:
                _take(stack, frames, shard)
            except Busy as error:
                if not wait:
                    raise UserError(f"{error} Wait until it is done.") from error
                if not said:
                    print(f"{error} Waiting until it is done; Ctrl-C ends the waiting.", flush=True)
                said = True
            else:
                yield
                return
        time.sleep(1)


def _take(stack: ExitStack, frames: Path, shard: Shard | None) -> None:
    if shard is None:
        stack.enter_context(held(frames / LOCK))
        for path in sorted(frames.glob(f"{LOCK}-*-of-*")):
            if not path.name.endswith("-file"):
                stack.enter_context(held(path))
    else:
        with whole_folder(frames):
            stack.enter_context(held(frames / f"{LOCK}-{shard.name}"))


@contextmanager
def whole_folder(frames: Path) -> Iterator[None]:
    """For a moment, beside the shards that run: to begin and to merge."""
    with held(frames / LOCK, PATIENCE):
        yield
