"""Weights into a model, with a report of what went where. Nothing is left out silently.

weights = read_weights("kinetics400", "r3d_18")
model = create_model("r3d_18", num_classes, **weights.options)
report = load_into(model, weights, classes)
print(report.table())
"""

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from pickle import UnpicklingError

import torch
import torch.nn as nn
from torch import Tensor

from engine.console import count
from engine.errors import UsageError, UserError, unknown_name
from network.importers import HEAD, LoadedWeights, caffe, check_finite, keras, vmz
from network.importers.ancestors import from_ancestor
from network.importers.mean import read_mean
from network.importers.torchvision import IMAGENET, KINETICS400, read_imagenet, read_kinetics400
from network.registry import InputSpec, create_model, input_spec, model_entry, model_options
from network.widening import widen_weights

__all__ = ["KeyReport", "LoadedWeights", "build_whole", "known_weights", "load_into", "read_file", "read_weights"]

# name of the weights -> (the models that have them, what reads them)
NAMED: dict[str, tuple[list[str], Callable[[str], LoadedWeights]]] = {
    "kinetics400": (list(KINETICS400), read_kinetics400),
    "imagenet": (list(IMAGENET), read_imagenet),
}

# file formats beside PyTorch's own; which one a file has is seen from its first bytes
FORMATS = (caffe, keras, vmz)

# what other programs put in front of every name: DataParallel, torch.compile
WRAPPERS = ("module.", "_orig_mod.")

# keys under which training programs keep their state dict
STATE_KEYS = ("state_dict", "model_state_dict", "model")

MIN_MATCH = 0.9


def known_weights(model_name: str) -> list[str]:
    """Names that read_weights takes for this model beside a file's path."""
    return [name for name, (models, _) in NAMED.items() if model_name in models]


def read_weights(source: str | Path, model_name: str) -> LoadedWeights:
    """`source` is a name from known_weights, or a file: one of our checkpoints, a state dict under our or torchvision's
    names, or one of the formats in network/importers. What a file is, its content says, not its name.

    A name wins over a file of that name; ./kinetics400 is the file. MODEL+MEAN is a file with a mean file for its
    input. A checkpoint of ours gives its moving average where it holds one. Raises UserError for a missing file, one
    that is damaged or of no known format, and one of another model.
    """
    model_entry(model_name)  # an unknown model is said first
    if str(source) in NAMED:
        models, read = NAMED[str(source)]
        if model_name not in models:
            raise UsageError(f"There are no '{source}' weights for {model_name}, only for {', '.join(models)}.")
        return read(model_name)

    path, mean = _split_mean(source)
    path = _best_of(path)
    names = known_weights(model_name)
    if names and not path.exists() and not path.suffix and path.name == str(source):  # meant as a name, not as a file
        raise UsageError(f"{unknown_name('weights', str(source), names)} There is no file of that name either.")

    weights = _read_path(path, model_name)
    return _with_mean(weights, mean) if mean else weights


def _best_of(path: Path) -> Path:
    """A run's folder stands for its best.pth."""
    return path / "best.pth" if (path / "best.pth").is_file() else path


def _split_mean(source: str | Path) -> tuple[Path, Path | None]:
    """MODEL+MEAN -> both paths; a file that has a plus in its own name is one path."""
    path = Path(source).expanduser()
    model, plus, mean = str(source).rpartition("+")
    if path.exists() or not (plus and model and mean):
        return path, None
    return Path(model).expanduser(), Path(mean).expanduser()


def _with_mean(weights: LoadedWeights, path: Path) -> LoadedWeights:
    """The weights with the channel means of a mean file in their input."""
    spec = weights.input_spec
    if spec is None or spec.std != (1 / 255, 1 / 255, 1 / 255):
        raise UsageError(f"A mean file ({path}) goes with weights that saw values from 0 to 255, such as Caffe's C3D.")
    (blue, green, red), shape = read_mean(path)
    note = f"The mean is that of {path}, {shape} values reduced to R, G, B = {red:.2f}, {green:.2f}, {blue:.2f}."
    others = [note for note in weights.notes if "its mean is taken" not in note]
    spec = replace(spec, mean=(red / 255, green / 255, blue / 255))
    return replace(weights, input_spec=spec, notes=[*others, note])


def _read_path(path: Path, model_name: str) -> LoadedWeights:
    _check_file(path)
    with path.open("rb") as file:
        head = file.read(HEAD)
    for importer in FORMATS:
        if importer.recognises(head):
            return importer.read(path, model_name)

    content = read_file(path)
    if isinstance(content.get("config"), dict) and isinstance(content.get("model"), dict):
        return _from_checkpoint(path, content, model_name)
    return _from_state_dict(path, content, model_name)


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise UserError(f"{path} is a folder. Name a file, such as the best.pth of a run.")
    if not path.exists():
        raise UserError(f"There is no weights file {path}.")


def read_file(path: Path) -> dict:
    """The dict in a torch.save file, on the CPU. Code that a pickle asks for is refused, never run.

    Raises UserError, one line, for whatever is no such file.
    """
    _check_file(path)
    try:
        with warnings.catch_warnings():  # a damaged file makes torch wonder about its pickle before it fails
            warnings.simplefilter("ignore")
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
            f"{path} ({path.stat().st_size:,} bytes) is no PyTorch checkpoint and no other kind of weights known here, "
            "or it is damaged. Fetch or copy it anew."
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
    options = content.get("model_options") or {}
    unknown = sorted(map(str, set(options) - model_options(model_name)))
    if unknown:
        raise UserError(f"{path} was made by another version of the program: {model_name} has no '{unknown[0]}'.")
    weights = LoadedWeights(state, spec, list(classes) if classes else None, origin, renamed, dict(options))
    weights.trained_on, weights.seen_groups = _seen(content)
    return weights


