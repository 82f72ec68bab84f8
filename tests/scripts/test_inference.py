import json
import os
import re
import subprocess
import sys
import weakref
from dataclasses import replace
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch

from common.class_names import read_labels
from common.errors import UsageError, UserError
from common.files import ROOT
from dataloaders.clips import clip_span
from dataloaders.video import VideoReader
from engine.inference.annotate import annotate
from engine.inference.overlay import readable_factor
from engine.inference.windows import SlidingClips
from engine.runs.checkpoint import save_checkpoint
from inference import Recognizer
from network import input_spec
from tests.helpers.recognizer import CLASSES, SPEC, by_hand, content_of, decode, make_video, run

# --- the answer


def test_probabilities_are_those_computed_by_hand(recognizer, video):
    expected = by_hand(video, stride=3)
    prediction = recognizer.predict(video)
    assert np.allclose([window.probabilities for window in prediction.windows], expected, atol=1e-5)
    assert np.allclose(prediction.probabilities, expected.mean(axis=0), atol=1e-5)
    assert np.ptp(expected, axis=0).max() > 1e-3, "the windows must differ, or the test sees nothing"
    assert prediction.num_frames == 20 and prediction.fps == 25.0 and prediction.num_damaged == 0
    label, probability = prediction.top(1)[0]
    assert label == CLASSES[int(expected.mean(axis=0).argmax())]
    assert probability == pytest.approx(float(expected.mean(axis=0).max()), abs=1e-5)


def test_the_answer_by_hand_is_the_answer_of_classify(recognizer, video):
    prediction = recognizer.classify(video, num_clips=14)  # 20 frames, span 7: all starts
    assert [window.first_frame for window in prediction.windows] == list(range(14))
    assert np.allclose([w.probabilities for w in prediction.windows], by_hand(video, stride=1), atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 64])
def test_the_answer_does_not_depend_on_the_batch_size(checkpoint, video, batch_size):
    one = Recognizer(checkpoint, device="cpu", stride=1, batch_size=5, amp="off").predict(video)
    other = Recognizer(checkpoint, device="cpu", stride=1, batch_size=batch_size, amp="off").predict(video)
    assert len(one.windows) == len(other.windows) == 14
    assert np.abs(one.probabilities - other.probabilities).max() < 1e-5


def test_a_short_video_repeats(recognizer, tmp_path):
    video = make_video(tmp_path / "short.mp4", num_frames=3)
    prediction = recognizer.predict(video)
    [window] = prediction.windows
    assert (window.first_frame, window.last_frame) == (0, 2)
    assert np.allclose(prediction.probabilities, by_hand(video, stride=3)[0], atol=1e-5)


def test_a_network_with_a_frame_rate_sees_other_frames(tmp_path):
    save_checkpoint(tmp_path / "best.pth", content_of(input_spec=replace(SPEC, frame_stride=1, fps=10.0).to_dict()))
    video = make_video(tmp_path / "clip.mp4", rate=25)
    prediction = Recognizer(tmp_path / "best.pth", device="cpu", stride=4, amp="off").predict(video)  # frames 0 2 5 7
    assert [window.last_frame for window in prediction.windows] == [7, 11, 15, 19]
    expected = by_hand(video, stride=4, step=2.5)
    assert np.allclose([window.probabilities for window in prediction.windows], expected, atol=1e-5)


def test_windows_know_their_frames_and_seconds(recognizer, video):
    windows = recognizer.predict(video).windows
    assert [(window.first_frame, window.last_frame) for window in windows] == [(s, s + 6) for s in (0, 3, 6, 9, 12)]
    assert (windows[1].start, windows[1].end) == pytest.approx((3 / 25, 10 / 25))


