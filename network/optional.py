"""torchvision, imported where it is used: a missing or broken one stops only what needs it."""

from types import ModuleType

import torch

from common.errors import UserError


def import_torchvision() -> ModuleType:
    """Returns torchvision with its models imported. Raises UserError with the pip command where that fails."""
    try:
        import torchvision.models.video
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
    return torchvision


def fitting_torchvision() -> str:
    """pip's requirement for the installed torch: since 2.0 and 0.15, torch 2.N goes with torchvision 0.(N + 15)."""
    major, minor = torch.__version__.split(".")[:2]
    return f'"torchvision==0.{int(minor) + 15}.*"' if major == "2" else "--force-reinstall torch torchvision"
