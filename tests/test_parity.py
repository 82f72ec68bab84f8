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

from pathlib import Path

import numpy as np
import pytest

from dataloaders.dataset import EvalDataset, open_frames
from inference import Recognizer
from tests.exports import SPEC

ARITHMETIC = 1e-5  # of a probability
CODEC = 0.03  # of a probability: seen are up to 0.01
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
def recognizer(toy_export) -> Recognizer:
    return Recognizer(toy_export.checkpoint, device="cpu", amp="off")


def by_window(recognizer: Recognizer, video: Path) -> np.ndarray:
    """(N, num_classes)"""
    return np.stack([window.probabilities for window in recognizer.classify(video, NUM_CLIPS).windows])


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


@pytest.mark.parametrize("suffix", [".pth", ".onnx", ".pt2"])
def test_the_service_answers_as_inference_does(clips, recognizer, toy_export, suffix):
    pytest.importorskip("fastapi", reason="pip install fastapi uvicorn python-multipart")
    from tests.service import running

    behind = recognizer if suffix == ".pth" else Recognizer(toy_export[suffix], device="cpu")
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
