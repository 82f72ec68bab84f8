"""Toy data that many tests share. What is session scoped belongs to all: copy it before you change it."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

import mypath
from dataloaders.frames.settings import Settings
from dataloaders.preprocess.run import preprocess
from dataloaders.sources.data_source import DataSource
from tests.helpers.toy import TOY_SIZE, make_toy_videos, write_naming_video


def pytest_configure(config: pytest.Config) -> None:
    """Hides the GPU from all tests but those marked gpu, and from their child processes: the others are the same on
    every machine."""
    if not config.option.markexpr.startswith("gpu"):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.hookimpl(tryfirst=True)  # before slow tests are deselected
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks tests that need exported files as slow, because export takes 15 seconds in each test process."""
    for item in items:
        if "toy_export" in item.fixturenames and not item.get_closest_marker("gpu"):
            item.add_marker("slow")


@pytest.fixture(scope="session", autouse=True)
def one_decoder():
    """Extraction and audit start one decoding process, not one a processor: starting it takes longer than a few toy
    videos do, and pytest-xdist keeps the processors busy."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dataloaders.preprocess.worker.num_processors", lambda: 1)
        patch.setattr("dataloaders.audit.run.num_processors", lambda: 1)
        yield


@pytest.fixture(scope="session")
def toy_videos(tmp_path_factory) -> Path:
    """3 classes x 4 groups x 2 clips of 20 frames, named as in UCF101: by its split 1, 12 train, 6 validate, 6 test."""
    return make_toy_videos(tmp_path_factory.mktemp("toy") / "videos")


@pytest.fixture(scope="session")
def toy_source(toy_videos) -> DataSource:
    return DataSource("toy", toy_videos, toy_videos.with_name("frames"), layout="ucf101", flip=True)


@pytest.fixture(scope="session")
def toy_frames(toy_source) -> Path:
    """The folder of the toy videos' frames at 80x60."""
    preprocess(toy_source, Settings(TOY_SIZE))
    return toy_source.frames_for(TOY_SIZE)


@dataclass(frozen=True)
class ToyExport:
    """A checkpoint (toy_checkpoint) and its exports to ONNX and torch.export."""

    checkpoint: Path
    onnx: Path
    pt2: Path

    def __getitem__(self, suffix: str) -> Path:
        return {".onnx": self.onnx, ".pt2": self.pt2}[suffix]


@pytest.fixture(scope="session")
def toy_checkpoint(tmp_path_factory, toy_source, toy_frames) -> Path:
    """A checkpoint for the toy data set, whose network gives each class another probability."""
    from dataloaders.frame_set import open_frames
    from tests.helpers.exports import SPEC, save_toy_checkpoint

    split = open_frames(toy_source, SPEC, "1").split
    return save_toy_checkpoint(tmp_path_factory.mktemp("export") / "best.pth", split)


@pytest.fixture(scope="session")
def toy_export(toy_checkpoint) -> ToyExport:
    pytest.importorskip("onnxscript", reason="pip install onnx onnxscript onnxruntime")
    from engine.export.write import export_model
    from engine.runs.checkpoint import load_model

    files = ToyExport(toy_checkpoint, toy_checkpoint.with_name("toy.onnx"), toy_checkpoint.with_name("toy.pt2"))
    for path in (files.onnx, files.pt2):
        export_model(load_model(files.checkpoint), path)
    return files


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    """Of the small network of tests/recognizer.py."""
    from engine.runs.checkpoint import save_checkpoint
    from tests.helpers.recognizer import content_of

    path = tmp_path_factory.mktemp("run") / "best.pth"
    save_checkpoint(path, content_of())
    return path


@pytest.fixture(scope="session")
def recognizer(checkpoint):
    from inference import Recognizer

    return Recognizer(checkpoint, device="cpu", stride=3, amp="off", batch_size=4)


@pytest.fixture(scope="session")
def video(tmp_path_factory) -> Path:
    """20 frames; to the recognizer 5 windows."""
    from tests.helpers.recognizer import make_video

    return make_video(tmp_path_factory.mktemp("video") / "clip.mp4")


@pytest.fixture(scope="session")
def videos(tmp_path_factory) -> list[Path]:
    """20, 33, 3 and 180 frames in three containers; to the recognizer 5, 9, 1 and 58 windows."""
    folder = tmp_path_factory.mktemp("videos")
    names = ("clip.mp4", "clip.avi", "short.mkv", "long.mp4")
    lengths = (20, 33, 3, 180)
    return [write_naming_video(folder / name, n, n % 3) for name, n in zip(names, lengths, strict=True)]


@pytest.fixture(scope="module")
def server(recognizer):
    """A service whose limits (tests/service.py) a small video reaches."""
    from tests.helpers.service import LIMITS, running

    with running(recognizer, LIMITS, decoders=2) as server:
        yield server


@pytest.fixture
def gate(recognizer):
    """The recognizer, closed: it answers after gate.open.set(), and at the end of the test at the latest."""
    from tests.helpers.service import Gate

    gate = Gate(recognizer)
    yield gate
    gate.open.set()


@dataclass(frozen=True)
class ToyProject:
    name: str  # of the data set, in mypath.DATASETS
    source: DataSource
    frames: Path  # at 80x60
    runs: Path


@pytest.fixture
def toy_project(monkeypatch, tmp_path, toy_source, toy_frames) -> ToyProject:
    """mypath.py as if it had been edited for the toy data set, whose frames are extracted, and runs in a new folder."""
    entry = {"layout": "ucf101", "videos": str(toy_source.videos), "frames": str(toy_source.frames), "flip": True}
    monkeypatch.setattr(mypath, "DATASETS", {"toy": entry})
    monkeypatch.setattr(mypath, "DEFAULT_DATASET", "toy")
    monkeypatch.setattr(mypath, "RUNS", str(tmp_path / "run"))
    monkeypatch.setattr("evaluate.num_processors", lambda: 0)  # no worker processes, which start in a tenth of a second
    # drawing these takes as long as a tiny run itself
    monkeypatch.setattr("engine.training.records.save_curves", lambda _: None)
    monkeypatch.setattr("engine.evaluation.report.draw_confusion", lambda *_: np.zeros((8, 8, 3), np.uint8))
    return ToyProject("toy", toy_source, toy_frames, tmp_path / "run")


@pytest.fixture(scope="module")
def one_thread():
    """Small tensors are slower with more, and equal bits are asked for at equal numbers of threads.

    For a whole module, so that its fixtures of that scope compute with one, too.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
