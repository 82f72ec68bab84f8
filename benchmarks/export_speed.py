"""Exported files: how fast each form of one network answers, or (--table) how exact the files of every network are.

    python benchmarks/export_speed.py [--models r3d_18] [--batch-size 2] [--device cpu]
    python benchmarks/export_speed.py --table [--models r3d_18 s3d] [--half] [--branch 1]

Speed: clips a second of the network itself, its .onnx and its .pt2, and the half-precision form of each. Frames of the
stored size go in, probabilities come out. The forms take turns, so that a machine whose speed drifts drifts for all of
them; the median of the rounds is printed, and its ratio to the network itself in float32.

Table: largest difference between the file's probabilities and the network's, file size and seconds. Weights are random,
batch norms hold the statistics of a batch of four clips, and the last layer is scaled until the probabilities differ
between classes: the differences would vanish otherwise. Residual branches of the ResNets over frames are scaled down,
because fifty random blocks in a row multiply any rounding of their input. Each row is printed when it is measured; the
exit status is 1 where a file does not agree.
"""

import argparse
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import torch
import torch.nn as nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.models.resnet import BasicBlock, Bottleneck

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common.cli import positive, run_cli
from engine.export.check import TOLERANCES, answer_of, compare, random_clips
from engine.export.runtimes import FORMATS, open_program
from engine.export.write import build_program, half_of, write_program
from engine.hardware.device import device_name, pick_device
from engine.predictor import network_predictor
from engine.runs.checkpoint import TrainedModel
from network import create_model, input_spec, list_models

Form = Callable[[np.ndarray], np.ndarray]

CPU = torch.device("cpu")
SPREAD = 3.0  # standard deviation of the logits, as trained networks have it
STATISTICS = 4  # clips; of two, values that are nearly alike would be divided by almost nothing
BRANCH = 0.2  # scale of the last norm of a residual branch, in ResNets over frames


