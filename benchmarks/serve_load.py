"""What serve.py answers under load: clients that send one video after the other, against the network alone, in one run.

    python benchmarks/serve_load.py
    python benchmarks/serve_load.py --checkpoint run/r3d_18-ucf101-000 --video clip.avi --clients 1 4 16 64

network   Recognizer.probabilities on windows that are cut and in memory, --batch-size of them at a time
predict   Recognizer.predict on the video's file, one after the other: decoding and network take turns
clients   so many at once, each with one request at a time, to a server in a process of its own

A round goes through all of them, and the ratios are those within a round: the median over rounds is printed. p50 and
p95 are of the time from the sending of a video to its answer, over all rounds. The clients are on the same machine, and
on a CPU decoders and network want the same cores. Weights are random without --checkpoint; the arithmetic is the same.
"""

import argparse
import http.client
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import mypath
from benchmarks.inference_speed import make_video, save_random
from benchmarks.machine import processor
from common.cli import positive, run_cli
from common.errors import UserError
from common.files import ROOT
from engine.hardware.device import device_name, pick_device
from engine.inference.windows import batches, sliding_clips
from engine.runs.checkpoint import find_checkpoint
from inference import Recognizer


@dataclass
class Measured:
    """videos in so many seconds; how long each took."""

    seconds: float
    latencies: list[float]

    @property
    def rate(self) -> float:
        return len(self.latencies) / self.seconds


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="serve_load.py", description=__doc__.split("\n")[0])
    parser.add_argument("--checkpoint", help="of a run; default: --models with random weights")
    parser.add_argument("--models", nargs="+", default=["r3d_10", "r3d_18"])
    parser.add_argument("--video", type=Path, help="default: 48 frames of 320x240 MPEG-4, made here")
    parser.add_argument("--clients", nargs="+", type=positive, default=[1, 8, 32])
    parser.add_argument("--seconds", type=positive, default=3, help="for which new videos are sent (default: 3)")
    parser.add_argument("--batch-size", type=positive, default=8)
    parser.add_argument("--decoders", type=positive, help="default: that of serve.py")
    parser.add_argument("--rounds", type=positive, default=2)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--amp", default="auto", choices=("auto", "off", "bf16"))
    args = parser.parse_args(argv)
    device = pick_device(args.device)
    where = device_name(device) if device.type == "cuda" else f"{processor()}, {device_name(device)}"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        video = args.video or make_video(folder / "clip.avi", 48)
        print(f"{date.today()}, {where}, torch {torch.__version__}, batch {args.batch_size}, {video.name}")
        print("| model | way | videos/s | windows/s | to network | to predict | p50, ms | p95, ms |")
        print("|---|---|---:|---:|---:|---:|---:|---:|")
        if args.checkpoint:
            compare(args.checkpoint, find_checkpoint(args.checkpoint, ROOT / mypath.RUNS), video, folder, args)
        for model in [] if args.checkpoint else args.models:
            compare(model, save_random(model, folder), video, folder, args)


def compare(name: str, checkpoint: Path, video: Path, folder: Path, args: argparse.Namespace) -> None:
    recognizer = Recognizer(checkpoint, args.device, batch_size=args.batch_size, amp=args.amp)
    with sliding_clips(video, recognizer.input_spec, recognizer.stride) as (windows, _):
        clips = [clip for _, _, clip in windows]
    content = video.read_bytes()
    with server(checkpoint, folder, args) as port:
        answer = ask(port, content)
        if len(answer["windows"]) != len(clips) or answer["classes"] != recognizer.classes:
            raise UserError("The server's answer is not that of the network beside it.")
        ways: dict[str, Callable[[], Measured]] = {
            "network": lambda: network_alone(recognizer, clips, args.seconds),
            "predict": lambda: under_load(lambda: recognizer.predict(video), 1, args.seconds),
        }
        for clients in args.clients:
            ways[f"{clients} client{'s'[: clients > 1]}"] = lambda clients=clients: under_load(
                lambda: ask(port, content), clients, args.seconds
            )
        for way in list(ways)[:3]:  # the first time pays for memory, and for the check of low precision
            ways[way]()
        measured: dict[str, list[Measured]] = {way: [] for way in ways}
        for _ in range(args.rounds):
            for way, measure in ways.items():
                measured[way].append(measure())
    for way, rounds in measured.items():
        latencies = [1000 * seconds for one in rounds for seconds in one.latencies]
        p50, p95 = np.percentile(latencies, [50, 95])
        rate = statistics.median(one.rate for one in rounds)
        to = {
            other: statistics.median(a.rate / b.rate for a, b in zip(rounds, measured[other], strict=True))
            for other in ("network", "predict")
        }
        spread = "| |" if way == "network" else f"{p50:.0f} | {p95:.0f} |"
        print(
            f"| `{name}` | {way} | {rate:.2f} | {rate * len(clips):.1f} | {to['network']:.2f} | {to['predict']:.2f} | "
            f"{spread}",
            flush=True,
        )


def network_alone(recognizer: Recognizer, clips: Sequence[np.ndarray], seconds: float) -> Measured:
    """Windows of one video after the other, in whole batches: as many videos go into a step as the server may take."""
    num_videos = recognizer.batch_size
    parts = [np.stack(part) for part in batches(list(clips) * num_videos, recognizer.batch_size)]
    start, done = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        for part in parts:
            recognizer.probabilities(part)
        done += num_videos
    elapsed = time.perf_counter() - start
    return Measured(elapsed, [elapsed / done] * done)


def under_load(answer: Callable[[], object], clients: int, seconds: float) -> Measured:
    """So many clients, each asking again as soon as it is answered; what was asked in time is waited for."""
    start = time.perf_counter()

    def client(_: int) -> list[float]:
        latencies = []
        while (sent := time.perf_counter()) - start < seconds:
            answer()
            latencies.append(time.perf_counter() - sent)
        return latencies

    with ThreadPoolExecutor(clients) as pool:
        latencies = [one for many in pool.map(client, range(clients)) for one in many]
    return Measured(time.perf_counter() - start, latencies)


def ask(port: int, content: bytes) -> dict:
    """A video's bytes -> the answer on it."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    try:
        connection.request("POST", "/predict", content, {"Content-Type": "video/mp4"})
        response = connection.getresponse()
        answer = json.loads(response.read())
    finally:
        connection.close()
    if response.status != 200:
        raise UserError(f"The server refused the video ({response.status}): {answer['detail']}")
    return answer


@contextmanager
def server(checkpoint: Path, folder: Path, args: argparse.Namespace) -> Iterator[int]:
    """The port of serve.py, which runs until the end of the with statement."""
    log = folder / "server.log"
    queue = max(args.clients)  # nobody is to be sent away
    command = [sys.executable, "serve.py", checkpoint, "--port", "0", "--queue", queue, "--timeout", 600]
    command += ["--device", args.device, "--amp", args.amp, "--batch-size", args.batch_size]
    command += ["--decoders", args.decoders] if args.decoders else []
    with log.open("w") as output:
        process = subprocess.Popen([str(word) for word in command], cwd=ROOT, stdout=output, stderr=output)
    try:
        while not (said := re.search(r"http://[\d.]+:(\d+)", log.read_text())):
            if process.poll() is not None:
                raise UserError(f"serve.py ended: {log.read_text().strip().splitlines()[-1]}")
            time.sleep(0.1)
        yield int(said[1])
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    run_cli(main)
