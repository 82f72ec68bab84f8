"""Checkpoints: plain values and tensors, written whole or not at all, enough to rebuild the model and go on."""

import hashlib
import os
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
import torch.nn as nn

from common.errors import UserError
from common.files import atomic_write
from network import InputSpec, create_model
from network.base import UndrawnWeights
from network.weights.read import read_file

PLAIN = (str, int, float, bool, type(None), torch.Tensor)


def save_checkpoint(path: Path, content: dict) -> None:
    """Writes to a temporary name and renames: a killed run leaves the old file or the new one, never half of one.

    `content` holds tensors and plain str, int, float, bool, None, list and dict, so that weights_only=True loads it.
    """
    _check_plain(content, path.name)
    try:
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:  # torch's writer hides what the file said, such as that the disk is full
        cause = _os_error_behind(error)
        if cause is None:
            raise
        raise OSError(cause.errno, cause.strerror, str(path)) from error


def _os_error_behind(error: BaseException | None) -> OSError | None:
    while error is not None and not isinstance(error, OSError):
        error = error.__context__
    return error


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


CONTENT = {"model": dict, "config": dict, "input_spec": dict, "classes": list}
RESUME_CONTENT = {
    "optimizer": dict, "scaler": dict, "means": dict, "random": dict, "split": dict, "epoch": int, "step": int,
    "best_top1": float | None, "best_loss": float | None, "new_parameters": list, "model_options": dict,
}  # fmt: skip


def load_checkpoint(path: Path, for_resume: bool = False) -> dict:
    """One of our checkpoints, on the CPU. Raises UserError for whatever is none, or too little to resume from."""
    content = read_file(path)
    bad = [key for key, kind in CONTENT.items() if not isinstance(content.get(key), kind)]
    if bad:
        raise UserError(
            f"{path} is not a checkpoint of this program: it has no '{bad[0]}'. Weights of other programs go with "
            "--model NAME --weights FILE."
        )
    if for_resume and "optimizer" not in content:
        raise UserError(f"{path} has weights only. Resume from the run's last.pth: --resume {path.parent}")
    bad = [
        key
        for key, kind in RESUME_CONTENT.items()
        if for_resume and not (key in content and isinstance(content[key], kind))
    ]
    if bad:
        raise UserError(f"{path} cannot be resumed from: its '{bad[0]}' is missing or damaged.")
    return content


def spec_of(path: Path, content: dict) -> InputSpec:
    try:
        return InputSpec.from_dict(content["input_spec"])
    except TypeError as error:
        raise UserError(f"{path} was made by another version of the program: its input_spec differs.") from error


def find_checkpoint(path: str | Path, runs: Path, name: str = "best.pth") -> Path:
    """A checkpoint file, a run's folder (its best.pth), or the name of a run."""
    for candidate in (Path(path).expanduser(), runs / path):
        if candidate.is_dir():
            if (candidate / name).is_file():
                return candidate / name
            if any(candidate.glob("*/best.pth")):
                raise UserError(f"{candidate} is a folder of runs. Name one of them. {_list_runs(candidate)}")
            raise UserError(f"The run {candidate} has no {name} (yet).")
        if candidate.is_file():
            return candidate
    raise UserError(f"There is no run and no checkpoint '{path}'. {_list_runs(runs)}")


def _list_runs(runs: Path) -> str:
    names = sorted({path.parent.name for name in ("config.json", "best.pth") for path in runs.glob(f"*/{name}")})
    return f"Runs in {runs}: {', '.join(names)}." if names else f"There are no runs in {runs} yet."


def drawing_of(checkpoint: dict) -> int:
    """How the run's recordings and random split were drawn (DataSource.drawing); older checkpoints do not say."""
    return (checkpoint.get("split") or {}).get("drawing", 1)


@dataclass(frozen=True)
class TrainedModel:
    """A network rebuilt from a checkpoint alone, with its input and its classes by id."""

    model: nn.Module
    input_spec: InputSpec
    classes: list[str]
    name: str
    checkpoint: dict


def load_model(path: Path) -> TrainedModel:
    """A checkpoint -> its network in eval mode on the CPU; the moving average of the weights, where one was kept."""
    content = load_checkpoint(path)
    name, classes = content["config"]["model"], content["classes"]
    with UndrawnWeights():
        model = create_model(name, len(classes), **content.get("model_options", {}))
    load_state(model, content.get("ema") or content["model"], path)
    model.eval()
    return TrainedModel(model, spec_of(path, content), classes, name, content)


def load_state(model: nn.Module, state: dict, path: Path) -> None:
    """Puts all of a checkpoint's weights into the model; a UserError where one is missing or of another shape."""
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise UserError(f"The weights in {path} do not fit {type(model).__name__}: {reason}") from error


def random_state(device: torch.device) -> dict:
    """State of the generators that dropout draws from in this process."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_random_state(state: dict, device: torch.device) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)


def versions() -> dict[str, str]:
    """Versions of what the result depends on, as plain text (torch.__version__ is not)."""
    return {name: version(name) for name in ("torch", "numpy", "av")}


def weights_hash(model: nn.Module) -> str:
    """16 hexadecimal digits of SHA-256 over names and values of all that a state dict holds."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
