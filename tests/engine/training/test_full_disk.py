"""A disk that is full for a while: nothing stops that need not, and nothing is lost that need not be."""

import errno
import json
import os
import shutil
import threading
import time
from pathlib import Path

import pytest

import evaluate
from engine.runs.tracking import Tracker, read_metrics
from engine.training import checkpointing
from tests.helpers.preprocess import mounted
from tests.helpers.training import assert_equal_weights, read_events, run_tiny

pytestmark = pytest.mark.usefixtures("one_thread")


def fill(disk: Path, leave: int = 0) -> Path:
    """A file that takes all of the disk but some bytes."""
    stat = os.statvfs(disk)
    path = disk / "other"
    path.write_bytes(bytes(stat.f_bavail * stat.f_frsize - leave))
    return path


def test_curves_wait_for_space(tmp_path, capsys):
    with mounted(tmp_path / "disk", "size=256k"):
        tracker = Tracker(tmp_path / "disk")
        tracker.scalars({"train/loss": 3.0}, 1)
        tracker.flush()
        other = fill(tmp_path / "disk")
        for step in range(2, 600):
            tracker.scalars({"train/loss": 2.0}, step)
            tracker.epoch({"epoch": step, "text": "x" * 100})
            if step % 100 == 0:
                tracker.flush()
        assert [event.value for event in read_events(tmp_path / "disk").Scalars("train/loss")][0] == 3.0
        other.unlink()
        tracker.close()
        assert len(read_events(tmp_path / "disk").Scalars("train/loss")) == 599
        assert [record["epoch"] for record in read_metrics(tmp_path / "disk")] == list(range(2, 600))
    said = capsys.readouterr().out
    assert said.count("cannot be written: No space left on device") == 2  # once for each file


def test_what_finds_no_space_until_the_end_is_said(tmp_path, capsys):
    with mounted(tmp_path / "disk", "size=64k"):
        tracker = Tracker(tmp_path / "disk")
        fill(tmp_path / "disk")
        for step in range(200):
            tracker.scalars({"train/loss": 2.0}, step)
        tracker.close()
    assert "is lost: 200 records" in capsys.readouterr().out


@pytest.mark.slow
def test_training_waits_for_space_and_ends_with_the_same_weights(toy_project, monkeypatch, capsys):
    whole = run_tiny(epochs=2)
    weights = whole / "last.pth"
    monkeypatch.setattr(checkpointing, "FULL_DISK_SECONDS", 0.1)
    toy_project.runs.rename(toy_project.runs.with_name("before"))
    weights = toy_project.runs.with_name("before") / whole.name / "last.pth"
    with mounted(toy_project.runs, f"size={int(4.5 * weights.stat().st_size)}"):
        other = fill(toy_project.runs, leave=200_000)  # settings and curves
        freed = threading.Thread(target=free_when_told, args=(other, capsys))
        freed.start()
        run_dir = run_tiny(epochs=2, on_full_disk="wait")
        freed.join()
        assert_equal_weights(weights, run_dir / "last.pth")
        assert len(read_metrics(run_dir)) == 2 and json.loads((run_dir / "config.json").read_text())


def free_when_told(other: Path, capsys) -> None:
    said, end = "", time.monotonic() + 60
    while "Training waits until there is space" not in said and time.monotonic() < end:
        time.sleep(0.1)
        said += capsys.readouterr().out
    other.unlink()


def test_training_stops_with_one_line_at_a_save_without_space(toy_project):
    size = (run_tiny(epochs=1) / "last.pth").stat().st_size
    toy_project.runs.rename(toy_project.runs.with_name("before"))
    with mounted(toy_project.runs, f"size={int(1.9 * size)}"):
        run_tiny(epochs=1, name="first")  # last.pth and best.pth
        before = (toy_project.runs / "first" / "last.pth").read_bytes()
        with pytest.raises(OSError, match="No space left on device") as stopped:
            run_tiny(epochs=2, name=None, resume="first")
        assert stopped.value.errno == errno.ENOSPC
        assert stopped.value.filename == str(toy_project.runs / "first" / "last.pth")
        assert (toy_project.runs / "first" / "last.pth").read_bytes() == before
        assert not list((toy_project.runs / "first").glob("*.tmp"))


@pytest.mark.slow
def test_an_evaluation_without_space_for_its_result_fails_and_names_it(toy_project, tmp_path):
    run_dir = run_tiny(epochs=1)
    with mounted(tmp_path / "disk", "size=20m"):
        shutil.copytree(run_dir, tmp_path / "disk" / "run")
        evaluate.main([str(tmp_path / "disk" / "run"), "--num-clips", "1"])
        other = fill(tmp_path / "disk", leave=100)
        (tmp_path / "disk" / "run" / "test.json").unlink()
        with pytest.raises(OSError, match="No space left on device") as stopped:
            evaluate.main([str(tmp_path / "disk" / "run"), "--num-clips", "1"])
        assert stopped.value.filename.startswith(str(tmp_path / "disk" / "run"))
        other.unlink()
        evaluate.main([str(tmp_path / "disk" / "run"), "--num-clips", "1"])
        assert (tmp_path / "disk" / "run" / "test.json").is_file()