@dataclass(frozen=True)
class Entry:
    """Largest difference of a probability and whether it is allowed; bytes; seconds to write and to compare."""

    difference: float
    holds: bool
    size: int
    writing: float
    comparing: float


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="export_speed.py", description=__doc__.split("\n")[0])
    parser.add_argument("--table", action="store_true", help="exactness, size and seconds of every network's files")
    parser.add_argument("--models", nargs="+", choices=list_models(), metavar="NAME", help="default: r3d_18, or all")
    parser.add_argument("--batch-size", type=positive, default=2)
    parser.add_argument("--rounds", type=positive, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--classes", type=positive, default=101)
    parser.add_argument("--half", action="store_true", help="with --table: float16 in .onnx, bfloat16 in .pt2")
    parser.add_argument("--branch", type=float, default=BRANCH, help="scale of residual branches (default: 0.2)")
    args = parser.parse_args(argv)
    if args.table:
        return print_table(args.models or list_models(), args.classes, args.half, args.branch)
    for name in args.models or ["r3d_18"]:
        print_speeds(name, args.classes, args.batch_size, args.rounds, args.device)
    return 0


def print_speeds(model_name: str, num_classes: int, batch_size: int, rounds: int, device_choice: str) -> None:
    torch.manual_seed(0)
    spec, model = input_spec(model_name), create_model(model_name, num_classes).eval()
    trained = TrainedModel(model, spec, [str(number) for number in range(num_classes)], model_name, {"config": {}})

    with tempfile.TemporaryDirectory() as folder:
        forms: dict[str, Form] = {}
        for suffix in FORMATS:
            for dtype in (torch.float32, half_of(suffix)):
                name = f"{suffix} {str(dtype).removeprefix('torch.')}"
                path = Path(folder) / f"{dtype}{suffix}".replace("torch.", "")
                try:
                    write_program(build_program(trained, dtype), trained, path)
                    forms[name] = open_program(path, device_choice)
                except Exception as error:  # a half that a network or a machine does not have
                    print(f"{name}: {str(error).splitlines()[0]}")
        for amp, name in (("bf16", "network, bfloat16"), ("off", "network, float32")):
            forms[name] = as_network(trained, device_choice, amp)

        clips = random_clips(spec, batch_size)
        seconds: dict[str, list[float]] = {name: [] for name in forms}
        for number in range(rounds + 1):
            for name, form in forms.items():
                start = time.perf_counter()
                form(clips)
                if number:  # the first round warms up
                    seconds[name].append(time.perf_counter() - start)

    device = pick_device(device_choice)
    print(f"{date.today()}, {device_name(device)}, {model_name}, batch {batch_size}, torch {torch.__version__}")
    reference = statistics.median(seconds["network, float32"])
    for name, taken in seconds.items():
        median = statistics.median(taken)
        print(f"{name:20}{batch_size / median:8.2f} clips/s   {reference / median:5.2f}")


def as_network(trained: TrainedModel, device: str, amp: str) -> Form:
    predictor = network_predictor(trained, device, amp)
    width, height = trained.input_spec.resize
    size = trained.input_spec.crop_size
    top, left = (height - size) // 2, (width - size) // 2
    return lambda frames: predictor.probabilities(
        np.ascontiguousarray(frames[:, :, top : top + size, left : left + size])
    )


def print_table(names: Sequence[str], num_classes: int, half: bool, branch: float) -> int:
    """Prints a row for each network and returns 1 where a file fails or does not agree, else 0."""
    print(f"{date.today()}, {device_name(CPU)}, {platform.machine()}, torch {torch.__version__}, ", end="")
    print(f"{num_classes} classes{', half' * half}\n")
    print("| Name | .onnx: difference | MB | seconds | .pt2: difference | MB | seconds |")
    print(f"|---|{'---:|' * 6}", flush=True)
    failed = 0
    for name in names:
        trained, cells = make(name, num_classes, branch), []
        for suffix in FORMATS:
            try:
                entry = export(trained, suffix, half_of(suffix) if half else torch.float32)
            except Exception as error:  # the other networks are wanted, too
                failed += 1
                cells += [f"fails: {str(error).splitlines()[0][:80]}", "", ""]
                continue
            failed += not entry.holds
            cells += [f"{entry.difference:.0e}", f"{entry.size / 1e6:.1f}", f"{entry.writing:.0f}"]
        print(f"| `{name}` | {' | '.join(cells)} |", flush=True)
    return 1 if failed else 0


def make(name: str, num_classes: int, branch: float = BRANCH) -> TrainedModel:
    torch.manual_seed(0)
    model, spec = create_model(name, num_classes).eval(), input_spec(name)
    head, clips = model.get_submodule(model.head_name), random_clips(spec, STATISTICS)
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.momentum = None  # then the statistics of the one batch count, alone
            module.reset_running_stats()
        elif isinstance(module, (BasicBlock, Bottleneck)):
            nn.init.constant_((module.bn2 if isinstance(module, BasicBlock) else module.bn3).weight, branch)
    answer_of(model.train(), spec, clips)
    model.eval()
    with torch.no_grad():
        spread = torch.from_numpy(answer_of(model, spec, clips)).log().std()
        head.weight *= SPREAD / spread
        head.bias.zero_()
    classes = [f"class {number}" for number in range(num_classes)]
    return TrainedModel(model, spec, classes, name, {"config": {"model": name}})


def export(trained: TrainedModel, suffix: str, dtype: torch.dtype) -> Entry:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"model{suffix}"
        start = time.monotonic()
        write_program(build_program(trained, dtype), trained, path)
        written = time.monotonic()
        result = compare(open_program(path, "cpu"), trained.model, trained.input_spec, tolerance=TOLERANCES[dtype])
        return Entry(result.largest, result.holds, path.stat().st_size, written - start, time.monotonic() - written)


if __name__ == "__main__":
    run_cli(main)
