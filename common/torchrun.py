"""What torchrun tells each process it starts, through its environment."""

import os
import socket


def world_size() -> int:
    """How many processes work together; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", 1))


def rank() -> int:
    """The number of this process among all of them, on all machines."""
    return int(os.environ.get("RANK", 0))


def local_rank() -> int:
    """Its number on this machine."""
    return int(os.environ.get("LOCAL_RANK", 0))


def local_world_size() -> int:
    """How many processes work on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def is_rank_zero() -> bool:
    """The first process writes and speaks for all."""
    return rank() == 0


def launch_id() -> str | None:
    """What stays the same when torchrun starts a worker again; None without torchrun.

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
    """How often torchrun has started the processes anew after one of them failed."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))
