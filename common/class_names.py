"""Class names from a text file: one name per line, or `number name` as in UCF101's classInd.txt."""

import re
from pathlib import Path

from common.errors import UserError
from common.files import is_comment, read_lines, same_spelling


def read_labels(path: Path) -> list[str]:
    """The classes of --labels, in the order of a network's outputs. Numbers in front of all names are dropped where
    they count from 0 or 1; else they belong to the names ("2 hands")."""
    try:
        names = read_class_names(path.expanduser(), gaps=False)
    except UserError as error:
        raise UserError(f"--labels {error}") from error
    return [names[number] for number in sorted(names)]


def read_class_names(path: Path, gaps: bool = True) -> dict[int, str]:
    """{number: name}, counted from 0 where the lines have no numbers. Lines that begin with # are comments.

    gaps: numbers in front of all names may leave some out; without, they must count up from 0 or 1 to be taken as such.
    Raises UserError for a file that cannot be read, is empty, or has a number or a name twice.
    """
    lines = _read_lines(path)
    numbered = [re.fullmatch(r"(\d+)[\s,:]+(\S.*)", line) for line in lines]
    if all(numbered) and (gaps or _counts_up([int(match[1]) for match in numbered])):
        names = {int(match[1]): match[2] for match in numbered}
    else:
        names = dict(enumerate(lines))
    if len(names) < len(lines) or (gaps and len(set(names.values())) < len(lines)):
        raise UserError(f"{path} has a number or a name twice.")
    return names


def _counts_up(numbers: list[int]) -> bool:
    return numbers[0] in (0, 1) and numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def _read_lines(path: Path) -> list[str]:
    try:
        lines = read_lines(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    lines = [same_spelling(line.strip()) for line in lines if line.strip() and not is_comment(line)]
    if not lines:
        raise UserError(f"{path} is empty. It must have one class name per line.")
    return lines
