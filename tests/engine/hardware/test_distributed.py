"""Several processes as torchrun starts them, over gloo on the CPU: the same numbers as one."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import mypath
import train
from common.files import ROOT
from engine.runs.tracking import read_metrics
from engine.training.config import TrainConfig
from evaluate import main as evaluate_main
from network.registry import MODELS
from tests.helpers.norm_free import ENTRY
from tests.helpers.training import PROGRAM, TINY, TRAIN, assert_equal_weights, finish, read_events, torchrun

pytestmark = pytest.mark.usefixtures("one_thread")

# ends one worker as a machine does, once: with the epoch half done
KILLED = """
import os, signal, pathlib, train
from common import torchrun
make_step = train.train_step
def step_or_end(run, batches):
    if torchrun.rank() == torchrun.world_size() - 1 and run.progress.step == {step} and not torchrun.num_restarts():
        os.kill(os.getpid(), signal.SIGKILL)
    return make_step(run, batches)
train.train_step = step_or_end
run_cli(train.cli)
"""
FLAGS = ("--dataset=toy", "--model=norm_free", "--clip-len=4", "--crop-size=32", "--device=cpu", "--dropout=0.2")
EVALUATE = """
import numpy
import evaluate
from common import torchrun
def keep(argv):
    for number, results in enumerate(evaluate.main(argv)):
        numpy.save(f"probs-{torchrun.world_size()}-{torchrun.rank()}.npy", results["normal"].probs)
run_cli(keep)
"""


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


@pytest.mark.slow
def test_two_processes_evaluate_each_video_once(toy_project):
    """Trap 33 again, with real processes: 6 videos are 6 answers."""
    check_sharded_evaluation(toy_project, (2,))


@pytest.mark.slow
def test_three_and_seven_processes_give_the_probabilities_of_one(toy_project):
    check_sharded_evaluation(toy_project, (3, 7))  # of seven processes six have one video, and one has none


@pytest.mark.slow
def test_a_process_without_a_validation_video_trains_to_the_end(toy_project):
    finish(torchrun(toy_project, 7, TRAIN, *FLAGS, "--batch-size=1", "--epochs=1", "--name=seven"))
    [record] = read_metrics(toy_project.runs / "seven")
    assert 0 <= record["val/top1"] <= 100 and (toy_project.runs / "seven" / "best.pth").is_file()


@pytest.fixture
def norm_free(monkeypatch, toy_project):
    monkeypatch.setitem(MODELS, "norm_free", ENTRY)


def check_training(toy_project, processes: int, clips_a_step: int) -> None:
    """Without batch norm and dropout, processes that share a step make the step of one."""
    config = TrainConfig(dataset="toy", model="norm_free", clip_len=4, crop_size=32, batch_size=clips_a_step, ema=0.9)
    single = train.main(config)
    flags = (*FLAGS[:-1], f"--batch-size={clips_a_step // processes}", "--ema=0.9", "--name=shared")
    out = finish(torchrun(toy_project, processes, TRAIN, *flags))
    shared = toy_project.runs / "shared"
    for key in ("model", "ema"):
        left, right = (torch.load(run / "last.pth", weights_only=True)[key] for run in (single, shared))
        for name in left:
            assert torch.allclose(left[name], right[name], rtol=0, atol=1e-6), f"{key} {name}"
    for one, other in zip(read_metrics(single), read_metrics(shared), strict=True):
        assert one["step"] == other["step"]
        for tag in ("train/loss", "train/top1", "train/lr", "train/grad_norm", "val/top1", "val/loss", "val/ema_top1"):
            assert one[tag] == pytest.approx(other[tag], rel=1e-4), tag
    assert out.count("Done in") == out.count("epoch   1/2") == 1, "only the first process speaks"
    batch = clips_a_step // processes
    assert f"steps of {clips_a_step} clips (1 x {batch} on each of {processes} processes)" in out
    assert [path.name.split(".")[0] for path in sorted(shared.glob("events*"))] == ["events"], "only it writes"
    assert len(read_events(shared).Scalars("val/top1")) == 2


@pytest.mark.slow
def test_two_processes_train_as_one(toy_project, norm_free):
    """Trap 22 again: 12 clips in steps of 10, the last one of 2, whose mean is over 2."""
    check_training(toy_project, 2, 10)


@pytest.mark.slow
def test_several_networks_are_trained_one_after_the_other_by_the_same_processes(toy_project):
    flags = ("--dataset=toy", "--clip-len=4", "--crop-size=32", "--device=cpu", "--batch-size=3", "--epochs=1")
    out = finish(torchrun(toy_project, 2, TRAIN, *flags, "--model", "mc3_10", "r3d_10"))
    assert out.count("Done in") == 2 and out.count("python compare.py ") == 1, out
    for name in ("mc3_10-toy-000", "r3d_10-toy-000"):
        assert [record["epoch"] for record in read_metrics(toy_project.runs / name)] == [0]


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "clips_a_step"), [(3, 6), (5, 10)])  # five processes share a last step of two
def test_three_and_five_processes_train_as_one(toy_project, norm_free, processes, clips_a_step):
    check_training(toy_project, processes, clips_a_step)


@pytest.mark.slow
@pytest.mark.parametrize("step", [1, 4])  # before the first checkpoint, and in the middle of the second epoch
def test_a_killed_worker_is_started_again_and_ends_with_the_weights_of_an_undisturbed_run(toy_project, step):
    flags = (*FLAGS, "--batch-size=2", "--epochs=3", "--save-every=" + ("1e-9" if step > 1 else "0"))
    finish(torchrun(toy_project, 2, TRAIN, *flags, "--name=whole"))
    out = finish(torchrun(toy_project, 2, KILLED.format(step=step), *flags, options=("--max-restarts=1",)))
    killed = toy_project.runs / "norm_free-toy-000"
    assert "This launch continues its run run/norm_free-toy-000." in out
    assert ("ended before its first checkpoint and starts again" in out) == (step == 1)
    assert_equal_weights(toy_project.runs / "whole" / "last.pth", killed / "last.pth")
    assert [record["epoch"] for record in read_metrics(killed)] == [0, 1, 2]
    assert len(list(toy_project.runs.iterdir())) == 2, "a restarted worker began another run"


@pytest.mark.slow
def test_sigterm_leaves_last_on_all_processes_and_one_process_goes_on_with_the_same_steps(toy_project, norm_free):
    flags = (*FLAGS[:-1], "--batch-size=2", "--epochs=100000", "--lr=0.001")
    process = torchrun(toy_project, 2, TRAIN, *flags)
    for line in process.stdout:
        if line.startswith("epoch"):
            process.send_signal(signal.SIGTERM)
            break
    out = process.stdout.read()
    assert process.wait(60) != 0
    assert out.count("To continue: python train.py --resume") == 1, out
    run_dir = toy_project.runs / "norm_free-toy-000"
    left = torch.load(run_dir / "last.pth", weights_only=True)
    assert left["processes"] == 2
    train.main(TrainConfig(resume=str(run_dir), epochs=left["epoch"] + 1))
    alone = torch.load(run_dir / "last.pth", weights_only=True)
    assert alone["config"]["accumulate"] == 2
    assert alone["step"] == 3 * (left["epoch"] + 1)


@pytest.mark.slow
def test_a_mistake_on_the_command_line_is_said_once(toy_project):
    out, _ = torchrun(toy_project, 2, TRAIN, "--model=r3d_1").communicate(timeout=120)
    assert out.count("Unknown model 'r3d_1'") == 1
    assert 'Traceback (most recent call last):\n  File "' + str(ROOT) not in out


STAND_INS = {
    "srun": """
