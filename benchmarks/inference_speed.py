"""Speed of inference on a video, ours and the plain way by turns in one run.

    python benchmarks/inference_speed.py
    python benchmarks/inference_speed.py --models r3d_18 r2plus1d_18 c3d_bn --video clip.avi --rounds 5

plain     every frame is decoded, resized and kept in a list of the last T; at each one the whole list becomes a float32
          clip and goes through the network (what most published demos do)
windows   Recognizer in float32: a window every --stride frames, each frame prepared once
bf16      the same with folded batch norms and bf16 kernels, where the processor (or the GPU) has it

The bound of `windows` over `plain` is (network + frame) / (network / stride + frame), with both times of the same run:
decoding does not get faster. On a GPU also the latency of a single clip, with CUDA graphs and without. Weights are
random, the arithmetic is the same. Medians over rounds; figures of one table belong together.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path

import av
import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.machine import processor
from common.cli import positive, run_cli
from dataloaders.clips import clip_indices, clip_span, clip_step
from dataloaders.transforms import to_model_input
from dataloaders.video import VideoReader
from engine.hardware.device import device_name, pick_device
from engine.inference.windows import prepare_frame
from engine.runs.checkpoint import load_model, save_checkpoint
from inference import Recognizer
from network import create_model, input_spec

NUM_CLASSES = 101


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="inference_speed.py", description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="+", default=["r3d_18"])
    parser.add_argument("--video", type=Path, help="default: 200 frames of 320x240 MPEG-4, made here")
    parser.add_argument("--stride", type=positive, default=8)
    parser.add_argument(
        "--plain-windows", type=positive, default=16, help="at how many frames the plain way is measured"
    )
    parser.add_argument("--rounds", type=positive, default=3)
    parser.add_argument("--device", default="auto")
    args = parser.parse_args(argv)
    device = pick_device(args.device)
    where = device_name(device) if device.type == "cuda" else f"{processor()}, {device_name(device)}"
    print(f"{date.today()}, {where}, torch {torch.__version__}, stride {args.stride}")
    with tempfile.TemporaryDirectory() as folder:
        video = args.video or make_video(Path(folder) / "clip.avi")
        print("| model | way | frames/s | to plain | bound | of a 25 fps video |\n|---|---|---:|---:|---:|---:|")
        for name in args.models:
            compare(name, video, Path(folder), args)
    if device.type == "cuda":
        print("\n| model | clip at a time, ms | with CUDA graph, ms | clips/s, batch 64 |\n|---|---:|---:|---:|")
        for name in args.models:
            gpu_latency(name, device)


def compare(name: str, video: Path, folder: Path, args: argparse.Namespace) -> None:
    checkpoint = save_random(name, folder)

    def recognizer(amp: str) -> Recognizer:
        return Recognizer(checkpoint, device=args.device, stride=args.stride, amp=amp)

    exact, low = recognizer("off"), recognizer("auto")
    network = load_model(checkpoint).model.eval().to(exact.device)  # as it is built, not laid out for our clips
    ways: dict[str, Callable[[], float]] = {
        "plain": lambda: plain(network, exact, video, args.plain_windows),
        "windows": lambda: ours(exact, video),
        "bf16": lambda: ours(low, video),
    }
    if low._answerer.dtype is None:
        del ways["bf16"]
    for way in ways.values():
        way()  # the first time pays for memory and for the check of low precision
    seconds = {way: [] for way in ways}
    frame_times = []
    for _ in range(args.rounds):
        for way, measure in ways.items():
            seconds[way].append(measure())
        frame_times.append(frame_cost(exact, video))
    medians = {way: statistics.median(values) for way, values in seconds.items()}
    frame = statistics.median(frame_times)
    bound = medians["plain"] / ((medians["plain"] - frame) / args.stride + frame)
    for way, per_frame in medians.items():
        ratio = statistics.median(p / o for p, o in zip(seconds["plain"], seconds[way], strict=True))
        limit = f"{bound:.2f}" if way == "windows" else ""
        print(
            f"| `{name}` | {way} | {1 / per_frame:.1f} | {ratio:.2f} | {limit} | {1 / per_frame / 25:.1f} x |",
            flush=True,
        )


def save_random(name: str, folder: Path) -> Path:
    """A checkpoint of a network with random weights."""
    checkpoint = folder / f"{name}.pth"
    torch.manual_seed(0)
    content = {"model": create_model(name, NUM_CLASSES).state_dict(), "config": {"model": name}}
    classes = [f"class {number}" for number in range(NUM_CLASSES)]
    save_checkpoint(checkpoint, {**content, "classes": classes, "input_spec": input_spec(name).to_dict()})
    return checkpoint


def plain(network: torch.nn.Module, recognizer: Recognizer, video: Path, num_windows: int) -> float:
    """Seconds a frame, over the first `num_windows` frames at which a clip is full."""
    spec = recognizer.input_spec
    step = clip_step(spec.frame_stride, 1)
    span = clip_span(spec.clip_len, step)
    offsets = clip_indices(0, spec.clip_len, step, span)
    last: deque[np.ndarray] = deque(maxlen=span)
    answered, seconds = 0, 0.0
    with VideoReader(video) as reader:
        frames = iter(reader)
        for _ in range(span - 1):
            last.append(prepare_frame(next(frames), spec))
        start = time.perf_counter()
        for frame in frames:
            last.append(prepare_frame(frame, spec))
            clip = np.stack([last[i] for i in offsets])[None].astype(np.float32)
            clip = (clip / 255 - np.array(spec.mean, np.float32)) / np.array(spec.std, np.float32)
            x = torch.from_numpy(np.ascontiguousarray(clip.transpose(0, 4, 1, 2, 3), dtype=np.float32))
            with torch.inference_mode():
                network(x.to(recognizer.device)).softmax(1).cpu()
            answered += 1
            if answered == num_windows:
                break
        seconds = time.perf_counter() - start
    return seconds / answered


def ours(recognizer: Recognizer, video: Path) -> float:
    start = time.perf_counter()
    prediction = recognizer.predict(video)
    return (time.perf_counter() - start) / prediction.num_frames


def frame_cost(recognizer: Recognizer, video: Path) -> float:
    """Seconds to decode and prepare one frame."""
    start, num_frames = time.perf_counter(), 0
    with VideoReader(video) as reader:
        for frame in reader:
            prepare_frame(frame, recognizer.input_spec)
            num_frames += 1
    return (time.perf_counter() - start) / num_frames


def gpu_latency(name: str, device: torch.device) -> None:
    spec = input_spec(name)
    model = create_model(name, NUM_CLASSES).eval().to(device, memory_format=torch.channels_last_3d)
    shape = (spec.read_len, spec.crop_size, spec.crop_size, 3)
    clip = torch.randint(0, 256, (1, *shape), dtype=torch.uint8, device=device)

    @torch.inference_mode()
    def answer(clips: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cuda", torch.bfloat16):
            return model(to_model_input(clips, spec)).float().softmax(1)

    def timed(run: Callable[[], object], times: int) -> float:
        for _ in range(5):
            run()
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(times):
            run()
            torch.cuda.synchronize()
        return (time.perf_counter() - start) / times

    eager = timed(lambda: answer(clip), 50)
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(3):
            answer(clip)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        answer(clip)
    graphed = timed(graph.replay, 50)
    many = torch.randint(0, 256, (64, *shape), dtype=torch.uint8, device=device)
    batch = timed(lambda: answer(many), 20)
    print(f"| `{name}` | {1000 * eager:.2f} | {1000 * graphed:.2f} | {64 / batch:.0f} |", flush=True)


def make_video(path: Path, num_frames: int = 200) -> Path:
    """320x240 MPEG-4 part 2 with B-frames in AVI, as in UCF101: noise that drifts over a picture."""
    rng = np.random.default_rng(0)
    wide = np.kron(rng.integers(0, 256, (30, 60, 3), dtype=np.uint8), np.ones((8, 8, 1), np.uint8))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25, options={"bf": "2"})
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for index in range(num_frames):
            picture = np.ascontiguousarray(wide[:240, index % 160 : index % 160 + 320])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="bgr24")))
        container.mux(stream.encode(None))
    return path


if __name__ == "__main__":
    run_cli(main)
