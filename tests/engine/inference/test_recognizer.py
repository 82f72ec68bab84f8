import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch
import torch.nn as nn

from common.errors import UsageError, UserError
from common.files import ROOT
from dataloaders.dataset import EvalDataset
from dataloaders.frame_set import open_frames
from dataloaders.video import VideoReader, decode_frames
from engine.hardware.low_precision import cpu_has_bf16, logits_differ, probability_model
from engine.inference.annotate import annotate
from engine.inference.preview_window import check_screen
from engine.inference.windows import evenly_spaced_clips
from inference import Recognizer
from network import create_model, input_spec
from network.fuse_batch_norm import fuse_batch_norms
from tests.helpers.recognizer import SPEC, decode, make_frames, make_video, run
from tests.helpers.toy import TOY_SIZE

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


def test_a_folder_gives_a_row_a_video_and_names_what_is_broken(folder, checkpoint, tmp_path, capsys, monkeypatch):
    table = tmp_path / "answers.csv"
    argv = [folder, "--checkpoint", checkpoint, "--csv", table, "--top", 2, "--device", "cpu", "--amp", "off"]
    status, out, err = run(argv, capsys, monkeypatch)
    assert status == 1
    assert out.splitlines() == [f"-> {table}", "3 answers, 1 could not be used"]
    assert err == f"{folder / 'broken.mp4'} cannot be used as a video: it cannot be opened as a video.\n"
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


def test_a_folder_with_an_output_keeps_its_shape(folder, checkpoint, tmp_path, capsys, monkeypatch):
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
    monkeypatch.setattr("engine.inference.windows.KEPT", 10 * SPEC.crop_size**2 * 3)
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
    folded = fuse_batch_norms(model, x[:1])
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


class UsedTwice(Shared):
    """The convolution's output goes into a norm and into an addition; a pair that may be folded follows."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        return self.right(self.after(self.left(y) + y))

    def __init__(self):
        super().__init__()
        self.after = nn.Conv3d(4, 4, 1)


class InPlace(Shared):
    """A ReLU that is no module changes the convolution's output before the norm sees it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.left(torch.relu_(self.conv(x)))


@pytest.mark.parametrize(("network", "norms_left"), [(UsedTwice, ["left"]), (InPlace, ["left", "right"])])
def test_a_convolution_whose_output_something_else_uses_or_changes_is_not_folded(network, norms_left):
    torch.manual_seed(0)
    model = network().eval()
    for norm in (model.left, model.right):
        norm.running_mean.normal_(), norm.running_var.uniform_(0.5, 2)
    x = torch.randn(1, 3, 2, 4, 4)
    folded = fuse_batch_norms(model, x)
    assert torch.allclose(folded(x), model(x), atol=1e-5)
    assert [name for name, module in folded.named_modules() if isinstance(module, nn.BatchNorm3d)] == norms_left


def test_a_convolution_that_serves_twice_is_not_folded():
    model = Shared().eval()
    model.left.running_mean.fill_(3.0)
    x = torch.randn(1, 3, 2, 4, 4)
    assert torch.allclose(fuse_batch_norms(model, x)(x), model(x), atol=1e-6)


class Broken(nn.Module):
    """Right in float32 alone, like the bug that the check is for."""

    def __init__(self, scale: float, only_where_bright: bool = False):
        super().__init__()
        self.scale, self.only_where_bright = scale, only_where_bright

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        low = torch.mm(torch.ones(3, 1), torch.ones(1, 5)).dtype == torch.bfloat16
        bright = x.flatten(1).any(1) | (not self.only_where_bright)
        sign = torch.where(bright & low, -1.0, 1.0)
        return sign[:, None] * torch.arange(101.0) * self.scale


def test_bf16_answers_are_near_and_a_wrong_one_is_noticed(capsys):
    torch.manual_seed(0)
    model = create_model("r3d_10", 5).eval()
    x = torch.randn(3, 3, 12, 56, 56)
    exact = probability_model(model, torch.device("cpu"), "off")(x)
    low = probability_model(model, torch.device("cpu"), "bf16")
    assert (low(x) - exact).abs().max() < 0.02 and low.low is not None
    assert not torch.equal(low(x), exact), "bf16 is at work"

    for scale in (3, 0.001):  # sure, and as unsure as 101 classes are at first: no probability is off by 0.01 there
        broken = probability_model(Broken(scale).eval(), torch.device("cpu"), "bf16")
        assert broken(x).argmax(1).tolist() == [100, 100, 100] == broken(x).argmax(1).tolist()
        assert broken.dtype is None and "float32 is used" in capsys.readouterr().err


def test_a_shift_of_all_logits_is_no_disagreement():
    exact = torch.randn(3, 101, generator=torch.Generator().manual_seed(0))
    assert logits_differ(exact + 100, exact) is None
    assert "logits differ by 20 %" in logits_differ(exact * 1.2, exact)
    assert "logits differ" in logits_differ(exact * float("nan"), exact)


