"""The environment variables that torchrun sets for each process."""

import os
import socket


def world_size() -> int:
    """Number of processes of the launch (WORLD_SIZE); 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", 1))


def rank() -> int:
    """Rank of this process among all processes of the launch (RANK)."""
    return int(os.environ.get("RANK", 0))


def local_rank() -> int:
    """Rank of this process on its machine (LOCAL_RANK)."""
    return int(os.environ.get("LOCAL_RANK", 0))


def local_world_size() -> int:
    """Number of processes of the launch on this machine (LOCAL_WORLD_SIZE)."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))


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
