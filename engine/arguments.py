"""Command lines whose mistakes are one line in the user's words."""

import argparse
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that says of a mistake what it is and where the flags are listed, and knows what a misspelt
    flag was meant to be."""

    def parse_args(self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None):
        parsed, rest = self.parse_known_args(args, namespace)
        if rest:
            self.error(_unknown(rest[0], self._flags(sys.argv[1:] if args is None else args)))
        return parsed

    def error(self, message: str) -> NoReturn:
        end = "" if message.endswith((".", "?")) else "."
        self.exit(2, f"{message}{end} {self.prog} --help lists the flags.\n")

    def _flags(self, args: Sequence[str]) -> list[str]:
        """Its flags, and those of the commands that the line names."""
        flags = []
        for action in self._actions:
            flags += action.option_strings
            if isinstance(action, argparse._SubParsersAction):
                flags += [
                    flag for name, command in action.choices.items() if name in args for flag in command._flags([])
                ]
        return flags


def _unknown(word: str, flags: Sequence[str]) -> str:
    if not word.startswith("-"):
        return f"'{word}' stands where nothing is expected"
    close = get_close_matches(word.partition("=")[0], flags, n=1)
    return f"Unknown flag '{word}'" + (f". Did you mean {close[0]}?" if close else "")


def positive(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number of at least 1")
    return int(text)


def above_zero(text: str) -> float:
    """A finite number greater than 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"'{text}' is not a number greater than 0")
    return value
