"""Reading ahead: threads decode the next videos while the network is at work on one."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import Full, Queue
from typing import TypeVar

Item = TypeVar("Item")
Piece = TypeVar("Piece")


def read_ahead(
    items: Iterable[Item], read: Callable[[Item], Iterable[Piece]], threads: int, waiting: int
) -> Iterator[tuple[Item, Iterator[Piece]]]:
    """Each item, in order, with the pieces that read(item) gives; the next items are read by threads meanwhile.

    waiting: how many pieces of an item may lie there unread, so that a video of hours takes no more memory than one of
    minutes. What read raises is raised where the pieces are iterated over. Pieces must be taken before the next item
    is; those that were not are left out.
    """
    ahead: deque[tuple[Item, _Reading]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
        try:
            for item in items:
                reading = _Reading(waiting)
                pool.submit(reading.fill, read, item)
                ahead.append((item, reading))
                if len(ahead) > threads:
                    yield from _first(ahead)
            while ahead:
                yield from _first(ahead)
        finally:
            for _, reading in ahead:
                reading.is_wanted = False
            pool.shutdown(cancel_futures=True)


def _first(ahead: deque) -> Iterator[tuple[Item, Iterator[Piece]]]:
    item, reading = ahead[0]
    try:
        yield item, reading.pieces()
    finally:
        reading.is_wanted = False  # its thread may still wait for room
        ahead.popleft()


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
