"""What this machine trains and answers with, in one command of at most 7 minutes, most important first.

    python benchmarks/gpu_check.py --frames DIR             # frames of a data set at 171x128; without it, they are made
    python benchmarks/gpu_check.py --small                  # small networks, to try the script on a CPU
    python benchmarks/gpu_check.py --table gpu_check.json   # writes the file's results into docs/performance.md

Each result is printed and written to gpu_check.json (--output) when it is there. "plain" is the common loop: float32
(TF32 as PyTorch's defaults have it), float clips in NCDHW, loss.item() in each step; its loader reads whole videos.
Shares are of the machine's limit (benchmarks/machine.py), or of the rate on clips that are on the device already.
"""

import argparse
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.end_to_end import measure_epochs, plain_rate
from benchmarks.levers import ALTERNATIVES, LEVERS, NUM_CLASSES, Variant, clip_shape, levers_for
from benchmarks.loader_speed import make_frames
from benchmarks.machine import Machine, elapsed, layer_costs, limit, measure_machine, processor
from common.cli import above_zero, run_cli
from common.files import ROOT, write_atomically
from dataloaders.frames.manifest import read_manifest, usable
from engine.hardware.device import device_name, pick_device
from network import input_spec

MARKS = "<!-- gpu_check: begin -->\n", "<!-- gpu_check: end -->"
PAGE = ROOT / "docs" / "performance.md"
LAYOUT_KERNELS = ("nchwToNhwc", "nhwcToNchw", "convertTensor")


