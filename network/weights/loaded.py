"""LoadedWeights, the common form of all weight formats, and the checks they share.

A module of a file format has two functions: recognises(head) decides from a file's first HEAD bytes whether it has the
format, and read(path, model_name) returns LoadedWeights or raises a UserError of one line.
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
    """Parameters under our names, with the metadata of their file.

    state       parameter name -> tensor, on the CPU
    input_spec  input of their training; None: unknown, so the model's own is used
    classes     class names in the order of the logits; None: unknown
    origin      their source, for messages
    renamed     name in the file -> our name, where the two differ
    options     options of the network they fit: create_model(name, num_classes, **options)
    notes       changes and assumptions, one sentence each
    part        prefix of the parameters in the file, such as "trunk."; the others keep their initial values
    trained_on  data set of the training; "": unknown
    seen        what the training has seen: "seen_groups", recordings, and "seen_content", ids of videos
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
    seen: dict[str, list[str]] = field(default_factory=dict)


@contextmanager
def refusing(path: Path, kind: str, *errors: type[Exception]) -> Iterator[None]:
    """Turns `errors`, raised by the reader of a damaged file, into a UserError of one line."""
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
    """Raises UserError unless the model is a C3D, which is recognised by its option pool5."""
    if "pool5" not in model_options(model_name):
        raise UserError(f"{path} holds the weights of a C3D, and {model_name} is another network. Choose --model c3d.")


def check_finite(path: Path | str, state: dict[str, Tensor]) -> None:
    for name, value in state.items():
        # A sum of values that are not all finite is not finite either, and takes a twentieth of isfinite's time.
        if value.is_floating_point() and not value.sum().isfinite() and not value.isfinite().all():
            raise UserError(f"{path} holds values in {name} that are not numbers (NaN or infinite): it is damaged.")
