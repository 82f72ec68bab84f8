"""A tiny training run on the toy data set, in this process or under torchrun, and comparisons of runs."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import mypath
import train
from common.files import ROOT
from dataloaders.sources.data_source import DataSource
from engine.training.config import TrainConfig

PROGRAM = """
import sys
sys.path.insert(0, {root!r})
import mypath
mypath.DATASETS, mypath.DEFAULT_DATASET, mypath.RUNS = {datasets!r}, "toy", {runs!r}
import pytest
import torch
torch.set_num_threads(1)
from common.cli import run_cli
from network.registry import MODELS
from tests.helpers.norm_free import ENTRY
MODELS["norm_free"] = ENTRY
{body}
"""
TRAIN = "import train\nrun_cli(train.cli)"
TINY = {
    "dataset": "toy", "model": "r3d_10", "epochs": 3, "batch_size": 5, "crop_size": 32, "clip_len": 4, "lr": 0.003,
    "workers": 0,
}  # fmt: skip


@contextmanager
def toy_data(source: DataSource) -> Iterator[None]:
    """mypath.py as toy_project has it, for runs that several tests share."""
    entry = {"layout": "ucf101", "videos": str(source.videos), "frames": str(source.frames), "flip": True}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mypath, "DATASETS", {"toy": entry})
        patch.setattr("engine.training.records.save_curves", lambda _: None)  # as long as a tiny run itself
        yield


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


def torchrun(toy_project, processes: int, body: str, *argv: str, options: tuple[str, ...] = ()) -> subprocess.Popen:
    """A real torchrun on this machine's CPU; its outputs in one pipe."""
    folder = toy_project.runs.parent
    script = folder / f"script{processes}.py"
    script.write_text(PROGRAM.format(root=str(ROOT), datasets=mypath.DATASETS, runs=str(toy_project.runs), body=body))
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}", *options, script, *argv]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen([str(word) for word in command], cwd=folder, env=environment, **pipes)


def finish(process: subprocess.Popen, seconds: float = 120.0) -> str:
    out, _ = process.communicate(timeout=seconds)
    assert process.returncode == 0, out
    return out
