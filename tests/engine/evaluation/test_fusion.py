"""evaluate.py --fuse, Recognizer([run, run]) and the export of a pair: the weighted mean of probabilities."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import evaluate as evaluation
import export
import inference
from common.errors import UsageError, UserError
from dataloaders.dataset import EvalDataset
from dataloaders.transforms import to_model_input
from engine.evaluation.evaluate import Evaluation
from engine.evaluation.fusion import likeliest_weights
from engine.fusion import FusedNetwork, fused_spec, load_fused
from engine.hardware.fast_kernels import use_fast_kernels
from engine.hardware.low_precision import probability_model
from engine.runs.checkpoint import load_checkpoint, load_model, save_checkpoint
from inference import Recognizer
from network import create_model, input_spec
from tests.helpers.toy import write_naming_video
from tests.helpers.training import finish, run_tiny, torchrun, toy_data

pytestmark = pytest.mark.usefixtures("one_thread")
SPEC = replace(input_spec("r3d_10"), clip_len=4, frame_stride=1, crop_size=24, resize=(32, 24))
FLAGS = ["--num-clips", "3", "--device", "cpu"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, toy_source, toy_frames) -> list[Path]:
    """A run on colours and one on differences, of the same moments."""
    folder = str(tmp_path_factory.mktemp("trained"))
    with toy_data(toy_source):
        return [
            run_tiny(epochs=1, input=seen, name=seen, seed=i, runs=folder) for i, seen in enumerate(("rgb", "diff"))
        ]


@pytest.fixture
def runs(trained, toy_project) -> list[Path]:
    """Copies, among the runs."""
    return [shutil.copytree(folder, toy_project.runs / folder.name) for folder in trained]


# --- the network


@pytest.mark.parametrize(
    "inputs", [("rgb", "diff"), ("diff", "rgb"), ("diff", "diff"), ("rgb", "rgb+diff"), ("rgb", "rgb", "diff")]
)
def test_each_network_gets_the_input_that_it_gets_alone(inputs):
    torch.manual_seed(0)
    specs = [replace(SPEC, input=seen) for seen in inputs]
    specs[-1] = replace(specs[-1], mean=(0.5, 0.4, 0.3), std=(0.1, 0.2, 0.3))
    networks = [create_model("r3d_10", 3, in_channels=spec.channels).eval() for spec in specs]
    fused = FusedNetwork(networks, specs).eval()
    clips = torch.randint(0, 256, (2, fused.spec.read_len, 24, 24, 3), dtype=torch.uint8)
    with torch.inference_mode():
        x = to_model_input(clips, fused.spec)
        alone = [
            network(to_model_input(clips[:, : spec.read_len], spec))
            for network, spec in zip(networks, specs, strict=True)
        ]
        for found, expected in zip(fused.answers(x), alone, strict=True):
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
        mean = sum(logits.softmax(1) for logits in alone) / len(alone)
        torch.testing.assert_close(fused(x).softmax(1), mean, atol=1e-5, rtol=1e-4)


@torch.inference_mode()
def test_a_gpus_kernels_and_bf16_go_into_each_network():
    specs = [SPEC, replace(SPEC, input="diff")]
    torch.manual_seed(0)
    fused = FusedNetwork([create_model("r3d_10", 3).eval() for _ in specs], specs).eval()
    x = torch.randn(2, 6, 4, 24, 24)
    expected = fused(x).softmax(1)
    low = probability_model(fused, torch.device("cpu"), "bf16")
    assert (low(x) - expected).abs().max() < 0.02
    use_fast_kernels(fused)
    assert [network.stem[0].columns for network in fused.networks] == [True, True]
    torch.testing.assert_close(fused(x).softmax(1), expected, atol=1e-4, rtol=1e-4)


def test_networks_that_read_other_frames_are_refused():
    with pytest.raises(UserError, match="frame_stride is 1 for the first and 2 for another"):
        fused_spec([SPEC, replace(SPEC, frame_stride=2)])


# --- evaluate.py


def fuse(capsys, *argv: str) -> tuple[dict, str]:
    capsys.readouterr()
    evaluation.main([*map(str, argv), *FLAGS])
    return json.loads(next(Path(argv[0]).glob("*-fused-*.json")).read_text()), capsys.readouterr().out


def answers_of(folder: Path, toy_project, spec) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (V, K) of a run's network, on the clips that the pair reads, and labels (V,)."""
    from dataloaders.frame_set import open_frames

    trained = load_model(folder / "best.pth")
    dataset = EvalDataset(open_frames(toy_project.source, spec, "1"), spec, "test", num_clips=3)
    out = np.empty(dataset.clip_shape, np.uint8)
    rows = []
    for position in range(len(dataset)):
        dataset.load(0, position, out)
        x = to_model_input(torch.from_numpy(out[:, : trained.input_spec.read_len]), trained.input_spec)
        with torch.inference_mode():
            rows.append(trained.model(x).double().softmax(1).mean(0).numpy())
    return np.stack(rows), dataset.labels


