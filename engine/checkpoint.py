"""Checkpoints: plain values and tensors, written whole or not at all, enough to rebuild the model and go on."""

import os
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
import torch.nn as nn

from engine.config import TrainConfig
from engine.errors import UserError
from network import InputSpec, create_model
from network.weights import read_file

PLAIN = (str, int, float, bool, type(None), torch.Tensor)


def save_checkpoint(path: Path, content: dict) -> None:
    """Writes to a temporary name and renames: a killed run leaves the old file or the new one, never half of one.

    `content` holds tensors and plain str, int, float, bool, None, list and dict, so that weights_only=True loads it.
    """
    _check_plain(content, path.name)
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _check_plain(value: object, where: str) -> None:
    """A torch.__version__, a Path or a numpy scalar would be saved, and refused when loading."""
    if isinstance(value, dict):
        for key, item in value.items():
            assert type(key) in (str, int), f"{where}: key {key!r}"
            _check_plain(item, f"{where}.{key}")
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            _check_plain(item, f"{where}[{number}]")
    else:
        assert type(value) in PLAIN or isinstance(value, torch.Tensor), f"{where} is a {type(value).__name__}"


def load_checkpoint(path: Path) -> dict:
    """One of our checkpoints, on the CPU. Raises UserError for whatever is none."""
    content = read_file(path)
    missing = [key for key in ("model", "config", "input_spec", "classes") if key not in content]
    if missing:
        raise UserError(
            f"{path} is not a checkpoint of this program: it has no '{missing[0]}'. Weights of other programs go with "
            "--model NAME --weights FILE."
        )
    return content


def find_checkpoint(path: str | Path, runs: Path, name: str = "best.pth") -> Path:
    """A checkpoint file, a run's folder (its best.pth), or the name of a run."""
    for candidate in (Path(path).expanduser(), runs / path):
        if candidate.is_dir():
            if (candidate / name).is_file():
                return candidate / name
            raise UserError(f"The run {candidate} has no {name} (yet).")
        if candidate.is_file():
            return candidate
    raise UserError(f"There is no run and no checkpoint '{path}'. {_list_runs(runs)}")


def _list_runs(runs: Path) -> str:
    names = sorted(folder.name for folder in runs.iterdir() if folder.is_dir()) if runs.is_dir() else []
    return f"Runs in {runs}: {', '.join(names)}." if names else f"There are no runs in {runs} yet."


@dataclass(frozen=True)
class TrainedModel:
    """What a checkpoint alone gives: the network with its weights, what it wants to see, and its classes by id."""

    model: nn.Module
    input_spec: InputSpec
    classes: list[str]
    name: str
    checkpoint: dict


def load_model(path: Path) -> TrainedModel:
    """A checkpoint -> its network in eval mode on the CPU; the moving average of the weights, where one was kept."""
    content = load_checkpoint(path)
    name, classes = content["config"]["model"], content["classes"]
    model = create_model(name, len(classes), **content.get("model_options", {}))
    try:
        model.load_state_dict(content.get("ema") or content["model"])
    except RuntimeError as error:
        raise UserError(f"The weights in {path} do not fit {name} with {len(classes)} classes.") from error
    model.eval()
    return TrainedModel(model, InputSpec.from_dict(content["input_spec"]), classes, name, content)


def config_of(checkpoint: dict) -> TrainConfig:
    return TrainConfig.from_dict(checkpoint["config"])


def random_state() -> dict:
    """State of the generators that dropout draws from."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def restore_random_state(state: dict) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])


def versions() -> dict[str, str]:
    """Versions of what the result depends on, as plain text (torch.__version__ is not)."""
    return {name: version(name) for name in ("torch", "numpy", "av")}
