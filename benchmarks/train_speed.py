"""Speed of training: each optimisation ("lever"), the plain loop, and the limit of the machine.

    python benchmarks/train_speed.py                                    # small models, under 3 minutes on 2 cores
    python benchmarks/train_speed.py --models r3d_18 r2plus1d_18 --clip-len 16             # GPU: batches of 128
    python benchmarks/train_speed.py --models r3d_18 --only levers --levers bf16 channels-last compile
    python benchmarks/train_speed.py --only end-to-end --dataset ucf101 --models r2plus1d_18 --workers 4 8 16

levers      Steps on synthetic clips that lie on the device. The plain loop: float32 (TF32 as PyTorch's defaults have
            it), float clips in NCDHW, loss.item() in each step. Each lever is added to it alone, and to all above it.
            All variants take turns in every round, and ratios are medians of each round's own ratio.
profile     Kernels of one step that only turn tensors into another layout; on CUDA.
end-to-end  train.py's own loop over preprocessed frames (of a data set, or made for this), for numbers of threads,
            beside its step on a batch that lies on the device; on CUDA also how often the program waited for the GPU.
"""

import argparse
import math
import statistics
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.end_to_end import end_to_end
from benchmarks.levers import LEVERS, NUM_CLASSES, Variant, clip_shape, levers_for
from benchmarks.machine import Machine, elapsed, layer_costs, limit, measure_machine, processor
from common.cli import positive, run_cli
from engine.hardware.device import device_name, pick_device
from network import list_models

SMALL_MODELS = ("r3d_10", "r2plus1d_10")
GPU_MODELS = ("c3d", "r3d_18", "mc3_18", "r2plus1d_18")
PARTS = ("levers", "profile", "end-to-end")
LAYOUT_KERNELS = ("nchwToNhwc", "nhwcToNchw", "convertTensor")


def main(argv: Sequence[str]) -> None:
    args = parse_args(argv)
    device = pick_device(args.device)
    on_gpu = device.type == "cuda"
    batch_size = args.batch_size or (128 if on_gpu else 16)
    cudnn = f", cuDNN {torch.backends.cudnn.version()}" if on_gpu else ""
    print(f"{date.today()}, {device_name(device)}, {processor()}, torch {torch.__version__}{cudnn}")
    machines = [measure_machine(device, dtype) for dtype in (torch.float32, torch.bfloat16)]
    print("\n".join(map(str, machines)))

    for name in args.models or (GPU_MODELS if on_gpu else SMALL_MODELS):
        shape = clip_shape(name, args.clip_len)
        limits = best_limits(name, shape, batch_size, machines)
        print(f"\n{name}, {batch_size} clips of {'x'.join(map(str, shape[1:]))} a step. {limits}")
        if "levers" in args.only:
            wanted = args.levers or [lever for lever in LEVERS if lever != "compile"]
            levers = [lever for lever in levers_for(device) if lever in wanted]
            print_levers(name, levers, shape, batch_size, device, limits, args.rounds, args.seconds)
        if "profile" in args.only:
            print_layout_kernels(name, shape, batch_size, device)
        if "end-to-end" in args.only:
            end_to_end(name, batch_size, device, args.workers, args.dataset, args.frames, args.clip_len)


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python benchmarks/train_speed.py", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--models", nargs="+", choices=list_models(), metavar="NAME", help="default: small ones on a CPU, four on a GPU"
    )
    parser.add_argument("--batch-size", type=positive, metavar="N", help="clips a step (default: 16; 128 on a GPU)")
    parser.add_argument("--clip-len", type=positive, metavar="N", help="frames a clip (default: the model's own)")
    parser.add_argument(
        "--levers",
        nargs="+",
        choices=LEVERS,
        metavar="NAME",
        help=f"of {', '.join(LEVERS)} (default: all but the last)",
    )
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=f"of {', '.join(PARTS)} (default: all)"
    )
    parser.add_argument("--rounds", type=positive, default=5, metavar="N", help="measured rounds (default: 5)")
    parser.add_argument(
        "--seconds", type=float, default=0.3, metavar="S", help="of a variant in a round (default: 0.3)"
    )
    parser.add_argument(
        "--workers", type=positive, nargs="+", default=[1, 2], metavar="N", help="threads that read (default: 1 2)"
    )
    parser.add_argument("--dataset", metavar="NAME|FOLDER", help="whose frames are read (default: made for this)")
    parser.add_argument("--frames", metavar="DIR", help="where the frames of --dataset lie")
    parser.add_argument("--device", default="auto", metavar="NAME", help="default: the best there is")
    args = parser.parse_args(argv)
    if args.frames and not args.dataset:
        parser.error("--frames says where the frames of --dataset lie; name that, too")
    if not 0 < args.seconds < math.inf:
        parser.error(f"--seconds must be greater than 0, but is {args.seconds:g}")
    return args


@dataclass(frozen=True)
class Limits:
    """Upper limits of clips a second on this machine."""

    train: float
    infer: float
    dtype: torch.dtype

    def __str__(self) -> str:
        name = str(self.dtype).removeprefix("torch.")
        return f"Limit in {name}: {self.train:.4g} clips/s, forward only {self.infer:.4g}"


