"""A dataclass whose fields are the flags of a command: name, type, default, bounds and help stand in one place."""

import argparse
from dataclasses import MISSING, Field, field, fields
from types import UnionType
from typing import get_args, get_type_hints

from common.cli import Parser
from common.errors import UsageError

METAVARS = {int: "N", float: "X", str: "NAME"}
WIDTH = 120  # columns of --help
LARGEST = 2**63  # what torch and numpy take as a seed or a size


def flag(default: object, help_text: str, group: str, **options: object):
    """A field that is a flag.

    group: the heading under which --help shows it. options: choices; metavar; several: the command line takes one or
    more values; at_least, above, at_most, below: bounds of a number; switch: the flag alone means "on", --no-... "off".
    """
    return field(default=default, metadata={"help": help_text, "group": group, **options})


def flag_name(name: str) -> str:
    """batch_size -> --batch-size"""
    return "--" + name.replace("_", "-")


def build_parser(config: type, prog: str, description: str) -> argparse.ArgumentParser:
    """The parser of a dataclass of flags: groups and flags in the order of its fields, every default None."""
    parser = Parser(
        prog=prog,
        usage=f"{prog} [FLAGS]",
        description=description,
        add_help=False,  # in the last group, so that it takes no heading of its own
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=39, width=WIDTH),
    )
    types, groups = get_type_hints(config), {}
    for entry in fields(config):
        title = entry.metadata["group"]
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        _add_flag(groups[title], entry, _plain_type(types[entry.name]))
    next(reversed(groups.values())).add_argument("-h", "--help", action="help", help="show this help")
    return parser


def check_values(config: object) -> None:
    """Raises a UsageError for the first field whose value is empty, no choice of its flag, or out of its bounds."""
    for entry in fields(config):
        name, value, options = flag_name(entry.name), getattr(config, entry.name), entry.metadata
        if value is None:
            continue
        if value == "":
            raise UsageError(f"{name} is empty. Give a value, or leave the flag out.")
        if "choices" in options and value not in options["choices"]:
            raise UsageError(f"{name} is '{value}'. It can be {', '.join(options['choices'])}.")
        if "above" in options and not options["above"] < value < float("inf"):
            raise UsageError(f"{name} must be greater than {options['above']}{_upper_bound(entry)}, but is {value}.")
        if "at_least" in options and not value >= options["at_least"]:
            raise UsageError(f"{name} must be at least {options['at_least']}, but is {value}.")
        if "at_most" in options and value > options["at_most"]:
            raise UsageError(f"{name} must be greater than {options['above']}{_upper_bound(entry)}, but is {value}.")
        if "below" in options and value >= options["below"]:
            raise UsageError(f"{name} must be smaller than {options['below']}, but is {value}.")
        if "at_least" in options and value >= LARGEST:
            raise UsageError(f"{name} must be smaller than 2 to the 63rd, but is {value}.")


def _upper_bound(entry: Field) -> str:
    return f" and at most {entry.metadata['at_most']}" if "at_most" in entry.metadata else ""


def _add_flag(group: argparse._ArgumentGroup, entry: Field, kind: type) -> None:
    options = {"dest": entry.name, "default": None, "help": _help(entry)}
    if kind is bool and entry.default is False:
        group.add_argument(flag_name(entry.name), action="store_const", const=True, **options)
        # only to take it back where --config has it
        off = {"dest": entry.name, "action": "store_const", "const": False, "help": argparse.SUPPRESS}
        group.add_argument(f"--no-{flag_name(entry.name)[2:]}", **off)
        return
    if kind is bool:
        group.add_argument(flag_name(entry.name), action=argparse.BooleanOptionalAction, **options)
        return
    choices = entry.metadata.get("choices")
    if entry.metadata.get("switch"):
        off = f"--no-{flag_name(entry.name)[2:]}"
        group.add_argument(off, dest=entry.name, action="store_const", const="off", help=argparse.SUPPRESS)
        options |= {"nargs": "?", "const": "on"}
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
