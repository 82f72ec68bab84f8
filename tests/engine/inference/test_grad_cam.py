"""Where and when a network sees its answer."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn as nn

from common.errors import UserError
from engine.inference.grad_cam import HeatOverVideo, explain_clips
from engine.inference.prediction import Prediction
from engine.inference.windows import sliding_clips
from network import create_model, input_spec, list_models
from network.base import VideoModel
from tests.helpers.recognizer import decode, make_video, run
from tests.helpers.toy import write_video


class SeesRed(VideoModel):
    """Class 1 says how much red there is, by two stages of convolutions."""

    head_name, stem_names, stage_names = "fc", ("first",), ("first", "second")

    def __init__(self):
        super().__init__()
        self.first = nn.Conv3d(3, 1, (1, 3, 3), (1, 2, 2), (0, 1, 1), bias=False)
        self.second = nn.Conv3d(1, 1, (1, 3, 3), (1, 2, 2), (0, 1, 1), bias=False)
        self.fc = nn.Linear(1, 2, bias=False)
        nn.init.constant_(self.first.weight, 0)
        self.first.weight.data[:, 0] = 1
        nn.init.constant_(self.second.weight, 1)
        self.fc.weight.data = torch.tensor([[-1.0], [1.0]])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.second(self.first(x).relu()).relu().mean(dim=(2, 3, 4)))


def test_heat_and_moments_lie_where_and_when_the_answer_is():
    x = torch.zeros(1, 3, 8, 32, 32)
    x[0, 0, 2:5, 4:12, 20:28] = 1  # a red square for three frames
    x[0, 1, :, 20:30, 2:12] = 1  # a green one that does not count
    heat, moments = explain_clips(SeesRed().eval(), x, [1])
    inside = heat[0, 2:5, 3:11, 16:26].sum()  # 28 of 32 pixels a side
    assert heat.shape == (1, 8, 28, 28) and inside > 0.8 * heat.sum() > 0
    assert moments[0, 2:5].min() > 0 and moments[0, [0, 1, 6, 7]].max() == 0
    against, never = explain_clips(SeesRed().eval(), x, [0])
    assert against.sum() == never.sum() == 0, "nothing speaks for the other class"


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("c3d_bn", marks=pytest.mark.slow),
        "r2plus1d_10",
        "mc3_10",
        pytest.param("cnn_lstm_18", marks=pytest.mark.slow),
    ],
)
def test_every_kind_of_convolution_can_be_explained(name):
    torch.manual_seed(0)
    model, spec = create_model(name, 4).eval(), input_spec(name)
    size = spec.crop_size if name == "c3d_bn" else 64
    heat, moments = explain_clips(model, torch.randn(1, 3, 16, size, size), [2])
    assert heat.shape == (1, 16, 28, 28) and moments.shape == (1, 16)
    assert np.isfinite(heat).all() and (heat >= 0).all() and np.isfinite(moments).all()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_every_model_says_its_maps_or_is_a_transformer():
    for name in list_models():
        if name.startswith(("mvit", "swin")):
            continue
        with torch.device("meta"):  # without the values of its weights
            model = create_model(name, 2)
        assert model.stage_names, name
        for stage in model.stage_names:
            model.get_submodule(stage)


def test_a_transformer_has_no_maps():
    with pytest.raises(UserError, match="--explain needs feature maps of convolutions, which Swin3D"):
        explain_clips(create_model("swin3d_t", 2).eval(), torch.zeros(1, 3, 4, 32, 32), [0])


def test_the_command_line_explains(checkpoint, video, tmp_path, capsys, monkeypatch):
    argv = [video, "--checkpoint", checkpoint, "--stride", 3, "--output", tmp_path / "plain.mp4", "--amp", "off"]
    assert run(argv, capsys, monkeypatch)[0] == 0
    argv = [*argv[:-3], tmp_path / "heat.mp4", "--amp", "off", "--json", tmp_path / "heat.json"]
    assert run([*argv, "--explain-class", "Golf"], capsys, monkeypatch)[0] == 0
    plain, heat = decode(tmp_path / "plain.mp4"), decode(tmp_path / "heat.mp4")
    assert len(plain) == len(heat) == 20
    assert np.abs(plain[9].astype(int) - heat[9]).mean() > 3
    explained = json.loads((tmp_path / "heat.json").read_text())["explained"]
    assert explained["label"] == "Golf" and len(explained["moments"]) == 20 and max(explained["moments"]) == 1
    assert run([*argv, "--explain-whole"], capsys, monkeypatch)[0] == 0
    content = json.loads((tmp_path / "heat.json").read_text())
    assert content["explained"]["label"] == content["label"]
    status, _, err = run([*argv, "--explain-whole", "--explain-class", "Golf"], capsys, monkeypatch)
    assert status == 2 and "exclude each other" in err
    status, _, err = run([*argv, "--explain-class", "Gold"], capsys, monkeypatch)
    assert status == 2 and "Did you mean 'Golf'" in err
    status, _, err = run([video, "--checkpoint", checkpoint, "--explain"], capsys, monkeypatch)
    assert status == 2 and "give --output FILE" in err


def label_at(prediction: Prediction, frame: int) -> str:
    return prediction.classes[int(prediction.at(frame).argmax())]


def test_each_moment_is_explained_for_its_own_label(recognizer, tmp_path):
    source = make_video(tmp_path / "clip.mp4", 40)
    prediction = recognizer.predict(source)
    halves = [
        replace(window, probabilities=np.eye(6)[1 if window.first_frame < 20 else 4]) for window in prediction.windows
    ]
    prediction = replace(prediction, windows=halves)
    explanation = recognizer.explain(source, prediction)
    change = explanation.labels.index("Fencing")
    assert explanation.labels == ["Bowling"] * change + ["Fencing"] * (40 - change) and 18 < change < 28
    assert explanation.to_dict()["label"] is None
    seen = slice(0, prediction.windows[-1].last_frame + 1)
    for label, frames in (("Bowling", slice(0, change)), ("Fencing", slice(change, seen.stop))):
        alone = recognizer.explain(source, prediction, label)
        assert set(alone.labels) == {label} and alone.to_dict()["label"] == label
        share = explanation.moments[frames] / alone.moments[frames]  # the two differ in their unit alone
        assert np.isfinite(share).all() and share == pytest.approx(np.full(len(share), share[0]), rel=1e-3)


def test_what_no_window_sees_is_cold(recognizer, tmp_path):
    source = make_video(tmp_path / "clip.mp4", 30)
    prediction = recognizer.predict(source)
    explanation = recognizer.explain(source, prediction)
    assert explanation.heat.shape[0] == explanation.moments.shape[0] == 30
    assert explanation.heat.max() == 1 and explanation.labels == [label_at(prediction, i) for i in range(30)]
    last = prediction.windows[-1].last_frame
    assert (explanation.heat[last + 1 :] == 0).all()


def test_a_frame_of_a_repeating_video_has_the_mean_of_its_places():
    """frames 0 1 2 in a clip of 8: 0 1 2 0 1 2 0 1"""
    places = np.arange(8) % 3
    heat = HeatOverVideo()
    heat.add(range(3), places, np.broadcast_to(places[:, None, None] + 1.0, (8, 2, 2)), places + 1.0)
    explanation = heat.explanation(["a"] * 3)
    assert explanation.moments.tolist() == pytest.approx([1 / 3, 2 / 3, 1])
    assert explanation.heat[:, 0, 0].tolist() == pytest.approx([1 / 3, 2 / 3, 1], abs=1e-3)


def test_a_frame_has_the_mean_heat_of_the_differences_that_it_is_part_of():
    """frames 0 1 2 3, and the differences 0-1, 1-2, 2-3"""
    differences = np.array([1.0, 3.0, 5.0])
    heat = HeatOverVideo()
    heat.add(range(4), np.arange(4), np.broadcast_to(differences[:, None, None], (3, 2, 2)), differences)
    explanation = heat.explanation(["a"] * 4)
    assert explanation.moments.tolist() == pytest.approx([0.2, 0.4, 0.8, 1])
    assert explanation.heat[:, 0, 0].tolist() == pytest.approx([0.2, 0.4, 0.8, 1], abs=1e-3)


def test_a_short_video_is_explained_where_its_red_is(tmp_path):
    """Red in the first of five frames, which is the last one of the clip that repeats them."""
    red, gray = np.zeros((120, 160, 3), np.uint8), np.full((120, 160, 3), 60, np.uint8)
    red[..., 0] = 255
    source = write_video(tmp_path / "short.mp4", [red, gray, gray, gray, gray], "libx264")
    spec = replace(input_spec("r3d_10"), clip_len=16, frame_stride=1)
    heat = HeatOverVideo()
    with sliding_clips(source, spec, 8) as (clips, _):
        for first, last, clip in clips:
            x = torch.from_numpy(clip.transpose(3, 0, 1, 2)[None] / 255.0).float()
            maps, moments = explain_clips(SeesRed().eval(), x, [1])
            heat.add(range(first, last + 1), clips.shown(first), maps[0], moments[0])
    moments = heat.explanation(["red"] * 5).moments
    assert moments[0] == 1 and moments[1:].max() < 0.5
