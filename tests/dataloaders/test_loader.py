import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from common.errors import UserError
from common.files import ROOT
from common.input_spec import InputSpec
from dataloaders import batch_reader, build_loaders
from dataloaders.batch_reader import BATCHES_AHEAD, WorkerLost
from dataloaders.batch_sampler import EvalBatchSampler
from dataloaders.frame_set import open_frames
from dataloaders.frames import shared_memory
from dataloaders.frames.shared_memory import SharedBytes
from dataloaders.loader import ClipLoader, SharedReader
from dataloaders.pack import pack
from dataloaders.sources.data_source import DataSource
from dataloaders.sources.find import with_frames
from tests.helpers.toy import TOY_SIZE


class Positions:
    """Sample p of epoch e is filled with p and labelled 100 e + p; later samples are ready sooner."""

    clip_shape = (2, 3)

    def __init__(self, size: int, broken: int | None = None, error: Exception | None = None):
        self.size, self.broken, self.error = size, broken, error
        self.loaded = SharedBytes(size)  # times that each sample was read, by whichever process

    def __len__(self) -> int:
        return self.size

    def load(self, epoch: int, position: int, out: np.ndarray) -> tuple[int, int]:
        time.sleep(0.0005 * ((self.size - position) % 5))
        if position == self.broken:
            raise self.error or UserError(f"sample {position} is broken")
        self.loaded.array[position] += 1
        out[:] = position
        return 100 * epoch + position, position

    def read(self) -> list[int]:
        return np.flatnonzero(self.loaded.array).tolist()


class Killed(Positions):
    """A worker process that is killed while it reads sample 13."""

    def load(self, epoch: int, position: int, out: np.ndarray) -> tuple[int, int]:
        if position == 13:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().load(epoch, position, out)


def worker_processes() -> list[multiprocessing.Process]:
    return multiprocessing.active_children()


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize(("size", "batch_size"), [(10, 4), (12, 4), (3, 8), (1, 1), (23, 2)])
def test_every_position_comes_once_in_order_and_the_last_batch_may_be_smaller(size, batch_size, workers):
    """Trap 22: padded duplicates counted."""
    dataset = Positions(size)
    loader = ClipLoader(dataset, batch_size, workers)
    batches = list(loader.batches(epoch=3))

    assert len(batches) == len(loader)
    assert [len(labels) for _, labels, _ in batches[:-1]] == [batch_size] * (len(batches) - 1)
    assert len(batches[-1][1]) == size - batch_size * (len(batches) - 1)
    assert torch.cat([labels for _, labels, _ in batches]).tolist() == list(range(300, 300 + size))
    assert torch.cat([extras for _, _, extras in batches]).tolist() == list(range(size))
    clips = torch.cat([clips for clips, _, _ in batches])
    assert clips.dtype == torch.uint8 and clips.shape == (size, 2, 3)
    assert torch.equal(clips, torch.arange(size, dtype=torch.uint8)[:, None, None].expand(-1, 2, 3))
    assert dataset.loaded.array.tolist() == [1] * size


@pytest.mark.parametrize("workers", [0, 3])
def test_resumed_from_the_middle_the_remaining_batches_are_the_same_and_no_other_is_read(workers):
    whole = list(ClipLoader(Positions(23), 4, workers).batches(epoch=1))
    dataset = Positions(23)
    rest = list(ClipLoader(dataset, 4, workers).batches(epoch=1, first=2))

    assert len(rest) == 4
    for resumed, original in zip(rest, whole[2:], strict=True):
        assert all(torch.equal(*pair) for pair in zip(resumed, original, strict=True))
    assert dataset.read() == list(range(8, 23))


def test_an_epoch_resumed_at_its_end_has_no_batch_left():
    assert list(ClipLoader(Positions(8), 4, 2).batches(first=2)) == []


@pytest.mark.parametrize("workers", [0, 3])
def test_an_exception_arrives_as_it_was_raised_at_its_own_batch(workers):
    arrived = []
    with pytest.raises(UserError, match="^sample 13 is broken$"):
        for batch in ClipLoader(Positions(40, broken=13), 4, workers):
            arrived.append(batch)

    assert len(arrived) == 3
    assert not worker_processes()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_missing_file_is_the_systems_error_with_its_name(workers):
    broken = Positions(10, 5, FileNotFoundError(2, "No such file or directory", "frames/5.jpg"))
    with pytest.raises(FileNotFoundError) as raised:
        list(ClipLoader(broken, 4, workers))
    assert raised.value.filename == "frames/5.jpg"


def test_a_bug_in_a_worker_shows_the_line_that_raised_it():
    with pytest.raises(ZeroDivisionError) as raised:
        list(ClipLoader(Positions(10, 5, ZeroDivisionError("bug")), 4, 2))
    assert "raise self.error" in "".join(raised.value.__notes__)


