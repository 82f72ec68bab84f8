"""A dataclass whose fields are the flags of a command: name, type, default and help of each stand in one place."""

import argparse
from dataclasses import MISSING, Field, field, fields
from types import UnionType
from typing import get_args, get_type_hints

from common.cli import Parser

METAVARS = {int: "N", float: "X", str: "NAME"}
WIDTH = 120  # columns of --help


def flag(default: object, help_text: str, **options: object):
    """A field that is a flag. options: choices, metavar; several: the command line takes one or more."""
    return field(default=default, metadata={"help": help_text, **options})


def flag_name(name: str) -> str:
    """batch_size -> --batch-size"""
    return "--" + name.replace("_", "-")


def build_parser(config: type, groups: dict[str, str], prog: str, description: str) -> argparse.ArgumentParser:
    """groups: title -> names of its flags, in the order in which --help shows them; what is in none comes last."""
    parser = Parser(
        prog=prog,
        usage=f"{prog} [FLAGS]",
        description=description,
        add_help=False,  # in the last group, so that it takes no heading of its own
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=39, width=WIDTH),
    )
    entries, types = {entry.name: entry for entry in fields(config)}, get_type_hints(config)
    named = [(title, [name for name in names.split() if name in entries]) for title, names in groups.items()]
    rest = [name for name in entries if not any(name in names for _, names in named)]
    if rest:
        named.append(("other", rest))
    for title, names in named:
        group = parser.add_argument_group(title)
        for name in names:
            _add_flag(group, entries[name], _plain_type(types[name]))
    group.add_argument("-h", "--help", action="help", help="show this")
    return parser


def _add_flag(group: argparse._ArgumentGroup, entry: Field, kind: type) -> None:
    options = {"dest": entry.name, "default": None, "help": _help(entry)}
    if kind is bool:
        group.add_argument(flag_name(entry.name), action=argparse.BooleanOptionalAction, **options)
        return
    choices = entry.metadata.get("choices")
    if entry.metadata.get("several"):
        options["nargs"] = "+"
    metavar = None if choices else entry.metadata.get("metavar", METAVARS[kind])
    group.add_argument(flag_name(entry.name), type=kind, choices=choices, metavar=metavar, **options)


def _help(entry: Field) -> str:
    text = entry.metadata["help"]
    if entry.default not in (None, MISSING, False):
        text += f" (default: {entry.default})"
    return text.strip()


def _plain_type(hint: object) -> type:
    return next(kind for kind in get_args(hint) if kind is not type(None)) if isinstance(hint, UnionType) else hint