def test_a_rotated_video_is_recognised_upright(recognizer, tmp_path):
    if not hasattr(av.VideoStream, "set_display_rotation"):
        pytest.skip("this PyAV cannot write a rotation")
    turned = make_video(tmp_path / "turned.mp4", rotation=90)
    prediction = recognizer.predict(turned)
    plain = recognizer.predict(make_video(tmp_path / "plain.mp4"))
    assert np.abs(prediction.probabilities - plain.probabilities).max() > 1e-3

    annotate(turned, prediction, tmp_path / "out.mp4")
    pictures, upright = decode(tmp_path / "out.mp4"), np.rot90(decode(turned)[0])
    factor = readable_factor(48, 64)
    assert pictures[0].shape == (factor * 64, factor * 48, 3)
    small = cv2.resize(pictures[0], (48, 64), interpolation=cv2.INTER_AREA)
    assert np.abs(small[50:].astype(int) - upright[50:]).mean() < 4


# --- windows


@pytest.mark.parametrize(
    ("num_frames", "count"), [(1, 1), (15, 1), (16, 1), (17, 1), (24, 2), (25, 2), (32, 3), (104, 12)]
)
def test_there_are_floor_of_t_minus_16_by_8_plus_1_windows(num_frames, count):
    """Trap 14: range(0, T - 16, 8) loses the last aligned window, and gives none for T = 16."""
    starts = [first for first, _, _ in SlidingClips(range(num_frames), np.array, clip_len=16, step=1, stride=8)]
    assert starts == [8 * number for number in range(count)]


@pytest.mark.parametrize("step", [1, 2, 2.5])
@pytest.mark.parametrize("stride", [1, 2, 3, 8, 20])
def test_window_count_and_content(step, stride):
    span = clip_span(4, step)
    for num_frames in (*range(1, span + 2), span + stride - 1, span + stride, span + 3 * stride + 1):
        clips = SlidingClips(range(num_frames), np.array, 4, step, stride)
        found = [(first, last, clip.tolist()) for first, last, clip in clips]
        assert len(found) == max(num_frames - span, 0) // stride + 1
        assert [first for first, _, _ in found] == [stride * number for number in range(len(found))]
        assert all(clip == [int(first + i * step) % num_frames for i in range(4)] for first, _, clip in found)
        assert all(last == min(first + span, num_frames) - 1 for first, last, _ in found)
        assert clips.num_frames == num_frames


@pytest.mark.parametrize("stride", [1, 3, 8, 40])
def test_memory_does_not_grow_with_the_video(stride):
    span, alive, most, prepared = clip_span(4, 3), set(), 0, []

    def prepare(index: int) -> np.ndarray:
        nonlocal most
        pixels = np.full((2, 2, 3), index)
        alive.add(index)
        weakref.finalize(pixels, alive.discard, index)
        most = max(most, len(alive))
        prepared.append(index)
        return pixels

    for _ in SlidingClips(range(500), prepare, 4, 3, stride):
        pass
    assert 4 <= most <= span + 1
    assert len(prepared) == len(set(prepared)), "prepared once"
    if stride == 40:
        assert len(prepared) <= span + 4 * 500 / 40, "frames that no window shows are not prepared"


def test_every_frame_is_decoded_once(recognizer, video, monkeypatch):
    seen = []
    inside = VideoReader.__iter__

    def counted(reader):
        for frame in inside(reader):
            seen.append(frame.pts)
            yield frame

    monkeypatch.setattr(VideoReader, "__iter__", counted)
    assert recognizer.predict(video).num_frames == len(seen) == len(set(seen)) == 20


# --- weights from elsewhere


@pytest.fixture
def state_file(tmp_path) -> Path:
    torch.save(content_of()["model"], tmp_path / "state.pth")
    return tmp_path / "state.pth"


