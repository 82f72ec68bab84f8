"""Weights into a model, with a report of what went where. Nothing is left out silently.

weights = read_weights("kinetics400", "r3d_18")
report = load_into(model, weights, classes)
print(report.table())
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError

import torch
import torch.nn as nn
from torch import Tensor

from engine.errors import UsageError, UserError, unknown_name
from network.importers import LoadedWeights
from network.importers.torchvision import KINETICS400, read_kinetics400
from network.registry import InputSpec

__all__ = ["KeyReport", "LoadedWeights", "known_weights", "load_into", "read_file", "read_weights"]

# name of the weights -> (the models that have them, what reads them)
NAMED: dict[str, tuple[list[str], Callable[[str], LoadedWeights]]] = {
    "kinetics400": (list(KINETICS400), read_kinetics400),
}

# what other programs put in front of every name: DataParallel, torch.compile
WRAPPERS = ("module.", "_orig_mod.")

# keys under which training programs keep their state dict
STATE_KEYS = ("state_dict", "model_state_dict", "model")

MIN_MATCH = 0.9


def known_weights(model_name: str) -> list[str]:
    """Names that read_weights takes for this model beside a file's path."""
    return [name for name, (models, _) in NAMED.items() if model_name in models]


def read_weights(source: str | Path, model_name: str) -> LoadedWeights:
    """`source` is a name from known_weights, one of our checkpoints, or a state dict under our or torchvision's names.

    A name wins over a file of that name; ./kinetics400 is the file. A checkpoint of ours gives its moving average where
    it holds one. Raises UserError for a missing file, one that is no checkpoint, and a checkpoint of another model.
    """
    if str(source) in NAMED:
        models, read = NAMED[str(source)]
        if model_name not in models:
            raise UsageError(f"There are no '{source}' weights for {model_name}, only for {', '.join(models)}.")
        return read(model_name)

    path = Path(source).expanduser()
    names = known_weights(model_name)
    if names and not path.exists() and not path.suffix and path.name == str(source):  # meant as a name, not as a file
        raise UsageError(f"{unknown_name('weights', str(source), names)} There is no file of that name either.")

    content = read_file(path)
    if isinstance(content.get("config"), dict) and isinstance(content.get("model"), dict):
        return _from_checkpoint(path, content, model_name)
    return _from_state_dict(path, content)


def read_file(path: Path) -> dict:
    """The dict in a torch.save file, on the CPU. Code that a pickle asks for is refused, never run.

    Raises UserError, one line, for whatever is no such file.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder. Name a file, such as the best.pth of a run.")
    if not path.exists():
        raise UserError(f"There is no weights file {path}.")

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError:
        raise
    except Exception as error:  # a damaged file makes the unpickler raise anything, from KeyError to UnicodeDecodeError
        foreign = re.search(r"unsupported (?:global: )?GLOBAL (\S+)", str(error), re.IGNORECASE)
        if isinstance(error, UnpicklingError) and foreign:
            raise UserError(
                f"{path} holds more than tensors and plain values: it asks for {foreign[1]}, and code is not run out "
                f"of a weights file. Save its state dict alone: torch.save(model.state_dict(), file)."
            ) from None
        raise UserError(
            f"{path} ({path.stat().st_size:,} bytes) is no PyTorch checkpoint, or a damaged one. Fetch or copy it anew."
        ) from None

    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}, not a dict of parameters.")
    return content


def _from_checkpoint(path: Path, content: dict, model_name: str) -> LoadedWeights:
    """Our own: what engine/checkpoint.py writes."""
    trained = content["config"].get("model")
    if trained != model_name:
        raise UserError(f"{path} is a checkpoint of '{trained}', not of '{model_name}'. Choose --model {trained}.")

    try:
        spec = content.get("input_spec")
        spec = InputSpec.from_dict(spec) if spec else None
    except (TypeError, AttributeError) as error:
        raise UserError(f"{path} has an input_spec that this version cannot read ({error}).") from None

    average = content.get("ema") or {}
    state, renamed = _our_names({**content["model"], **average})
    origin = f"{path}, moving average" if average else str(path)
    classes = content.get("classes")
    return LoadedWeights(state, spec, list(classes) if classes else None, origin, renamed)


def _from_state_dict(path: Path, content: dict) -> LoadedWeights:
    for key in STATE_KEYS:
        if isinstance(content.get(key), dict):
            content = content[key]
            break
    state, renamed = _our_names(content)
    if not state:
        keys = ", ".join(map(str, list(content)[:5]))
        raise UserError(f"{path} holds no parameters, neither at its top nor under {', '.join(STATE_KEYS)}: {keys}.")
    return LoadedWeights(state, None, None, str(path), renamed)


def _our_names(state: dict) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors without their wrappers' prefixes, and old name -> new name where there was one."""
    ours, renamed = {}, {}
    for name, value in state.items():
        if not isinstance(value, Tensor):
            continue
        new = str(name)
        while new.startswith(WRAPPERS):
            new = new.split(".", 1)[1]
        ours[new] = value
        if new != name:
            renamed[str(name)] = new
    return ours, renamed