class Report:
    """Rows of results: printed, written to a JSON file after each, and counted against the time."""

    def __init__(self, path: Path, minutes: float, machine: dict):
        self.path, self.end = path, time.monotonic() + 60 * minutes
        self.content = {"machine": machine, "rows": []}

    def left(self) -> float:
        return self.end - time.monotonic()

    def add(self, part: str, **values: object) -> None:
        row = {"part": part} | {key: round(v, 4) if isinstance(v, float) else v for key, v in values.items()}
        self.content["rows"].append(row)
        write_atomically(self.path, json.dumps(self.content, indent=1) + "\n")
        print("  ".join(f"{value}" if key == "part" else f"{key}={value}" for key, value in row.items()), flush=True)

    def run(self, part: str, seconds: float, measure: Callable[[], Iterator[dict]]) -> None:
        """Adds what `measure` yields; leaves it out where less than `seconds` are left. A failure is a row, too."""
        if self.left() < seconds:
            self.add(part, left_out=f"needs about {seconds:.0f} s, {max(self.left(), 0):.0f} s are left")
            return
        try:
            for row in measure():
                self.add(part, **row)
        except Exception as error:  # the other parts are worth as much
            self.add(part, failed=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def main(argv: Sequence[str]) -> None:
    args = parse_args(argv)
    if args.table:
        write_table(json.loads(args.table.read_text(encoding="utf-8")))
        return
    device, small = pick_device(args.device), args.small
    models = ["r3d_10", "r2plus1d_10"] if small else ["r3d_18", "r2plus1d_18", "mc3_18", "c3d"]
    batch_size, batches = (4, [4]) if small else (128, [128, 32])
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    report = Report(args.output, args.minutes, describe_machine(device, cores))
    print("  ".join(f"{key}: {value}" for key, value in report.content["machine"].items()))
    machine = measure_machine(device, torch.bfloat16, rounds=1 if small else 5)
    report.add("machine", tflops_bf16=machine.flops / 1e12, copy_gb_per_second=machine.bandwidth / 1e9)

    default = [lever for lever in levers_for(device) if not (small and lever == "compile")]
    compile_time = 0 if small else 45
    with tempfile.TemporaryDirectory() as folder:
        frames = args.frames or Path(folder) / "frames"
        if not args.frames:
            spec = input_spec(models[0])
            make_frames(frames, 16 if small else 512, spec.clip_len * spec.frame_stride + 8, spec.resize)

        def train(name: str, levers: list[str], setting: str, forward: bool = False) -> None:
            part = "forward" if forward else "train"
            seconds = 10 + compile_time * ("compile" in levers)
            steps = Steps(name, levers, setting, batch_size, device, machine, forward)
            report.run(part, seconds, steps.measure)

        def end_to_end(name: str, number: int) -> Iterator[dict]:
            compiled = "off" if small else "on"
            workers = sorted({max(cores // 2, 1), min(cores, 16)})
            best = 0.0
            for row in measure_epochs(name, number, device, workers, frames, compiled):
                best = max(best, row["clips_per_second"])
                yield {"model": name, "batch_size": number, **row}
            rows = usable(read_manifest(Path(frames)))
            plain = plain_rate(name, number, device, Path(frames), rows, 2 if small else 4)
            yield {"model": name, "batch_size": number, "plain": plain, "times_plain": best / plain}

        eager = [lever for lever in default if lever != "compile"]
        for name in models[:2]:
            train(name, default, "default")
            train(name, eager, "not compiled")
        for name in models[:2]:
            train(name, [*eager, "folded"], "default", forward=True)
        report.run("latency", 10, lambda: measure_latency(models[0], device))
        for number in batches:
            report.run("end to end", 40 + compile_time, lambda number=number: end_to_end(models[0], number))
        for name in models[2:]:
            train(name, default, "default")
            train(name, [*eager, "folded"], "default", forward=True)
        report.run("end to end", 40 + compile_time, lambda: end_to_end(models[1], batch_size))
        for name in models[:2]:
            train(name, [], "plain")
            for count in range(1, len(eager) + 1):
                train(name, eager[:count], f"+ {eager[count - 1]}")
        report.run("kernels", 10, lambda: count_kernels(models[0], eager, batch_size, device))
        report.run("tests", 60, lambda: run_gpu_tests(report.left()))
    print(f"Written to {args.output}")


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python benchmarks/gpu_check.py", description=__doc__.split("\n")[0])
    parser.add_argument("--frames", type=Path, metavar="DIR", help="frames at 171x128 (default: made for this)")
    parser.add_argument("--minutes", type=above_zero, default=7.0, help="parts that no longer fit are left out")
    parser.add_argument("--output", type=Path, default=Path("gpu_check.json"), metavar="FILE")
    parser.add_argument("--device", default="auto", metavar="NAME", help="default: the best there is")
    parser.add_argument("--small", action="store_true", help="small networks, nothing compiled")
    parser.add_argument("--table", type=Path, metavar="FILE", help="write FILE's results into docs/performance.md")
    args = parser.parse_args(argv)
    for path in (args.frames, args.table):
        if path is not None and not path.exists():
            parser.error(f"{path} does not exist")
    return args


def describe_machine(device: torch.device, cores: int) -> dict:
    cudnn = torch.backends.cudnn.version() if device.type == "cuda" else None
    return {
        "date": str(date.today()), "device": device_name(device), "processor": processor(), "cores": cores,
        "torch": torch.__version__, "cudnn": cudnn,
    }  # fmt: skip


@dataclass(frozen=True)
class Steps:
    """Training steps, or forward passes, on clips that lie on the device."""

    name: str
    levers: list[str]
    setting: str
    batch_size: int
    device: torch.device
    machine: Machine
    forward: bool

    def measure(self) -> Iterator[dict]:
        """Clips a second and their share of the machine's limit."""
        shape, start = clip_shape(self.name), time.perf_counter()
        variant = Variant(self.name, self.levers, shape, self.batch_size, self.device, self.forward)
        once, memory = variant.warm_up()
        begun = time.perf_counter() - start
        rate = self.batch_size / elapsed(variant.step, self.device, max(round(1.5 / once), 2), warm_up=False)
        costs = layer_costs(self.name, shape, NUM_CLASSES)
        upper = limit(costs, self.machine, self.batch_size, train=not self.forward)
        values = {"clips_per_second": rate, "of_limit": rate / upper, "first_steps_seconds": begun}
        yield {"model": self.name, "setting": self.setting, **values, "gib": None if math.isnan(memory) else memory}


def measure_latency(name: str, device: torch.device) -> Iterator[dict]:
    """Milliseconds from clips in memory to probabilities, as inference.py and the service compute them."""
    from engine.predictor import network_predictor
    from engine.runs.checkpoint import TrainedModel
    from network import create_model

    spec, classes = input_spec(name), [str(number) for number in range(NUM_CLASSES)]
    trained = TrainedModel(create_model(name, NUM_CLASSES), spec, classes, name, {"config": {}})
    predictor = network_predictor(trained, str(device))
    for clips in (1, 8):
        x = torch.randint(0, 256, (clips, spec.clip_len, spec.crop_size, spec.crop_size, 3), dtype=torch.uint8).numpy()
        predictor.probabilities(x)
        seconds = elapsed(lambda x=x: predictor.probabilities(x), device, 10)
        yield {"model": name, "clips": clips, "milliseconds": 1000 * seconds}


def count_kernels(name: str, levers: list[str], batch_size: int, device: torch.device) -> Iterator[dict]:
    """Layout conversions of a step, and its largest copies and casts with the shapes of their tensors."""
    variant = Variant(name, levers, clip_shape(name), batch_size, device)
    variant.warm_up()
    with torch.profiler.profile(record_shapes=True) as profile:
        variant.step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    names = [event.name.lower() for event in profile.events()]
    counts = Counter(kind for found in names for kind in LAYOUT_KERNELS if kind.lower() in found)
    yield {"model": name, "layout_conversions": sum(counts.values())}
    copies = [entry for entry in profile.key_averages(group_by_input_shape=True) if entry.key == "aten::copy_"]
    for entry in sorted(copies, key=lambda entry: -entry.device_time_total or -entry.cpu_time_total)[:8]:
        microseconds = entry.device_time_total or entry.cpu_time_total
        yield {"model": name, "copies": entry.count, "shape": str(entry.input_shapes[0]), "microseconds": microseconds}


def run_gpu_tests(seconds: float) -> Iterator[dict]:
    """The outcome of `make test-gpu`, with this Python."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu and not slow", "tests/gpu", "-p", "no:cacheprovider"]
    try:
        output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds).stdout
    except subprocess.TimeoutExpired as expired:
        yield {"failed": f"not done after {seconds:.0f} s: {str(expired.stdout or '')[-200:]}"}
        return
    counts = {kind: int(number) for number, kind in re.findall(r"(\d+) (passed|failed|skipped|error)", output)}
    yield {**counts, "failed_tests": re.findall(r"^(?:FAILED|ERROR) (\S+)", output, re.MULTILINE)}


def write_table(content: dict) -> None:
    """Replaces the table in docs/performance.md by these results."""
    page = PAGE.read_text(encoding="utf-8")
    before, rest = page.split(MARKS[0])
    PAGE.write_text(before + MARKS[0] + markdown(content) + MARKS[1] + rest.split(MARKS[1])[1], encoding="utf-8")


def markdown(content: dict) -> str:
    machine, lines = content["machine"], []
    cudnn = f", cuDNN {machine['cudnn']}" if machine["cudnn"] else ""
    software = f"torch {machine['torch']}{cudnn}"
    lines.append(f"{machine['device']}, {machine['cores']} cores, {software}, {machine['date']}:\n")
    lines += ["| part | model | setting | clips/s | share |", "|---|---|---|---:|---:|"]
    for row in content["rows"]:
        if "clips_per_second" in row:
            share = row.get("of_limit", row.get("of_synthetic"))
            setting = row.get("setting") or f"batch {row['batch_size']}, {row['workers']} workers"
            setting = LEVERS.get(setting) or ALTERNATIVES.get(setting) or setting
            cells = [row["part"], row["model"], setting, f"{row['clips_per_second']:,.0f}", f"{100 * share:.0f} %"]
            lines.append(f"| {' | '.join(cells)} |")
    for row in content["rows"]:
        if "times_plain" in row:
            times, plain = row["times_plain"], row["plain"]
            lines.append(f"\n{row['model']} end to end: {times:.1f} times the plain way's {plain:,.0f} clips/s.")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    run_cli(main)
