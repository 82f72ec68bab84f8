"""Command lines: parsing with did-you-mean, one-line errors and exit statuses."""

import argparse
import errno
import io
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from types import FrameType
from typing import NoReturn

from common.errors import Stopped, UsageError, UserError, is_out_of_memory
from common.files import WINDOWS_PATH, blocked_by, is_forbidden, printable
from common.torchrun import is_rank_zero, rank
from common.worker_process import ProgramFault

CTRL_C = "Stopped by Ctrl-C."


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line, with the nearest flag for a misspelt one and a hint to --help."""

    def parse_args(self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None):
        parsed, rest = self.parse_known_args(args, namespace)
        if rest:
            self.error(_unknown(rest[0], self._flags(sys.argv[1:] if args is None else args)))
        return parsed

    def error(self, message: str) -> NoReturn:
        message = _plain(message)
        end = "" if message.endswith((".", "?")) else "."
        self.exit(2, f"{message}{end} {self.prog} --help lists the flags.\n")

    def _flags(self, args: Sequence[str]) -> list[str]:
        """Flags of this parser and of the subcommands named in `args`."""
        flags = []
        for action in self._actions:
            flags += action.option_strings
            if isinstance(action, argparse._SubParsersAction):
                flags += [
                    flag for name, command in action.choices.items() if name in args for flag in command._flags([])
                ]
        return flags


def _plain(message: str) -> str:
    """argparse's texts about a value in our words: the flag, the value, what it may be."""
    if found := re.fullmatch(r"argument (\S+)(?:/\S+)?: invalid (int|float) value: (.+)", message):
        kind = "a whole number" if found[2] == "int" else "a number"
        return f"{found[1]} must be {kind}, but is {found[3]}"
    if found := re.fullmatch(r"argument (\S+)(?:/\S+)?: invalid choice: (.+?) \(choose from (.+)\)", message):
        choices = [choice.strip("' ") for choice in found[3].split(",")]
        close = get_close_matches(found[2].strip("'"), choices, n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        return f"{found[1]} is {found[2]}.{hint} It can be {', '.join(choices)}"
    if found := re.fullmatch(r"argument (\S+)(?:/\S+)?: expected (one argument|at least one argument)", message):
        return f"{found[1]} needs a value"
    return re.sub(r"^argument (\S+?)(?:/\S+)?: ", r"\1: ", message)


def _unknown(word: str, flags: Sequence[str]) -> str:
    if not word.startswith("-"):
        return f"'{word}' is not expected here"
    close = get_close_matches(word.partition("=")[0], flags, n=1)
    return f"Unknown flag '{word}'" + (f". Did you mean {close[0]}?" if close else "")


def at_least(least: int) -> Callable[[str], int]:
    """The type of a flag that takes a whole number of at least `least`."""

    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"'{text}' is not a whole number of at least {least}")
        return int(text)

    return parse


positive = at_least(1)


def number(kind: str, holds: Callable[[float], bool]) -> Callable[[str], float]:
    """The type of a flag that takes a number for which `holds`; kind: such as "a number greater than 0"."""

    def parse(text: str) -> float:
        with suppress(ValueError):
            if holds(value := float(text)):
                return value
        raise argparse.ArgumentTypeError(f"'{text}' is not {kind}")

    return parse


above_zero = number("a number greater than 0", lambda value: 0 < value < float("inf"))
not_negative = number("a number of at least 0", lambda value: 0 <= value < float("inf"))


def run_cli(main: Callable[[Sequence[str]], object]) -> None:
    """Runs main(argv) and exits: 0 done (or the number main returns), 1 failed, 2 usage, 130 Ctrl-C, 143 SIGTERM, 129
    SIGHUP."""
    outlive_readers()
    print_any_name()
    for number in ending_signals():
        signal.signal(number, _raise_stopped)  # so that unfinished files are removed
    signal.signal(signal.SIGINT, _interrupt)  # a script that starts us with & has it ignored
    try:
        result = main(sys.argv[1:])
        status = result if isinstance(result, int) else 0
        sys.stdout.flush()
    except KeyboardInterrupt:
        status = _say(CTRL_C, 128 + signal.SIGINT)
    except Exception as error:
        # an extension module that is being imported turns a KeyboardInterrupt into an ImportError
        interrupted = isinstance(error, ImportError | SystemError) and _interrupt.called
        status = _say(CTRL_C, 128 + signal.SIGINT) if interrupted else fail(error)
    sys.exit(status)


def ending_signals() -> list[signal.Signals]:
    """SIGTERM, and SIGHUP, which a terminal sends that closes (ssh breaks off); not where nohup has it ignored."""
    hang_up = getattr(signal, "SIGHUP", None)  # not on Windows
    heard = hang_up is not None and signal.getsignal(hang_up) is not signal.SIG_IGN
    return [signal.SIGTERM, *([hang_up] if heard else [])]


