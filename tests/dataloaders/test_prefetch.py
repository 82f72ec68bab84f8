"""Batches on the device."""

from collections.abc import Iterator

import pytest
import torch

from dataloaders.prefetch import prefetch

CPU = torch.device("cpu")


def batches(number: int, log: list, pinned: bool = False) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    try:
        for index in range(number):
            log.append(index)
            clips = torch.full((2, 3), index)
            yield (clips.pin_memory() if pinned else clips), torch.arange(2)
    finally:
        log.append("closed")


def test_batches_arrive_in_order_and_the_source_is_closed():
    log = []
    assert [int(clips[0, 0]) for clips, _ in prefetch(batches(4, log), CPU)] == [0, 1, 2, 3]
    assert log == [0, 1, 2, 3, "closed"]


def test_a_run_that_stops_early_closes_its_source():
    log = []
    ahead = prefetch(batches(9, log), CPU)
    next(ahead)
    ahead.close()
    assert log == [0, "closed"]


def test_an_error_of_the_source_arrives_as_it_was():
    def broken() -> Iterator[tuple[torch.Tensor]]:
        yield (torch.zeros(1),)
        raise KeyError("frame 7")

    ahead = prefetch(broken(), CPU)
    next(ahead)
    with pytest.raises(KeyError, match="frame 7"):
        next(ahead)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("number", [0, 1, 2, 7])
def test_on_a_gpu_batches_are_copied_one_ahead_and_whole(number):
    log, device = [], torch.device("cuda")
    ahead = prefetch(batches(number, log, pinned=True), device)
    for index, (clips, labels) in enumerate(ahead):
        assert log[-1] in (min(index + 1, number - 1), "closed")
        assert clips.is_cuda and labels.is_cuda
        assert (clips * 1 == index).all()
    assert log == [*range(number), "closed"]
