"""Weights as a .safetensors file: what any viewer reads in it, and every command that takes it back."""

import json
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("safetensors.torch", reason='pip install "safetensors>=0.4"')
import safetensors.torch
from safetensors import safe_open

import evaluate as evaluation
import export as script
import train
from common.cli import run_cli
from common.errors import UserError
from dataloaders.sources.splits import Split
from engine.runs.checkpoint import load_checkpoint, load_model
from engine.training.config import TrainConfig
from inference import Recognizer
from network.weights.read import model_named_by, read_file, read_weights
from tests.helpers.exports import SPEC, save_toy_checkpoint
from tests.helpers.toy import CLASSES, write_naming_video

pytestmark = pytest.mark.usefixtures("one_thread")
KEY = "video_action_recognition"


def export(checkpoint: Path, output: Path, *more: str) -> Path:
    script.main([str(checkpoint), "--output", str(output), *more])
    return output


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    return save_toy_checkpoint(tmp_path / "best.pth", Split("1", {}, "0" * 8))


@pytest.fixture
def exported(checkpoint, tmp_path) -> Path:
    return export(checkpoint, tmp_path / "model.safetensors")


def test_any_viewer_reads_the_tensors_the_classes_and_the_input(checkpoint, exported, capsys):
    with safe_open(exported, "pt") as file:
        about = json.loads(file.metadata()[KEY])
        assert file.metadata()["format"] == "pt"
        assert file.get_tensor("fc.weight").shape == (3, 128)
    assert about["classes"] == list(CLASSES) and about["input_spec"] == SPEC.to_dict()
    assert str(checkpoint.parent) not in json.dumps(about)
    expected = load_model(checkpoint).model.state_dict()
    found = safetensors.torch.load_file(exported)
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


def test_the_moving_average_is_what_is_exported(tmp_path, checkpoint):
    content = load_checkpoint(checkpoint)
    content["ema"] = {
        name: value + 1 if value.is_floating_point() else value for name, value in content["model"].items()
    }
    torch.save(content, checkpoint)
    found = safetensors.torch.load_file(export(checkpoint, tmp_path / "average.safetensors"))
    assert torch.equal(found["fc.weight"], content["ema"]["fc.weight"])


def test_every_command_takes_it_back(checkpoint, exported, toy_project, tmp_path, capsys):
    video = write_naming_video(tmp_path / "clip.mp4", 20)
    answers = [Recognizer(path, device="cpu", amp="off").predict(video) for path in (checkpoint, exported)]
    assert answers[0].probabilities.tolist() == answers[1].probabilities.tolist()

    argv = ["--num-clips", "2", "--device", "cpu", "--output", str(tmp_path)]
    [ours], [theirs] = (evaluation.main([str(path), *argv]) for path in (checkpoint, exported))
    assert theirs["normal"].probs.tolist() == ours["normal"].probs.tolist()
    with pytest.raises(UserError, match="his checkpoint has seen 2 of the recordings"):
        evaluation.main([str(exported), *argv, "--split", "2"])

    assert model_named_by(exported) == "r3d_10"
    weights = read_weights(exported, "r3d_10")
    assert (weights.classes, weights.input_spec) == (list(CLASSES), SPEC)
    run = train.main(
        TrainConfig(
            dataset="toy", model="r3d_10", weights=str(exported), freeze="trunk", epochs=1, batch_size=4, workers=0
        )
    )
    trunk = [load_model(path).model.state_dict()["layer4.0.conv1.0.weight"] for path in (checkpoint, run / "best.pth")]
    assert torch.equal(*trunk)
    again = export(exported, tmp_path / "again.safetensors")
    assert safetensors.torch.load_file(again).keys() == safetensors.torch.load_file(exported).keys()


def test_weights_of_others_are_a_state_dict(checkpoint, tmp_path):
    state = load_model(checkpoint).model.state_dict()
    safetensors.torch.save_file(state, tmp_path / "others.safetensors")
    weights = read_weights(tmp_path / "others.safetensors", "r3d_10")
    assert weights.classes is None and torch.equal(weights.state["fc.weight"], state["fc.weight"])
    with pytest.raises(UserError, match="is not a checkpoint of this program"):
        load_model(tmp_path / "others.safetensors")


@pytest.mark.parametrize(
    "about", ["no JSON", "[]", "{}", '{"model": 3}', "classes", "input_spec"], ids=lambda about: about[:12]
)
def test_damaged_metadata_is_one_line(exported, about, tmp_path):
    state = safetensors.torch.load_file(exported)
    if about in ("classes", "input_spec"):
        with safe_open(exported, "pt") as file:
            about = json.dumps(json.loads(file.metadata()[KEY]) | {about: 7})
    safetensors.torch.save_file(state, exported, {KEY: about})
    with pytest.raises(UserError, match="metadata.* damaged. Export it again") as raised:
        load_model(exported)
    assert "\n" not in str(raised.value)


def test_a_damaged_file_is_one_line(exported):
    content = exported.read_bytes()
    exported.write_bytes(content[:-1000])
    with pytest.raises(
        UserError, match="is no PyTorch checkpoint and no other known kind of weights, or it is damaged"
    ):
        read_file(exported)


@pytest.mark.parametrize("flag", [["--half"], ["--video", "clip.mp4"]])
def test_flags_that_would_do_nothing_are_refused(checkpoint, flag, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["export.py", str(checkpoint), "--output", str(tmp_path / "a.safetensors"), *flag])
    with pytest.raises(SystemExit) as ended:
        run_cli(script.main)
    assert ended.value.code == 2
    assert f"{flag[0]} is for .onnx and .pt2" in capsys.readouterr().err


def test_without_the_package_a_line_says_how_to_install_it(checkpoint, exported, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    for act in (lambda: load_model(exported), lambda: export(checkpoint, tmp_path / "b.safetensors")):
        with pytest.raises(UserError, match=r"needs safetensors, which is not installed: pip install"):
            act()