def best_limits(name: str, shape: tuple[int, ...], batch_size: int, machines: list[Machine]) -> Limits:
    """Limits in the faster precision of this machine."""
    costs = layer_costs(name, shape, NUM_CLASSES)
    found = [
        Limits(limit(costs, machine, batch_size, True), limit(costs, machine, batch_size, False), machine.dtype)
        for machine in machines
    ]
    return max(found, key=lambda limits: limits.train)


@dataclass
class Timing:
    """Seconds a step of a variant, one number a round."""

    variant: Variant | None
    seconds: list[float] = field(default_factory=list)
    steps: int = 1  # of a round
    memory: float = math.nan  # GiB
    failed: str = ""


def print_levers(
    name: str,
    levers: list[str],
    shape: tuple[int, int, int, int],
    batch_size: int,
    device: torch.device,
    limits: Limits,
    rounds: int,
    seconds: float,
) -> None:
    """Prints the table of a model: each lever alone and with those above it, and the forward pass."""

    def timing(chosen: Iterable[str], forward_only: bool = False) -> Timing:
        return Timing(Variant(name, frozenset(chosen), shape, batch_size, device, forward_only))

    plain, plain_forward = timing([]), timing([], forward_only=True)
    alone = {lever: timing([lever]) for lever in levers}
    together = {lever: timing(levers[: i + 1]) for i, lever in enumerate(levers) if i}
    forward = timing(levers, forward_only=True)
    take_turns([plain, plain_forward, *alone.values(), *together.values(), forward], device, rounds, seconds)

    first = {levers[0]: alone[levers[0]]} if levers else {}
    rows = [(f"+ {LEVERS[lever]}", alone[lever], (first | together)[lever]) for lever in levers]
    print(f"  {'':52}{'alone:':>8}{'':14}{'with all above:':>22}")
    print(f"  {'':52}{'clips/s':>8}{'ratio':>7}{'GiB':>7}{'clips/s':>10}{'ratio':>7}{'GiB':>7}{'of limit':>10}")
    print(f"  {'the plain loop':52}{_cells(plain, plain, batch_size)}{_cells(plain, plain, batch_size, limits.train)}")
    for text, single, all_above in rows:
        left, right = _cells(single, plain, batch_size), _cells(all_above, plain, batch_size, limits.train)
        print(f"  {text:52}{left}{right}")
    left = _cells(plain_forward, plain_forward, batch_size)
    right = _cells(forward, plain_forward, batch_size, limits.infer)
    print(f"  {'forward only: plain, and with all':52}{left}{right}")


def take_turns(timings: list[Timing], device: torch.device, rounds: int, seconds: float) -> None:
    """Measures all variants in turn, round by round, so that a drift of the machine's speed affects all of them."""
    for number in range(rounds + 1):
        for timing in timings:
            if timing.failed:
                continue
            try:
                if number == 0:
                    once, timing.memory = timing.variant.warm_up()
                    timing.steps = max(round(seconds / once), 1)
                else:
                    timing.seconds.append(elapsed(timing.variant.step, device, timing.steps, warm_up=False))
            except torch.OutOfMemoryError:
                timing.variant, timing.failed = None, "memory"
                torch.cuda.empty_cache()


def _cells(timing: Timing, plain: Timing, batch_size: int, upper: float | None = None) -> str:
    """clips/s, ratio to the plain loop in the same rounds, GiB and, with a limit, the share of it."""
    if timing.failed:
        return f"{timing.failed:>{8 if upper is None else 10}}{'':{14 if upper is None else 24}}"
    rate = batch_size / statistics.median(timing.seconds)
    ratio = f"{statistics.median(a / b for a, b in zip(plain.seconds, timing.seconds, strict=True)):7.2f}"
    if plain.failed:
        ratio = f"{'-':>7}"
    memory = "-" if math.isnan(timing.memory) else f"{timing.memory:.1f}"
    if upper is None:
        return f"{rate:8.1f}{ratio}{memory:>7}"
    return f"{rate:10.1f}{ratio}{memory:>7}{100 * rate / upper:8.1f} %"


def print_layout_kernels(name: str, shape: tuple[int, int, int, int], batch_size: int, device: torch.device) -> None:
    """Prints the kernels of a step, with all levers but compile, that only convert layouts."""
    if device.type != "cuda":
        print("  layout conversions: counted on CUDA only; other libraries convert inside their kernels")
        return
    levers = [lever for lever in LEVERS if lever != "compile"]
    variant = Variant(name, levers, shape, batch_size, device)
    variant.warm_up()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        variant.step()
        torch.cuda.synchronize(device)
    counts = count_layout_kernels(event.name for event in profile.events())
    found = ", ".join(f"{number} {kernel}" for kernel, number in counts.items()) or "none"
    print(f"  layout conversions in a step with {', '.join(levers)}: {found}")


def count_layout_kernels(names: Iterable[str]) -> Counter[str]:
    """Counts the kernels of a trace that only convert a layout, by name."""
    return Counter(kind for name in names for kind in LAYOUT_KERNELS if kind.lower() in name.lower())


if __name__ == "__main__":
    run_cli(main)