def test_from_model_takes_names_from_a_list_or_a_file(state_file, video, tmp_path, recognizer):
    (tmp_path / "labels.txt").write_text("\n".join(f"{i} {name}" for i, name in enumerate(CLASSES, 1)) + "\n")
    from_list = Recognizer.from_model("r3d_10", state_file, CLASSES, device="cpu")
    from_file = Recognizer.from_model("r3d_10", str(state_file), tmp_path / "labels.txt", device="cpu")
    assert from_list.classes == from_file.classes == CLASSES
    assert from_list.input_spec == input_spec("r3d_10")
    assert not from_list.model.training
    assert torch.equal(from_list.model.fc.weight, recognizer.model.fc.weight)
    assert from_list.predict(video).probabilities.sum() == pytest.approx(1)


def test_from_model_takes_names_and_input_from_a_checkpoint(checkpoint, video, recognizer):
    other = Recognizer.from_model("r3d_10", checkpoint, device="cpu", stride=3, amp="off", batch_size=4)
    assert other.classes == CLASSES and other.input_spec == SPEC
    assert np.allclose(other.predict(video).probabilities, recognizer.predict(video).probabilities, atol=1e-6)


def test_numbers_that_belong_to_the_names_stay(tmp_path):
    (tmp_path / "labels.txt").write_text("1 hand\n2 hands\n\n7 hands\n")
    assert read_labels(tmp_path / "labels.txt") == ["1 hand", "2 hands", "7 hands"]


def test_weights_without_names_need_labels(state_file):
    with pytest.raises(UserError, match=r"state.pth does not name its 6 classes. Give --labels FILE"):
        Recognizer.from_model("r3d_10", state_file)


def test_labels_must_be_as_many_as_the_head_has(state_file):
    with pytest.raises(UserError, match=r"has 6 classes, and the list has 2 names"):
        Recognizer.from_model("r3d_10", state_file, ["a", "b"])


def test_no_answer_is_given_by_chance(tmp_path):
    state = content_of()["model"]
    torch.save({name: value for name, value in state.items() if not name.startswith("fc.")}, tmp_path / "trunk.pth")
    with pytest.raises(UserError, match=r"trunk.pth has no last layer \(fc.weight\)"):
        Recognizer.from_model("r3d_10", tmp_path / "trunk.pth", CLASSES)
    torch.save({name: value for name, value in state.items() if name != "fc.bias"}, tmp_path / "no_bias.pth")
    with pytest.raises(UserError, match=r"no_bias.pth has no fc.bias for r3d_10"):
        Recognizer.from_model("r3d_10", tmp_path / "no_bias.pth", CLASSES)


def test_a_diverged_network_is_an_error(tmp_path, video):
    content = content_of()
    content["model"]["fc.bias"] = torch.full_like(content["model"]["fc.bias"], float("nan"))
    save_checkpoint(tmp_path / "nan.pth", content)
    for amp in ("off", "bf16"):
        with pytest.raises(UserError, match="not a number"):
            Recognizer(tmp_path / "nan.pth", device="cpu", amp=amp).predict(video)


# --- the command line


def test_the_command_line_gives_the_answer_of_the_class(checkpoint, recognizer, video, tmp_path, capsys, monkeypatch):
    argv = [video, "--checkpoint", checkpoint, "--stride", 3, "--top", 2, "--device", "cpu", "--amp", "off"]
    argv += ["--json", tmp_path / "new/a.json", "--output", tmp_path / "out.mp4"]
    status, out, err = run(argv, capsys, monkeypatch)
    assert (status, err) == (0, "")
    prediction = recognizer.predict(video)
    top = [f"  {100 * probability:5.1f} %  {label}" for label, probability in prediction.top(2)]
    facts = f"{video}: 20 frames, 0.8 s at 25 fps, 5 windows"
    assert out.splitlines() == [facts, *top, f"  -> {tmp_path / 'out.mp4'}"]
    assert len(decode(tmp_path / "out.mp4")) == 20

    answer = json.loads((tmp_path / "new/a.json").read_text())
    assert (answer["video"], answer["fps"], answer["num_frames"]) == (str(video), 25.0, 20)
    assert answer["classes"] == CLASSES
    assert [entry["label"] for entry in answer["top"]] == [label for label, _ in prediction.top(2)]
    assert answer["top"][0]["probability"] == pytest.approx(prediction.top(1)[0][1], abs=1e-5)
    assert len(answer["windows"]) == 5
    window = answer["windows"][1]
    assert (window["first_frame"], window["last_frame"], window["start"], window["end"]) == (3, 9, 0.12, 0.4)
    assert window["top"][0] == {"label": window["label"], "probability": window["probability"]}
    assert window["probability"] == pytest.approx(float(prediction.windows[1].probabilities.max()), abs=1e-5)
    assert len(window["top"]) == 2