def test_the_fused_answer_is_the_mean_of_both(runs, toy_project, capsys):
    record, out = fuse(capsys, *runs, "--fuse")
    spec = load_model(runs[1] / "best.pth").input_spec
    alone, labels = zip(*(answers_of(folder, toy_project, spec) for folder in runs), strict=True)
    expected = [100 * (probs.argmax(1) == labels[0]).mean() for probs in [*alone, sum(alone) / 2]]
    assert [entry["top1"] for entry in record["fused"]] == pytest.approx(expected[:2])
    assert record["top1"] == pytest.approx(expected[2])
    assert [entry["weight"] for entry in record["fused"]] == [0.5, 0.5]
    assert (record["model"], record["num_videos"], record["part"]) == ("r3d_10+r3d_10", 6, "test")
    assert record["leak"] is None and record["training_known"] and not record["published"]
    assert out.count("Evaluating") == 0 and "equal weights" in out and out.count("fused - ") == 2
    assert (runs[0] / "test-fused-diff" / "confusion.png").is_file() and not (runs[0] / "test.json").exists()
    result = evaluation.evaluate(runs, fuse="mean", num_clips=3, device="cpu")
    assert result["top1"] == record["top1"]


def test_frames_are_read_once_for_runs_that_read_the_same(runs, monkeypatch, capsys):
    counted = []
    load = EvalDataset.load
    monkeypatch.setattr(EvalDataset, "load", lambda *args: counted.append(args[2]) or load(*args))
    fuse(capsys, *runs, "--fuse")
    assert len(counted) == 6
    other = run_tiny(epochs=1, frame_stride=2, name="other")
    counted.clear()
    record, _ = fuse(capsys, runs[1], other, runs[0], "--fuse")
    assert len(counted) == 12, "once for the two, and once for the other stride"
    assert [entry["run"] for entry in record["fused"]] == ["diff", "other", "rgb"]
    with pytest.raises(UsageError, match="--stride gives these runs other windows"):
        evaluation.main([str(runs[0]), str(other), "--fuse", "--stride", "3", "--device", "cpu"])


def test_a_run_alone_has_the_figures_of_its_own_evaluation(runs, capsys):
    record, _ = fuse(capsys, runs[1], runs[0], "--fuse")
    [own] = evaluation.main([str(runs[1]), *FLAGS])
    assert record["fused"][0]["top1"] == own["normal"].top1


def test_weights_come_from_the_validation_videos(runs, capsys):
    record, out = fuse(capsys, *runs, "--fuse", "weights")
    weights = [entry["weight"] for entry in record["fused"]]
    assert sum(weights) == pytest.approx(1) and "weights chosen on 6 validation videos" in out


def made_up(own: np.ndarray) -> Evaluation:
    """Two classes; own: (V,) probability of the true one, the first."""
    probs = np.stack([own, 1 - own], 1)
    nothing = np.zeros(len(own), np.int64)
    return Evaluation(0.0, 0.0, 0.0, 0.0, probs, nothing, nothing, nothing)


def test_the_weights_are_the_likeliest():
    rng = np.random.default_rng(0)
    good, bad = rng.uniform(0.5, 1, 200), rng.uniform(0, 0.9, 200)
    weight, rest = likeliest_weights([made_up(good), made_up(bad)])
    assert weight + rest == pytest.approx(1)
    tried = np.linspace(0.001, 0.999, 999)
    likelihood = [np.log(w * good + (1 - w) * bad).sum() for w in tried]
    assert weight == pytest.approx(tried[int(np.argmax(likelihood))], abs=0.02)
    assert likeliest_weights([made_up(good), made_up(good)]) == pytest.approx([0.5, 0.5])


