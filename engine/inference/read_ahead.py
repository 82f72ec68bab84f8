"""Reading ahead: threads decode the next videos while the network is at work on one."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from queue import Full, Queue
from typing import TypeVar

Item = TypeVar("Item")
Piece = TypeVar("Piece")


@contextmanager
def read_ahead(
    items: Iterable[Item], read: Callable[[Item], Iterable[Piece]], threads: int, waiting: int
) -> Iterator[Iterator[tuple[Item, Iterator[Piece]]]]:
    """Each item, in order, with the pieces that read(item) gives; the next items are read by threads meanwhile.

    waiting: how many pieces of an item may lie there unread, so that a video of hours takes no more memory than one of
    minutes. What read raises is raised where the pieces are iterated over. Pieces must be taken before the next item
    is; those that were not are left out. After the with statement no thread is left, however it ended.
    """
    ahead: deque[tuple[Item, _Reading]] = deque()

    def in_order() -> Iterator[tuple[Item, Iterator[Piece]]]:
        left = iter(items)
        while True:
            for item in islice(left, threads + 1 - len(ahead)):
                ahead.append((item, _Reading(waiting)))
                pool.submit(ahead[-1][1].fill, read, item)
            if not ahead:
                return
            item, reading = ahead[0]
            yield item, reading.pieces()
            reading.is_wanted = False  # its thread may still wait for room
            ahead.popleft()

    with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
        try:
            yield in_order()
        finally:
            for _, reading in ahead:
                reading.is_wanted = False
            pool.shutdown(cancel_futures=True)


class _Reading:
    """One item on its way from a thread to the reader."""

    def __init__(self, waiting: int):
        self.queue: Queue[tuple[str, object]] = Queue(waiting)
        self.is_wanted = True

    def fill(self, read: Callable[[Item], Iterable[Piece]], item: Item) -> None:
        try:
            for piece in read(item):
                if not self._put("piece", piece):
                    return
            self._put("end", None)
        except BaseException as error:  # raised again in the reader's thread
            self._put("error", error)

    def pieces(self) -> Iterator[Piece]:
        while True:
            kind, content = self.queue.get()
            if kind == "error":
                raise content
            if kind == "end":
                return
            yield content

    def _put(self, kind: str, content: object) -> bool:
        while self.is_wanted:
            try:
                self.queue.put((kind, content), timeout=0.1)
                return True
            except Full:
                pass
        return False
