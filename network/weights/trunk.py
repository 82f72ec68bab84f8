"""Weights of a 2D network, trained on pictures, for the trunk of a network over frames: torchvision's state dicts, and
MobileNetV2 under the names of its first port to PyTorch (features.1.conv.1.weight is torchvision's
features.1.conv.0.1.weight): the same tensors in the same order."""

from pathlib import Path

from torch import Tensor

from common.errors import UserError
from network.cost import without_values
from network.registry import input_spec
from network.weights.known import IMAGENET
from network.weights.loaded import LoadedWeights
from network.weights.torchvision import CLASSIFIERS

COUNTER = ".num_batches_tracked"


def is_trunk(state: dict[str, Tensor], model_name: str) -> bool:
    """Whether weights for a network over frames lack the name under which it holds its trunk."""
    return model_name in IMAGENET and bool(state) and not any(name.startswith("trunk.") for name in state)


def read_trunk(path: Path, state: dict[str, Tensor], renamed: dict[str, str], model_name: str) -> LoadedWeights:
    """The weights under our names. Raises UserError for those of another network."""
    state = {name: value for name, value in state.items() if not name.startswith(CLASSIFIERS)}
    model, _ = without_values(model_name, 2, input_spec(model_name))
    wanted = {name: value for name, value in model.state_dict().items() if name.startswith("trunk.")}
    new_names = _same_names(state, wanted) or _same_order(state, wanted)
    if new_names is None:
        trunk = IMAGENET[model_name].removesuffix("_Weights")
        raise UserError(
            f"{path} holds {len(state)} tensors that are not those of {trunk}, the trunk of {model_name}. Give weights "
            "of this network, or choose the model with the trunk of these weights."
        )
    old_names = {new: old for old, new in renamed.items()}
    return LoadedWeights(
        state={new_names[name]: value for name, value in state.items()},
        input_spec=None,  # the models' own has ImageNet's mean and std
        classes=None,
        origin=str(path),
        renamed={old_names.get(name, name): new for name, new in new_names.items()},
        part="trunk.",
    )


def _same_names(state: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, str] | None:
    """Names with the trunk's in front; `features.`, where all share it, was taken off as a wrapper's."""
    for prefix in ("trunk.", "trunk.features."):
        names = {name: prefix + name for name in state}
        missing = {name for name in wanted if not name.endswith(COUNTER)} - set(names.values())
        if not missing and all(new in wanted and state[old].shape == wanted[new].shape for old, new in names.items()):
            return names
    return None


def _same_order(state: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, str] | None:
    """The names of as many tensors of the same shapes, one after the other."""
    given = [name for name in state if not name.endswith(COUNTER)]
    ours = [name for name in wanted if not name.endswith(COUNTER)]
    if [state[name].shape for name in given] != [wanted[name].shape for name in ours]:
        return None
    names = dict(zip(given, ours, strict=True))
    layers = {old.rpartition(".")[0]: new.rpartition(".")[0] for old, new in names.items()}
    counters = (name for name in state if name.endswith(COUNTER))
    return names | {name: layers[name.removesuffix(COUNTER)] + COUNTER for name in counters}
