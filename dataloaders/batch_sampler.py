"""Batch samplers: the positions of an epoch that each rank reads, batch by batch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class EvalBatchSampler:
    """Batches of the items rank, rank + processes, ...: every item once among all processes, none twice.

    num_items=7, batch_size=2, processes=2   rank 0   02 46     rank 1   13 5
    """

    num_items: int
    batch_size: int
    rank: int = 0
    processes: int = 1

    def __len__(self) -> int:
        return -(-len(self._items) // self.batch_size)

    def __getitem__(self, number: int) -> range:
        return self._items[number * self.batch_size : (number + 1) * self.batch_size]

    @property
    def _items(self) -> range:
        return range(self.rank, self.num_items, self.processes)


@dataclass(frozen=True)
class TrainBatchSampler:
    """An epoch in optimiser steps, each of `accumulate` batches a process.

    A step takes the next batch_size * accumulate * processes positions, whoever reads them: the same clips whether one
    process accumulates four batches or four read one each. The last step may be short. It is divided evenly, and into
    as many batches on each process, since they have to meet.

        num_items=12, batch_size=2, accumulate=2, processes=2
                 step 0     step 1
        rank 0   01 23      8 9
        rank 1   45 67      a b

    Where the last step has fewer positions than batches, a batch without any reads the step's first position as a
    stand-in, which must not count.
    """

    num_items: int
    batch_size: int
    accumulate: int = 1
    rank: int = 0
    processes: int = 1

    @property
    def step_size(self) -> int:
        """Positions of a full step, of all processes."""
        return self.batch_size * self.accumulate * self.processes

    @property
    def num_steps(self) -> int:
        return -(-self.num_items // self.step_size)

    def positions(self, step: int) -> range:
        """Positions of a step, over all ranks."""
        return range(self.num_items)[step * self.step_size : (step + 1) * self.step_size]

    def num_batches(self, step: int) -> int:
        """Number of batches of a step, on each rank."""
        largest_share = -(-len(self.positions(step)) // self.processes)
        return -(-largest_share // self.batch_size)

    @property
    def smallest_batch(self) -> int:
        """Clips of the smallest batch of an epoch."""
        last = self.num_steps - 1
        share = len(self.positions(last)) // self.processes
        return max(min(share // self.num_batches(last), self.batch_size), 1)

    def __len__(self) -> int:
        full = self.num_steps - 1
        return full * self.accumulate + self.num_batches(full)

    def first_batch(self, step: int) -> int:
        """Number of the batch with which a step begins."""
        return step * self.accumulate

    def batches_of(self, step: int) -> range:
        """Numbers of the batches of a step, counted over the epoch."""
        return range(self.first_batch(step), self.first_batch(step) + self.num_batches(step))

    def __getitem__(self, number: int) -> range:
        """Positions of this process's batch `number`, counted over the epoch."""
        return self._batch(number) or self.positions(number // self.accumulate)[:1]

    def is_stand_in(self, number: int) -> bool:
        return not self._batch(number)

    def _batch(self, number: int) -> range:
        step, place = divmod(number, self.accumulate)
        share = _part(self.positions(step), self.rank, self.processes)
        return _part(share, place, self.num_batches(step))


def _part(items: range, number: int, parts: int) -> range:
    """One of `parts` consecutive pieces, as even as can be; the first are the longer ones."""
    return items[-(-len(items) * number // parts) : -(-len(items) * (number + 1) // parts)]
