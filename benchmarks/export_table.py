"""Every network of the registry exported to both formats: how far its file's answers are from its own, size, seconds.

    python benchmarks/export_table.py [--models r3d_18 s3d] [--classes 101] [--half] [--branch 1]

Weights are random, batch norms hold the statistics of a batch of four clips, and the last layer is scaled until answers
differ from class to class: with answers that are all alike nothing could be seen. Residual branches of the ResNets over
frames are scaled down: fifty random blocks one after the other multiply whatever is added to the input, rounding as
well, and the table would show the weights instead of the file. A line is printed as soon as it is known; the exit
status is 1 where a file does not agree.
"""

import argparse
import platform
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import torch
import torch.nn as nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.models.resnet import BasicBlock, Bottleneck

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from engine.export.check import TOLERANCES, answer_of, compare, random_clips
from engine.export.runtimes import FORMATS, open_program
from engine.export.write import build_program, half_of, write_program
from engine.hardware.device import device_name
from engine.runs.checkpoint import TrainedModel
from network import create_model, input_spec, list_models

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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="+", default=list_models(), choices=list_models(), metavar="NAME")
    parser.add_argument("--classes", type=int, default=101)
    parser.add_argument("--half", action="store_true", help="float16 in .onnx, bfloat16 in .pt2")
    parser.add_argument("--branch", type=float, default=BRANCH, help="scale of the residual branches (default: 0.2)")
    args = parser.parse_args()
    print(f"{date.today()}, {device_name(CPU)}, {platform.machine()}, torch {torch.__version__}, ", end="")
    print(f"{args.classes} classes{', half' * args.half}\n")
    print("| Name | .onnx: difference | MB | seconds | .pt2: difference | MB | seconds |")
    print(f"|---|{'---:|' * 6}", flush=True)
    failed = 0
    for name in args.models:
        trained, cells = make(name, args.classes, args.branch), []
        for suffix in FORMATS:
            try:
                entry = export(trained, suffix, half_of(suffix) if args.half else torch.float32)
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
    sys.exit(main())