def _seen(content: dict) -> tuple[str, list[str]]:
    """The data set a checkpoint was trained on, and the recordings that it, or what it began with, has seen."""
    split = content.get("split") if isinstance(content.get("split"), dict) else {}
    names = ("training_groups", "validation_groups", "seen_groups")
    groups = {group for name in names for group in split.get(name) or []}
    return str(content["config"].get("dataset") or ""), sorted(groups)


def _from_state_dict(path: Path, content: dict, model_name: str) -> LoadedWeights:
    inner = next((content[key] for key in STATE_KEYS if isinstance(content.get(key), dict)), content)
    state, renamed = _our_names(inner)
    ancestor = from_ancestor(path, content, state, renamed, model_name)
    if ancestor:
        return ancestor
    if not state:
        keys = ", ".join(map(str, list(inner)[:5]))
        raise UserError(f"{path} holds no parameters, neither at its top nor under {', '.join(STATE_KEYS)}: {keys}.")
    note = f"The file does not say what its network saw; the input of {model_name} is taken."
    return LoadedWeights(state, None, None, str(path), renamed, notes=[note])


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
    widened        which channels of the first layer are new, at zero, or ""
    notes          what was changed or assumed on the way, a sentence each
    """

    origin: str
    loaded: dict[str, int]
    renamed: dict[str, str]
    skipped: dict[str, int]
    reinitialised: dict[str, int]
    head: str
    widened: str = ""
    notes: list[str] = field(default_factory=list)

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
        lines += self.notes
        return "\n".join(lines)


def load_into(model: nn.Module, weights: LoadedWeights, classes: list[str] | None = None) -> KeyReport:
    """Copies weights into a freshly built model and says what went where.

    The last layer (model.head_name) keeps its fresh values when the file's is for another number of classes or, where
    both lists of names are known, for other classes or another order. Raises UserError when less than 90 % of the
    other values find their place (of those under weights.part, where the file is for a part); the model is then as it
    was.
    """
    check_finite(weights.origin, weights.state)
    state, widened = widen_weights(model, weights.state, weights.input_spec.input if weights.input_spec else "rgb")
    weights = replace(weights, state=state, notes=[*weights.notes, widened] if widened else weights.notes)
    own = model.state_dict()
    head = {name for name in own if name.startswith(f"{model.head_name}.")}
    reason = _why_new_head(model.head_name, own, head, weights, classes)

    fits = {
        name: value
        for name, value in weights.state.items()
        if name in own and value.shape == own[name].shape and not (reason and name in head)
    }
    body = [name for name in own if name not in head and name.startswith(weights.part)]
    trunk = sum(own[name].numel() for name in body)
    matched = sum(own[name].numel() for name in body if name in fits)
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
        widened=widened,
        notes=[*weights.notes, *_notes_on_options(model, weights), *_notes_on_classes(weights, classes, reason)],
    )


def _notes_on_options(model: nn.Module, weights: LoadedWeights) -> list[str]:
    options = getattr(model, "options", {})
    return [
        f"The network is built with {name} = {options.get(name, value)}"
        + (f", though these weights were trained with {value}." if options.get(name, value) != value else ".")
        for name, value in weights.options.items()
    ]


def _notes_on_classes(weights: LoadedWeights, classes: list[str] | None, new_head: str) -> list[str]:
    if classes is None or weights.classes is not None or new_head:
        return []
    return ["The file does not name its classes; its last layer is kept as if they were those here, in this order."]


def model_named_by(source: str | Path) -> str | None:
    """The model that one of our checkpoints was trained as; None for anything else, a missing file too."""
    try:
        config = read_file(_best_of(Path(source).expanduser())).get("config")
    except (UserError, OSError):
        return None
    return config.get("model") if isinstance(config, dict) else None


def build_whole(
    model_name: str, weights: LoadedWeights, classes: list[str] | None = None, whose: str = "the list"
) -> tuple[nn.Module, InputSpec, list[str], KeyReport]:
    """Network, input and class names where nothing may be left to chance: every parameter comes from the weights.

    classes: names in the order of the logits; None: those that the weights bring. `whose` says for people where they
    come from. Raises UserError where there are no names, where their number is not that of the last layer, and where a
    parameter is missing.
    """
    with torch.device("meta"):  # its names and shapes alone
        head = f"{create_model(model_name, 1).head_name}.weight"
    if head not in weights.state:
        raise UserError(f"{weights.origin} has no last layer ({head}), so it cannot name a class. Train one first.")
    num_classes, classes = len(weights.state[head]), classes or weights.classes
    if not classes:
        raise UserError(
            f"{weights.origin} does not name its {num_classes} classes. Give --labels FILE, one name a line."
        )
    if len(classes) != num_classes:
        raise UserError(
            f"{weights.origin} has {count(num_classes, 'class')}, and {whose} has {count(len(classes), 'name')}."
        )

    model = create_model(model_name, num_classes, **weights.options)
    report = load_into(model, weights)
    missing = [name for name in report.reinitialised if not name.endswith("num_batches_tracked")]
    if missing:
        name = min(missing, key=lambda name: name in weights.state)  # a head without its bias is left out as a whole
        raise UserError(f"{weights.origin} does not bring {name} of {model_name}: the answer would be chance.")
    return model, weights.input_spec or input_spec(model_name), list(classes), report


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
