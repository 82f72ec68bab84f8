"""What `make demo` promises, kept: it learns motion, and nothing but motion."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import demo
import mypath
import train
from common.files import ROOT
from dataloaders.crops import crop_offsets
from dataloaders.dataset import EvalDataset
from dataloaders.frame_set import open_frames
from dataloaders.loader import ClipLoader
from dataloaders.sources.demo import HEIGHT, OPPOSITE, WIDTH, object_boxes
from dataloaders.sources.find import find_source
from dataloaders.video import decode_frames
from engine.evaluation.evaluate import evaluate
from engine.runs.checkpoint import load_model
from inference import Recognizer


@pytest.mark.slow
def test_the_demo_learns_motion_and_writes_its_answer_on_a_video(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(mypath, "RUNS", str(tmp_path / "run"))
    demo.main([])
    lines = capsys.readouterr().out.splitlines()[-5:]
    accuracy = float(re.search(r"Test accuracy +([\d.]+) %", "\n".join(lines)).group(1))
    assert accuracy >= 97

    run_dir = tmp_path / "run" / "r3d_10-demo-000"
    [annotated] = run_dir.glob("*.mp4")
    assert sum(1 for _ in decode_frames(annotated)) > 30
    assert str(annotated.name) in "\n".join(lines)

    trained = load_model(run_dir / "best.pth")
    frame_set = open_frames(find_source("demo", mypath.DATASETS, ROOT), trained.input_spec)
    results = {}
    for order in ("normal", "shuffled", "reversed", "frozen"):
        dataset = EvalDataset(frame_set, trained.input_spec, "test", 10, 1, order)
        results[order] = evaluate(trained.model, ClipLoader(dataset, 3, 2), trained.input_spec, torch.device("cpu"))
    assert results["normal"].top1 == pytest.approx(accuracy, abs=0.01)
    assert results["shuffled"].top1 <= 60
    assert results["frozen"].top1 <= 25
    opposite = np.array([trained.classes.index(OPPOSITE[name]) for name in trained.classes])
    result = results["reversed"]
    assert 100 * np.mean(result.probs.argmax(1) == opposite[result.labels]) >= 80

    recognizer = Recognizer(run_dir, device="cpu", amp="off")
    shares = [heat_on_the_object(recognizer, frame_set.source.videos / row.video) for row in frame_set.part("test")]
    assert len(shares) == 224 and np.mean(np.array(shares) > 0.5) >= 0.8


def heat_on_the_object(recognizer: Recognizer, video: Path) -> float:
    """Which part of the heat that --explain finds lies in the moving object's box."""
    prediction = recognizer.predict(video)
    heat = recognizer.explain(video, prediction).heat.astype(np.float64)  # (T, s, s)
    name, group, clip = re.fullmatch(r"v_(\w+)_g(\d+)_c(\d+)", video.stem).groups()
    boxes = object_boxes(name, int(group), int(clip))  # (T, 4) in pixels of the video
    spec, size = recognizer.input_spec, heat.shape[1]
    [(top, left)] = crop_offsets(*spec.resize, spec.crop_size)
    in_crop = boxes * np.tile(np.array(spec.resize) / (WIDTH, HEIGHT), 2) - np.tile([left, top], 2)
    edges = np.linspace(0, spec.crop_size, size + 1)

    def overlaps(low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """(T,) from, to in pixels of the crop -> (T, s): how much of each place of the map lies between."""
        inside = np.minimum(high[:, None], edges[1:]) - np.maximum(low[:, None], edges[:-1])
        return inside.clip(0) / (spec.crop_size / size)

    across = overlaps(in_crop[:, 0], in_crop[:, 2])[:, None]
    down = overlaps(in_crop[:, 1], in_crop[:, 3])[:, :, None]
    return float((heat * across * down).sum() / heat.sum())


@pytest.mark.slow
@pytest.mark.parametrize("model", ["r2plus1d_10"])
def test_the_other_small_network_learns_the_demo_too(tmp_path, monkeypatch, model):
    monkeypatch.setattr(mypath, "RUNS", str(tmp_path / "run"))
    from engine.runs.tracking import read_metrics
    from engine.training.config import TrainConfig

    run_dir = train.main(TrainConfig(dataset="demo", model=model))
    assert read_metrics(run_dir)[-1]["best/val_top1"] >= 95


@pytest.mark.slow
def test_the_notebook_runs_from_the_first_cell_to_the_last(tmp_path):
    """In a copy of the project, with fewer epochs."""
    nbclient = pytest.importorskip("nbclient", reason="pip install nbclient ipykernel (make test-slow does)")
    pytest.importorskip("ipykernel", reason="pip install nbclient ipykernel (make test-slow does)")
    import nbformat

    leave_out = shutil.ignore_patterns(".*", "run", "tests", "__pycache__", "mypath_local.py")
    shutil.copytree(ROOT, tmp_path / "project", ignore=leave_out)
    if (ROOT / ".cache" / "demo").is_dir():  # videos and frames of the demo, if they are made
        (tmp_path / "project" / ".cache").mkdir()
        (tmp_path / "project" / ".cache" / "demo").symlink_to(ROOT / ".cache" / "demo")
    notebook = nbformat.read(tmp_path / "project" / "docs" / "quickstart.ipynb", as_version=4)
    [training] = [cell for cell in notebook.cells if "epochs=6" in cell.source and cell.cell_type == "code"]
    training.source = training.source.replace("epochs=6", "epochs=2")
    where = {"metadata": {"path": str(tmp_path / "project" / "docs")}}
    nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3", resources=where).execute()

    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    kinds = [kind for output in outputs for kind in output.get("data", {}) if kind.startswith("image/")]
    assert kinds == ["image/png", "image/png", "image/jpeg", "image/gif"]
    text = "".join(output.get("text", "") for output in outputs)
    assert "800 videos of 200 recordings" in text and "video top-1" in text and "does not leak" in text
    assert (tmp_path / "project" / "run" / "r3d_10-demo-000" / "answer.gif").is_file()