@dataclass
class KeyReport:
    """What load_into did: names and how many values each holds.

    loaded         in the file and in the model
    renamed        of these, name in the file -> name in the model
    skipped        in the file only, or of another shape, or a head for other classes
    reinitialised  in the model only: they keep the values with which the model was built
    head           why the last layer is new, or "" where it was loaded
    """

    origin: str
    loaded: dict[str, int]
    renamed: dict[str, str]
    skipped: dict[str, int]
    reinitialised: dict[str, int]
    head: str

    def table(self) -> str:
        """A line each, with the first names, for a terminal."""
        rows = [
            ("loaded", self.loaded, ""),
            ("  renamed", {name: self.loaded[name] for name in self.renamed.values()}, _arrows(self.renamed)),
            ("skipped", self.skipped, _first(self.skipped)),
            ("re-initialised", self.reinitialised, _first(self.reinitialised)),
        ]
        lines = [f"Weights from {self.origin}", f"{'':16}{'names':>6}{'values':>13}"]
        for title, values, names in rows:
            lines.append(f"{title:16}{len(values):>6}{sum(values.values()):>13,}  {names}".rstrip())
        if self.head:
            lines.append(f"The last layer starts anew: {self.head}.")
        return "\n".join(lines)


def load_into(model: nn.Module, weights: LoadedWeights, classes: list[str] | None = None) -> KeyReport:
    """Copies weights into a freshly built model and says what went where.

    The last layer (model.head_name) keeps its fresh values when the file's is for another number of classes or, where
    both lists of names are known, for other classes or another order. Raises UserError when less than 90 % of the
    other values find their place; the model is then as it was.
    """
    own = model.state_dict()
    head = {name for name in own if name.startswith(f"{model.head_name}.")}
    reason = _why_new_head(model.head_name, own, head, weights, classes)

    fits = {
        name: value
        for name, value in weights.state.items()
        if name in own and value.shape == own[name].shape and not (reason and name in head)
    }
    trunk = sum(value.numel() for name, value in own.items() if name not in head)
    matched = sum(value.numel() for name, value in fits.items() if name not in head)
    if matched < MIN_MATCH * trunk:
        raise UserError(
            f"{weights.origin} does not fit this model: {100 * matched / trunk:.0f} % of its values find a place, "
            f"{100 * MIN_MATCH:.0f} % must. Only in the file: {_misfits(weights.state, own)}. "
            f"Only in the model: {_misfits(own, weights.state)}."
        )
    model.load_state_dict(fits, strict=False)

    return KeyReport(
        origin=weights.origin,
        loaded={name: value.numel() for name, value in fits.items()},
        renamed={old: new for old, new in weights.renamed.items() if new in fits},
        skipped={name: value.numel() for name, value in weights.state.items() if name not in fits},
        reinitialised={name: value.numel() for name, value in own.items() if name not in fits},
        head=reason,
    )


def _why_new_head(
    head_name: str, own: dict[str, Tensor], head: set[str], weights: LoadedWeights, classes: list[str] | None
) -> str:
    missing = sorted(name for name in head if name not in weights.state)
    if missing:
        return f"the file has no {missing[0]}"

    there, here = weights.state[f"{head_name}.weight"], own[f"{head_name}.weight"]
    if there.shape[:1] != here.shape[:1]:
        return f"{head_name} has {there.shape[0]} classes in the file and {here.shape[0]} here"
    if any(weights.state[name].shape != own[name].shape for name in head):
        return f"{head_name} has {_size(there)} values in the file and {_size(here)} here"

    if classes is not None and weights.classes is not None and list(classes) != list(weights.classes):
        at = next((i for i, pair in enumerate(zip(weights.classes, classes, strict=False)) if pair[0] != pair[1]), 0)
        return f"class {at} is '{weights.classes[at]}' in the file and '{classes[at]}' here"
    return ""


def _misfits(left: dict[str, Tensor], right: dict[str, Tensor], limit: int = 4) -> str:
    """The first names of `left` that `right` lacks or has in another shape."""
    names = [
        f"{name} ({_size(value)})"
        for name, value in left.items()
        if name not in right or right[name].shape != value.shape
    ]
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more if names else "none"


def _size(value: Tensor) -> str:
    return "x".join(map(str, value.shape)) or "a number"


def _first(names: dict[str, int], limit: int = 4) -> str:
    more = f", ... {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(list(names)[:limit]) + more


def _arrows(renamed: dict[str, str]) -> str:
    return next((f"{old} -> {new}" for old, new in renamed.items()), "") + (", ..." if len(renamed) > 1 else "")
