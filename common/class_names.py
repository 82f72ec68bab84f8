"""Names of classes from a text file."""

import re
from pathlib import Path

from common.errors import UserError


def read_labels(path: Path) -> list[str]:
    """Names of classes, one a line. If all are numbered, as in UCF101's classInd.txt, the numbers are dropped."""
    try:
        text = path.expanduser().read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"--labels {path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"--labels {path} is no UTF-8 text. It is a text file with a class name on each line."
        ) from error

    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise UserError(f"--labels {path} is empty. It is a text file with a class name on each line.")
    numbered = [re.fullmatch(r"(\d+)[\s,:]+(.+)", line) for line in lines]
    if all(numbered) and int(numbered[0][1]) in (0, 1):
        numbers = [int(match[1]) for match in numbered]
        if numbers == list(range(numbers[0], numbers[0] + len(numbers))):
            return [match[2] for match in numbered]
    return lines
