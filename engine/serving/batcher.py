"""One thread runs the network, on windows of several requests together."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager

import numpy as np

LOOK, END = object(), object()  # in the queue: a source is through; there will be no more windows


class Batcher:
    """submit(clip) gives a future of its probabilities. Windows are answered in the order in which they came.

    probabilities   (B, T, h, w, 3) uint8 -> (B, num_classes) float32
    batch_size      windows that go through the network together
    wait            seconds for which an incomplete batch waits for more windows, while there are sources of them
    """

    def __init__(self, probabilities: Callable[[np.ndarray], np.ndarray], batch_size: int, wait: float = 0.005):
        self.probabilities, self.batch_size, self.wait = probabilities, batch_size, wait
        self.waiting: queue.SimpleQueue[tuple[np.ndarray, Future] | object] = queue.SimpleQueue()
        self.num_sources, self.lock = 0, threading.Lock()
        self.num_windows = self.num_batches = 0
        self.failed_in_a_row = 0  # batches, up to now
        self.thread = threading.Thread(target=self._run, name="network", daemon=True)
        self.thread.start()

    @contextmanager
    def source(self) -> Iterator[None]:
        """While the windows of one video come. When the last source is through, nothing is waited for any more."""
        with self.lock:
            self.num_sources += 1
        try:
            yield
        finally:
            with self.lock:
                self.num_sources -= 1
            self.waiting.put(LOOK)

    def submit(self, clip: np.ndarray) -> Future:
        future: Future = Future()
        self.waiting.put((clip, future))
        return future

    def close(self) -> None:
        """Ends the thread after the windows that are waiting."""
        self.waiting.put(END)
        self.thread.join()

    def _run(self) -> None:
        while True:
            batch, ending = self._next_batch()
            if batch:
                self._answer(batch)
            if ending:
                return

    def _next_batch(self) -> tuple[list[tuple[np.ndarray, Future]], bool]:
        """Windows whose clients still wait, at least one unless the end has come; and whether it has."""
        batch: list[tuple[np.ndarray, Future]] = []
        deadline = 0.0
        while len(batch) < self.batch_size:
            try:
                left = max(deadline - time.monotonic(), 0.0) if self.num_sources else 0.0
                item = self.waiting.get(timeout=left if batch else None)
            except queue.Empty:
                break
            if item is END:
                return batch, True
            if item is not LOOK and item[1].set_running_or_notify_cancel():
                deadline = deadline if batch else time.monotonic() + self.wait
                batch.append(item)
        return batch, False

    def _answer(self, batch: list[tuple[np.ndarray, Future]]) -> None:
        try:
            probs = self.probabilities(np.stack([clip for clip, _ in batch]))
            answers = list(zip(batch, probs, strict=True))
        except BaseException as error:  # raised again where the answers are asked for; the thread goes on
            self.failed_in_a_row += 1
            for _, future in batch:
                future.set_exception(error)
            return
        self.failed_in_a_row = 0
        self.num_windows += len(batch)
        self.num_batches += 1
        for (_, future), row in answers:
            future.set_result(row)
