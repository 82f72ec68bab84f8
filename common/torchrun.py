"""The environment variables that torchrun sets for each process."""

import os
import socket

from common.errors import UsageError

LAUNCH = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def world_size() -> int:
    """Number of processes of the launch (WORLD_SIZE); 1 without torchrun."""
    return _number("WORLD_SIZE", 1)


def rank() -> int:
    """Rank of this process among all processes of the launch (RANK)."""
    return _number("RANK", 0)


def local_rank() -> int:
    """Rank of this process on its machine (LOCAL_RANK)."""
    return _number("LOCAL_RANK", 0)


def local_world_size() -> int:
    """Number of processes of the launch on this machine (LOCAL_WORLD_SIZE)."""
    return _number("LOCAL_WORLD_SIZE", 1)


def _number(name: str, alone: int) -> int:
    """A number of the launch; `alone` where one of torchrun's variables is missing: some clouds set others of them."""
    is_launched = all(other in os.environ for other in LAUNCH)
    return int(os.environ.get(name, alone)) if is_launched else alone


def check_launch() -> None:
    """Raises UsageError where the environment announces more processes than one, but not which this one is."""
    missing = [name for name in LAUNCH if name not in os.environ]
    announced = os.environ.get("WORLD_SIZE", "1")
    if missing and announced != "1":
        raise UsageError(
            f"WORLD_SIZE is {announced}, but {missing[0]} is not set. Start several processes with torchrun "
            "(docs/many_gpus.md), or unset WORLD_SIZE to train in one."
        )


def is_rank_zero() -> bool:
    """Whether this is the process that writes files and prints for all."""
    return rank() == 0


def launch_id() -> str | None:
    """An id that stays the same when torchrun restarts its workers; None without torchrun.

    The rendezvous id, which torchrun draws where all processes are on one machine. A launch on several machines
    without one (--rdzv-id) is known by its torchrun process.
    """
    given = os.environ.get("TORCHELASTIC_RUN_ID")
    if given is None:
        return None
    return given if given != "none" else f"{socket.gethostname()}:{os.getppid()}"


def has_lasting_id() -> bool:
    """Whether launch_id was given or drawn for this launch alone; the number of a process will be another's one day."""
    return os.environ.get("TORCHELASTIC_RUN_ID", "none") != "none"


def num_restarts() -> int:
    """Number of times that torchrun has restarted the processes after a failure."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))
