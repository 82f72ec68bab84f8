from dataclasses import replace

import pytest

from common.errors import UserError
from engine.training import checkpointing
from engine.training.checkpointing import regrouped
from tests.helpers.training import CONFIG


@pytest.mark.parametrize(
    ("batch_size", "accumulate", "before", "now", "expected"),
    [
        (16, 1, 1, 2, (8, 1)),
        (16, 1, 1, 4, (4, 1)),
        (4, 1, 4, 1, (4, 4)),
        (8, 1, 8, 2, (8, 4)),
        (8, 3, 1, 2, (6, 2)),
        (5, 2, 3, 2, (5, 3)),
        (16, 2, 2, 2, (16, 2)),
    ],
)
def test_a_step_keeps_its_clips_on_any_number_of_processes(batch_size, accumulate, before, now, expected, monkeypatch):
    monkeypatch.setattr(checkpointing, "world_size", lambda: now)
    config = regrouped(replace(CONFIG, batch_size=batch_size, accumulate=accumulate), before)
    assert (config.batch_size, config.accumulate) == expected
    assert config.batch_size * config.accumulate * now == batch_size * accumulate * before


def test_a_step_that_cannot_be_shared_is_said(monkeypatch):
    monkeypatch.setattr(checkpointing, "world_size", lambda: 3)
    with pytest.raises(UserError, match="steps of 16 clips, which 3 processes cannot share evenly"):
        regrouped(replace(CONFIG, batch_size=16), 1)
