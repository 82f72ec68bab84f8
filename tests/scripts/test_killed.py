"""A run that is killed again and again ends with the weights of one that was left alone."""

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest
import torch

import mypath
import train
from common.files import ROOT
from engine.runs.tracking import read_metrics
from engine.training.config import TrainConfig
from network.registry import MODELS
from tests.helpers.norm_free import ENTRY
from tests.helpers.training import assert_equal_weights

pytestmark = pytest.mark.usefixtures("one_thread")

EPOCHS = 100

# Everything is imported once; each attempt is then a process of its own, forked from this one, which has no threads.
NURSERY = """
import os, sys
import mypath
mypath.DATASETS, mypath.RUNS = {datasets!r}, {runs!r}
import torch
torch.set_num_threads(1)
import train
from engine.training.config import TrainConfig
from network.registry import MODELS
from tests.helpers.norm_free import ENTRY
MODELS["norm_free"] = ENTRY
fit = train.fit
def say_and_fit(run, stop):
    os.write(1, b"fit\\n")
    fit(run, stop)
train.fit = say_and_fit
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        sys.stdout = open(os.devnull, "w")
        settings = eval(line)
        try:
            train.main(TrainConfig(**settings))
        except BaseException as error:
            os.write(2, f"{{type(error).__name__}}: {{error}}\\n".encode())
            os._exit(1)
        os._exit(0)
    print(child, flush=True)
    _, status = os.waitpid(child, 0)
    print(status, flush=True)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="attempts are forked")
def test_killed_at_twenty_random_moments_a_run_ends_with_the_same_weights(toy_project, monkeypatch):
    monkeypatch.setitem(MODELS, "norm_free", ENTRY)
    settings = {
        "dataset": "toy", "model": "norm_free", "clip_len": 4, "crop_size": 32, "batch_size": 2, "accumulate": 2,
        "epochs": EPOCHS, "dropout": 0.3, "ema": 0.9, "optimizer": "adamw", "lr": 0.003, "save_every": 1e-9,
        "workers": 2,
    }  # fmt: skip
    start = time.monotonic()
    whole = train.main(TrainConfig(**settings, name="whole"))
    longest = (time.monotonic() - start) / 30  # so that twenty attempts end well before the run does

    code = NURSERY.format(datasets=mypath.DATASETS, runs=str(toy_project.runs))
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    draw, kills, attempt = random.Random(0), 0, {**settings, "name": "killed"}
    killed = toy_project.runs / "killed"
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, **pipes) as nursery:
        while True:
            print(attempt, file=nursery.stdin, flush=True)
            child = int(nursery.stdout.readline())
            if kills < 20:
                if kills % 4 == 0:  # anywhere: in the preparation, too
                    moment = draw.uniform(0.0, 1.5)
                else:
                    moment = draw.uniform(0.0, longest)
                    assert nursery.stdout.readline() == "fit\n"
                time.sleep(moment)
                with suppress(ProcessLookupError):  # it came to its end before
                    os.kill(child, signal.SIGKILL)
            status = int(nursery.stdout.readline().strip().removeprefix("fit") or nursery.stdout.readline())
            if status == 0:
                break
            assert status == 9, "an attempt failed by itself"
            kills += 1
            last = killed / "last.pth"
            step = torch.load(last, weights_only=True)["step"] if last.is_file() else 0
            print(f"killed after {moment:.2f} s, number {kills}: step {step} of {3 * EPOCHS} is kept")
            if (killed / "config.json").is_file():
                attempt = {"resume": "killed", "workers": kills % 3}
            elif killed.is_dir():  # a run whose folder is all there is
                killed.rmdir()
        nursery.stdin.close()
    assert kills == 20
    assert_equal_weights(whole / "last.pth", killed / "last.pth")
    assert_equal_weights(whole / "best.pth", killed / "best.pth")
    assert [record["epoch"] for record in read_metrics(killed)] == list(range(EPOCHS))
