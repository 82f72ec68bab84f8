import csv
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch
import torch.nn as nn

from dataloaders.dataset import EvalDataset, open_frames
from engine.errors import ROOT, UserError
from inference import Recognizer
from network import create_model, input_spec, list_models
from network.freezing import Freezable
from recognition.annotate import annotate
from recognition.explain import HeatOverVideo, explain_clips
from recognition.folding import fold_batch_norms
from recognition.overlay import draw_answer, draw_curve, draw_heat
from recognition.precision import Answerer, cpu_has_bf16
from recognition.prediction import Prediction, Window
from recognition.screen import check_screen
from recognition.video_writer import GIF_SECONDS
from recognition.windows import evenly_spaced_clips, sliding_clips
from tests.conftest import TOY_SIZE
from tests.test_inference import (  # noqa: F401
    CLASSES,
    SPEC,
    by_hand,
    checkpoint,
    content_of,
    decode,
    make_frames,
    make_video,
    run,
    save_checkpoint,
    video,
)
from tests.toy import write_video


@pytest.fixture(scope="module")
def recognizer(checkpoint):  # noqa: F811
    return Recognizer(checkpoint, device="cpu", stride=3, amp="off")


def prediction_of(rows: list[list[float]], num_frames: int, stride: int = 4, span: int = 8, **changes) -> Prediction:
    windows = [
        Window(i * stride, i * stride + span - 1, None, None, np.array(row, np.float32)) for i, row in enumerate(rows)
    ]
    fields = {"fps": 10.0, "num_damaged": 0, "classes": ["a", "b"], "probabilities": np.mean(rows, axis=0)}
    return Prediction("x.mp4", num_frames=num_frames, windows=windows, **{**fields, **changes})


# --- the timeline


def test_the_timeline_covers_each_frame_once_and_changes_with_the_label():
    prediction = prediction_of([[0.9, 0.1], [0.9, 0.1], [0.1, 0.9], [0.1, 0.9]], num_frames=20)
    timeline = prediction.timeline()
    assert [segment["label"] for segment in timeline] == ["a", "b"]
    assert timeline[0]["first_frame"] == 0 and timeline[-1]["last_frame"] == 19
    assert timeline[1]["first_frame"] == timeline[0]["last_frame"] + 1
    assert timeline[0]["end"] == timeline[1]["start"] and timeline[-1]["end"] == pytest.approx(2.0)
    assert 0.5 <= timeline[0]["probability"] <= 0.9


def test_below_the_threshold_the_label_is_uncertain():
    prediction = prediction_of([[0.9, 0.1], [0.55, 0.45], [0.55, 0.45], [0.55, 0.45]], num_frames=20)
    assert [segment["label"] for segment in prediction.timeline(0.8)] == ["a", "uncertain"]
    assert prediction.label(0.8) == "uncertain" and prediction.label(0.5) == "a"
    content = prediction.to_dict(top=2, threshold=0.8)
    assert content["label"] == "uncertain" and content["top"][0]["label"] == "a"
    assert [window["label"] for window in content["windows"]] == ["a"] + ["uncertain"] * 3


def test_smoothing_is_the_mean_of_the_neighbours_and_leaves_the_answer():
    rows = [[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0]]
    prediction = prediction_of(rows, num_frames=20)
    smooth = prediction.smoothed(3)
    expected = [np.mean(rows[max(i - 1, 0) : i + 2], axis=0) for i in range(4)]
    assert np.allclose([window.probabilities for window in smooth.windows], expected)
    assert len(smooth.timeline()) == 1 < len(prediction_of(rows, 20, stride=8).timeline())
    assert (smooth.probabilities == prediction.probabilities).all()
    same = prediction.smoothed(1)
    assert np.allclose([w.probabilities for w in same.windows], rows)


# --- time stamps


def write_timed(path: Path, seconds: list[float], size=(64, 48)) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for picture, second in zip(make_frames(len(seconds), *size), seconds, strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="bgr24")
            frame.pts, frame.time_base = round(1000 * second), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def test_a_variable_frame_rate_keeps_its_times(recognizer, tmp_path):
    seconds = [0.04 * i if i < 10 else 0.4 + 0.2 * (i - 10) for i in range(20)]  # slow in its second half
    source = write_timed(tmp_path / "slow.mp4", seconds)
    prediction = recognizer.predict(source)
    assert np.allclose(prediction.times, seconds, atol=2e-3)
    assert prediction.windows[-1].start == pytest.approx(seconds[prediction.windows[-1].first_frame], abs=2e-3)
    assert prediction.timeline()[-1]["end"] == pytest.approx(prediction.seconds(20)) and prediction.seconds(20) > 2.2
    annotate(source, prediction, tmp_path / "out.mp4")
    with av.open(str(tmp_path / "out.mp4")) as container:
        shown = [float(frame.time) for frame in container.decode(video=0)]
    assert np.allclose(np.array(shown) - shown[0], seconds, atol=2e-3)


