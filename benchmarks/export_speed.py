"""One network in all its forms, clips a second in the same run: itself, .onnx and .pt2, and their halves.

    python benchmarks/export_speed.py [--model r3d_18] [--batch-size 2] [--device cpu]

Frames of the stored size go in, probabilities come out. The forms take turns, so that a machine whose speed drifts
drifts for all of them; the median of the rounds is printed, and its ratio to the network itself in float32.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dataloaders.transforms import to_model_input
from engine.export.check import random_clips
from engine.export.runtimes import FORMATS, open_program
from engine.export.write import build_program, half_of, write_program
from engine.hardware.device import device_name, pick_device, to_device
from engine.hardware.low_precision import Answerer
from engine.runs.checkpoint import TrainedModel
from network import create_model, input_spec, list_models

Form = Callable[[np.ndarray], np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="r3d_18", choices=list_models(), metavar="NAME")
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.manual_seed(0)
    spec, model = input_spec(args.model), create_model(args.model, 101).eval()
    trained = TrainedModel(model, spec, [str(number) for number in range(101)], args.model, {"config": {}})

    with tempfile.TemporaryDirectory() as folder:
        forms: dict[str, Form] = {}
        for suffix in FORMATS:
            for dtype in (torch.float32, half_of(suffix)):
                name = f"{suffix} {str(dtype).removeprefix('torch.')}"
                path = Path(folder) / f"{dtype}{suffix}".replace("torch.", "")
                try:
                    write_program(build_program(trained, dtype), trained, path)
                    forms[name] = open_program(path, args.device)
                except Exception as error:  # a half that a network or a machine does not have
                    print(f"{name}: {str(error).splitlines()[0]}")
        for amp, name in (("bf16", "network, bfloat16"), ("off", "network, float32")):
            forms[name] = as_network(model, spec, args.device, amp)

        clips = random_clips(spec, args.batch_size)
        seconds: dict[str, list[float]] = {name: [] for name in forms}
        for number in range(args.rounds + 1):
            for name, form in forms.items():
                start = time.perf_counter()
                form(clips)
                if number:  # the first round warms up
                    seconds[name].append(time.perf_counter() - start)

    device = pick_device(args.device)
    print(f"{date.today()}, {device_name(device)}, {args.model}, batch {args.batch_size}, torch {torch.__version__}")
    reference = statistics.median(seconds["network, float32"])
    for name, taken in seconds.items():
        median = statistics.median(taken)
        print(f"{name:20}{args.batch_size / median:8.2f} clips/s   {reference / median:5.2f}")


def as_network(model: torch.nn.Module, spec: object, device: str, amp: str) -> Form:
    where = pick_device(device)
    answerer = Answerer(to_device(model, where), where, amp)
    width, height = spec.resize
    top, left, size = (height - spec.crop_size) // 2, (width - spec.crop_size) // 2, spec.crop_size

    def answer(frames: np.ndarray) -> np.ndarray:
        clips = torch.from_numpy(frames[:, :, top : top + size, left : left + size])
        return answerer(to_model_input(clips.to(where), spec))

    return answer


if __name__ == "__main__":
    main()
