"""A tiny training run on the toy data set, and comparisons of runs."""

import os
import signal
from pathlib import Path

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import train
from engine.training.config import TrainConfig

TINY = {
    "dataset": "toy", "model": "r3d_10", "epochs": 3, "batch_size": 5, "crop_size": 32, "clip_len": 4, "lr": 0.003,
    "workers": 0,
}  # fmt: skip


def run_tiny(**changes) -> Path:
    return train.main(TrainConfig(**TINY | changes))


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["model"]


def assert_equal_weights(left: Path, right: Path) -> None:
    left, right = weights_of(left), weights_of(right)
    assert left.keys() == right.keys()
    different = [name for name in left if not torch.equal(left[name], right[name])]
    assert different == []


def stop_after(step: int, monkeypatch, signum: int = signal.SIGTERM) -> None:
    """Sends this process a real signal while it makes that step."""
    note = train.note_bad_loss

    def note_and_kill(progress, loss):
        note(progress, loss)
        if progress.step == step - 1:
            os.kill(os.getpid(), signum)

    monkeypatch.setattr(train, "note_bad_loss", note_and_kill)


def read_events(run_dir) -> EventAccumulator:
    events = EventAccumulator(str(run_dir), size_guidance={"scalars": 0, "images": 0})
    return events.Reload()


CONFIG = TrainConfig(
    dataset="toy", model="r3d_10", epochs=10, lr=0.1, weight_decay=0.01, optimizer="sgd", warmup_epochs=2.0
)