def test_even_times_are_counted_and_not_read(recognizer, tmp_path):
    for name in ("clip.mp4", "clip.mkv", "clip.avi"):
        codec = "mpeg4" if name.endswith("avi") else "libx264"
        prediction = recognizer.predict(make_video(tmp_path / name, codec=codec, rate=30))
        assert prediction.times is None, name
        assert prediction.windows[1].start == pytest.approx(3 / 30)


# --- sound, GIF


def with_sound(path: Path, codec: str, rate: int = 16000, num_frames: int = 50) -> Path:
    """2 s of video with a tone that begins after 1 s."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        sound = container.add_stream(codec, rate=rate, layout="mono")
        for picture in make_frames(num_frames, 64, 48):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="bgr24")))
        container.mux(stream.encode(None))
        time = np.arange(2 * rate) / rate
        wave = (12000 * np.sin(2 * np.pi * 440 * time) * (time >= 1)).astype(np.int16)
        for start in range(0, len(wave), 1000):
            frame = av.AudioFrame.from_ndarray(wave[None, start : start + 1000], format="s16", layout="mono")
            frame.rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
            for piece in av.AudioResampler(sound.codec_context.format, "mono", rate).resample(frame):
                container.mux(sound.encode(piece))
        container.mux(sound.encode(None))
    return path


@pytest.mark.parametrize(
    "source, codec, output, kept",
    [
        ("a.mp4", "aac", "out.mp4", "aac"),
        ("a.mkv", "libopus", "out.mkv", "opus"),
        ("a.avi", "pcm_s16le", "out.mp4", "aac"),
        ("a.avi", "libmp3lame", "out.mkv", "aac"),
    ],
)
def test_the_sound_stays_and_stays_in_time(recognizer, tmp_path, source, codec, output, kept):
    source = with_sound(tmp_path / source, codec, rate=48000 if codec == "libopus" else 16000)
    annotate(source, recognizer.predict(source), tmp_path / output)
    with av.open(str(tmp_path / output)) as container:
        assert container.streams.audio[0].codec_context.name == kept
        loud = []
        for frame in container.decode(audio=0):
            samples = np.abs(frame.to_ndarray().astype(float)).mean(axis=0)
            scale = 1.0 if samples.max() <= 1.5 else 32768.0
            loud += [(frame.time + i / frame.rate) for i in np.flatnonzero(samples / scale > 0.1)]
    assert min(loud) == pytest.approx(1.0, abs=0.08)
    assert max(loud) == pytest.approx(2.0, abs=0.1)


def test_a_gif_has_the_answer_in_at_most_12_and_a_half_frames_a_second(recognizer, tmp_path):
    source = make_video(tmp_path / "clip.mp4", 20)
    annotate(source, recognizer.predict(source), tmp_path / "out.gif")
    pictures = decode(tmp_path / "out.gif")
    assert len(pictures) == 10
    with av.open(str(tmp_path / "out.gif")) as container:
        assert container.duration / 1e6 == pytest.approx(0.8, abs=0.05)
    annotate(source, recognizer.predict(source), tmp_path / "out.mp4")
    for gif, mp4 in zip(pictures[::6], decode(tmp_path / "out.mp4")[::12], strict=False):
        mp4 = cv2.resize(mp4, gif.shape[1::-1], interpolation=cv2.INTER_AREA)
        assert np.abs(gif.astype(int) - mp4).mean() < 12


def test_a_long_gif_is_refused_with_the_limit(tmp_path):
    prediction = prediction_of([[1, 0]], num_frames=10 * (GIF_SECONDS + 2))
    with pytest.raises(UserError, match="limit. Write an .mp4"):
        annotate(make_video(tmp_path / "clip.mp4"), prediction, tmp_path / "out.gif")
    assert not (tmp_path / "out.gif").exists()


# --- many videos


@pytest.fixture
def folder(tmp_path) -> Path:
    for number, name in enumerate(("b/one.mp4", "a/two.avi", "three.mp4")):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        make_video(tmp_path / "in" / name, 12 + number, codec="mpeg4" if name.endswith("avi") else "libx264")
    (tmp_path / "in" / "broken.mp4").write_bytes(b"no video")
    (tmp_path / "in" / "notes.txt").touch()
    (tmp_path / "in" / ".hidden.mp4").touch()
    return tmp_path / "in"


def test_a_folder_gives_a_row_a_video_and_names_what_is_broken(folder, checkpoint, tmp_path, capsys, monkeypatch):  # noqa: F811
    table = tmp_path / "answers.csv"
    argv = [folder, "--checkpoint", checkpoint, "--csv", table, "--top", 2, "--device", "cpu", "--amp", "off"]
    status, out, err = run(argv, capsys, monkeypatch)
    assert status == 1
    assert out.splitlines() == [f"-> {table}", "3 answers, 1 could not be used"]
    assert err == f"{folder / 'broken.mp4'} cannot be used as a video: it is not a video that can be opened.\n"
    rows = list(csv.DictReader(table.open(encoding="utf-8")))
    assert [row["video"] for row in rows] == [
        str(folder / name) for name in ("a/two.avi", "b/one.mp4", "broken.mp4", "three.mp4")
    ]
    assert rows[2]["label"] == "" and "cannot be used" in rows[2]["problem"]
    recognizer = Recognizer(checkpoint, device="cpu", amp="off")
    expected = recognizer.classify(folder / "b/one.mp4").top(2)
    assert (rows[1]["label"], rows[1]["label_2"]) == (expected[0][0], expected[1][0])
    assert float(rows[1]["probability"]) == pytest.approx(expected[0][1], abs=1e-6)
    assert int(rows[1]["num_frames"]) == 12


def test_a_folder_with_an_output_keeps_its_shape(folder, checkpoint, tmp_path, capsys, monkeypatch):  # noqa: F811
    argv = [folder, "--checkpoint", checkpoint, "--output", tmp_path / "out", "--json", tmp_path / "all.json"]
    status, out, err = run([*argv, "--csv", tmp_path / "a.csv"], capsys, monkeypatch)
    assert status == 1 and err.count("\n") == 1 and out.splitlines()[-1] == "3 answers, 1 could not be used"
    found = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.mp4"))
    assert found == ["a/two.mp4", "b/one.mp4", "three.mp4"]
    assert len(json.loads((tmp_path / "all.json").read_text())) == 3
    assert len(list(csv.DictReader((tmp_path / "a.csv").open()))) == 4


def test_one_answer_a_video_is_the_one_of_evaluation(toy_source, toy_frames):
    """The clips of evaluate.py, from the video instead of from its JPEGs: they differ by JPEG's own loss alone."""
    spec = replace(input_spec("r3d_10"), clip_len=4, frame_stride=2, resize=TOY_SIZE, crop_size=24)
    frame_set = open_frames(toy_source, spec)
    dataset = EvalDataset(frame_set, spec, part="train", num_clips=5)
    for position in range(len(dataset)):
        expected = np.empty(dataset.clip_shape, np.uint8)
        dataset.load(0, position, expected)
        _, clips, _ = evenly_spaced_clips(toy_source.videos / dataset.rows[position].video, spec, 5)
        assert np.abs(clips.astype(int) - expected).mean() < 4