def test_a_killed_worker_is_one_line_and_only_right_batches_arrive(capfd):
    """Three batches were read before the kill; the last of them may still be in the worker's hands."""
    arrived = []
    with pytest.raises(WorkerLost, match="^A worker process that reads clips was ended by SIGKILL .*--workers") as lost:
        for _, labels, extras in ClipLoader(Killed(40), 4, 1):
            assert labels.tolist() == extras.tolist()
            arrived += extras.tolist()
    assert arrived == list(range(12))[: len(arrived)] and "\n" not in str(lost.value)
    assert not worker_processes() and capfd.readouterr().err == ""


def test_a_dying_worker_does_not_interrupt_the_code_between_two_batches():
    before = signal.getsignal(signal.SIGCHLD)
    batches = iter(ClipLoader(Positions(400), 4, 2))
    next(batches)
    assert signal.getsignal(signal.SIGCHLD) == before
    worker_processes()[0].kill()
    time.sleep(0.2)  # torch's own handler would raise here
    batches.close()


def test_workers_leave_signals_to_the_process_that_trains():
    batches = iter(ClipLoader(Positions(60), 4, 2))
    next(batches)
    for process in worker_processes():
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(process.pid, number)
    assert len(list(batches)) == 14


def test_workers_draw_nothing_from_the_generator_that_training_uses():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    list(ClipLoader(Positions(8), 4, 2))
    assert torch.equal(torch.get_rng_state(), before)


def test_an_abandoned_iteration_leaves_no_processes():
    for end in ("closed", "dropped", "broken off"):
        batches = ClipLoader(Positions(400), 4, 3).batches()
        next(batches)
        assert len(worker_processes()) == 3
        if end == "closed":
            batches.close()
        elif end == "broken off":
            with pytest.raises(KeyboardInterrupt):
                batches.throw(KeyboardInterrupt)
        del batches
        gc.collect()
        assert not worker_processes(), end


def test_no_more_is_read_ahead_than_a_few_batches():
    dataset = Positions(400)
    batches = ClipLoader(dataset, 4, 3).batches()
    next(batches)
    time.sleep(0.3)

    assert dataset.read() == list(range(4 * (3 * BATCHES_AHEAD + 1)))
    batches.close()


def test_a_batch_is_not_written_to_after_it_was_handed_over():
    batches = ClipLoader(Positions(60), 4, 3).batches()
    first = next(batches)
    copy = [part.clone() for part in first]
    list(batches)

    assert all(torch.equal(*pair) for pair in zip(first, copy, strict=True))


def test_two_passes_are_two_whole_passes():
    loader = ClipLoader(Positions(10), 4, 2)

    assert [len(labels) for _, labels, _ in loader] == [len(labels) for _, labels, _ in loader] == [4, 4, 2]


def test_the_ordinary_interface_gives_each_batch_of_an_epoch_and_its_number():
    loader = ClipLoader(Positions(10), 4, 2)
    seen = [(clips.shape[0], labels.tolist()) for clips, labels, _ in loader]

    assert len(loader) == len(seen) == 3
    assert seen == [(4, [0, 1, 2, 3]), (4, [4, 5, 6, 7]), (2, [8, 9])]


def passes(train: ClipLoader, val: ClipLoader, epochs: int) -> list[tuple[ClipLoader, int, int]]:
    return [(loader, epoch, 0) for epoch in range(epochs) for loader in (train, val)]


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_one_set_of_workers_reads_training_and_validation_of_all_epochs_in_order(workers):
    train, val = ClipLoader(Positions(10), 4, workers), ClipLoader(Positions(3), 2, workers)
    expected = [list(loader.batches(epoch)) for loader, epoch, _ in passes(train, val, 3)]
    with SharedReader([train, val], passes(train, val, 3)):
        got, processes = [], set()
        for loader, epoch, _ in passes(train, val, 3):
            got.append(list(loader.batches(epoch)))
            processes |= {process.pid for process in worker_processes()}
    assert len(processes) == workers and not worker_processes()
    for one, other in zip(got, expected, strict=True):
        assert len(one) == len(other)
        for batch, same in zip(one, other, strict=True):
            assert all(torch.equal(*pair) for pair in zip(batch, same, strict=True))


def test_the_next_pass_is_read_while_this_one_is_used():
    train, val = ClipLoader(Positions(8), 4, 2), ClipLoader(Positions(3), 2, 2)
    with SharedReader([train, val], passes(train, val, 2)):
        next(train.batches(0))
        time.sleep(0.3)
        assert val.dataset.read() == [0, 1, 2]


def test_passes_come_in_the_planned_order_and_a_rank_without_videos_has_an_empty_one():
    train, val = (ClipLoader(Positions(8), 4, 0), ClipLoader(Positions(1), 2, 0, False, EvalBatchSampler(1, 2, 1, 2)))
    assert len(val) == 0
    with SharedReader([train, val], passes(train, val, 2)):
        train.batches(0)
        with pytest.raises(AssertionError, match="order"):
            train.batches(1)
    with SharedReader([train, val], passes(train, val, 2)):
        assert [len(list(loader.batches(epoch))) for loader, epoch, _ in passes(train, val, 2)] == [2, 0, 2, 0]


