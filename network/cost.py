"""What a network costs: its parameters, and its multiply-adds for a clip."""

import torch
import torch.nn as nn
from torch.utils.flop_counter import FlopCounterMode

from network import InputSpec, create_model


def without_values(name: str, num_classes: int, spec: InputSpec, **options: object) -> tuple[nn.Module, torch.Tensor]:
    """The model in eval mode and a clip for it, (1, C, T, S, S), both without values: shapes alone tell the numbers."""
    with torch.device("meta"):
        model = create_model(name, num_classes, **options).eval()
        return model, torch.empty(1, spec.channels, spec.clip_len, spec.crop_size, spec.crop_size)


def num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def count_macs(model: nn.Module, x: torch.Tensor) -> int:
    """Multiply-adds of the convolutions and matrix products for this input; a multiply-add is two operations."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(x)
    return counter.get_total_flops() // 2