def test_a_video_of_too_many_frames_is_decoded_twice_with_the_same_clips(tmp_path, monkeypatch):
    source = make_video(tmp_path / "clip.mp4", 40)
    places, clips, clock = evenly_spaced_clips(source, SPEC, 3)
    monkeypatch.setattr("recognition.windows.KEPT", 10 * SPEC.crop_size**2 * 3)
    again = evenly_spaced_clips(source, SPEC, 3)
    assert again[0] == places and (again[1] == clips).all() and again[2].num_frames == clock.num_frames == 40


# --- precision


@pytest.mark.parametrize(
    "name", ["r3d_10", "r2plus1d_10", "mc3_10", pytest.param("cnn_mean_18", marks=pytest.mark.slow)]
)
def test_folded_batch_norms_give_the_same_answer(name):
    torch.manual_seed(0)
    model, spec = create_model(name, 5), input_spec(name)
    x = torch.randn(2, 3, 4, 56, 56)
    model.train()
    with torch.no_grad():
        for _ in range(3):
            model(x)  # statistics of their own
    model.eval()
    folded = fold_batch_norms(model, x[:1])
    assert not any(isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d) for module in folded.modules())
    assert any(isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d) for module in model.modules()), "the model stays"
    with torch.no_grad():
        assert torch.allclose(folded(x), model(x), atol=1e-4), spec


class Shared(nn.Module):
    """One convolution with two norms behind it, as no network here has: neither may be folded."""

    def __init__(self):
        super().__init__()
        self.conv, self.left, self.right = nn.Conv3d(3, 4, 1), nn.BatchNorm3d(4), nn.BatchNorm3d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.left(self.conv(x)) + self.right(self.conv(x))