@pytest.mark.slow
def test_a_spawned_worker_reads_the_same(monkeypatch):
    """As on macOS and Windows, where no process can be forked."""
    expected = list(ClipLoader(Positions(10), 4, 0).batches(2))
    for module in (shared_memory, batch_reader):
        monkeypatch.setattr(module, "START_METHOD", "spawn")
    dataset = Positions(10)
    got = list(ClipLoader(dataset, 4, 2).batches(2))
    assert dataset.loaded.array.tolist() == [1] * 10, "shared memory, not a copy"
    for batch, same in zip(got, expected, strict=True):
        assert all(torch.equal(*pair) for pair in zip(batch, same, strict=True))


def test_where_memory_is_short_fewer_batches_are_read_ahead_then_by_fewer_processes(monkeypatch, capsys):
    monkeypatch.setattr(batch_reader, "free_memory", lambda: 100e6)
    assert batch_reader._affordable(4, 5e6) == (4, BATCHES_AHEAD)
    assert batch_reader._affordable(4, 9e6) == (4, 1) and capsys.readouterr().out == ""
    assert batch_reader._affordable(4, 15e6) == (2, 1)
    assert capsys.readouterr().out == (
        "Note: 2 worker processes instead of 4: a batch takes 15 MB, and 100 MB of memory are free.\n"
    )
    assert batch_reader._affordable(4, 90e6) == (1, 1)
    monkeypatch.setattr(batch_reader, "free_memory", lambda: None)
    assert batch_reader._affordable(4, 90e6) == (4, BATCHES_AHEAD)


def test_reading_and_decoding_are_counted_apart(toy_source, toy_frames):
    spec = InputSpec(clip_len=8, frame_stride=2, resize=TOY_SIZE, crop_size=48)
    for workers in (0, 2):
        train, _ = build_loaders(open_frames(toy_source, spec), spec, batch_size=4, num_workers=workers)
        list(train)
        assert min(train.seconds.read, train.seconds.decode) > 0 and (train.seconds.copy > 0) == (workers > 0)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="mounts a file system over /dev/shm")
def test_a_small_dev_shm_is_no_limit():
    """Docker gives it 64 MB; batches that did not fit would end the worker with a bus error."""
    code = (
        "from dataloaders.loader import ClipLoader; from tests.dataloaders.test_loader import Large;"
        "print(sum(len(labels) for _, labels, _ in ClipLoader(Large(), 4, 2)))"
    )
    mounted = f"mount -t tmpfs -o size=1m tmpfs /dev/shm && exec {sys.executable} -c '{code}'"
    done = subprocess.run(["unshare", "-m", "sh", "-c", mounted], cwd=ROOT, capture_output=True, text=True)
    if "unshare" in done.stderr or "mount" in done.stderr:
        pytest.skip(f"no right to mount: {done.stderr.strip()}")
    assert (done.stdout, done.returncode) == ("16\n", 0), done.stderr


class Large(Positions):
    clip_shape = (10_000_000,)

    def __init__(self):
        super().__init__(16)


@pytest.mark.slow
@pytest.mark.parametrize("packed", [False, True])
def test_memory_does_not_grow_over_epochs(toy_source, toy_frames, tmp_path, packed):
    """With workers that read, from folders and from a pack: neither Python's objects nor what the process holds."""
    if packed:
        pack(toy_frames, tmp_path / "packed", 0.00015)
    frames = tmp_path / "packed" if packed else toy_frames
    # in a process of its own: what earlier tests have left on the heap comes and goes by more
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        traced, resident = pool.submit(memory_over_epochs, with_frames(toy_source, str(frames)), 60).result()
    assert max(traced[30:]) - max(traced[10:20]) < 20_000
    assert max(resident[30:]) - max(resident[10:20]) < 8e6


def memory_over_epochs(source: DataSource, epochs: int) -> tuple[list[int], list[int]]:
    """Bytes of Python's objects, and of the process, after each epoch of training and validation."""
    spec = InputSpec(clip_len=8, frame_stride=2, resize=TOY_SIZE, crop_size=48)
    train, val = build_loaders(open_frames(source, spec), spec, batch_size=4, num_workers=3)
    traced, resident = [], []
    tracemalloc.start()
    for epoch in range(epochs):
        for batches in (train.batches(epoch), iter(val)):
            for _ in batches:
                pass
        gc.collect()
        traced.append(tracemalloc.get_traced_memory()[0])
        resident.append(resident_bytes())
    return traced, resident


def resident_bytes() -> int:
    """What the process holds in memory now; 0 where the system does not say."""
    path = Path("/proc/self/statm")
    return int(path.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if path.exists() else 0
