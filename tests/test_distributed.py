"""Several processes as torchrun starts them, over gloo on the CPU: the same numbers as one."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

import mypath
import train
from engine.config import TrainConfig
from engine.errors import ROOT
from evaluate import main as evaluate_main
from tests.test_train import TINY, one_thread  # noqa: F401

PROGRAM = """
import sys
sys.path.insert(0, {root!r})
import mypath
mypath.DATASETS, mypath.DEFAULT_DATASET, mypath.RUNS = {datasets!r}, "toy", {runs!r}
import torch
torch.set_num_threads(1)
from engine.errors import run_cli
{body}
"""
TRAIN = "import train\nrun_cli(train.cli)"
EVALUATE = """
import numpy
import evaluate
def keep(argv):
    for number, results in enumerate(evaluate.main(argv)):
        numpy.save(f"probs-{evaluate.processes()}-{evaluate.rank()}.npy", results["normal"].probs)
run_cli(keep)
"""


def torchrun(toy_project, processes: int, body: str, *argv: str, options: tuple[str, ...] = ()) -> subprocess.Popen:
    """A real torchrun on this machine's CPU; its outputs in one pipe."""
    folder = toy_project.runs.parent
    script = folder / f"script{processes}.py"
    script.write_text(PROGRAM.format(root=str(ROOT), datasets=mypath.DATASETS, runs=str(toy_project.runs), body=body))
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}", *options, script, *argv]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen([str(word) for word in command], cwd=folder, env=environment, **pipes)


def finish(process: subprocess.Popen) -> str:
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0, out
    return out


def check_sharded_evaluation(toy_project, counts: tuple[int, ...]) -> None:
    run_dir = train.main(TrainConfig(**TINY | {"epochs": 1}))
    argv = [str(run_dir), "--num-clips", "2", "--device", "cpu"]
    single = evaluate_main(argv)[0]["normal"]
    record = json.loads((run_dir / "test.json").read_text())
    for processes in counts:
        out = finish(torchrun(toy_project, processes, EVALUATE, *argv))
        assert out.count("6 videos, 2 clips x 1 crop") == 1, "only the first process speaks"
        for rank in range(processes):
            probs = np.load(toy_project.runs.parent / f"probs-{processes}-{rank}.npy")
            assert probs == pytest.approx(single.probs, abs=1e-5)
        again = json.loads((run_dir / "test.json").read_text())
        assert again["num_videos"] == 6
        assert again["loss"] == pytest.approx(record["loss"], abs=1e-5)


def test_two_processes_evaluate_each_video_once(toy_project):
    """Trap 33 again, with real processes: 6 videos are 6 answers."""
    check_sharded_evaluation(toy_project, (2,))


@pytest.mark.slow
def test_three_and_five_processes_give_the_probabilities_of_one(toy_project):
    check_sharded_evaluation(toy_project, (3, 5))  # of five processes four have one video, and one has two