def test_several_sources_each_get_their_own_file(checkpoint, tmp_path, capsys, monkeypatch):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    sources = [
        make_video(tmp_path / "a" / "clip.avi", 8, codec="mpeg4"),
        make_video(tmp_path / "a" / "clip.mp4", 9),
        make_video(tmp_path / "b" / "Clip.mp4", 10),
    ]
    broken = tmp_path / "a" / "broken.mp4"
    broken.write_bytes(b"no video")
    argv = [*sources[:1], broken, *sources[1:], "--checkpoint", checkpoint, "--output", tmp_path / "out"]
    status, out, err = run([*argv, "--json", tmp_path / "all.json"], capsys, monkeypatch)
    assert status == 1
    assert err == f"{broken} cannot be used as a video: it cannot be opened as a video.\n"
    counts = {path.name: len(decode(path)) for path in (tmp_path / "out").iterdir()}
    assert counts == {"clip.mp4": 8, "clip-2.mp4": 9, "Clip-3.mp4": 10}
    assert [answer["num_frames"] for answer in json.loads((tmp_path / "all.json").read_text())] == [8, 9, 10]
    assert sum(": 1 window" in line or ", 1 window" in line for line in out.splitlines()) == 3


def bad_inputs(tmp_path: Path, video: Path, checkpoint: Path) -> dict[str, tuple[list, int, str]]:
    """name -> (arguments, exit status, what the one line says)"""
    (tmp_path / "text.mp4").write_text("hello")
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "notes.txt").write_text("FFmpeg would show this")
    (tmp_path / "other.pth").write_bytes(b"x")
    (tmp_path / "labels.txt").write_text("a\nb\n")
    (tmp_path / "latin.txt").write_bytes("Öl\n".encode("latin-1"))
    (tmp_path / "file").touch()
    (tmp_path / "nothing").mkdir()
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.rate = 44100
        container.mux([*stream.encode(sound), *stream.encode(None)])
    whole = make_video(tmp_path / "whole.avi", codec="mpeg4").read_bytes()
    (tmp_path / "header.avi").write_bytes(whole[: whole.index(b"movi") + 4])
    (tmp_path / "link.mp4").symlink_to(video)

    use = ["--checkpoint", checkpoint]
    foreign = ["--model", "r3d_10", "--weights"]
    return {
        "missing": ([tmp_path / "no.mp4", *use], 1, "There is no file .*no.mp4"),
        "folder": ([tmp_path / "nothing", *use], 1, "There is no video and no frame"),
        "text": ([tmp_path / "text.mp4", *use], 1, "text.mp4 cannot be used as a video: it cannot be opened"),
        "empty": ([tmp_path / "empty.mp4", *use], 1, "empty.mp4 cannot be used as a video: the file is empty"),
        "name of a text": ([tmp_path / "notes.txt", *use], 1, "notes.txt is not a video"),
        "sound": ([tmp_path / "sound.mp4", *use], 1, "sound.mp4 cannot be used as a video: it has no video stream"),
        "no frames": ([tmp_path / "header.avi", *use], 1, "header.avi cannot be used as a video: no frame"),
        "no checkpoint": ([video, "--checkpoint", tmp_path / "no.pth"], 1, "no run and no checkpoint"),
        "other checkpoint": ([video, "--checkpoint", tmp_path / "other.pth"], 1, "no PyTorch checkpoint"),
        "neither": ([video], 2, "Give --checkpoint FILE, or --model"),
        "both": ([video, *use, "--model", "r3d_10"], 2, "Leave --model out"),
        "checkpoint and weights": ([video, *use, "--weights", "x.pth"], 2, "Leave --weights out"),
        "checkpoint and labels": ([video, *use, "--labels", "x.txt"], 2, "Leave --labels out"),
        "model alone": ([video, "--model", "r3d_18"], 2, r"--model r3d_18 needs --weights kinetics400 or FILE"),
        "unknown model": ([video, "--model", "r3d_17", "--weights", "x.pth"], 2, "Did you mean 'r3d_18'"),
        "labels": ([video, *foreign, checkpoint, "--labels", tmp_path / "labels.txt"], 1, "6 classes, and --labels"),
        "no labels": ([video, *foreign, checkpoint, "--labels", tmp_path / "no.txt"], 1, "no.txt cannot be read"),
        "latin": (
            [video, *foreign, checkpoint, "--labels", tmp_path / "latin.txt"],
            1,
            "is not UTF-8, but of an older encoding",
        ),
        "no names": ([video, *foreign, checkpoint, "--labels", tmp_path / "file"], 1, "file is empty"),
        "itself": ([video, *use, "--output", video], 2, "would be overwritten"),
        "itself, linked": ([video, *use, "--output", tmp_path / "link.mp4"], 2, "would be overwritten"),
        "json over source": ([video, *use, "--json", video], 2, "would be overwritten"),
        "json over network": ([video, *use, "--json", checkpoint], 2, "would be overwritten"),
        "json and output": ([video, *use, "--json", "x.mp4", "--output", "x.mp4"], 2, "need different names; x.mp4"),
        "json is a folder": ([video, *use, "--json", tmp_path], 2, "is a folder"),
        "ending": ([video, *use, "--output", tmp_path / "out.avi"], 2, "must end in .mp4, .mov, .mkv, .gif"),
        "one file for two": ([video, video, *use, "--output", tmp_path / "o.mp4"], 2, "is one file.* 2 sources"),
        "under a file": ([video, *use, "--output", tmp_path / "file/out.mp4"], 1, "cannot be written"),
        "device": ([video, *use, "--device", "gpu"], 2, "Unknown device 'gpu'"),
        "smooth, unseen": ([video, *use, "--smooth", "3"], 2, "--smooth applies to labels over time"),
        "stride, unused": ([video.parent, *use, "--csv", "x.csv", "--stride", "4"], 2, "--stride applies to windows"),
        "fps of a file": ([video, *use, "--fps", "25"], 2, "--fps is for folders of frames"),
        "timeout of a file": ([video, *use, "--timeout", "3"], 2, "--timeout is for cameras and streams"),
    }


