"""One clip, one answer, on whatever way it comes: frames on disk, the video itself, an exported file, the service.

A clip of the toy videos reaches the network as

    JPEG folders     video -> 80x60 -> JPEG -> the square        evaluate.py
    raw video        video -> 80x60 -> the square                inference.py
    exported file    video -> 80x60 -> the square, inside        .onnx, .pt2
    service          the upload -> as for a raw video            serve.py

The ways from the video see the same pixels, so they differ by the order in which floating-point numbers are added. JPEG
of quality 95 changes a pixel by 1 or 2 levels: that is the codec's error, and all that may lie between the first and
the others.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dataloaders.dataset import EvalDataset
from dataloaders.frame_set import of_frames, open_frames
from dataloaders.frames.settings import Settings
from dataloaders.preprocess.run import preprocess
from dataloaders.sources.data_source import DataSource
from engine.inference.windows import evenly_spaced_clips
from inference import Recognizer
from tests.helpers.exports import SPEC
from tests.helpers.toy import TOY_SIZE, frames_of

ARITHMETIC = 1e-5  # of a probability
CODEC = 0.01  # of a probability: seen are up to 0.005; the clip one frame later differs by 0.027
LEVELS = 2.0  # of 255, in the mean over a clip: seen are up to 1
NUM_CLIPS = 3


@pytest.fixture(scope="module")
def clips(toy_source, toy_frames) -> list[tuple[Path, np.ndarray]]:
    """The videos of the test list, and what evaluation reads of each, (N, T, S, S, 3) uint8."""
    frame_set = open_frames(toy_source, SPEC, "1")
    dataset = EvalDataset(frame_set, SPEC, "test", NUM_CLIPS)
    found = []
    for position, row in enumerate(dataset.rows):
        out = np.empty(dataset.clip_shape, dtype=np.uint8)
        dataset.load(0, position, out)
        found.append((toy_source.videos / row.video, out))
    return found


@pytest.fixture(scope="module")
def recognizer(toy_checkpoint) -> Recognizer:
    return Recognizer(toy_checkpoint, device="cpu", amp="off")


def by_window(recognizer: Recognizer, video: Path) -> np.ndarray:
    """(N, num_classes)"""
    return np.stack([window.probabilities for window in recognizer.classify(video, NUM_CLIPS).windows])


def from_service(recognizer: Recognizer, videos: list[Path], starts: list[int]) -> list[np.ndarray]:
    """(N, num_classes) for each video: of the windows that begin where evaluation's clips do. Its windows begin at each
    frame."""
    pytest.importorskip("fastapi", reason="pip install fastapi uvicorn python-multipart")
    from tests.helpers.service import running

    answers = []
    with running(recognizer, decoders=2) as server:
        for video in videos:
            answer = server.send(video, video.name, stride=1, top=len(recognizer.classes)).json()
            windows = {window["first_frame"]: window["top"] for window in answer["windows"]}
            named = [{entry["label"]: entry["probability"] for entry in windows[start]} for start in starts]
            answers.append(np.array([[probs[name] for name in recognizer.classes] for probs in named]))
    return answers


@pytest.mark.slow
def test_one_clip_has_one_answer_on_every_way(clips, recognizer, toy_export):
    videos = [video for video, _ in clips]
    starts = [window.first_frame for window in recognizer.classify(videos[0], NUM_CLIPS).windows]
    assert len(set(starts)) == NUM_CLIPS
    onnx, pt2 = (Recognizer(toy_export[suffix], device="cpu") for suffix in (".onnx", ".pt2"))
    ways = {
        "raw video": [by_window(recognizer, video) for video in videos],
        "onnx": [by_window(onnx, video) for video in videos],
        "pt2": [by_window(pt2, video) for video in videos],
        "service": from_service(recognizer, videos, starts),
        "service of an onnx": from_service(onnx, videos, starts),
    }
    folders = np.stack([recognizer.probabilities(stored) for _, stored in clips])  # (videos, N, num_classes)
    for name, answers in ways.items():
        assert np.abs(np.stack(answers) - np.stack(ways["raw video"])).max() <= ARITHMETIC, name
        assert np.abs(np.stack(answers) - folders).max() <= CODEC, name


def test_jpeg_changes_a_pixel_by_a_level_or_two(clips):
    for video, stored in clips:
        _, raw, _ = evenly_spaced_clips(video, SPEC, NUM_CLIPS)
        assert raw.shape == stored.shape
        assert 0 < np.abs(raw.astype(int) - stored).mean() <= LEVELS


def test_jpeg_folders_and_raw_video_differ_by_the_codec(clips, recognizer):
    largest = 0.0
    for video, stored in clips:
        from_frames, from_video = recognizer.probabilities(stored), by_window(recognizer, video)
        assert np.abs(from_frames - from_video).max() <= CODEC
        largest = max(largest, np.abs(from_frames - from_video).max())
    assert largest > 0, "JPEG is not without loss: equal bits would mean that one way had taken the other's frames"


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_an_exported_file_and_the_network_differ_by_arithmetic(clips, recognizer, toy_export, suffix):
    exported = Recognizer(toy_export[suffix], device="cpu")
    for video, _ in clips:
        assert by_window(exported, video) == pytest.approx(by_window(recognizer, video), abs=ARITHMETIC)


@pytest.mark.parametrize("suffix", [".pth", *(pytest.param(s, marks=pytest.mark.slow) for s in (".onnx", ".pt2"))])
def test_the_service_answers_as_inference_does(clips, recognizer, request, suffix):
    pytest.importorskip("fastapi", reason="pip install fastapi uvicorn python-multipart")
    from tests.helpers.service import running

    behind = recognizer if suffix == ".pth" else Recognizer(request.getfixturevalue("toy_export")[suffix], device="cpu")
    video = clips[0][0]
    expected = recognizer.predict(video)
    with running(behind) as server:
        answer = server.send(video, video.name, top=3).json()
    assert len(answer["windows"]) == len(expected.windows)
    for window, ours in zip(answer["windows"], expected.windows, strict=True):
        theirs = {entry["label"]: entry["probability"] for entry in window["top"]}
        assert [theirs[name] for name in recognizer.classes] == pytest.approx(ours.probabilities, abs=ARITHMETIC)


def test_the_answers_that_are_compared_are_no_constants(clips, recognizer):
    """A network that says the same of all would agree on every way."""
    answers = np.concatenate([recognizer.probabilities(stored) for _, stored in clips])
    assert np.ptp(answers, axis=0).max() > 0.1


@pytest.mark.parametrize("settings", [Settings(TOY_SIZE, fps=8.0), Settings(TOY_SIZE, every=2), Settings(60)], ids=str)
def test_frames_stored_otherwise_than_the_source_has_them_are_read_alike_from_a_video(toy_videos, tmp_path, settings):
    """Frames stored at 8 a second: evaluate.py had 87 %, inference on the same videos 47 %."""
    source = DataSource("stored", toy_videos, tmp_path / "frames", layout="ucf101", frames_given=True)
    preprocess(source, settings, workers=1)
    asked = replace(SPEC, frame_stride=2)
    frame_set = open_frames(source, asked, "1", any_aspect=True)
    spec = of_frames(asked, frame_set)
    dataset = EvalDataset(frame_set, spec, "test", 2)
    for position, row in enumerate(dataset.rows):
        stored = np.empty(dataset.clip_shape, dtype=np.uint8)
        dataset.load(0, position, stored)
        _, raw, _ = evenly_spaced_clips(source.videos / row.video, spec, 2)
        for one, other in zip(stored, raw, strict=True):
            steps = [np.diff(frames_of(clip)) for clip in (one, np.asarray(other))]
            assert np.abs(steps[0].sum() - steps[1].sum()) <= 2, (frames_of(one), frames_of(other))
