"""Batches of clips, read and decoded by worker processes.

A worker fills a whole batch in memory that it shares with the process that trains: pixels pass through no pipe, and no
thread takes Python's lock from the thread that launches kernels. An error arrives as it was raised.
"""

import gc
import math
import signal
import threading
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader

from common.console import gigabytes, plural
from common.errors import UserError
from dataloaders.frames.memory_cache import free_memory
from dataloaders.frames.shared_memory import START_METHOD, SharedBytes

BATCHES_AHEAD = 2  # of each worker
LEFT_TO_THE_PARENT = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class ClipDataset(Protocol):
    clip_shape: tuple[int, ...]

    def __len__(self) -> int: ...

    def load(self, epoch: int, position: int, out: np.ndarray) -> tuple[int, int]: ...


Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class WorkerLost(UserError):
    """A worker process ended before its batch was read: it was killed, or memory ran out."""


@dataclass
class StageSeconds:
    """Seconds that reading files, decoding them and copying batches took, summed over the batches handed out.
    Workers read and decode beside each other; the process that trains copies."""

    read: float = 0.0
    decode: float = 0.0
    copy: float = 0.0


class Task(NamedTuple):
    """One batch: which data set, its positions, and the part of the shared memory that receives it."""

    dataset: int
    epoch: int
    positions: range
    slot: int = 0


def read_batches(
    datasets: list[ClipDataset], tasks: Iterator[Task], largest: int, workers: int, pin: bool, seconds: StageSeconds
) -> Iterator[Batch]:
    """Yields the batch of each task, in order; adds to `seconds`. Closing it ends the worker processes.

    largest: bytes of the largest batch's clips; workers: processes, 0 to read in this one; pin: into pinned memory
    """
    if workers:
        workers, ahead = _affordable(workers, largest)
        yield from _read_by_workers(datasets, tasks, workers, ahead, largest, pin, seconds)
        return
    for task in tasks:
        clips = torch.empty(_shape(datasets, task), dtype=torch.uint8, pin_memory=pin)
        filled = _fill(datasets[task.dataset], task, clips.numpy())
        yield clips, *_numbers(filled, pin, seconds)


def _read_by_workers(
    datasets: list[ClipDataset],
    tasks: Iterator[Task],
    workers: int,
    ahead: int,
    slot_size: int,
    pin: bool,
    seconds: StageSeconds,
) -> Iterator[Batch]:
    # A worker begins task n when batch n - workers * ahead is handed out. The batch before that has been copied.
    num_slots = workers * ahead + 1
    memory = SharedBytes(num_slots * slot_size)
    cv2.setNumThreads(1)  # a forked process would wait for OpenCV's threads, which it does not have
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of more workers than processors: train.py has a note of its own
        loader = DataLoader(
            _Workers(datasets, memory, slot_size),
            batch_sampler=(task._replace(slot=number % num_slots) for number, task in enumerate(tasks)),
            num_workers=workers,
            prefetch_factor=ahead,
            collate_fn=_unchanged,
            worker_init_fn=_begin_worker,
            multiprocessing_context=START_METHOD,
            generator=torch.Generator(),  # without it, one number of the generator that training uses is drawn
        )
        with _signals_for_workers():
            batches = iter(loader)
    try:
        while True:
            try:
                filled = next(batches)
            except StopIteration:
                return
            except RuntimeError as error:
                raise WorkerLost(_how_lost(batches)) from error
            if isinstance(filled, Exception):
                raise filled
            start = time.perf_counter()
            shape = _shape(datasets, filled.task)
            begin = filled.task.slot * slot_size
            clips = torch.empty(shape, dtype=torch.uint8, pin_memory=pin)
            # by one thread: torch's threads would wait for each other on cores that decode
            np.copyto(clips.numpy(), memory.array[begin : begin + math.prod(shape)].reshape(shape))
            seconds.copy += time.perf_counter() - start
            yield clips, *_numbers(filled, pin, seconds)
    finally:
        batches._shutdown_workers()  # now, and not when the last reference to an error's traceback goes


