"""Clips a second of every network, in training and in inference, as measured and as a ratio to r3d_18 in the same run.

    python benchmarks/model_speed.py [--models r3d_18 r2plus1d_18] [--batch-size 2] [--device cuda]

Synthetic clips of each model's own size on the device; what a step does is what train.py does. Rounds go through all
models in turn, so that a machine whose speed drifts drifts for all of them; the median of the rounds is printed.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.machine import processor
from dataloaders.transforms import to_model_input
from engine.hardware.device import autocast, device_name, pick_amp, pick_device, to_device
from engine.training.config import TrainConfig
from engine.training.optimizer import build_optimizer
from network import create_model, input_spec, list_models, model_entry

REFERENCE = "r3d_18"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="+", default=list_models(), choices=list_models())
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--amp", default="auto", choices=("auto", "off", "bf16", "fp16"))
    args = parser.parse_args()
    device = pick_device(args.device)
    amp = pick_amp(args.amp, device)
    names = [REFERENCE, *(name for name in args.models if name != REFERENCE)]

    print(
        f"{date.today()}, {device_name(device)}, {processor()}, torch {torch.__version__}, batch {args.batch_size}, ",
        end="",
    )
    print(str(amp or torch.float32).removeprefix("torch."))
    steps = {
        name: (train_step(name, args.batch_size, device, amp), infer_step(name, args.batch_size, device, amp))
        for name in names
    }
    rates: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in names}
    for number in range(args.rounds + 1):
        for name in names:
            for step, measured in zip(steps[name], rates[name], strict=True):
                rate = args.batch_size / seconds(step, device)
                if number:  # the first round warms up
                    measured.append(rate)

    print(f"{'model':18}{'train clips/s':>14}{'ratio':>7}{'infer clips/s':>15}{'ratio':>7}")
    reference = [statistics.median(measured) for measured in rates[REFERENCE]]
    for name in names:
        train, infer = (statistics.median(measured) for measured in rates[name])
        print(f"{name:18}{train:14.2f}{train / reference[0]:7.2f}{infer:15.2f}{infer / reference[1]:7.2f}")


def clips_for(name: str, batch_size: int, device: torch.device) -> torch.Tensor:
    spec = input_spec(name)
    shape = (batch_size, spec.clip_len, spec.crop_size, spec.crop_size, 3)
    return torch.randint(0, 256, shape, dtype=torch.uint8, device=device)


def train_step(name: str, batch_size: int, device: torch.device, amp: torch.dtype | None) -> Callable[[], None]:
    spec, entry = input_spec(name), model_entry(name)
    model = to_device(create_model(name, 101), device).train()
    config = TrainConfig(model=name, lr=1e-6, weight_decay=0.0, optimizer=entry.defaults.optimizer)
    optimizer = build_optimizer(model, config)
    clips, labels = clips_for(name, batch_size, device), torch.zeros(batch_size, dtype=torch.int64, device=device)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with autocast(device, amp):
            loss = F.cross_entropy(model(to_model_input(clips, spec)), labels)
        loss.backward()
        optimizer.step()

    return step


def infer_step(name: str, batch_size: int, device: torch.device, amp: torch.dtype | None) -> Callable[[], None]:
    spec = input_spec(name)
    model = to_device(create_model(name, 101), device).eval()
    clips = clips_for(name, batch_size, device)

    def step() -> None:
        with torch.inference_mode(), autocast(device, amp):
            model(to_model_input(clips, spec)).softmax(1)

    return step


def seconds(step: Callable[[], None], device: torch.device) -> float:
    """Of one step, from enough of them to fill half a second."""
    count, start = 0, time.perf_counter()
    while True:
        step()
        count += 1
        if device.type == "cuda":
            torch.cuda.synchronize()
        elapsed = time.perf_counter() - start
        if elapsed > 0.5:
            return elapsed / count


if __name__ == "__main__":
    main()
