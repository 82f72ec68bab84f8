"""Errors that end a program with one line on stderr and an exit status, without a traceback."""

import errno
from collections.abc import Sequence
from difflib import get_close_matches


class UserError(Exception):
    """An error that the user can mend. The message holds what is wrong, the value and what to do. Exit status 1.

    same_on_all_ranks: all processes of a launch raise it, so one message is enough.
    """

    same_on_all_ranks = False


class UserErrorOnAllRanks(UserError):
    """A UserError that every process of a launch raises."""

    same_on_all_ranks = True


class UsageError(UserErrorOnAllRanks):
    """A mistake in the command line. Exit status 2."""


class Stopped(Exception):
    """A signal ended the program after everything that is needed to go on was written. Exit status 128 + signal."""

    same_on_all_ranks = True

    def __init__(self, signum: int, message: str):
        super().__init__(message)
        self.signum = signum


def unknown_name(kind: str, name: str, available: Sequence[str]) -> str:
    """A message such as: Unknown model 'r3d18'. Did you mean 'r3d_18'? Available: c3d, r3d_18."""
    close = get_close_matches(name, available, n=1, cutoff=0.5)
    hint = f" Did you mean '{close[0]}'?" if close else ""
    return f"Unknown {kind} '{name}'.{hint} Available: {', '.join(sorted(available))}."


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out: torch raises OutOfMemoryError on a GPU, and a RuntimeError with this text on a CPU."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"MemoryError", "OutOfMemoryError"}) or "allocate memory" in str(error)


def out_of_space(error: OSError) -> bool:
    return error.errno in (errno.ENOSPC, errno.EDQUOT)
