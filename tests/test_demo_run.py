"""What `make demo` promises, kept: it learns motion, and nothing but motion."""

import re

import numpy as np
import pytest
import torch

import demo
import mypath
import train
from dataloaders.dataset import EvalDataset, open_frames
from dataloaders.demo import OPPOSITE
from dataloaders.loader import ClipLoader
from dataloaders.source import find_source
from dataloaders.video import decode_frames
from engine.checkpoint import load_model
from engine.errors import ROOT
from evaluate import evaluate


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


@pytest.mark.slow
@pytest.mark.parametrize("model", ["r2plus1d_10"])
def test_the_other_small_network_learns_the_demo_too(tmp_path, monkeypatch, model):
    monkeypatch.setattr(mypath, "RUNS", str(tmp_path / "run"))
    from engine.config import TrainConfig
    from engine.tracking import read_metrics

    run_dir = train.main(TrainConfig(dataset="demo", model=model))
    assert read_metrics(run_dir)[-1]["best/val_top1"] >= 95
