"""Reads weights by name or from a file of any known format; load.py loads them into a model and reports every
parameter.

weights = read_weights("kinetics400", "r3d_18")
model = create_model("r3d_18", num_classes, **weights.options)
report = load_into(model, weights, classes)
print(report.table())
"""

import re
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor

from common.errors import UsageError, UserError, unknown_name
from common.input_spec import InputSpec
from network.registry import model_entry, model_options
from network.weights import caffe, keras, vmz
from network.weights.known import KNOWN, known_weights
from network.weights.load import KeyReport, build_whole, load_into
from network.weights.loaded import HEAD, LoadedWeights
from network.weights.mean import read_mean
from network.weights.pytorch import from_ancestor
from network.weights.safetensors import is_safetensors, read_safetensors
from network.weights.torchvision import read_imagenet, read_kinetics400
from network.weights.trunk import is_trunk, read_trunk

__all__ = ["KeyReport", "LoadedWeights", "build_whole", "load_into", "read_file", "read_weights"]

# name of the weights -> (the models that have them, what reads them)
NAMED: dict[str, tuple[list[str], Callable[[str], LoadedWeights]]] = {
    "kinetics400": (KNOWN["kinetics400"], read_kinetics400),
    "imagenet": (KNOWN["imagenet"], read_imagenet),
}

# file formats besides PyTorch's own, recognised by a file's first bytes
FORMATS = (caffe, keras, vmz)

# prefixes of every name by DataParallel and torch.compile
WRAPPERS = ("module.", "_orig_mod.")

# keys under which training programs keep their state dict
STATE_KEYS = ("state_dict", "model_state_dict", "model_state", "model")


def read_weights(source: str | Path, model_name: str) -> LoadedWeights:
    """`source` is a name from known_weights, or a file: one of our checkpoints, a state dict under our or torchvision's
    names, or one of the formats in this package, recognised by content.

    A name wins over a file of that name; ./kinetics400 is the file. MODEL+MEAN is a file with a mean file for its
    input. Of our checkpoints the moving average is read, where there is one. Raises UserError for a missing or damaged
    file, an unknown format and weights of another model.
    """
    model_entry(model_name)  # raises for an unknown model before any file is read
    if str(source) in NAMED:
        models, read = NAMED[str(source)]
        if model_name not in models:
            raise UsageError(f"There are no '{source}' weights for {model_name}, only for {', '.join(models)}.")
        return read(model_name)

    path, mean = _split_mean(source)
    path = _best_of(path)
    names = known_weights(model_name)
    if names and not path.exists() and not path.suffix and path.name == str(source):  # meant as a name, not as a file
        raise UsageError(f"{unknown_name('weights', str(source), names)} There is no such file either.")

    weights = _read_path(path, model_name)
    return _with_mean(weights, mean) if mean else weights


def model_named_by(source: str | Path) -> str | None:
    """The model of one of our checkpoints; None for any other file and for a missing one."""
    try:
        config = read_file(_best_of(Path(source).expanduser())).get("config")
    except (UserError, OSError):
        return None
    return config.get("model") if isinstance(config, dict) else None


def _best_of(path: Path) -> Path:
    """The best.pth of a run's folder; any other path unchanged."""
    return path / "best.pth" if (path / "best.pth").is_file() else path


def _split_mean(source: str | Path) -> tuple[Path, Path | None]:
    """MODEL+MEAN -> both paths; a file that has a plus in its own name is one path."""
    path = Path(source).expanduser()
    model, plus, mean = str(source).rpartition("+")
    if path.exists() or not (plus and model and mean):
        return path, None
    return Path(model).expanduser(), Path(mean).expanduser()


def _with_mean(weights: LoadedWeights, path: Path) -> LoadedWeights:
    """The weights with the channel means of the mean file in their InputSpec."""
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
    """The dict in a torch.save or safetensors file, on the CPU. A pickle that asks for code is refused, and not run.

    Raises UserError of one line for any other file.
    """
    _check_file(path)
    try:
        if is_safetensors(path):
            return read_safetensors(path)
        with warnings.catch_warnings():  # a damaged file makes torch warn about its pickle before it fails
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (PermissionError, UserError):
        raise
    except Exception as error:  # a damaged file makes the unpickler raise anything, from KeyError to UnicodeDecodeError
        foreign = re.search(r"unsupported (?:global: )?GLOBAL (\S+)", str(error), re.IGNORECASE)
        if isinstance(error, UnpicklingError) and foreign:
            raise UserError(
                f"{path} holds more than tensors and plain values: it asks for {foreign[1]}, and code is not run out "
                f"of a weights file. Save its state dict alone: torch.save(model.state_dict(), file)."
            ) from None
        if "TorchScript" in str(error):
            raise UserError(
                f"{path} is a TorchScript program, not a file of weights. Save its state dict: "
                "torch.save(torch.jit.load(file).state_dict(), new_file)."
            ) from None
        advice = "Fetch or copy it anew."
        if (best := path.with_name("best.pth")) != path and best.is_file():
            advice = f"The weights of that run are in {best}."
        raise UserError(
            f"{path} ({path.stat().st_size:,} bytes) is no PyTorch checkpoint and no other known kind of weights, "
            f"or it is damaged. {advice}"
        ) from None

    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}, not a dict of parameters.")
    return content


def _from_checkpoint(path: Path, content: dict, model_name: str) -> LoadedWeights:
    """Weights of a checkpoint written by engine/runs/checkpoint.py."""
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
    weights.trained_on, weights.seen = _seen(content)
    return weights


def _seen(content: dict) -> tuple[str, dict[str, list[str]]]:
    """Data set of a checkpoint's training; the recordings and videos of it and of the weights it began with."""
    split = content.get("split") if isinstance(content.get("split"), dict) else {}
    seen = {
        f"seen_{kind}": sorted(
            {value for part in ("training", "validation", "seen") for value in split.get(f"{part}_{kind}") or []}
        )
        for kind in ("groups", "content")
    }
    return str(content["config"].get("dataset") or ""), seen


def _from_state_dict(path: Path, content: dict, model_name: str) -> LoadedWeights:
    inner = next((content[key] for key in STATE_KEYS if isinstance(content.get(key), dict)), content)
    state, renamed = _our_names(inner)
    ancestor = from_ancestor(path, content, state, renamed, model_name)
    if ancestor:
        return ancestor
    if is_trunk(state, model_name):
        return read_trunk(path, state, renamed, model_name)
    if not state:
        keys = ", ".join(map(str, list(inner)[:5]))
        raise UserError(f"{path} holds no parameters, neither at its top nor under {', '.join(STATE_KEYS)}: {keys}.")
    note = f"The file has no InputSpec; the input of {model_name} is used."
    return LoadedWeights(state, None, None, str(path), renamed, notes=[note])


def _our_names(state: dict) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors under names without wrapper prefixes, and old name -> new name where they differ. A prefix that all names
    share (model., net., backbone.) is a wrapper too: no network of ours has one."""
    names = {str(name): str(name) for name, value in state.items() if isinstance(value, Tensor)}
    for name in names:
        while names[name].startswith(WRAPPERS):
            names[name] = names[name].split(".", 1)[1]
    while len(names) > 1 and len({new.partition(".")[0] for new in names.values()}) == 1:
        names = {name: new.partition(".")[2] for name, new in names.items()}
    ours = {new: state[name] for name, new in names.items()}
    return ours, {name: new for name, new in names.items() if name != new}