def test_runs_that_cannot_answer_together_are_said(runs, capsys, tmp_path):
    content = load_checkpoint(runs[1] / "best.pth")
    (tmp_path / "swapped").mkdir()
    save_checkpoint(tmp_path / "swapped" / "best.pth", content | {"classes": ["Biking", "Hammering", "Walking"]})
    other = run_tiny(epochs=1, split="2", name="second")
    exported = tmp_path / "model.onnx"
    exported.touch()
    for argv, error, message in (
        ([runs[0]], UsageError, "--fuse needs two runs or more"),
        ([*runs, "--temporal"], UsageError, "--temporal is for single runs"),
        ([runs[0], other], UserError, "6 videos of toy, split 1, and 12 videos of toy, split 2"),
        ([runs[0], exported], UsageError, "is an exported file. Give its run"),
    ):
        with pytest.raises(error, match=message):
            evaluation.main([*map(str, argv), "--fuse", *FLAGS])
    with pytest.raises(UserError, match="'Walking' is a class of one of them alone"):
        load_fused([runs[0] / "best.pth", tmp_path / "swapped" / "best.pth"])
    assert not list(runs[0].glob("*fused*"))


@pytest.mark.slow
def test_two_processes_share_the_work(runs, toy_project, capsys):
    expected, _ = fuse(capsys, *runs, "--fuse", "weights")
    argv = [*map(str, runs), "--fuse", "weights", *FLAGS, "--workers", "0"]
    finish(torchrun(toy_project, 2, f"import evaluate\nevaluate.main({argv!r})"))
    found = json.loads(next(runs[0].glob("*-fused-*.json")).read_text())
    for key in ("top1", "clip_top1", "per_class", "num_videos"):
        assert found[key] == expected[key], key
    assert found["loss"] == pytest.approx(expected["loss"])


# --- elsewhere


def test_a_video_is_answered_by_both(runs, tmp_path, capsys):
    video = write_naming_video(tmp_path / "clip.avi", 20)
    pair = Recognizer(runs, device="cpu", amp="off", stride=100)
    alone = [Recognizer(folder, device="cpu", amp="off", stride=100).predict(video) for folder in runs]
    expected = sum(prediction.windows[0].probabilities for prediction in alone) / 2
    assert np.allclose(pair.predict(video).windows[0].probabilities, expected, atol=1e-5)
    argv = [str(video), "--device", "cpu", "--amp", "off", "--json", str(tmp_path / "a.json")]
    inference.main([*argv, "--checkpoint", str(runs[0]), "--checkpoint", str(runs[1])])
    found = json.loads((tmp_path / "a.json").read_text())["top"][0]["probability"]
    assert found == pytest.approx(Recognizer(runs, device="cpu", amp="off").predict(video).top(1)[0][1], abs=1e-6)
    with pytest.raises(UserError, match="--explain needs feature maps of convolutions, which FusedNetwork"):
        inference.main([*argv, "--checkpoint", str(runs[0]), "--checkpoint", str(runs[1]), "--explain"])


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
def test_a_pair_is_exported(runs, suffix, tmp_path, capsys):
    if suffix == ".onnx":
        pytest.importorskip("onnxscript", reason="pip install onnx onnxscript onnxruntime")
    video = write_naming_video(tmp_path / "clip.avi", 20)
    file = tmp_path / f"pair{suffix}"
    export.main([*map(str, runs), "--output", str(file), "--video", str(video)])
    expected = Recognizer(runs, device="cpu", amp="off").classify(video).probabilities
    assert np.allclose(Recognizer(file, device="cpu").classify(video).probabilities, expected, atol=1e-4)
    with pytest.raises(UserError, match="his checkpoint has seen .* of the recordings"):
        evaluation.main([str(file), *FLAGS, "--split", "2"])
    with pytest.raises(UsageError, match="several runs are exported as .onnx or .pt2"):
        export.main([*map(str, runs), "--output", str(tmp_path / "pair.safetensors")])
