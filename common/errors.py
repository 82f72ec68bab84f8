"""Errors a user can mend, and how an entry point ends: one line on stderr and an exit status, no traceback."""

import errno
from collections.abc import Sequence
from difflib import get_close_matches


class UserError(Exception):
    """Something outside the program is wrong. The message says what, the value, and what to do. Exit status 1.

    everywhere: of several processes all have the same error, so one message is enough.
    """

    everywhere = False


class UsageError(UserError):
    """The command line is wrong. Exit status 2."""

    everywhere = True


class Stopped(Exception):
    """The run was asked to end by a signal, and everything it needs to go on is written. Exit status 128 + signal."""

    everywhere = True

    def __init__(self, signum: int, message: str):
        super().__init__(message)
        self.signum = signum


def unknown_name(kind: str, name: str, available: Sequence[str]) -> str:
    """A message such as: Unknown model 'r3d18'. Did you mean 'r3d_18'? Available: c3d, r3d_18."""
    close = get_close_matches(name, available, n=1, cutoff=0.5)
    hint = f" Did you mean '{close[0]}'?" if close else ""
    return f"Unknown {kind} '{name}'.{hint} Available: {', '.join(sorted(available))}."


def is_out_of_memory(error: Exception) -> bool:
    """torch says it with a class of its own on a GPU, and in the text of a RuntimeError on a CPU."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"MemoryError", "OutOfMemoryError"}) or "allocate memory" in str(error)


def out_of_space(error: OSError) -> bool:
    return error.errno in (errno.ENOSPC, errno.EDQUOT)