def test_bad_input_is_one_line(checkpoint, video, tmp_path, capsys, monkeypatch):
    before = video.read_bytes(), checkpoint.read_bytes()
    for name, (argv, expected, message) in bad_inputs(tmp_path, video, checkpoint).items():
        files = sorted(tmp_path.iterdir())
        status, out, err = run(argv, capsys, monkeypatch)
        assert (status, out) == (expected, ""), name
        assert len(err.splitlines()) == 1, (name, err)
        assert re.search(message, err), (name, err)
        assert sorted(tmp_path.iterdir()) == files, f"{name}: something was written"
    assert (video.read_bytes(), checkpoint.read_bytes()) == before


@pytest.mark.parametrize("flag", ["--stride", "--top", "--batch-size"])
@pytest.mark.parametrize("value", ["0", "-1", "x", "1.5"])
def test_counts_must_be_whole_and_positive(flag, value, capsys, monkeypatch):
    status, _, err = run(["clip.mp4", flag, value], capsys, monkeypatch)
    assert status == 2 and f"{flag}: " in err


def test_a_folder_that_cannot_be_written_is_said_before_any_work(checkpoint, video, tmp_path, capsys, monkeypatch):
    if os.geteuid() == 0:
        monkeypatch.setattr(Path, "touch", lambda *_: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    else:
        tmp_path.chmod(0o500)
    monkeypatch.setattr("engine.inference.recognizer.load_recognizer", lambda *_: pytest.fail("work had begun"))
    argv = [video, "--checkpoint", checkpoint, "--output", tmp_path / "out.mp4"]
    status, _, err = run(argv, capsys, monkeypatch)
    assert status == 1 and err.endswith("out.mp4 cannot be written: Permission denied. Choose another folder.\n")


@pytest.mark.skipif(os.geteuid() == 0 if hasattr(os, "geteuid") else True, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_named(checkpoint, video, tmp_path, capsys, monkeypatch):
    (tmp_path / "in/closed").mkdir(parents=True)
    (tmp_path / "in/clip.mp4").write_bytes(video.read_bytes())
    (tmp_path / "in/closed").chmod(0)
    status, _, err = run([tmp_path / "in", "--checkpoint", checkpoint], capsys, monkeypatch)
    assert status == 1 and err == f"The folder {tmp_path / 'in/closed'} cannot be read: Permission denied.\n"
    status, _, err = run([tmp_path / "in/closed/x.mp4", "--checkpoint", checkpoint], capsys, monkeypatch)
    assert status == 1 and err == f"{tmp_path / 'in/closed/x.mp4'} cannot be read: Permission denied.\n"


def test_the_library_refuses_to_write_over_its_source(recognizer, video):
    with pytest.raises(UsageError, match="would be overwritten"):
        annotate(video, recognizer.predict(video), video)


def test_names_that_ffmpeg_reads_as_addresses_or_flags(recognizer, tmp_path, monkeypatch):
    make_video(tmp_path / "plain.mp4").rename(tmp_path / "12:30.mp4")
    monkeypatch.chdir(tmp_path)
    prediction = recognizer.predict("12:30.mp4")
    annotate("12:30.mp4", prediction, "a:b.mp4")
    assert len(decode(tmp_path / "a:b.mp4")) == 20


def test_an_answer_on_half_a_video_is_marked_everywhere(checkpoint, video, tmp_path, capsys, monkeypatch):
    half = make_video(tmp_path / "half.avi", num_frames=100)
    half.write_bytes(half.read_bytes()[: half.stat().st_size // 2])
    argv = [str(half), "--checkpoint", str(checkpoint), "--json", str(tmp_path / "a.json"), "--stride", "8"]
    status, out, err = run([*argv, "--csv", str(tmp_path / "a.csv")], capsys, monkeypatch)
    assert status == 1 and re.search(
        r"half.avi: it breaks off after 2 of 4 s. The answer is from the frames before.", err
    )
    assert "windows" in out and json.loads((tmp_path / "a.json").read_text())["lost"] == "it breaks off after 2 of 4 s"
    assert (tmp_path / "a.csv").read_text().strip().endswith(",it breaks off after 2 of 4 s")
    status, out, err = run([str(video), str(half), *argv[1:3], "--csv", str(tmp_path / "b.csv")], capsys, monkeypatch)
    assert status == 1 and "2 answers, 1 of a video that breaks off" in out and err.count("breaks off") == 1
    status, _, err = run([str(video), *argv[1:]], capsys, monkeypatch)
    assert status == 0 and json.loads((tmp_path / "a.json").read_text())["lost"] is None


def test_as_a_script_it_ends_with_one_line_and_a_status(tmp_path):
    argv = [sys.executable, "inference.py", str(tmp_path / "no.mp4")]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2
    assert done.stderr == "No network is given. Give --checkpoint FILE, or --model NAME with --weights NAME or FILE.\n"
