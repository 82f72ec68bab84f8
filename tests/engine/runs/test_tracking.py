import cv2
import pytest
import torch

from engine.runs.pictures import clip_sheet, save_curves, target_names
from engine.runs.tracking import Tracker, read_metrics
from network import InputSpec
from tests.helpers.training import CONFIG, read_events


def test_tensorboard_reads_what_the_tracker_writes(tmp_path):
    tracker = Tracker(tmp_path)
    tracker.hparams(CONFIG.to_dict())
    tracker.scalars({"train/loss": 2.5, "val/top1": float("nan")}, 20)
    tracker.picture("input/train_clips", clip_sheet(torch.zeros(2, 3, 8, 16, 16), InputSpec()), 0)
    tracker.close()

    events = read_events(tmp_path)
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(20, 2.5)]
    assert "val/top1" not in events.Tags()["scalars"]
    assert events.Tags()["images"] == ["input/train_clips"]
    assert set(events.summary_metadata) >= {"_hparams_/experiment", "_hparams_/session_start_info"}


def test_a_resumed_run_drops_what_was_logged_after_its_checkpoint(tmp_path):
    tracker = Tracker(tmp_path)
    for step in (10, 20, 30):
        tracker.scalars({"train/loss": float(step)}, step)
    for epoch in range(3):
        tracker.epoch({"epoch": epoch, "val/top1": 1.0})
    tracker.close()

    resumed = Tracker(tmp_path, first_step=21)
    resumed.drop_epochs(2)
    resumed.scalars({"train/loss": 99.0}, 30)
    resumed.close()

    assert [event.value for event in read_events(tmp_path).Scalars("train/loss")] == [10.0, 20.0, 99.0]
    assert [record["epoch"] for record in read_metrics(tmp_path)] == [0, 1]


def test_damaged_lines_of_metrics_are_left_out_alone(tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(b'{"epoch": 0}\n[1]\n\xff\n{"a": 1}\n{"epoch": 1}\n{"epo')
    assert read_metrics(tmp_path) == [{"epoch": 0}, {"epoch": 1}]
    assert read_metrics(tmp_path / "none") == []


def test_the_picture_shows_clips_in_rows_and_time_from_left_to_right():
    spec = InputSpec(clip_len=8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    values = torch.arange(8).view(1, 1, 8, 1, 1) / 10 + torch.tensor([0.0, 0.1, 0.2]).view(1, 3, 1, 1, 1)
    x = ((values - 0.5) / 0.5).expand(2, 3, 8, 4, 4)
    sheet = clip_sheet(x, spec)
    assert sheet.shape == (8, 32, 3)
    assert sheet[0, ::4, 0].tolist() == pytest.approx([255 * frame / 10 for frame in range(8)], abs=1)
    assert sheet[5, 0].tolist() == pytest.approx([0, 25.5, 51], abs=1)


def test_the_picture_names_the_classes_and_their_shares(tmp_path):
    x = torch.zeros(2, 3, 8, 64, 64)
    names = target_names(torch.tensor([1, 0]), ["Biking", "Golf"])
    assert names == ["Golf", "Biking"]
    mixed = target_names(torch.tensor([[0.7, 0.3, 0.0], [0.0, 0.0, 1.0]]), ["Biking", "Golf", "Run"])
    assert mixed == ["Biking 70 % + Golf 30 %", "Run 100 %"]
    sheet = clip_sheet(x, InputSpec(), names)
    assert sheet.shape == (2 * (20 + 64), 8 * 64, 3)
    assert sheet[:20].min() < 100 and (sheet[20:84] == sheet[20, 0]).all(), "the name stands above its clip"


def test_curves_are_drawn_from_the_lines_of_the_epochs(tmp_path):
    tracker = Tracker(tmp_path)
    for epoch in range(4):
        tracker.epoch({"epoch": epoch, "train/loss": 2.0 - epoch / 3, "val/loss": 2.1, "val/top1": 10.0 * epoch})
    tracker.close()
    save_curves(tmp_path)
    assert cv2.imread(str(tmp_path / "curves.png")).shape[1] > 1000
    save_curves(tmp_path / "none")
    assert not (tmp_path / "none").exists()
