"""The whole way on a GPU: `make test-gpu`. GPU_TESTS_ON=cpu runs the same tests on the CPU, to try the tests.

Compiling takes half a minute a network, so that only one of each family is compiled; with the marker slow, all are.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F

import train
from common.errors import Stopped, UserError
from common.files import ROOT
from dataloaders.frame_set import open_frames
from dataloaders.loader import ClipLoader
from dataloaders.prefetch import prefetch
from dataloaders.transforms import to_model_input
from engine.evaluation.evaluate import evaluate
from engine.export.runtimes import open_program
from engine.hardware.device import CompiledModel, autocast, to_device
from engine.hardware.fast_kernels import widen
from engine.hardware.low_precision import relative_difference, to_bf16
from engine.runs.checkpoint import load_model
from engine.training.config import TrainConfig
from evaluate import main as evaluate_main
from network import create_model, input_spec, list_models
from tests.helpers.training import assert_equal_weights, run_tiny, stop_after, weights_of

ON = os.environ.get("GPU_TESTS_ON", "cuda")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(ON == "cuda" and not torch.cuda.is_available(), reason="there is no GPU here"),
]
only_cuda = pytest.mark.skipif(ON != "cuda", reason="only CUDA has this")
DEVICE = torch.device(ON)
NUM_CLASSES = 7
FAMILIES = ("r3d_10", "mc3_10", "r2plus1d_10", "c3d_bn", "cnn_mean_18")
COMPILED = [pytest.param(name, True, marks=() if name in FAMILIES else pytest.mark.slow) for name in list_models()]


def clips_of(name: str, batch_size: int = 2) -> torch.Tensor:
    """(B, T, S, S, 3) uint8 of the network's own size, smooth so that rounding does not decide between classes."""
    spec = input_spec(name)
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.integers(0, 256, (batch_size, 3, 4, 8, 8), dtype=np.uint8)).float()
    size = (spec.clip_len, spec.crop_size, spec.crop_size)
    return F.interpolate(coarse, size, mode="trilinear").byte().permute(0, 2, 3, 4, 1).contiguous().to(DEVICE)


@pytest.mark.parametrize(("name", "compiled"), [*((name, False) for name in list_models()), *COMPILED])
def test_a_network_trains_two_steps_and_answers_in_bf16_as_in_float32(name, compiled):
    torch.manual_seed(0)
    spec, labels = input_spec(name), torch.tensor([1, 4], device=DEVICE)
    model = to_device(create_model(name, NUM_CLASSES), DEVICE)
    x = to_model_input(clips_of(name), spec)
    widen(model)
    compute = CompiledModel(model, 2) if compiled else model
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    for _ in range(2):
        optimizer.zero_grad(set_to_none=True)
        with autocast(DEVICE, torch.bfloat16):
            loss = F.cross_entropy(compute(x), labels)
        loss.backward()
        assert torch.isfinite(loss)
        optimizer.step()
    changed = [not torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True)]
    assert sum(changed) > len(changed) / 2 and all(p.isfinite().all() for p in model.parameters())

    model.eval()
    with torch.inference_mode():
        exact = model(x)
        with autocast(DEVICE, torch.bfloat16):
            low, folded = compute(x).float(), to_bf16(model, DEVICE, x[:1])(x).float()
    assert low.shape == folded.shape == (2, NUM_CLASSES)
    assert relative_difference(low, exact).item() < 0.1
    assert relative_difference(folded, exact).item() < 0.1


def on_device(**changes) -> Path:
    return run_tiny(device=ON, **changes)


def test_a_run_with_every_setting_left_alone_trains_validates_and_is_tested(toy_project, capsys):
    run_dir = on_device(epochs=2)
    output = capsys.readouterr().out
    assert "data wait" in output
    [[results]] = [evaluate_main([str(run_dir), f"--device={ON}"])]
    assert 0 <= results["normal"].top1 <= 100


def test_a_deterministic_run_repeats_and_resumes_bit_for_bit(toy_project, monkeypatch):
    settings = {"deterministic": True, "epochs": 2}
    whole, again = on_device(**settings), on_device(**settings)
    assert_equal_weights(whole / "last.pth", again / "last.pth")
    with monkeypatch.context() as patch:
        stop_after(4, patch)
        with pytest.raises(Stopped):
            on_device(**settings, name="part")
    train.main(TrainConfig(resume="part"))
    assert_equal_weights(whole / "last.pth", toy_project.runs / "part" / "last.pth")


