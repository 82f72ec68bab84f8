"""Who reads which positions: every one once, in the order of one process, whatever the number of processes."""

import itertools

import pytest

from dataloaders.batch_sampler import EvalBatchSampler, TrainBatchSampler

SIZES = [1, 2, 3, 7, 12, 16, 23]


@pytest.mark.parametrize("num_items", SIZES)
@pytest.mark.parametrize("processes", [1, 2, 3, 5])
def test_trap_33_sharded_evaluation_reads_every_video_once(num_items, processes):
    """Trap 33: DistributedSampler duplicates samples to even out ranks."""
    read = []
    for rank in range(processes):
        plan = EvalBatchSampler(num_items, 2, rank, processes)
        batches = [plan[number] for number in range(len(plan))]
        assert all(1 <= len(batch) <= 2 for batch in batches)
        read += itertools.chain(*batches)
    assert sorted(read) == list(range(num_items))


def counted(plans: list[TrainBatchSampler], step: int) -> list[int]:
    """Positions of a step that count, over all processes."""
    first, num = plans[0].first_batch(step), plans[0].num_batches(step)
    numbers = [(plan, number) for plan in plans for number in range(first, first + num)]
    return [position for plan, number in numbers if not plan.is_stand_in(number) for position in plan[number]]


@pytest.mark.parametrize("num_items", SIZES)
@pytest.mark.parametrize(("batch_size", "accumulate", "processes"), [(4, 1, 1), (2, 2, 1), (1, 1, 4), (1, 2, 2)])
def test_trap_22_a_step_has_the_same_clips_however_it_is_divided(num_items, batch_size, accumulate, processes):
    """Trap 22: padded duplicates counted by a distributed sampler."""
    plans = [TrainBatchSampler(num_items, batch_size, accumulate, rank, processes) for rank in range(processes)]
    steps = [list(range(num_items))[start : start + 4] for start in range(0, num_items, 4)]
    assert plans[0].num_steps == len(steps)
    for step, positions in enumerate(steps):
        assert counted(plans, step) == positions
    for plan in plans:
        smallest = min(len(plan[number]) for plan in plans for number in range(len(plan)))
        assert plan.smallest_batch == smallest
        assert len(plan) == sum(plan.num_batches(step) for step in range(plan.num_steps))
        for number in range(len(plan)):
            assert 1 <= len(plan[number]) <= batch_size
            assert set(plan[number]) <= set(steps[number // accumulate])


def test_the_first_process_always_has_clips_of_its_own():
    """Its batch norms' statistics are those that are kept."""
    plan = TrainBatchSampler(9, 2, 1, rank=0, processes=4)  # the last step has 1 clip
    assert not any(plan.is_stand_in(number) for number in range(len(plan)))
    assert TrainBatchSampler(9, 2, 1, rank=3, processes=4).is_stand_in(1)
