"""Training with worker processes: the same weights as without, and a killed one loses nothing."""

import os
import signal
from pathlib import Path

import pytest

import train
from common.errors import UserError
from dataloaders.dataset import TrainDataset
from engine.training import records
from engine.training.config import TrainConfig
from tests.helpers.training import assert_equal_weights, run_tiny

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"accumulate": 2, "ema": 0.9}, {"cache": "ram", "early_stopping": 1}])
def test_any_number_of_workers_trains_the_same_weights(toy_project, changes):
    without, one, three = (run_tiny(workers=workers, epochs=2, **changes) for workers in (0, 1, 3))
    for run_dir in (one, three):
        assert_equal_weights(without / "last.pth", run_dir / "last.pth")
        assert_equal_weights(without / "best.pth", run_dir / "best.pth")


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_worker_killed_in_the_middle_of_an_epoch_is_one_line_and_nothing_is_lost(
    toy_project, tmp_path, monkeypatch, accumulate
):
    settings = {"workers": 2, "epochs": 2, "batch_size": 2, "accumulate": accumulate}
    undisturbed = run_tiny(**settings)

    load, killed = TrainDataset.load, tmp_path / "killed"

    def load_or_die(self, epoch, position, out):
        if epoch == 1 and position == 6 and not killed.exists():
            killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return load(self, epoch, position, out)

    monkeypatch.setattr(TrainDataset, "load", load_or_die)
    with pytest.raises(UserError) as lost:
        run_tiny(**settings, name="killed")
    message = str(lost.value)
    assert message.startswith("A worker process that reads clips was ended by SIGKILL") and "\n" not in message
    run_dir = Path(message.rpartition("--resume ")[2])
    assert run_dir.name == "killed"
    train.main(TrainConfig(resume=str(run_dir)))
    assert_equal_weights(undisturbed / "last.pth", run_dir / "last.pth")
    lines, expected = ((folder / "metrics.jsonl").read_text().count("\n") for folder in (run_dir, undisturbed))
    assert lines == expected == 2


def test_more_workers_than_processors_are_said(toy_project, monkeypatch, capsys):
    monkeypatch.setattr("engine.training.setup.num_processors", lambda: 1)
    run_tiny(workers=3, epochs=1)
    assert "Note: --workers 3 on 1 processor; use fewer.\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("busy", "text"),
    [
        ({"time/read": 0.9, "time/decode": 0.1}, "50 % (read: a faster disk, or python -m dataloaders.pack)"),
        ({"time/read": 0.1, "time/decode": 0.9}, "50 % (decode: more --workers, or --cache ram)"),
        ({"time/copy": 0.8, "time/decode": 0.4}, "50 % (copy: fewer --workers leave more memory bandwidth)"),
        ({"time/read": 0.1, "time/decode": 0.2}, "50 %"),  # a short epoch waits for its first batch
    ],
)
def test_an_epoch_that_waits_for_data_names_the_stage_and_the_remedy(busy, text):
    assert records.data_wait({"time/data_wait": 0.5, **busy}) == f"data wait {text}"
    assert records.data_wait({"time/data_wait": 0.1, **busy}) == "data wait 10 %"
