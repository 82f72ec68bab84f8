import gc
import multiprocessing
import os
import threading
import time
import tracemalloc
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from common.errors import UserError
from common.input_spec import InputSpec
from dataloaders import build_loaders
from dataloaders.frame_set import open_frames
from dataloaders.loader import BATCHES_AHEAD, ClipLoader
from dataloaders.pack import pack
from dataloaders.sources.data_source import DataSource
from dataloaders.sources.find import with_frames
from tests.helpers.toy import TOY_SIZE


class Positions:
    """Sample p of epoch e is filled with p and labelled 100 e + p; later samples are ready sooner."""

    clip_shape = (2, 3)

    def __init__(self, size: int, broken: int | None = None):
        self.size, self.broken = size, broken
        self.loaded: list[int] = []

    def __len__(self) -> int:
        return self.size

    def load(self, epoch: int, position: int, out: np.ndarray) -> tuple[int, int]:
        time.sleep(0.0005 * ((self.size - position) % 5))
        if position == self.broken:
            raise UserError(f"sample {position} is broken")
        self.loaded.append(position)
        out[:] = position
        return 100 * epoch + position, position


def loader_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("clips")]


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
    assert sorted(dataset.loaded) == list(range(size))


@pytest.mark.parametrize("workers", [0, 3])
def test_resumed_from_the_middle_the_remaining_batches_are_the_same_and_no_other_is_read(workers):
    whole = list(ClipLoader(Positions(23), 4, workers).batches(epoch=1))
    dataset = Positions(23)
    rest = list(ClipLoader(dataset, 4, workers).batches(epoch=1, first=2))

    assert len(rest) == 4
    for resumed, original in zip(rest, whole[2:], strict=True):
        assert all(torch.equal(*pair) for pair in zip(resumed, original, strict=True))
    assert sorted(dataset.loaded) == list(range(8, 23))


def test_an_epoch_resumed_at_its_end_has_no_batch_left():
    assert list(ClipLoader(Positions(8), 4, 2).batches(first=2)) == []


@pytest.mark.parametrize("workers", [0, 3])
def test_an_exception_arrives_as_it_was_raised_at_its_own_batch(workers):
    arrived = []
    with pytest.raises(UserError, match="^sample 13 is broken$"):
        for batch in ClipLoader(Positions(40, broken=13), 4, workers):
            arrived.append(batch)

    assert len(arrived) == 3
    assert not loader_threads()


def test_an_abandoned_iteration_leaves_no_threads():
    for end in ("closed", "dropped", "broken off"):
        batches = ClipLoader(Positions(400), 4, 3).batches()
        next(batches)
        assert len(loader_threads()) == 3
        if end == "closed":
            batches.close()
        elif end == "broken off":
            with pytest.raises(KeyboardInterrupt):
                batches.throw(KeyboardInterrupt)
        del batches
        gc.collect()
        assert not loader_threads(), end


def test_no_more_is_read_ahead_than_a_few_batches():
    dataset = Positions(400)
    batches = ClipLoader(dataset, 4, 3).batches()
    next(batches)
    time.sleep(0.1)

    assert max(dataset.loaded) < 4 * (1 + BATCHES_AHEAD)
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


@pytest.mark.slow
@pytest.mark.parametrize("packed", [False, True])
def test_memory_does_not_grow_over_epochs(toy_source, toy_frames, tmp_path, packed):
    """With threads that read, from folders and from a pack: neither Python's objects nor what the process holds."""
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
