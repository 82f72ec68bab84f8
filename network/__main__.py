"""python -m network: the models, their size, their cost and their input."""

import argparse
from collections.abc import Sequence

import torch
from torch.utils.flop_counter import FlopCounterMode

from engine.errors import run_cli
from network import create_model, list_models, model_entry
from network.weights import known_weights

TABLE_CLASSES = 101  # UCF101's

HEADER = ("model", "parameters", "GMACs", "input, THW", "stride", "weights")


def main(argv: Sequence[str]) -> None:
    argparse.ArgumentParser(
        prog="python -m network",
        description=f"Prints every model with its parameters for {TABLE_CLASSES} classes and its multiply-adds a clip.",
    ).parse_args(argv)

    rows = [HEADER, *(describe_model(name) for name in list_models())]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, *numbers, weights in rows:
        cells = [name.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(numbers, widths[1:-1], strict=True))]
        print("  ".join([*cells, weights]).rstrip())


def describe_model(name: str) -> tuple[str, ...]:
    """A table row. Nothing is computed or allocated: shapes alone tell the numbers."""
    spec = model_entry(name).input_spec
    with torch.device("meta"):
        model = create_model(name, TABLE_CLASSES).eval()
        clip = torch.empty(1, 3, spec.clip_len, spec.crop_size, spec.crop_size)

    return (
        name,
        f"{sum(parameter.numel() for parameter in model.parameters()):,}",
        f"{count_macs(model, clip) / 1e9:.2f}",
        f"{spec.clip_len}x{spec.crop_size}x{spec.crop_size}",
        str(spec.frame_stride),
        ", ".join(known_weights(name)) or "-",
    )


def count_macs(model: torch.nn.Module, x: torch.Tensor) -> int:
    """Multiply-adds of the convolutions and matrix products for this input; a multiply-add is two operations."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(x)
    return counter.get_total_flops() // 2


if __name__ == "__main__":
    run_cli(main)
