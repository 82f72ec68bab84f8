"""torchvision's weights for networks with its parameter names: Kinetics-400's, and ImageNet's for trunks over frames.
Fetched once, then kept by torch.
"""

import sys
from http.client import HTTPException
from pathlib import Path
from pickle import UnpicklingError
from urllib.error import URLError

import torch

from common.errors import UserError
from common.input_spec import InputSpec
from network.optional import import_torchvision
from network.weights.known import IMAGENET, KINETICS400
from network.weights.loaded import LoadedWeights


def read_kinetics400(model_name: str) -> LoadedWeights:
    """Weights, class names and input of torchvision's KINETICS400_V1. Raises UserError where they cannot be fetched."""
    known = KINETICS400[model_name]
    weights = getattr(import_torchvision().models.video, known.enum).KINETICS400_V1
    return LoadedWeights(
        state=fetch(weights, f"kinetics400 weights of {model_name}"),
        input_spec=kinetics400_input(weights, known.clip_len, known.fps),
        classes=list(weights.meta["categories"]),
        origin=f"torchvision's {model_name}, Kinetics-400 ({Path(weights.url).name})",
    )


CLASSIFIERS = ("fc.", "classifier.")  # the last layers of torchvision's 2D networks


def read_imagenet(model_name: str) -> LoadedWeights:
    """torchvision's IMAGENET1K_V1 for the trunk of a network over frames; the other parameters keep their initial
    values."""
    weights = getattr(import_torchvision().models, IMAGENET[model_name]).IMAGENET1K_V1
    state = fetch(weights, f"imagenet weights of {model_name}")
    return LoadedWeights(
        state={f"trunk.{name}": value for name, value in state.items() if not name.startswith(CLASSIFIERS)},
        input_spec=None,  # the models' own has ImageNet's mean and std
        classes=None,
        origin=f"torchvision's {IMAGENET[model_name].removesuffix('_Weights')}, ImageNet ({Path(weights.url).name})",
        part="trunk.",
    )


def fetch(weights, label: str) -> dict[str, torch.Tensor]:
    """The state dict of an entry of torchvision's enums, from torch's cache or the network, its hash checked."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
    try:
        state = weights.get_state_dict(
            progress=sys.stderr.isatty(), map_location="cpu", weights_only=True, check_hash=True
        )
    except (URLError, HTTPException, ConnectionError, TimeoutError) as error:
        raise UserError(
            f"Could not fetch the {label} ({getattr(error, 'reason', error)}). "
            f"Download {weights.url} on another computer, and copy {path.name} into {path.parent}."
        ) from None
    except (RuntimeError, UnpicklingError, EOFError):
        # a download is moved to its place only when its hash fits, so a damaged file here came another way
        place = f"{path} is damaged. Delete it" if path.exists() else f"{weights.url} arrived damaged. Start again"
        raise UserError(f"{place}; then the {label} are downloaded again.") from None
    return dict(state)


def kinetics400_input(weights, clip_len: int, fps: float) -> InputSpec:
    """Sizes, mean and std of the weights' preprocessing. A single resize size is that of the short side; the long side
    is then that of a 4:3 frame.
    """
    preset = weights.transforms()
    height, width = preset.resize_size if len(preset.resize_size) == 2 else (*preset.resize_size, None)
    return InputSpec(
        clip_len=clip_len,
        frame_stride=1,
        fps=fps,
        resize=(width or round(height * 4 / 3), height),
        crop_size=preset.crop_size[0],
        mean=tuple(preset.mean),
        std=tuple(preset.std),
    )
