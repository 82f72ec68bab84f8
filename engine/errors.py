"""Errors a user can mend, and how an entry point ends: one line on stderr and an exit status, no traceback."""

import errno
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path

from engine.launch import is_first, rank

ROOT = Path(__file__).resolve().parent.parent


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


def run_cli(main: Callable[[Sequence[str]], object]) -> None:
    """Runs main(argv) and exits: 0 done (or the number main returns), 1 failed, 2 usage, 130 Ctrl-C, 143 SIGTERM."""
    signal.signal(signal.SIGTERM, _raise_stopped)  # so that what was begun is cleared away
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a script that starts us with & has it ignored
    try:
        result = main(sys.argv[1:])
        status = result if isinstance(result, int) else 0
        sys.stdout.flush()
    except KeyboardInterrupt:
        status = _say("Stopped by Ctrl-C.", 128 + signal.SIGINT)
    except BrokenPipeError:  # the reader of our output went away, as in `... | head`
        sys.stdout = None
        status = 0
    except Exception as error:
        status = fail(error)
    sys.exit(status)


def fail(error: Exception) -> int:
    """Says on stderr what a user can do about it, in one line -> the exit status. A bug of ours is raised again."""
    if isinstance(error, UsageError):
        return _say(error, 2)
    if isinstance(error, UserError):
        return _say(error, 1)
    if isinstance(error, Stopped):
        return _say(error, 128 + error.signum)
    if isinstance(error, OSError) and (error.filename is not None or error.errno in ADVICE):
        where = error.filename or "a file of this run"
        return _say(f"{error.strerror}: {where}. {ADVICE.get(error.errno, '')}".rstrip(), 1)
    if isinstance(error, MemoryError | RuntimeError) and is_out_of_memory(error):
        return _say("Out of memory. Lower --batch-size, or how many clips there are and how long they are.", 1)
    mistake = _mistake_in_mypath(error)
    if mistake is None:
        raise error
    return _say(mistake, 1)


def _mistake_in_mypath(error: Exception) -> str | None:
    """What is wrong with mypath.py, the one file of ours that users edit; None where the error is not from there."""
    if isinstance(error, SyntaxError):
        file, line, what = error.filename or "", error.lineno, f"{error.msg}: {(error.text or '').strip()}"
    elif isinstance(error, AttributeError) and getattr(error.obj, "__name__", "") == "mypath":
        return f"mypath.py has no {error.name} any more. Put it back: git diff mypath.py shows what was changed."
    else:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        file, line, what = frame.filename, frame.lineno, f"{error} ({(frame.line or '').strip()})"
    return f"mypath.py, line {line}: {what}" if Path(file).name == "mypath.py" else None


def is_out_of_memory(error: Exception) -> bool:
    """torch says it with a class of its own on a GPU, and in the text of a RuntimeError on a CPU."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"MemoryError", "OutOfMemoryError"}) or "allocate memory" in str(error)


def _raise_stopped(signum: int, _: object) -> None:
    raise Stopped(signum, "Stopped by SIGTERM.")


ADVICE = {
    errno.ENOSPC: "Free some space on that disk, or choose another folder; what is written whole is kept.",
    errno.EDQUOT: "Your disk quota is used up: free some space, or choose another folder.",
    errno.EROFS: "Choose a folder on a disk that can be written.",
    errno.EACCES: "Choose a folder that you may write, or ask for the permission.",
    errno.EPERM: "Choose a folder that you may write, or ask for the permission.",
}


def out_of_space(error: OSError) -> bool:
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def _say(error: Exception | str, status: int) -> int:
    """Says it on stderr, of several processes with the number of this one, and once where all say the same."""
    if is_first():
        print(error, file=sys.stderr)
    elif not getattr(error, "everywhere", False):
        print(f"Process {rank()}: {error}", file=sys.stderr)
    return status