def test_bf16_that_is_wrong_where_the_first_clip_is_black_is_noticed(capsys):
    black = torch.zeros(1, 3, 2, 4, 4)
    broken = probability_model(Broken(3, only_where_bright=True).eval(), torch.device("cpu"), "bf16")
    assert broken(black).shape == (1, 101) and broken.dtype is None
    assert "float32 is used" in capsys.readouterr().err


@pytest.mark.slow
def test_s3d_runs_in_bf16_though_one_of_its_layers_cannot():
    model = create_model("s3d", 5).eval()
    answerer = probability_model(model, torch.device("cpu"), "bf16")
    assert answerer(torch.randn(1, 3, 16, 224, 224)).shape == (1, 5)


def test_auto_is_bf16_only_where_the_processor_has_it():
    model = create_model("r3d_10", 5).eval()
    assert (probability_model(model, torch.device("cpu"), "auto").dtype is torch.bfloat16) == cpu_has_bf16()


# --- the window


def test_without_a_screen_show_says_so(checkpoint, video, capsys, monkeypatch):
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
def test_show_opens_a_window_and_closes_it(checkpoint, video):
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


def test_frames_in_memory_and_in_a_folder_give_the_answer_of_their_video(recognizer, video, tmp_path):
    expected = recognizer.predict(video)
    frames = np.stack(list(decode_frames(video)))
    found = recognizer.predict(frames, fps=expected.fps)
    assert np.allclose(found.probabilities, expected.probabilities, atol=1e-6)
    assert [(w.first_frame, w.last_frame, w.start, w.end) for w in found.windows] == [
        (w.first_frame, w.last_frame, w.start, w.end) for w in expected.windows
    ]
    for number, frame in enumerate(frames):
        cv2.imwrite(str(tmp_path / f"frame{number}.png"), frame[..., ::-1])  # frame10 comes after frame9
    folder = recognizer.predict(tmp_path, fps=expected.fps)
    assert np.allclose(folder.probabilities, expected.probabilities, atol=1e-6)
    classified = recognizer.classify(tmp_path, fps=expected.fps)
    assert np.allclose(classified.probabilities, recognizer.classify(video).probabilities, atol=1e-6)
    both = recognizer.predict([video, tmp_path])
    assert [len(one.windows) for one in both] == [len(expected.windows)] * 2


def write_frames(folder: Path, frames: Sequence[np.ndarray]) -> Path:
    folder.mkdir(parents=True)
    for number, frame in enumerate(frames, 1):
        cv2.imwrite(str(folder / f"{number:05d}.png"), frame)
    return folder


def test_a_folder_of_frames_is_answered_like_its_video(checkpoint, video, tmp_path, capsys, monkeypatch):
    folder = write_frames(tmp_path / "frames", decode(video))
    answers = []
    for source, *flags in ((video,), (folder, "--fps", 25)):
        written = ["--output", tmp_path / "out.mp4", "--json", tmp_path / "out.json"]
        status, out, err = run(
            [source, *flags, "--checkpoint", checkpoint, "--stride", 3, "--amp", "off", "--explain", *written],
            capsys,
            monkeypatch,
        )
        assert status == 0, err
        answers.append(json.loads((tmp_path / "out.json").read_text()))
        with VideoReader(tmp_path / "out.mp4") as reader:
            assert reader.fps == 25 and sum(1 for _ in reader) == 20
    for key in ("fps", "num_frames", "seconds", "label", "timeline", "explained"):
        if key == "timeline":
            assert [part["end"] for part in answers[0][key]] == [part["end"] for part in answers[1][key]]
        elif key == "explained":
            assert answers[1][key]["moments"] == pytest.approx(answers[0][key]["moments"], abs=0.02)
        else:
            assert answers[0][key] == answers[1][key], key


def test_a_tree_of_folders_of_frames_gives_a_row_each(checkpoint, video, tmp_path, capsys, monkeypatch):
    frames = decode(video)
    write_frames(tmp_path / "frames" / "Diving" / "one", frames)
    write_frames(tmp_path / "frames" / "Golf" / "two", frames[:9])
    (write_frames(tmp_path / "frames" / "Golf" / "gap", frames) / "00004.png").unlink()
    argv = [tmp_path / "frames", "--checkpoint", checkpoint, "--csv", tmp_path / "answers.csv"]
    status, _, err = run(argv, capsys, monkeypatch)
    assert status == 1 and "gap lacks frame 4" in err
    with (tmp_path / "answers.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(Path(row["video"]).name, row["num_frames"]) for row in rows] == [("one", "20"), ("gap", ""), ("two", "9")]
    assert rows[0]["fps"] == "" and "lacks frame 4" in rows[1]["problem"]


def test_what_is_no_video_in_memory_is_said(recognizer, tmp_path):
    for array in (np.zeros((4, 8, 8, 3)), np.zeros((8, 8, 3), np.uint8), np.zeros((0, 8, 8, 3), np.uint8)):
        with pytest.raises(UsageError, match=r"is no video: it must be \(T, H, W, 3\) uint8 RGB"):
            recognizer.predict(array)
    (tmp_path / "00001.jpg").write_bytes(b"no picture")
    with pytest.raises(UserError, match="00001.jpg cannot be read as a picture"):
        recognizer.predict(tmp_path)