import os, subprocess, sys
command = sys.argv[1:]
while command[0].startswith("--"):
    command.pop(0)
step = subprocess.Popen(command)
open("step.pid", "w").write(str(step.pid))
sys.exit(step.wait() % 256)
""",
    "scontrol": """
import sys
print("127.0.0.1" if sys.argv[1] == "show" else open("requeued", "a").write(sys.argv[2] + chr(10)))
""",
    "scancel": """
import os, sys
assert sys.argv[1:] == ["--signal=TERM", "77"], sys.argv
os.kill(int(open("step.pid").read()), 15)
""",
    "torchrun": "import sys; from torch.distributed.run import main; sys.exit(main())",
}


def slurm_job(folder: Path, restarts: int) -> subprocess.Popen:
    """The script of docs/many_gpus.md, as Slurm starts it, on one machine with two processes."""
    text = (ROOT / "docs" / "many_gpus.md").read_text(encoding="utf-8")
    script = text.split("#!/bin/bash\n")[1].split("```")[0]
    assert "#SBATCH --signal=B:USR1@120" in script and "#SBATCH --requeue" in script
    (folder / "job.sh").write_text(script.replace("--nproc-per-node=4", "--nproc-per-node=2").replace("29500", "29617"))
    variables = {"SLURM_JOB_ID": "77", "SLURM_NNODES": "1", "SLURM_JOB_NODELIST": "one"}
    variables |= {"SLURM_RESTART_COUNT": str(restarts), "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(["bash", "job.sh"], cwd=folder, env={**os.environ, **variables}, **pipes)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_the_script_for_slurm_is_queued_again_and_ends_with_the_weights_of_an_undisturbed_run(toy_project):
    """USR1 two minutes before the end of its time: saved, queued again under the same id, resumed."""
    folder = toy_project.runs.parent
    flags = [*FLAGS, "--batch-size=2", "--epochs=40", "--save-every=0"]
    finish(torchrun(toy_project, 2, TRAIN, *flags, "--name=whole"))
    body = f"sys.argv[1:] = {flags!r}\nimport train\nrun_cli(train.cli)"
    program = PROGRAM.format(root=str(ROOT), datasets=mypath.DATASETS, runs=str(toy_project.runs), body=body)
    (folder / "train.py").write_text(program.replace("sys.path.insert(0", "sys.path[0] = str(0); sys.path.insert(0"))
    for name, content in STAND_INS.items():
        (folder / name).write_text(f"#!{sys.executable}\n{content.lstrip()}")
        (folder / name).chmod(0o755)
    (folder / ".venv" / "bin").mkdir(parents=True)
    (folder / ".venv" / "bin" / "activate").write_text(f'PATH="{folder}:$PATH"\n')

    job = slurm_job(folder, restarts=0)
    for line in job.stdout:
        if line.startswith("epoch   2/"):
            job.send_signal(signal.SIGUSR1)
            break
    out = job.stdout.read()
    job.wait(60)
    assert out.count("To continue: python train.py --resume") == 1, out
    assert (folder / "requeued").read_text() == "77\n"
    run_dir = toy_project.runs / "norm_free-toy-000"
    assert torch.load(run_dir / "last.pth", weights_only=True)["epoch"] < 40

    out = finish(slurm_job(folder, restarts=1))
    assert "This launch continues its run" in out and "Done in" in out
    assert (folder / "requeued").read_text() == "77\n", "it is done"
    assert_equal_weights(toy_project.runs / "whole" / "last.pth", run_dir / "last.pth")
    assert [record["epoch"] for record in read_metrics(run_dir)] == list(range(40))