@dataclass
class Filled:
    """Result of a task; its clips are in the task's slot."""

    task: Task
    numbers: np.ndarray  # (2, B) int64: labels, and the data set's second numbers
    read_seconds: float
    decode_seconds: float


class _Workers:
    """The data set of the DataLoader: fills a batch in a worker process."""

    def __init__(self, datasets: list[ClipDataset], memory: SharedBytes, slot_size: int):
        self.datasets, self.memory, self.slot_size = datasets, memory, slot_size

    def __getitems__(self, task: Task) -> "Filled | Exception":
        shape = _shape(self.datasets, task)
        begin = task.slot * self.slot_size
        out = self.memory.array[begin : begin + math.prod(shape)].reshape(shape)
        try:
            return _fill(self.datasets[task.dataset], task, out)
        except Exception as error:  # DataLoader would raise its text with this process's traceback
            if not isinstance(error, UserError | OSError):
                error.add_note(traceback.format_exc())
            return error


def _fill(dataset: ClipDataset, task: Task, out: np.ndarray) -> Filled:
    start, before = time.perf_counter(), getattr(dataset, "read_seconds", 0.0)
    numbers = np.empty((2, len(task.positions)), np.int64)
    for index, position in enumerate(task.positions):
        numbers[:, index] = dataset.load(task.epoch, position, out[index])
    read = getattr(dataset, "read_seconds", 0.0) - before
    return Filled(task, numbers, read, time.perf_counter() - start - read)


def _shape(datasets: list[ClipDataset], task: Task) -> tuple[int, ...]:
    return (len(task.positions), *datasets[task.dataset].clip_shape)


def _numbers(filled: Filled, pin: bool, seconds: StageSeconds) -> tuple[torch.Tensor, torch.Tensor]:
    seconds.read += filled.read_seconds
    seconds.decode += filled.decode_seconds
    tensor = torch.from_numpy(filled.numbers)
    labels, extras = tensor.pin_memory() if pin else tensor
    return labels, extras


def _unchanged(filled: Filled) -> Filled:
    return filled


def _begin_worker(_: int) -> None:
    for number in LEFT_TO_THE_PARENT:
        signal.signal(number, signal.SIG_IGN)
    gc.freeze()  # what was there before is no garbage of this process; looking through it would copy it


@contextmanager
def _signals_for_workers() -> Iterator[None]:
    """Workers started inside never see the signals that end a run: the process that trains finishes its step first.

    DataLoader's SIGCHLD handler, which raises in the middle of a step when a worker dies, is taken back. The loss then
    shows where the next batch is taken, and the weights are those of a whole step.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGCHLD"):
        yield
        return
    before = signal.getsignal(signal.SIGCHLD)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, LEFT_TO_THE_PARENT)  # inherited: there is no moment without it
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, before or signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _how_lost(batches: Iterator) -> str:
    codes = [worker.exitcode for worker in batches._workers if worker.exitcode]
    how = "ended" if not codes or codes[0] > 0 else f"was ended by {signal.Signals(-codes[0]).name}"
    return (
        f"A worker process that reads clips {how} (out of memory?). Fewer processes (--workers) or a smaller "
        "--batch-size take less memory."
    )


def _affordable(workers: int, slot_size: int) -> tuple[int, int]:
    """(workers, batches ahead of each): fewer where the batches in flight would take more than half of the memory."""
    free = free_memory()
    if free is None:
        return workers, BATCHES_AHEAD
    for count, ahead in [(workers, BATCHES_AHEAD), *((count, 1) for count in range(workers, 0, -1))]:
        if (count * ahead + 1) * slot_size <= free / 2:
            break
    if count < workers:
        print(
            f"Note: {plural(count, 'worker process')} instead of {workers}: a batch takes {gigabytes(slot_size)}, and "
            f"{gigabytes(free)} of memory are free."
        )
    return count, ahead
