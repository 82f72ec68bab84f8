"""train.py's own epochs over preprocessed frames, beside its step on clips that lie on the device."""

import contextlib
import io
import itertools
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch

import mypath
import train
from benchmarks.machine import synchronize
from engine.training.config import TrainConfig
from engine.training.run import Run
from engine.training.setup import begin_run
from engine.training.stop_request import StopRequest
from network import input_spec


def end_to_end(
    name: str,
    batch_size: int,
    device: torch.device,
    workers: list[int],
    dataset: str | None = None,
    frames: str | None = None,
    clip_len: int | None = None,
    num_steps: int = 12,
) -> None:
    """Prints a line for each number of threads. Without a data set, frames for `num_steps` steps are made."""
    with tempfile.TemporaryDirectory() as folder:
        if dataset is None:
            spec = input_spec(name)
            num_frames = (clip_len or spec.clip_len) * spec.frame_stride + 8
            make_frames(Path(folder) / "frames", num_steps * batch_size, num_frames, spec.resize)
            dataset, frames = f"{folder}/videos", f"{folder}/frames"
        config = TrainConfig(
            dataset=dataset, frames=frames, model=name, batch_size=batch_size, clip_len=clip_len, device=str(device),
            epochs=10_000, lr=1e-6, val="none", flip=True, workers=max(workers),
        )  # fmt: skip
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            run = begin_run(config, mypath.DATASETS, Path(folder))
        print("".join(line for line in said.getvalue().splitlines(keepends=True) if "bf16" in line), end="")
        try:
            _print_rates(run, workers)
        finally:
            run.tracker.close()


def _print_rates(run: Run, workers: list[int]) -> None:
    steps = run.train_loader.batch_sampler.num_steps
    print(f"  end to end, as train.py does it, {steps} steps an epoch      clips/s   of synthetic   data wait   waits")
    _epoch(run)  # warms up
    for threads in workers:
        run.train_loader.num_workers = threads
        synthetic = synthetic_rate(run)
        rate, waited, syncs = _epoch(run)
        print(f"    {threads:2} threads{'':40}{rate:10.1f}{rate / synthetic:15.2f}{100 * waited:10.0f} %{syncs:>8}")


def _epoch(run: Run) -> tuple[float, float, str]:
    """Clips a second, share of the time spent waiting for data, and the times the program waited for the GPU."""
    with counted_syncs(run.device) as syncs, StopRequest() as stop:
        measured = train.train_one_epoch(run, stop)
    if stop.signum:
        raise KeyboardInterrupt
    run.progress.epoch += 1
    rate, waited = measured["time/clips_per_second"], measured["time/data_wait"]
    return rate, waited, str(len(syncs)) if run.device.type == "cuda" else "-"


def synthetic_rate(run: Run) -> float:
    """Clips a second of an epoch's full steps, all on one batch that lies on the device."""
    batch = next(run.train_loader.batches())
    batches = itertools.repeat(tuple(part.to(run.device) for part in batch))
    plan, first = run.train_loader.batch_sampler, run.progress.step
    full = max(plan.num_items // plan.step_size, 1)
    synchronize(run.device)
    start = time.perf_counter()
    for _ in range(full):
        train.train_step(run, batches)
        run.progress.step += 1
    synchronize(run.device)
    seconds = time.perf_counter() - start
    run.progress.step = first
    return full * min(plan.step_size, plan.num_items) / seconds


@contextlib.contextmanager
def counted_syncs(device: torch.device) -> Iterator[list]:
    """Collects a warning for each time the program waits for the GPU. Reading the loss every 20 steps is one or two."""
    if device.type != "cuda":
        yield []
        return
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield caught
        finally:
            torch.cuda.set_sync_debug_mode("default")
    places = sorted({f"{Path(entry.filename).name}:{entry.lineno}" for entry in caught})
    if places:
        print(f"    waits for the GPU come from {', '.join(places)}", file=sys.stderr)


def make_frames(folder: Path, num_videos: int, num_frames: int, size: tuple[int, int]) -> None:
    """<folder>/train/<class>/<video>/00001.jpg: two classes, pictures about as hard to decode as a film's."""
    rng = np.random.default_rng(0)
    width, height = size
    jpegs = []
    for _ in range(64):
        coarse = rng.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
        picture = cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC).astype(np.int16)
        picture += rng.integers(-6, 7, picture.shape, dtype=np.int16)
        jpegs.append(cv2.imencode(".jpg", picture.clip(0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 95])[1])
    for number in range(num_videos):
        video = folder / "train" / f"class{number % 2}" / f"video{number:05d}"
        video.mkdir(parents=True)
        for index in range(num_frames):
            (video / f"{index + 1:05d}.jpg").write_bytes(jpegs[(number + index) % len(jpegs)])