def test_a_convolution_that_serves_twice_is_not_folded():
    model = Shared().eval()
    model.left.running_mean.fill_(3.0)
    x = torch.randn(1, 3, 2, 4, 4)
    assert torch.allclose(fold_batch_norms(model, x)(x), model(x), atol=1e-6)


def test_bf16_answers_are_near_and_a_wrong_one_is_noticed(capsys):
    torch.manual_seed(0)
    model = create_model("r3d_10", 5).eval()
    x = torch.randn(3, 3, 12, 56, 56)
    exact = Answerer(model, torch.device("cpu"), "off")(x)
    low = Answerer(model, torch.device("cpu"), "bf16")
    assert np.abs(low(x) - exact).max() < 0.02 and low.fast is not None
    assert not np.array_equal(low(x), exact), "bf16 is at work"

    class Broken(nn.Module):
        """Right in float32 alone, like the bug that the check is for."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            product = torch.mm(torch.ones(3, 1), torch.ones(1, 5))
            sign = -1.0 if product.dtype == torch.bfloat16 else 1.0
            return sign * torch.arange(5.0).repeat(3, 1) * 3

    broken = Answerer(Broken().eval(), torch.device("cpu"), "bf16")
    assert broken(x).argmax(1).tolist() == [4, 4, 4] == broken(x).argmax(1).tolist()
    assert broken.dtype is None and "float32 is used" in capsys.readouterr().err


@pytest.mark.slow
def test_s3d_runs_in_bf16_though_one_of_its_layers_cannot():
    model = create_model("s3d", 5).eval()
    answerer = Answerer(model, torch.device("cpu"), "bf16")
    assert answerer(torch.randn(1, 3, 16, 224, 224)).shape == (1, 5)


def test_auto_is_bf16_only_where_the_processor_has_it():
    model = create_model("r3d_10", 5).eval()
    assert (Answerer(model, torch.device("cpu")).dtype is torch.bfloat16) == cpu_has_bf16()


# --- explanations


class SeesRed(Freezable):
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
    heat, moments = explain_clips(SeesRed().eval(), x, 1)
    inside = heat[0, 2:5, 3:11, 16:26].sum()  # 28 of 32 pixels a side
    assert heat.shape == (1, 8, 28, 28) and inside > 0.8 * heat.sum() > 0
    assert moments[0, 2:5].min() > 0 and moments[0, [0, 1, 6, 7]].max() == 0
    against, never = explain_clips(SeesRed().eval(), x, 0)
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
    heat, moments = explain_clips(model, torch.randn(1, 3, 16, size, size), 2)
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
    with pytest.raises(UserError, match="--explain shows what the maps of convolutions say, and Swin3D"):
        explain_clips(create_model("swin3d_t", 2).eval(), torch.zeros(1, 3, 4, 32, 32), 0)


def test_the_command_line_explains(checkpoint, video, tmp_path, capsys, monkeypatch):  # noqa: F811
    argv = [video, "--checkpoint", checkpoint, "--stride", 3, "--output", tmp_path / "plain.mp4", "--amp", "off"]
    assert run(argv, capsys, monkeypatch)[0] == 0
    argv = [*argv[:-3], tmp_path / "heat.mp4", "--amp", "off", "--json", tmp_path / "heat.json"]
    assert run([*argv, "--explain-class", "Golf"], capsys, monkeypatch)[0] == 0
    plain, heat = decode(tmp_path / "plain.mp4"), decode(tmp_path / "heat.mp4")
    assert len(plain) == len(heat) == 20
    assert np.abs(plain[9].astype(int) - heat[9]).mean() > 3
    explained = json.loads((tmp_path / "heat.json").read_text())["explained"]
    assert explained["label"] == "Golf" and len(explained["moments"]) == 20 and max(explained["moments"]) == 1
    status, _, err = run([*argv, "--explain-class", "Gold"], capsys, monkeypatch)
    assert status == 2 and "Did you mean 'Golf'" in err
    status, _, err = run([video, "--checkpoint", checkpoint, "--explain"], capsys, monkeypatch)
    assert status == 2 and "give --output FILE" in err


def test_what_no_window_sees_is_cold(recognizer, tmp_path):
    source = make_video(tmp_path / "clip.mp4", 30)
    prediction = recognizer.predict(source)
    explanation = recognizer.explain(source, prediction)
    assert explanation.heat.shape[0] == explanation.moments.shape[0] == 30
    assert explanation.heat.max() == 1 and explanation.label == prediction.label()
    last = prediction.windows[-1].last_frame
    assert (explanation.heat[last + 1 :] == 0).all()


def test_a_frame_of_a_repeating_video_has_the_mean_of_its_places():
    """frames 0 1 2 in a clip of 8: 0 1 2 0 1 2 0 1"""
    places = np.arange(8) % 3
    heat = HeatOverVideo()
    heat.add(0, 2, places, np.broadcast_to(places[:, None, None] + 1.0, (8, 2, 2)), places + 1.0)
    explanation = heat.explanation("a", 3)
    assert explanation.moments.tolist() == pytest.approx([1 / 3, 2 / 3, 1])
    assert explanation.heat[:, 0, 0].tolist() == pytest.approx([1 / 3, 2 / 3, 1], abs=1e-3)


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
            maps, moments = explain_clips(SeesRed().eval(), x, 1)
            heat.add(first, last, clips.shown(first), maps[0], moments[0])
    moments = heat.explanation("red", 5).moments
    assert moments[0] == 1 and moments[1:].max() < 0.5


# --- drawing


@pytest.mark.parametrize("size", [(160, 120), (320, 240), (1920, 1080), (3840, 2160), (1, 1), (2000, 4)])
def test_heat_and_curve_fit_any_size(size):
    width, height = size
    frame = np.full((height, width, 3), 200, np.uint8)
    hot = draw_heat(frame, np.pad(np.ones((4, 4)), 4), (0, 0), (width, height))
    assert hot.shape == frame.shape and (frame == 200).all(), "a copy"
    if min(size) > 100:
        middle = hot[height // 2, width // 2].astype(int) - hot[height // 8, width // 8]
        assert np.abs(middle).max() > 60
    draw_curve(hot, np.linspace(0, 1, 50).astype(np.float32), 10, "Golf")


def test_the_header_says_uncertain_below_the_threshold():
    frames = [np.full((240, 320, 3), 90, np.uint8) for _ in range(3)]
    for frame, threshold in zip(frames, (0.0, 0.4, 0.9), strict=True):
        draw_answer(frame, [("Golf", 0.5), ("Diving", 0.3)], threshold)
    assert (frames[0] == frames[1]).all() and not (frames[0] == frames[2]).all()


# --- the window


def test_without_a_screen_show_says_so(checkpoint, video, capsys, monkeypatch):  # noqa: F811
    if not sys.platform.startswith("linux"):
        pytest.skip("only Linux says by its environment whether there is a screen")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    status, out, err = run([video, "--checkpoint", checkpoint, "--show"], capsys, monkeypatch)
    assert (status, out) == (1, "") and "--show needs a screen" in err and err.count("\n") == 1
    with pytest.raises(UserError):
        check_screen()
    assert "DISPLAY" not in os.environ


@pytest.mark.skipif(not shutil.which("Xvfb"), reason="needs a screen, if only in memory")
def test_show_opens_a_window_and_closes_it(checkpoint, video):  # noqa: F811
    """In a process of its own, as a user starts it: what is imported first decides whether OpenCV's window hangs."""
    reading, writing = os.pipe()
    screen = subprocess.Popen(["Xvfb", "-displayfd", str(writing)], pass_fds=[writing], stderr=subprocess.DEVNULL)
    try:
        display = f":{os.read(reading, 20).decode().strip()}"
        argv = [sys.executable, "inference.py", str(video), "--checkpoint", str(checkpoint), "--show"]
        done = subprocess.run(argv, capture_output=True, timeout=120, env={**os.environ, "DISPLAY": display}, cwd=ROOT)
        assert done.returncode == 0 and b" window" in done.stdout, done
    finally:
        screen.kill()
        screen.wait()
    done = subprocess.run(argv, capture_output=True, text=True, env={**os.environ, "DISPLAY": display}, cwd=ROOT)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1) and f"{display} opens no window" in done.stderr


def test_a_diverged_network_is_an_error(tmp_path, video):  # noqa: F811
    content = content_of()
    content["model"]["fc.bias"] = torch.full_like(content["model"]["fc.bias"], float("nan"))
    save_checkpoint(tmp_path / "nan.pth", content)
    for amp in ("off", "bf16"):
        with pytest.raises(UserError, match="not a number"):
            Recognizer(tmp_path / "nan.pth", device="cpu", amp=amp).predict(video)


def test_the_answer_by_hand_is_the_answer_of_classify(recognizer, video):  # noqa: F811
    prediction = recognizer.classify(video, num_clips=14)  # 20 frames, span 7: all starts
    assert [window.first_frame for window in prediction.windows] == list(range(14))
    assert np.allclose([w.probabilities for w in prediction.windows], by_hand(video, stride=1), atol=1e-5)