class LastingStream(io.TextIOWrapper):
    """Standard output or error for programs that go on when nobody reads it any more (ssh broke off, `... | head`) or
    its disk is full: what they print then is lost."""

    def write(self, text: str) -> int:
        self._try(super().write, text)
        return len(text)

    def flush(self) -> None:
        self._try(super().flush)

    def _try(self, action: Callable, *args: str) -> None:
        try:
            action(*args)
        except OSError as error:
            if error.errno in (errno.EPIPE, errno.EIO):
                os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            elif error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise


def outlive_readers() -> None:
    """Makes standard output and error LastingStreams."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if type(stream) is io.TextIOWrapper:  # not what a notebook or a test has in its place
            stream.flush()
            lasting = LastingStream(stream.buffer, stream.encoding, stream.errors, line_buffering=stream.line_buffering)
            setattr(sys, name, lasting)


def print_any_name() -> None:
    """Lets standard output and error print every name: of signs that their encoding lacks (cp1252, ascii), and of bytes
    that are not UTF-8, the codes are printed."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def parse_before_imports(parse: Callable[[Sequence[str]], object]) -> None:
    """Runs parse(argv) only for --help and usage errors, before a script spends two seconds on importing PyTorch.
    From here until run_cli, Ctrl-C ends the program with status 130."""
    signal.signal(signal.SIGINT, lambda *_: os._exit(_say(CTRL_C, 128 + signal.SIGINT)))
    try:
        parse(sys.argv[1:])
    except Exception as error:
        sys.exit(fail(error))


def fail(error: Exception) -> int:
    """Prints one line about the error on stderr and returns the exit status. Bugs of this program are raised again."""
    if isinstance(error, UsageError):
        return _say(error, 2)
    if isinstance(error, UserError | ProgramFault):
        return _say(error, 1)
    if isinstance(error, Stopped):
        return _say(error, 128 + error.signum)
    if isinstance(error, OSError) and (error.filename is not None or error.errno in ADVICE):
        where = printable(error.filename) if error.filename else "a file of this run"
        advice = blocked_by(error.filename) if is_forbidden(error) and error.filename else ADVICE.get(error.errno, "")
        if os.name == "nt" and len(os.path.abspath(where)) >= WINDOWS_PATH:  # noqa: PTH100 (no Path has a drive elsewhere)
            advice = f"Windows takes {WINDOWS_PATH} characters, unless long paths are enabled. Choose a shorter folder."
        return _say(f"{error.strerror}: {where}. {advice}".rstrip(), 1)
    if isinstance(error, MemoryError | RuntimeError | OSError) and is_out_of_memory(error):
        return _say("Out of memory. Lower --batch-size, the number of clips or their length.", 1)
    mistake = _mistake_in_mypath(error)
    if mistake is None:
        raise error
    return _say(mistake, 1)


def _mistake_in_mypath(error: Exception) -> str | None:
    """A message about an error raised in mypath.py, which users edit; None for errors from elsewhere."""
    if isinstance(error, SyntaxError):
        file, line, what = error.filename or "", error.lineno, f"{error.msg}: {(error.text or '').strip()}"
    elif isinstance(error, ModuleNotFoundError) and error.name == "mypath":
        return "mypath.py is missing: it belongs beside train.py. Restore it: git checkout mypath.py"
    elif isinstance(error, AttributeError) and getattr(error.obj, "__name__", "") == "mypath":
        return f"mypath.py has no {error.name}. Restore it: git diff mypath.py shows your changes."
    else:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        file, line, what = frame.filename, frame.lineno, f"{error} ({(frame.line or '').strip()})"
    return f"{Path(file).name}, line {line}: {what}" if Path(file).name in ("mypath.py", "mypath_local.py") else None


def _interrupt(signum: int, frame: FrameType | None) -> None:
    _interrupt.called = True
    signal.default_int_handler(signum, frame)


_interrupt.called = False


def _raise_stopped(signum: int, _: object) -> None:
    raise Stopped(signum, f"Stopped by {signal.Signals(signum).name}.")


ADVICE = {
    errno.ENOSPC: "Free some space on that disk, or choose another folder; complete files are kept.",
    errno.EDQUOT: "Your disk quota is used up: free some space, or choose another folder.",
    errno.EROFS: "Choose a folder on a writable disk.",
    errno.EIO: "The disk or its connection has failed.",
    errno.ESTALE: "The disk's connection was lost: mount it again.",
    errno.EACCES: "Its owner can give you the permission.",
    errno.EPERM: "Its owner can give you the permission.",
}


def _say(error: Exception | str, status: int) -> int:
    """Prints the message on stderr, from ranks other than 0 with the rank, or not at all where all ranks have the
    same."""
    if is_rank_zero():
        print(error, file=sys.stderr)
    elif not getattr(error, "same_on_all_ranks", False):
        print(f"Process {rank()}: {error}", file=sys.stderr)
    return status
