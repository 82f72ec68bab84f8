"""The registry of models: name -> builder, input and training defaults.

Files of this folder with functions under @register_model are found by reading their source, and imported when one of
their models is used.
"""

import ast
import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import UsageError, unknown_name
from common.input_spec import InputSpec

if TYPE_CHECKING:
    import torch.nn as nn


@dataclass(frozen=True)
class TrainDefaults:
    """Training settings of a model, used where the command line gives none.

    from_scratch: advice printed when the model is trained without pretrained weights.
    """

    optimizer: str = "sgd"
    lr: float = 0.01
    weight_decay: float = 5e-4
    batch_size: int = 32
    epochs: int = 60
    warmup_epochs: float = 2.0
    from_scratch: str = ""


@dataclass(frozen=True)
class ModelEntry:
    name: str
    build: "Callable[..., nn.Module]"
    input_spec: InputSpec
    defaults: TrainDefaults


MODELS: dict[str, ModelEntry] = {}


def register_model(input_spec: InputSpec, **defaults) -> Callable:
    """Decorator: registers build(num_classes, ...) -> nn.Module under its function name.

    `defaults` are fields of TrainDefaults.
    """

    def add(build: "Callable[..., nn.Module]") -> "Callable[..., nn.Module]":
        MODELS[build.__name__] = ModelEntry(build.__name__, build, input_spec, replace(TrainDefaults(), **defaults))
        return build

    return add


def model_entry(name: str) -> ModelEntry:
    """The registered model. Raises UsageError with the nearest name and the list for an unknown one."""
    check_model_name(name)
    if name not in MODELS:
        importlib.import_module(f"network.{_model_files()[name]}")
    return MODELS[name]


def check_model_name(name: str) -> None:
    """Raises a UsageError for an unknown model, without importing a network."""
    if name not in MODELS and name not in _model_files():
        raise UsageError(unknown_name("model", name, list_models()))


def list_models() -> list[str]:
    """Names of all models, sorted. Imports no network."""
    return sorted({*MODELS, *_model_files()})


@cache
def _model_files() -> dict[str, str]:
    """Model -> the module of this folder whose source registers it. Reading the source instead of importing it saves
    the two seconds of PyTorch's import, so a misspelt name is answered at once."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and any(_registers(decorator) for decorator in node.decorator_list):
                found[node.name] = path.stem
    return found


def _registers(decorator: ast.expr) -> bool:
    return isinstance(decorator, ast.Call) and getattr(decorator.func, "id", "") == register_model.__name__


def input_spec(name: str) -> InputSpec:
    return model_entry(name).input_spec


def model_options(name: str) -> set[str]:
    """Names of the options that create_model takes for this model, such as dropout.

    A builder with **options hands them to the network that it returns, whose keyword-only parameters they are.
    """
    signature = inspect.signature(model_entry(name).build)
    parameters = [parameter for parameter in signature.parameters.values() if parameter.kind != parameter.VAR_KEYWORD]
    if len(parameters) < len(signature.parameters):
        network = inspect.signature(signature.return_annotation)
        parameters += [
            parameter for parameter in network.parameters.values() if parameter.kind == parameter.KEYWORD_ONLY
        ]
    return {parameter.name for parameter in parameters} - {"num_classes"} | {"in_channels"}


def create_model(name: str, num_classes: int, **options) -> "nn.Module":
    """A freshly initialised network that maps (B, 3, T, H, W) float to (B, num_classes) logits.

    `options` are passed to the model's builder; an unknown option is a UsageError. The network keeps them as .options,
    and checkpoints store them, so that the same network can be rebuilt. Every model has the option in_channels: its
    first convolution is replaced by one over so many channels (network/input_channels.py).
    """
    from network.base import VideoModel
    from network.input_channels import widen_input

    own = {option: value for option, value in options.items() if option != "in_channels"}
    for option in options:
        if option not in model_options(name):
            raise UsageError(f"Model '{name}' has no option '{option}'.")
    try:
        model = model_entry(name).build(num_classes, **own)
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        if not own:
            raise
        given = ", ".join(f"{option}={value}" for option, value in own.items())
        raise UsageError(f"Model '{name}' cannot be built with {given}: {error}") from error
    if not isinstance(model, VideoModel):
        raise UsageError(
            f"Model '{name}' must be a network.base.VideoModel with head_name and stem_names: see "
            "'Add a model' in the README."
        )
    if "in_channels" in options:
        widen_input(model, options["in_channels"])
    model.options = dict(options)
    return model
