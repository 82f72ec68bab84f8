"""Reading ahead."""

import threading
import time

import pytest

from engine.inference.read_ahead import read_ahead


def numbers(item: int):
    for piece in range(item):
        yield 100 * item + piece


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("waiting", [1, 3, 50])
def test_items_and_their_pieces_come_in_order(threads, waiting):
    items = [3, 0, 7, 1, 12, 2]
    with read_ahead(items, numbers, threads, waiting) as reading:
        found = [(item, list(pieces)) for item, pieces in reading]
    assert found == [(item, list(numbers(item))) for item in items]


def test_no_more_pieces_lie_there_than_may_wait():
    """A video of hours takes no more memory than one of minutes."""
    made, most = 0, 0

    def read(_: int):
        nonlocal made
        for _ in range(200):
            made += 1
            yield made

    taken = 0
    with read_ahead([0], read, threads=1, waiting=4) as reading:
        for _, pieces in reading:
            for _ in pieces:
                taken += 1
                time.sleep(0.001)
                most = max(most, made - taken)
    assert taken == 200 and most <= 4 + 2  # and the one in the hand of each side


def test_an_error_is_raised_at_its_item_and_the_others_go_on():
    def read(item: int):
        yield item
        if item == 2:
            raise ValueError("this one")

    found = {}
    with read_ahead([1, 2, 3], read, threads=2, waiting=1) as reading:
        for item, pieces in reading:
            try:
                found[item] = list(pieces)
            except ValueError as error:
                found[item] = str(error)
    assert found == {1: [1], 2: "this one", 3: [3]}


def test_an_item_that_is_left_in_the_middle_holds_up_nothing():
    with read_ahead([50, 60, 70], numbers, threads=1, waiting=2) as reading:
        found = [(item, next(pieces)) for item, pieces in reading]
    assert found == [(50, 5000), (60, 6000), (70, 7000)]


def test_no_thread_stays_when_the_reader_fails():
    """Kept alive by its own error, as one that is put into a list is, an iterator alone would not be closed."""
    before, kept = threading.active_count(), []
    with pytest.raises(OSError) as error, read_ahead([500] * 20, numbers, threads=3, waiting=1) as reading:
        kept.append(reading)
        for _ in reading:
            assert threading.active_count() > before
            raise OSError("disk full")
    kept.append(error)
    assert threading.active_count() == before
