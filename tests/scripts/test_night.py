"""A night's run in small: a disk that fills and empties, a killed rank, a terminal that closes, a job that is queued
again, another number of processes. NIGHT_MINUTES=30 makes it as long as it says."""

import json
import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch

import train
from engine.runs.tracking import read_metrics
from engine.training.config import TrainConfig
from tests.helpers.preprocess import mounted
from tests.helpers.training import TRAIN, finish, read_events, torchrun

MINUTES = float(os.environ.get("NIGHT_MINUTES", "0.5"))
EPOCHS_A_MINUTE = 60  # of these, on two cores
LONGEST = 120 + 240 * MINUTES  # seconds

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


def epoch_reached(process: subprocess.Popen, number: int, log: list[str]) -> None:
    for line in process.stdout:
        log.append(line)
        if line.startswith("epoch") and int(line.split()[1].split("/")[0]) >= number:
            return
    raise AssertionError("".join(log[-30:]))


def said(process: subprocess.Popen, text: str, log: list[str]) -> None:
    for line in process.stdout:
        log.append(line)
        if text in line:
            return
    raise AssertionError("".join(log[-30:]))


def keep_full(process: subprocess.Popen, other: Path, log: list[str]) -> None:
    """Fills the disk until the run says that it waits. A save that fails gives its part of the disk back."""
    for line in process.stdout:
        log.append(line)
        if "Training waits until there is space" in line:
            return
        with suppress(OSError), other.open("ab", buffering=0) as file:
            while True:
                file.write(bytes(1 << 16))
    raise AssertionError("".join(log[-30:]))


def workers_of(process: subprocess.Popen) -> list[int]:
    """Ranks, which torchrun has started, in their order."""
    found = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    return [int(pid) for pid in found]


def everything_in(path: Path) -> dict:
    """Content of a checkpoint that determines the following steps."""
    content = torch.load(path, weights_only=True)
    return {
        key: content[key] for key in ("model", "ema", "optimizer", "epoch", "step", "best_top1", "best_loss", "means")
    }


def differences(left: object, right: object, where: str = "") -> list[str]:
    if isinstance(left, dict):
        assert left.keys() == right.keys()
        return [found for key in left for found in differences(left[key], right[key], f"{where}/{key}")]
    if isinstance(left, list | tuple):
        pairs = enumerate(zip(left, right, strict=True))
        return [found for number, (one, other) in pairs for found in differences(one, other, f"{where}/{number}")]
    same = torch.equal(left, right) if isinstance(left, torch.Tensor) else left == right
    return [] if same else [where]


def test_a_night_ends_with_the_weights_of_an_undisturbed_run(toy_project, capsys):
    epochs = max(round(MINUTES * EPOCHS_A_MINUTE), 30)
    flags = ["--dataset=toy", "--model=r3d_10", "--clip-len=4", "--crop-size=32", "--device=cpu", "--dropout=0.2"]
    flags += ["--batch-size=2", "--ema=0.9", f"--epochs={epochs}", "--save-every=0.02", "--workers=1"]
    finish(torchrun(toy_project, 2, TRAIN, *flags, "--name=whole"), LONGEST)
    before = toy_project.runs.with_name("before")
    toy_project.runs.rename(before)

    log: list[str] = []
    options = ("--max-restarts=3", "--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:29633", "--rdzv-id=night")
    with mounted(toy_project.runs, "size=60m"):
        disk, night = toy_project.runs, toy_project.runs / "night"
        flags += ["--name=night", "--on-full-disk=wait"]
        job = torchrun(toy_project, 2, TRAIN, *flags, options=options)
        for share in (0.1, 0.2):
            epoch_reached(job, round(share * epochs), log)
            keep_full(job, disk / "other", log)
            time.sleep(1)
            (disk / "other").unlink()
            said(job, "There is space again", log)

        epoch_reached(job, round(0.4 * epochs), log)
        os.kill(workers_of(job)[1], signal.SIGKILL)
        said(job, "This launch continues its run", log)

        epoch_reached(job, round(0.6 * epochs), log)
        job.send_signal(signal.SIGHUP)
        log += job.stdout.readlines()
        assert job.wait(60) != 0 and "Stopped by SIGHUP" in "".join(log), "".join(log[-60:])
        assert not list(night.glob("*.tmp"))

        log.append(out := finish(torchrun(toy_project, 2, TRAIN, *flags, options=options), LONGEST))
        assert "This launch continues its run" in out and "Done in" in out
        assert differences(everything_in(before / "whole" / "last.pth"), everything_in(night / "last.pth")) == []
        assert [record["epoch"] for record in read_metrics(night)] == list(range(epochs))
        for tag in ("val/top1", "train/loss"):
            curves = [
                [(event.step, event.value) for event in read_events(run).Scalars(tag)]
                for run in (before / "whole", night)
            ]
            assert curves[0] == curves[1], tag

        for run_dir in (before / "whole", night):  # on one process
            train.main(TrainConfig(resume=str(run_dir), epochs=epochs + 2))
        assert differences(everything_in(before / "whole" / "last.pth"), everything_in(night / "last.pth")) == []
        assert json.loads((night / "config.json").read_text())["accumulate"] == 2
    assert capsys.readouterr().out.count("On 1 process instead of 2, steps stay at 4 clips (2 x 2 on each).") == 2
