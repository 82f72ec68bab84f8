"""torchvision's Kinetics-400 weights for the networks with its parameter names. Fetched once, then kept by torch."""

import sys
from http.client import HTTPException
from pathlib import Path
from pickle import UnpicklingError
from types import ModuleType
from urllib.error import URLError

import torch

from engine.errors import UserError
from network.importers import LoadedWeights
from network.registry import InputSpec

# our model -> torchvision's list of its weights
KINETICS400 = {"r3d_18": "R3D_18_Weights", "mc3_18": "MC3_18_Weights", "r2plus1d_18": "R2Plus1D_18_Weights"}


def read_kinetics400(model_name: str) -> LoadedWeights:
    """Weights, class names and input of torchvision's KINETICS400_V1. A UserError where they cannot be had."""
    weights = getattr(import_video_models(), KINETICS400[model_name]).KINETICS400_V1
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name

    try:
        state = weights.get_state_dict(
            progress=sys.stderr.isatty(), map_location="cpu", weights_only=True, check_hash=True
        )
    except (URLError, HTTPException, ConnectionError, TimeoutError) as error:
        raise UserError(
            f"Could not fetch the kinetics400 weights of {model_name} ({getattr(error, 'reason', error)}). "
            f"Fetch {weights.url} on a computer that can, and put {path.name} into {path.parent}."
        ) from None
    except (RuntimeError, UnpicklingError, EOFError):
        # a download is moved to its place only when its hash fits, so a damaged file here came another way
        place = f"{path} is damaged. Delete it" if path.exists() else f"{weights.url} arrived damaged. Start again"
        raise UserError(f"{place}; then the kinetics400 weights of {model_name} are fetched anew.") from None

    return LoadedWeights(
        state=dict(state),
        input_spec=kinetics400_input(weights),
        classes=list(weights.meta["categories"]),
        origin=f"torchvision's {model_name}, Kinetics-400 ({path.name})",
    )


def kinetics400_input(weights) -> InputSpec:
    """Sizes, mean and std from the weights' own preprocessing. It does not name the 16 frames at 15 a second on which
    they were trained and measured; torchvision's documentation does.
    """
    preset = weights.transforms()
    height, width = preset.resize_size
    return InputSpec(
        clip_len=16,
        frame_stride=1,
        fps=15.0,
        resize=(width, height),
        crop_size=preset.crop_size[0],
        mean=tuple(preset.mean),
        std=tuple(preset.std),
    )


def import_video_models() -> ModuleType:
    """torchvision.models.video, or a UserError with the line to type."""
    try:
        from torchvision.models import video
    except ModuleNotFoundError as error:
        if error.name != "torchvision":
            raise
        raise UserError(f"torchvision is not installed. Do: pip install {fitting_torchvision()}") from None
    except (ImportError, RuntimeError, AttributeError, OSError) as error:
        # "operator torchvision::nms does not exist", or an undefined symbol: compiled against another torch
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"torchvision was built for another torch than the one installed, {torch.__version__} ({reason}). "
            f"Do: pip install {fitting_torchvision()}"
        ) from None
    return video


def fitting_torchvision() -> str:
    """The requirement for pip. Since 2.0 and 0.15 the two are released together: 2.N goes with 0.(N + 15)."""
    major, minor = torch.__version__.split(".")[:2]
    return f'"torchvision==0.{int(minor) + 15}.*"' if major == "2" else "--force-reinstall torch torchvision"
