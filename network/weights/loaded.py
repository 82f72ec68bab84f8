"""Weights from elsewhere: one file a format, each turning what it reads into LoadedWeights.

A module of a file format has two functions. recognises(head) says from a file's first HEAD bytes whether it is of this
format; read(path, model_name) gives its weights, or a UserError of one line for whatever it cannot use.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from common.errors import UserError
from common.input_spec import InputSpec
from network.registry import model_options

HEAD = 4096


@dataclass
class LoadedWeights:
    """A file's parameters under our names, and what the file knows about them.

    state       parameter name -> tensor, on the CPU
    input_spec  what the network saw while it learnt these; None: the file does not say, so the model's own holds
    classes     class names in the order of the logits; None: the file does not say
    origin      where they come from, for people to read
    renamed     name in the file -> our name, where the two differ
    options     how the network must be built for them: create_model(name, num_classes, **options)
    notes       what was changed or assumed, a sentence each
    part        beginning of the names that the file is for, such as "trunk."; what has another name starts anew
    """

    state: dict[str, Tensor]
    input_spec: InputSpec | None
    classes: list[str] | None
    origin: str
    renamed: dict[str, str] = field(default_factory=dict)
    options: dict[str, str | float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    part: str = ""
    trained_on: str = ""
    seen_groups: list[str] = field(default_factory=list)


@contextmanager
def refusing(path: Path, kind: str, *errors: type[Exception]) -> Iterator[None]:
    """Turns errors that a damaged file raises in its reader into a UserError of one line."""
    try:
        yield
    except (UserError, PermissionError):
        raise
    except errors as error:
        raise UserError(
            f"{path} ({path.stat().st_size:,} bytes) is a damaged {kind} ({_first_line(error)}). Fetch or copy it anew."
        ) from None


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__


def check_is_c3d(path: Path, model_name: str) -> None:
    """A UserError unless the model is a C3D, which is the one that has a pool5."""
    if "pool5" not in model_options(model_name):
        raise UserError(f"{path} holds the weights of a C3D, and {model_name} is another network. Choose --model c3d.")


def check_finite(path: Path | str, state: dict[str, Tensor]) -> None:
    for name, value in state.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise UserError(f"{path} holds values in {name} that are no numbers (NaN or infinite): it is damaged.")
