"""Batches of clips, decoded by threads into one array each.

The JPEG decoder works outside Python's lock, so threads decode in parallel, write where the batch needs the pixels,
and nothing is copied between processes. Errors arrive as they were raised.
"""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import numpy as np
import torch

from dataloaders.batch_sampler import EvalBatchSampler

BATCHES_AHEAD = 3


class ClipDataset(Protocol):
    clip_shape: tuple[int, ...]

    def __len__(self) -> int: ...

    def load(self, epoch: int, position: int, out: np.ndarray) -> tuple[int, int]: ...


class BatchSampler(Protocol):
    """The positions of each batch of an epoch."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int) -> range: ...


Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class ClipLoader:
    """Iterates over a data set in batches: clips (B, *clip_shape) uint8, labels (B,) int64, and the data set's second
    number (B,) int64. The last batch may be smaller; nothing is dropped and nothing comes twice. A batch
    sampler gives other batches, such as the share of one rank."""

    def __init__(
        self,
        dataset: ClipDataset,
        batch_size: int,
        num_workers: int = 2,
        pin_memory: bool = False,
        batch_sampler: BatchSampler | None = None,
    ):
        self.dataset, self.batch_sampler = dataset, batch_sampler or EvalBatchSampler(len(dataset), batch_size)
        self.num_workers, self.pin_memory = num_workers, pin_memory

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[Batch]:
        return self.batches()

    def batches(self, epoch: int = 0, first: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, from number `first` on: a resumed run reads nothing that it has already used."""
        if self.num_workers == 0:
            for number in range(first, len(self)):
                batch = self._allocate(number)
                for place, position in enumerate(self.batch_sampler[number]):
                    self._fill(batch, epoch, place, position)
                yield batch
            return

        pool = ThreadPoolExecutor(self.num_workers, thread_name_prefix="clips")
        ahead: deque[tuple[Batch, list[Future]]] = deque()
        try:
            for number in range(first, len(self)):
                batch = self._allocate(number)
                places = enumerate(self.batch_sampler[number])
                futures = [pool.submit(self._fill, batch, epoch, place, position) for place, position in places]
                ahead.append((batch, futures))
                if len(ahead) > BATCHES_AHEAD:
                    yield _finished(*ahead.popleft())
            while ahead:
                yield _finished(*ahead.popleft())
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _allocate(self, number: int) -> Batch:
        size = len(self.batch_sampler[number])
        clips = torch.empty((size, *self.dataset.clip_shape), dtype=torch.uint8, pin_memory=self.pin_memory)
        numbers = torch.empty((2, size), dtype=torch.int64, pin_memory=self.pin_memory)
        return clips, numbers[0], numbers[1]

    def _fill(self, batch: Batch, epoch: int, index: int, position: int) -> None:
        clips, labels, extras = batch
        label, extra = self.dataset.load(epoch, position, clips[index].numpy())
        labels[index], extras[index] = label, extra


def _finished(batch: Batch, futures: list[Future]) -> Batch:
    for future in futures:
        future.result()  # raises what the thread raised
    return batch
