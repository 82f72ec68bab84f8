"""train.py's own epochs over frames, beside its step on clips that lie on the device, and the plain way."""

import contextlib
import io
import itertools
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.utils.data import DataLoader

import mypath
import train
from benchmarks.levers import Variant
from benchmarks.loader_speed import PlainClips
from benchmarks.machine import synchronize
from dataloaders.frames.manifest import is_complete, read_manifest, usable
from engine.training.config import TrainConfig
from engine.training.run import Run, shared_reader
from engine.training.setup import begin_run
from engine.training.stop_request import StopRequest
from network import input_spec

PLAIN_WORKERS = 4
RATE = "time/clips_per_second"


def measure_epochs(
    name: str, batch_size: int, device: torch.device, workers: list[int], frames: Path, compiled: str
) -> Iterator[dict]:
    """Yields for each number of worker processes: clips/s of an epoch, its share of the rate on clips that lie on the
    device, the share of time without data, and the times the program waited for the GPU. An epoch takes so many
    clips of each video that it has 10 steps or more, where half of the videos are for training."""
    videos = len(usable(read_manifest(frames)) if is_complete(frames) else list(frames.glob("*/*/*")))
    with tempfile.TemporaryDirectory() as folder:
        config = TrainConfig(
            dataset="frames", frames=str(frames), model=name, batch_size=batch_size, device=str(device),
            compile=compiled, epochs=10_000, lr=1e-6, val="none", flip=True, workers=max(workers),
            clips_per_video=max(-(-20 * batch_size // max(videos, 1)), 1),
        )  # fmt: skip
        with contextlib.redirect_stdout(io.StringIO()):
            run = begin_run(config, mypath.DATASETS, Path(folder))
        try:
            with shared_reader(run):
                _epoch(run)  # compiles, and fills the page cache
            synthetic, steps = synthetic_rate(run), run.train_loader.batch_sampler.num_steps
            for number in workers:
                run.train_loader.num_workers = number
                with shared_reader(run):
                    _epoch(run)  # starts the workers
                    epochs = [_epoch(run) for _ in range(max(-(-20 // steps), 3))]
                measured, syncs = sorted(epochs, key=lambda epoch: epoch[0][RATE])[len(epochs) // 2]
                rate = measured[RATE]
                yield {
                    "workers": number, "clips_per_second": rate, "of_synthetic": rate / synthetic,
                    "synthetic": synthetic, "waits_for_gpu": syncs, **measured,
                }  # fmt: skip
        finally:
            run.tracker.close()


def _epoch(run: Run) -> tuple[dict[str, float], int]:
    with counted_syncs(run.device) as syncs, StopRequest() as stop:
        measured = train.train_one_epoch(run, stop)
    if stop.signum:
        raise KeyboardInterrupt
    run.progress.epoch += 1
    return measured, len(syncs)


def plain_rate(name: str, batch_size: int, device: torch.device, frames: Path, rows: list, steps: int) -> float:
    """Clips a second of the plain loop in float32, with a torch DataLoader of 4 processes that read whole videos."""
    spec = input_spec(name)
    variant = Variant(name, [], (3, spec.clip_len, spec.crop_size, spec.crop_size), batch_size, device)
    clips = PlainClips(frames, rows, spec)
    loader = DataLoader(
        clips, batch_size, sampler=itertools.count(), num_workers=PLAIN_WORKERS, pin_memory=device.type == "cuda"
    )
    batches = iter(loader)
    for number in range(steps + PLAIN_WORKERS * 2):
        if number == PLAIN_WORKERS * 2:  # what was read ahead is used up
            start = time.perf_counter()
        variant.clips = next(batches)[0].to(device)
        variant.step()
    synchronize(device)
    return steps * batch_size / (time.perf_counter() - start)


def synthetic_rate(run: Run) -> float:
    """Clips a second of an epoch's full steps, all on one batch that lies on the device."""
    reading = run.train_loader.batches()
    batch = next(reading)
    reading.close()
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
