"""A network of six classes, small and not trained, whose answers differ; videos for it, and its answers by hand."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch

import inference
from common.cli import run_cli
from engine.inference.prediction import Prediction, Window
from network import create_model, input_spec

CLASSES = ["Archery", "Bowling", "Clean and jerk", "Diving", "Fencing", "Golf"]
SPEC = replace(input_spec("r3d_10"), clip_len=4, frame_stride=2, resize=(40, 30), crop_size=28)  # span 7


def content_of(classes: Sequence[str] = CLASSES, **changes) -> dict:
    """What a checkpoint holds of it."""
    torch.manual_seed(5)
    model = create_model("r3d_10", len(classes), **changes.get("model_options", {}))
    with torch.no_grad():
        model.fc.weight.mul_(50)  # else all answers are alike
    content = {"model": model.state_dict(), "config": {"model": "r3d_10"}, "classes": list(classes)}
    return {**content, "input_spec": SPEC.to_dict(), **changes}


def make_frames(num_frames: int, width: int, height: int) -> list[np.ndarray]:
    """Smooth BGR pictures, each another one, and no two sides alike."""
    y, x = np.mgrid[0:height, 0:width]
    blue, green = 40 + 160 * x // max(width - 1, 1), 40 + 160 * y // max(height - 1, 1)
    return [np.stack([blue, green, np.full_like(x, 20 + 7 * i % 200)], 2).astype(np.uint8) for i in range(num_frames)]


def make_video(path: Path, num_frames=20, width=64, height=48, codec="libx264", rate=25, rotation=0, aspect=None):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv444p" if width % 2 else "yuv420p"
        stream.codec_context.qmin, stream.codec_context.qmax = 1, 4
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        if rotation:
            stream.set_display_rotation(rotation)
        for frame in make_frames(num_frames, width, height):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="bgr24")))
        container.mux(stream.encode(None))
    return path


def decode(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]


def by_hand(path: Path, stride: int, spec=SPEC, step: float = 2.0) -> np.ndarray:
    """(windows, classes): each window on its own, from frames that are all in memory."""
    model = create_model("r3d_10", len(CLASSES)).eval()
    model.load_state_dict(content_of()["model"])
    frames = [cv2.resize(frame, spec.resize)[1:29, 6:34, ::-1] / 255.0 for frame in decode(path)]
    frames = [(frame - np.array(spec.mean)) / np.array(spec.std) for frame in frames]

    answers, first = [], 0
    while not answers or first + int(step * (spec.clip_len - 1)) < len(frames):
        clip = [frames[int(first + i * step) % len(frames)] for i in range(spec.clip_len)]
        x = torch.tensor(np.stack(clip).transpose(3, 0, 1, 2)[None], dtype=torch.float32)  # (1, 3, T, H, W)
        with torch.no_grad():
            answers.append(torch.softmax(model(x), 1)[0].numpy())
        first += stride
    return np.stack(answers)


def run(argv: list, capsys, monkeypatch) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of `python inference.py argv`."""
    monkeypatch.setattr(sys, "argv", ["inference.py", *map(str, argv)])
    with pytest.raises(SystemExit) as ended:
        run_cli(inference.main)
    return ended.value.code, *capsys.readouterr()


def prediction_of(rows: list[list[float]], num_frames: int, stride: int = 4, span: int = 8) -> Prediction:
    """(probability of a, of b) for each window"""
    windows = [
        Window(i * stride, i * stride + span - 1, None, None, np.array(row, np.float32)) for i, row in enumerate(rows)
    ]
    return Prediction("x.mp4", 10.0, num_frames, 0, ["a", "b"], np.mean(rows, axis=0), windows)