@only_cuda
def test_fp16_scales_its_gradients_and_goes_on_with_the_same_scale(toy_project, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(4, patch)
        with pytest.raises(Stopped):
            on_device(amp="fp16", epochs=2, name="half")
    scaler = torch.load(toy_project.runs / "half" / "last.pth", weights_only=True)["scaler"]
    assert scaler["scale"] > 1 and scaler["_growth_tracker"] > 0
    train.main(TrainConfig(resume="half"))
    assert all(value.isfinite().all() for value in weights_of(toy_project.runs / "half" / "last.pth").values())


def test_a_moving_average_is_kept_on_the_device_and_differs_from_the_weights(toy_project):
    content = torch.load(on_device(ema=0.9, epochs=2) / "last.pth", weights_only=True)
    moved = [not torch.equal(content["ema"][name], value) for name, value in content["model"].items()]
    assert any(moved) and all(value.isfinite().all() for value in content["ema"].values())


def test_prefetched_batches_are_those_of_the_loader(toy_project, toy_source):
    run_dir = on_device(epochs=1)
    dataset = evaluation_set(run_dir, toy_source)
    plain = list(ClipLoader(dataset, 1, 0))
    for workers in (0, 2):
        ahead = list(prefetch(ClipLoader(dataset, 1, workers, pin_memory=ON == "cuda").batches(), DEVICE))
        assert len(ahead) == len(plain) == 6
        for batch, same in zip(ahead, plain, strict=True):
            for part, own in zip(batch, same, strict=True):
                assert part.device.type == ON and torch.equal(part.cpu(), own)


def evaluation_set(run_dir: Path, source):
    from dataloaders.dataset import EvalDataset

    spec = load_model(run_dir / "best.pth").input_spec
    return EvalDataset(open_frames(source, spec), spec, "test", num_clips=3)


def test_evaluation_equals_the_cpus(toy_project, toy_source):
    run_dir = on_device(epochs=2)
    trained = load_model(run_dir / "best.pth")
    results = []
    for device in (DEVICE, torch.device("cpu")):
        loader = ClipLoader(evaluation_set(run_dir, toy_source), 2, 2, pin_memory=device.type == "cuda")
        results.append(evaluate(to_device(trained.model, device), loader, trained.input_spec, device))
    assert np.abs(results[0].probs - results[1].probs).max() < 1e-3


@pytest.mark.parametrize(("amp", "tolerance"), [("off", 1e-3), ("auto", 0.05)])
def test_inference_on_a_video_equals_the_cpus(checkpoint, video, amp, tolerance):
    from inference import Recognizer

    answers = [Recognizer(checkpoint, device=device, stride=3, amp=amp).predict(video) for device in (ON, "cpu")]
    probs = [np.array([window.probabilities for window in answer.windows]) for answer in answers]
    assert probs[0].shape == probs[1].shape and np.abs(probs[0] - probs[1]).max() < tolerance


def test_an_exported_program_runs_on_the_device(toy_export):
    frames = np.random.default_rng(0).integers(0, 256, (2, *program_shape(toy_export.pt2)), dtype=np.uint8)
    programs = [open_program(toy_export.pt2, device) for device in (ON, "cpu")]
    assert programs[0].device.type == ON
    assert np.abs(programs[0](frames) - programs[1](frames)).max() < 1e-3


def program_shape(path: Path) -> tuple[int, ...]:
    spec = open_program(path, "cpu").metadata.spec
    return spec.read_len, *spec.cut_size[::-1], 3


@only_cuda
def test_a_batch_that_does_not_fit_is_one_line_with_advice(toy_project):
    torch.cuda.set_per_process_memory_fraction(1e-4)
    try:
        with pytest.raises(UserError, match="^Out of memory with --batch-size 5 .*--batch-size 3 --accumulate 2"):
            on_device(epochs=1)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()


def test_one_process_over_its_own_backend_has_the_gradients_of_none(monkeypatch):
    for name, value in {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29533", "RANK": "0", "WORLD_SIZE": "1"}.items():
        monkeypatch.setenv(name, value)
    dist.init_process_group("nccl" if ON == "cuda" else "gloo")
    try:
        gradients = []
        for wrap in (lambda model: model, torch.nn.parallel.DistributedDataParallel):
            torch.manual_seed(0)
            model = to_device(create_model("r3d_10", NUM_CLASSES), DEVICE)
            wrap(model)(to_model_input(clips_of("r3d_10"), input_spec("r3d_10"))).sum().backward()
            gradients.append(model.fc.weight.grad.clone())
        assert torch.allclose(*gradients, rtol=1e-4, atol=1e-5)
    finally:
        dist.destroy_process_group()


def test_torchrun_with_one_process_trains(toy_source, toy_frames, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=1", "train.py", f"--device={ON}"]
    command += [f"--dataset={toy_source.videos}", f"--frames={toy_frames}", "--model=r3d_10", "--epochs=1"]
    command += ["--clip-len=4", "--crop-size=32", f"--name=gpu-test-{os.getpid()}"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    shutil.rmtree(ROOT / "run" / f"gpu-test-{os.getpid()}", ignore_errors=True)
    assert ended.returncode == 0 and "epoch   1/1" in ended.stdout, ended.stdout + ended.stderr
