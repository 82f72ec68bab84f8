"""The cost of a network in parameters and multiply-adds, and the layers of `python -m network show`.

A model and a clip on the meta device have shapes and no values, so nothing is computed or allocated.
"""

import torch
import torch.nn as nn
from torch.utils.flop_counter import FlopCounterMode

from common.console import table_line
from network import InputSpec, create_model, model_entry
from network.weights.known import KINETICS400, known_weights

TABLE_CLASSES = 101  # UCF101's


def without_values(name: str, num_classes: int, spec: InputSpec, **options: object) -> tuple[nn.Module, torch.Tensor]:
    """Builds the model in eval mode and a clip for it, (1, C, T, S, S), both on the meta device."""
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


def describe_model(name: str) -> tuple[str, ...]:
    """A row of the table: name, parameters, GMACs of a clip, and what is registered for the model."""
    model, clip = without_values(name, TABLE_CLASSES, model_entry(name).input_spec)
    cost = f"{num_parameters(model):,}", f"{count_macs(model, clip) / 1e9:.2f}"
    return name, *cost, *describe_settings(name)


def describe_settings(name: str) -> tuple[str, ...]:
    """Clip, frame stride, optimiser, learning rate, epochs, clips a batch, and known weights with their accuracy."""
    spec, training = model_entry(name).input_spec, model_entry(name).defaults
    clip = f"{spec.clip_len}x{spec.crop_size}x{spec.crop_size}", str(spec.frame_stride)
    defaults = training.optimizer, f"{training.lr:g}", str(training.epochs), str(training.batch_size)
    weights = [
        f"{known} {KINETICS400[name].top1:.1f}" if known == "kinetics400" else known for known in known_weights(name)
    ]
    return *clip, *defaults, ", ".join(weights) or "-"


# --- python -m network show


def print_layers(name: str) -> None:
    rows = list_layers(name)
    widths = [max(map(len, column)) for column in list(zip(*rows, strict=True))[:-1]]
    for row in rows:
        print(table_line(row, widths))


def list_layers(name: str) -> list[tuple[str, ...]]:
    """A header, a row for each layer in the order of the forward pass, and the totals.

    A layer is a module without children, or a module with parameters that none of its children counts: parameters of
    the module itself, or of children whose work it does in its own forward, as an attention layer may.
    """
    model, clip = without_values(name, TABLE_CLASSES, model_entry(name).input_spec)
    rows, counted = [("layer", "output", "parameters", "")], set()

    def note(layer: str):
        def hook(module: nn.Module, _: tuple, output: torch.Tensor | tuple) -> None:
            fresh = {id(value): value.numel() for value in module.parameters() if id(value) not in counted}
            counted.update(fresh)  # a layer may run more than once
            if fresh or not list(module.children()):
                output = output[0] if isinstance(output, tuple) else output
                shape = "x".join(map(str, output.shape[1:]))
                rows.append((layer, shape, f"{sum(fresh.values()):,}" if fresh else "", _describe_layer(module)))

        return hook

    for layer, module in model.named_modules():
        if layer and not isinstance(module, nn.Identity):
            module.register_forward_hook(note(layer))
    macs = count_macs(model, clip)
    size = "x".join(map(str, clip.shape[1:]))
    rows.append(("total", "", f"{num_parameters(model):,}", f"{macs / 1e9:.2f} GMACs for {size}"))
    return rows


def _describe_layer(module: nn.Module) -> str:
    """The layer's class, kernel and stride, such as Conv3d 3x3x3 /1x2x2."""
    kind = type(module).__name__
    if isinstance(module, nn.Conv2d | nn.Conv3d):
        kind += f" {'x'.join(map(str, module.kernel_size))}"
    elif isinstance(module, nn.MaxPool3d):
        size = module.kernel_size
        kind += f" {'x'.join(map(str, size if isinstance(size, tuple) else (size,) * 3))}"
        kind += ", ceil" if module.ceil_mode else ""
    stride = getattr(module, "stride", 1)
    strided = isinstance(module, nn.Conv2d | nn.Conv3d) and set(stride) != {1}
    return f"{kind} /{'x'.join(map(str, stride))}" if strided else kind
