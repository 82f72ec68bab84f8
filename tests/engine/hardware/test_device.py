"""Where a network lies and how it is compiled; warnings about the libraries below."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial

import pytest
import torch

import train
from common.errors import Stopped, UsageError, UserError
from common.files import ROOT
from dataloaders.frame_set import open_frames
from engine.hardware import device as device_module
from engine.hardware.device import CompiledModel, cudnn_version, cudnn_warning, pick_amp, pick_device, to_device
from engine.runs.checkpoint import load_checkpoint, load_model
from engine.runs.tracking import read_metrics
from engine.training import setup
from engine.training.config import TrainConfig
from network import create_model, input_spec
from tests.helpers.toy import TOY_SIZE
from tests.helpers.training import assert_equal_weights, stop_after


@pytest.mark.parametrize(
    ("found", "text"), [(90800, "cuDNN 9.8 "), (91002, "cuDNN 9.10 "), (91300, "cuDNN 9.13 "), (91499, "cuDNN 9.14 ")]
)
def test_slow_and_wrong_versions_of_cudnn_are_warned_of(found, text):
    """Trap 30: cuDNN 9.8 to 9.14: bf16 and fp16 Conv3d slow, hungry, and on 9.8 to 9.10 wrong."""
    warning = cudnn_warning(found, cuda="12.8")
    assert text in warning
    assert 'pip install -U "nvidia-cudnn-cu12>=9.15"' in warning
    assert "--amp off" in warning
    assert "nvidia-cudnn-cu13" in cudnn_warning(found, cuda="13.0")


@pytest.mark.parametrize("found", [None, 8907, 90701, 91500, 91501, 92000])
def test_other_versions_of_cudnn_and_machines_without_it_are_not_warned_of(found):
    assert cudnn_warning(found) is None


def test_the_version_of_cudnn_is_a_number_that_torch_gives():
    version = cudnn_version()
    assert version == torch.backends.cudnn.version() if torch.cuda.is_available() else version is None


@pytest.mark.slow
def test_a_machine_without_a_compiler_says_so_in_one_line(tmp_path):
    code = (
        "import torch\nfrom engine.hardware.device import check_compiler\nfrom common.cli import run_cli\n"
        "run_cli(lambda argv: check_compiler(torch.device('cpu')))"
    )
    environment = os.environ | {"CXX": "no-such-compiler", "PATH": "", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=environment, check=False
    )
    assert ended.returncode == 1
    assert ended.stderr.strip().startswith("--compile needs a C++ compiler (such as g++), and none works here (")
    assert ended.stderr.strip().endswith("Install one, or give --compile off.")
    assert ended.stderr.count("\n") == 1


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="needs a C++ compiler")
def test_a_compiled_run_resumes_to_the_same_weights_and_keeps_the_networks_names(toy_project, monkeypatch):
    settings = {"dataset": "toy", "model": "r3d_10", "batch_size": 5, "crop_size": 32, "clip_len": 4, "epochs": 2}
    whole = train.main(TrainConfig(**settings, compile="on", name="whole"))
    with monkeypatch.context() as patch:
        stop_after(4, patch)
        with pytest.raises(Stopped):
            train.main(TrainConfig(**settings, compile="on", name="part"))
    train.main(TrainConfig(resume="part"))

    assert_equal_weights(whole / "last.pth", toy_project.runs / "part" / "last.pth")
    assert set(load_model(whole / "best.pth").model.state_dict()) == set(create_model("r3d_10", 3).state_dict())
    eager = train.main(TrainConfig(**settings, name="eager"))
    losses = [read_metrics(run)[0]["train/loss"] for run in (whole, eager)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_cuda_asked_for_and_absent_is_one_clear_error():
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(UserError, match="finds no GPU.*--device cpu"):
        pick_device("cuda")
    with pytest.raises(UsageError, match="Unknown device 'gpu'"):
        pick_device("gpu")
    assert pick_device("auto").type in ("cpu", "mps")
    assert pick_amp("auto", torch.device("cpu")) is None
    with pytest.raises(UsageError, match="fp16 needs a CUDA device"):
        pick_amp("fp16", torch.device("cpu"))


def test_a_network_with_2d_convolutions_is_placed_too():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Conv3d(3, 4, 3))
    to_device(model, torch.device("cpu"))
    assert model[1].weight.is_contiguous(memory_format=torch.channels_last_3d)
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)


def test_only_full_batches_are_compiled_and_each_form_once():
    """The last, smaller batches of an epoch do not compile again in every epoch."""
    from torch._dynamo.testing import CompileCounter

    counter, model = CompileCounter(), torch.nn.Linear(3, 2)
    compiled = CompiledModel(model, 4, backend=counter)
    for _ in range(3):
        for size in (4, 4, 3, 1):
            x = torch.randn(size, 3)
            assert torch.allclose(compiled(x), model(x))
    assert counter.frame_count == 1


@pytest.mark.parametrize(
    ("device", "epochs", "compiled"), [("cuda", 1, "off"), ("cuda", 10**7, "on"), ("cpu", 10**7, "off")]
)
def test_auto_compiles_a_long_run_on_a_gpu(toy_project, monkeypatch, device, epochs, compiled, capsys):
    run_dir = train.main(TrainConfig(dataset="toy", model="r3d_10", epochs=1, clip_len=4, crop_size=32))
    assert TrainConfig.from_dict(load_checkpoint(run_dir / "last.pth")["config"]).compile == "off"
    config = TrainConfig(dataset="toy", model="r3d_10", epochs=epochs, clips_per_video=1)
    frame_set = open_frames(toy_project.source, replace(input_spec("r3d_10"), resize=TOY_SIZE))
    monkeypatch.setattr(setup, "check_compiler", lambda device: None)
    pick = partial(setup.pick_compile, config, torch.device(device), input_spec("r3d_10"), frame_set)
    assert pick() == compiled
    assert setup.pick_compile(replace(config, compile="on"), *pick.args[1:]) == "on"
    assert setup.pick_compile(replace(config, compile="off"), *pick.args[1:]) == "off"

    def fail(device):
        raise UserError("--compile needs Triton, and none works here.")

    monkeypatch.setattr(setup, "check_compiler", fail)
    capsys.readouterr()
    assert pick() == "off"
    note = "Note: the network is not compiled, and trains more slowly. --compile needs Triton, and none works here.\n"
    assert capsys.readouterr().out == (note if compiled == "on" else "")


def test_a_driver_too_old_for_pytorch_is_one_line(monkeypatch, tmp_path, capsys):
    driver = tmp_path / "version"
    driver.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.57.02")

    def init():
        raise RuntimeError(
            "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU ..."
        )

    monkeypatch.setattr(device_module, "NVIDIA_DRIVER", driver)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "init", init)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    reason = (
        f"PyTorch {torch.__version__} cannot use the NVIDIA GPU of this machine: The NVIDIA driver on your system is "
        "too old (found version 11040)."
    )
    assert pick_device("auto").type == "cpu"
    assert capsys.readouterr().err == f"Note: {reason} The CPU is used instead; --device cpu leaves this note out.\n"
    with pytest.raises(UserError) as raised:
        pick_device("cuda")
    assert str(raised.value) == f"--device cuda: {reason} Use --device cpu, or leave the flag out."
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert pick_device("auto").type == "cpu" and capsys.readouterr().err == "", "hidden on purpose"


def test_fewer_gpus_than_processes_are_said_once(monkeypatch):
    """As with CUDA_VISIBLE_DEVICES=0; every rank ends, with a message that the first one prints."""
    for name, value in {"RANK": "0", "WORLD_SIZE": "4", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "29500")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match=r"started 4 processes .* sees 1 GPU \(CUDA_VISIBLE.* Use --nproc") as raised:
        pick_device("auto")
    assert raised.value.same_on_all_ranks
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    assert pick_device("cuda") == torch.device("cuda", 0)
