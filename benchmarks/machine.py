"""The speed limit of a network on this machine, from its operations and bytes and the machine's measured peaks.

A layer takes at least FLOP / peak, and at least bytes / bandwidth; the larger counts, and the layers add up. Forward, a
convolution or linear layer reads its input and its weights and writes its output; everything else is taken to be fused
into it. Training makes two more passes like that, for the gradients of input and weights (the first layer needs none of
its input). The statistics of a norm cannot be fused away: seven passes over its values, forward and backward together.
A pooling layer reads and writes once in each direction. No implementation reaches this limit; it is a scale for speeds.
"""

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn as nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.pooling import _MaxPoolNd

from network import create_model

NORM_PASSES = 7


@dataclass(frozen=True)
class Machine:
    """Measured peaks of a device in one precision: operations a second, and bytes a second (read plus written)."""

    dtype: torch.dtype
    flops: float
    bandwidth: float

    def __str__(self) -> str:
        name = str(self.dtype).removeprefix("torch.")
        return f"{name} matrix product {self.flops / 1e12:.3g} TFLOP/s, copy {self.bandwidth / 1e9:.4g} GB/s"


@dataclass(frozen=True)
class Cost:
    """Cost of one layer for one clip, in numbers and not in bytes. Weights are read once a batch."""

    kind: str  # "product", "norm" or "pool"
    flop: int
    inputs: int
    outputs: int
    weights: int


def processor() -> str:
    """Name of the processor, for the line above a table."""
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def measure_machine(device: torch.device, dtype: torch.dtype, rounds: int = 5) -> Machine:
    """Best of several rounds of a large matrix product and of a large copy, of random values: zeros can run faster."""
    side, numbers = (8192, 2**28) if device.type == "cuda" else (1536, 2**25)
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    out = torch.empty(side, side, device=device, dtype=dtype)
    source = torch.randint(0, 2**31 - 1, (numbers,), dtype=torch.int32, device=device)
    target = torch.empty_like(source)
    product = min(elapsed(lambda: torch.matmul(left, right, out=out), device) for _ in range(rounds))
    copy = min(elapsed(lambda: target.copy_(source), device) for _ in range(rounds))
    return Machine(dtype, 2 * side**3 / product, 2 * 4 * numbers / copy)


def elapsed(run: Callable[[], object], device: torch.device, times: int = 3, warm_up: bool = True) -> float:
    """Seconds of one call, averaged over `times` in a row with one synchronisation at the end."""
    if warm_up:
        run()
    synchronize(device)
    start = time.perf_counter()
    for _ in range(times):
        run()
    synchronize(device)
    return (time.perf_counter() - start) / times


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def layer_costs(model_name: str, clip_shape: tuple[int, ...], num_classes: int) -> list[Cost]:
    """Costs of a clip (C, T, H, W), in the order of the layers, from shapes alone."""
    costs = []

    def note(layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        if not isinstance(output, torch.Tensor):  # an LSTM; small compared with the trunk, and the limit stays a limit
            return
        read, written = inputs[0].numel(), output.numel()
        if isinstance(layer, _ConvNd):
            weights = layer.weight.numel()
            costs.append(Cost("product", 2 * written * layer.weight[0].numel(), read, written, weights))
        elif isinstance(layer, nn.Linear):
            weights = layer.weight.numel()
            costs.append(Cost("product", 2 * written * layer.in_features, read, written, weights))
        elif isinstance(layer, _BatchNorm | nn.GroupNorm | nn.LayerNorm):
            costs.append(Cost("norm", 0, read, written, 0))
        elif isinstance(layer, _MaxPoolNd):
            costs.append(Cost("pool", 0, read, written, 0))

    with torch.device("meta"):
        model = create_model(model_name, num_classes).eval()
        for layer in model.modules():
            if not list(layer.children()):
                layer.register_forward_hook(note)
        model(torch.zeros(1, *clip_shape))
    return costs


def limit(costs: list[Cost], machine: Machine, batch_size: int, train: bool) -> float:
    """Upper limit of clips a second on this machine, in its precision."""
    size, seconds, first = machine.dtype.itemsize, 0.0, True
    for cost in costs:
        if cost.kind == "product":
            numbers = cost.inputs + cost.outputs + cost.weights / batch_size
            passes = (2 if first else 3) if train else 1
            seconds += passes * max(cost.flop / machine.flops, size * numbers / machine.bandwidth)
            first = False
        elif train and cost.kind == "norm":
            seconds += NORM_PASSES * size * cost.outputs / machine.bandwidth
        elif train:
            seconds += 2 * size * (cost.inputs + cost.outputs) / machine.bandwidth
    return 1 / seconds
