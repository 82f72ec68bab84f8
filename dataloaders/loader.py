"""Loaders of clips in batches, for one pass over a data set or for all passes of a run."""

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from dataloaders.batch_reader import Batch, ClipDataset, StageSeconds, Task, read_batches
from dataloaders.batch_sampler import EvalBatchSampler


class BatchSampler(Protocol):
    """The positions of each batch of an epoch."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int) -> range: ...


class ClipLoader:
    """Iterates over a data set in batches: clips (B, *clip_shape) uint8, labels (B,) int64, and the data set's second
    number (B,) int64. The last batch may be smaller; nothing is dropped and nothing comes twice. A batch
    sampler gives other batches, such as the share of one rank.

    num_workers: worker processes; 0 reads in this process
    """

    def __init__(
        self,
        dataset: ClipDataset,
        batch_size: int,
        num_workers: int = 2,
        pin_memory: bool = False,
        batch_sampler: BatchSampler | None = None,
    ):
        self.dataset = dataset
        self.batch_sampler = EvalBatchSampler(len(dataset), batch_size) if batch_sampler is None else batch_sampler
        self.num_workers, self.pin_memory = num_workers, pin_memory
        self.seconds = StageSeconds()
        self.shared: SharedReader | None = None

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[Batch]:
        return self.batches()

    def batches(self, epoch: int = 0, first: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, from number `first` on: a resumed run reads nothing that it has already used.
        Closing the iterator ends its workers."""
        if self.shared is not None:
            return self.shared.batches(self, epoch, first)
        return _read_passes([self], [(self, epoch, first)], min(self.num_workers, max(len(self) - first, 0)))


Pass = tuple[ClipLoader, int, int]  # epoch, number of the first batch


class SharedReader:
    """One set of worker processes for all passes of a run, so that workers read the next pass's first batches while
    this one ends: a short epoch pays no start-up.

    Inside the `with`, batches() of the given loaders must be called in the order of `passes`.
    """

    def __init__(self, loaders: Sequence[ClipLoader], passes: Iterable[Pass]):
        self.loaders = loaders
        to_read, self._to_hand_out = itertools.tee(passes)
        self._batches = _read_passes(loaders, to_read, loaders[0].num_workers)

    def __enter__(self) -> "SharedReader":
        for loader in self.loaders:
            loader.shared = self
        return self

    def __exit__(self, *_: object) -> None:
        self._batches.close()
        for loader in self.loaders:
            loader.shared = None

    def batches(self, loader: ClipLoader, epoch: int, first: int) -> Iterator[Batch]:
        expected, *rest = next(self._to_hand_out)
        assert expected is loader and rest == [epoch, first], "passes are read in the order in which they were planned"
        return (next(self._batches) for _ in range(first, len(loader)))


def _read_passes(loaders: Sequence[ClipLoader], passes: Iterable[Pass], workers: int) -> Iterator[Batch]:
    """The batches of all passes in order. The first loader counts the seconds and decides on pinned memory."""
    numbers = {id(loader): number for number, loader in enumerate(loaders)}
    tasks = (
        Task(numbers[id(loader)], epoch, loader.batch_sampler[number])
        for loader, epoch, first in passes
        for number in range(first, len(loader))
    )
    sizes = [len(loader.batch_sampler[0]) * math.prod(loader.dataset.clip_shape) for loader in loaders if len(loader)]
    datasets = [loader.dataset for loader in loaders]
    return read_batches(datasets, tasks, max(sizes, default=0), workers, loaders[0].pin_memory, loaders[0].seconds)
