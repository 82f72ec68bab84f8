"""train.py --folds: every video is tested once, by a run that has not seen its recording."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import compare
import train
from common.errors import Stopped, UsageError, UserError
from engine.comparison.cross_validation import read_entry
from engine.runs.checkpoint import load_checkpoint
from engine.training.config import TrainConfig
from engine.training.divergence import note_bad_loss
from tests.helpers.training import TINY, finish, run_tiny, stop_after, torchrun, toy_data

pytestmark = pytest.mark.usefixtures("one_thread")
FOLDS = TINY | {"epochs": 2, "folds": "3"}


def videos_of(path: Path) -> list[dict]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def trained(tmp_path_factory, toy_source, toy_frames) -> Path:
    """A cross-validation of three folds."""
    with toy_data(toy_source):
        return train.main(TrainConfig(**FOLDS, runs=str(tmp_path_factory.mktemp("trained"))))


@pytest.fixture
def folder(trained, toy_project) -> Path:
    """A copy, among the runs."""
    return shutil.copytree(trained, toy_project.runs / trained.name)


def test_the_pooled_result_is_that_of_the_folds(folder, toy_project, capsys):
    train.main(TrainConfig(resume=folder.name))
    assert folder.name == "r3d_10-toy-3fold-000"
    record = json.loads((folder / "test.json").read_text())
    pooled = videos_of(folder / "test" / "videos.csv")
    of_folds = [videos_of(folder / f"fold-{number}" / "test" / "videos.csv") for number in (1, 2, 3)]
    assert {row["video"]: row for row in pooled} == {row["video"]: row for rows in of_folds for row in rows}
    assert len(pooled) == 24 == sum(map(len, of_folds)) == record["num_videos"]
    assert record["top1"] == pytest.approx(100 * np.mean([row["right"] == "1" for row in pooled]))
    assert record["interval"]["num_groups"] == 12 and record["split"] == "3-fold"
    assert record["leak"] is None and record["training_known"] and record["official"] is None
    tests = [json.loads((folder / f"fold-{number}" / "test.json").read_text()) for number in (1, 2, 3)]
    assert [fold["top1"] for fold in record["folds"]] == [test["top1"] for test in tests]
    for key in ("loss", "clip_top1"):
        clips = [test["num_clips_total"] for test in tests]
        assert record[key] == pytest.approx(np.average([test[key] for test in tests], weights=clips))
    for number, rows in enumerate(of_folds, 1):
        seen = load_checkpoint(folder / f"fold-{number}" / "best.pth")["split"]
        assert not {row["group"] for row in rows} & {*seen["training_groups"], *seen["validation_groups"]}
    out = capsys.readouterr().out
    assert out.count("is done.") == 3 and "mean over folds" in out
    assert (folder / "test" / "confusion.png").is_file()


@pytest.mark.slow
def test_a_stopped_cross_validation_goes_on_where_it_was(folder, toy_project, monkeypatch, capsys):
    expected = json.loads((folder / "test.json").read_text())
    again, begun = toy_project.runs / "again", train.begin_run

    def begin_and_stop(config, *others):
        if config.split == "fold-2-of-3":
            stop_after(3, monkeypatch)
        return begun(config, *others)

    with monkeypatch.context() as patch:
        patch.setattr(train, "begin_run", begin_and_stop)
        with pytest.raises(Stopped, match="To continue: python train.py --resume .*again$"):
            train.main(TrainConfig(**FOLDS, name="again"))
    monkeypatch.setattr(train, "note_bad_loss", note_bad_loss)
    assert "Cross-validation: 3 folds of 24 videos and 12 recordings" in capsys.readouterr().out
    assert (again / "fold-1" / "answers.npz").is_file() and (again / "fold-2" / "last.pth").is_file()
    assert not (again / "fold-2" / "test.json").is_file()
    assert train.main(TrainConfig(resume="again", workers=0)) == again
    found = json.loads((again / "test.json").read_text())
    for key in ("top1", "loss", "weights_hash", "per_class", "split_hash"):
        assert found[key] == expected[key], key


def test_compare_takes_it_for_one_entry(folder, toy_project, capsys):
    run_tiny(epochs=1)
    entry = read_entry(folder, folder.name)
    record = json.loads((folder / "test.json").read_text())
    assert (entry.split, entry.test.top1, len(entry.test.videos)) == ("3-fold", record["top1"], 24)
    assert entry.epochs == 2 and [epoch for epoch, _ in entry.curve] == [1, 2] and entry.hours > 0
    curves = [dict(read_entry(folder / f"fold-{number}", "").curve)[2] for number in (1, 2, 3)]
    assert dict(entry.curve)[2] == pytest.approx(np.mean(curves))
    compare.main([])
    out = capsys.readouterr().out
    assert "toy, split 3-fold, tested on 24 videos of 12 recordings" in out and "fold-1" not in out
    (folder / "test.json").unlink()
    assert "3 of 3 folds are done: python train.py --resume" in " ".join(read_entry(folder, "x").notes)


def test_a_gate_compares_two_cross_validations(folder, capsys):
    other = shutil.copytree(folder, folder.with_name("other"))
    status = compare.main(["--gate", str(folder), str(other), "--margin", "100"])
    assert status == 0 and "24 videos of 12 recordings" in capsys.readouterr().out


@pytest.mark.slow
def test_groups_leave_one_recording_out_each(toy_project, monkeypatch):
    monkeypatch.setattr("engine.training.several.MOST_FOLDS", 11)
    with pytest.raises(UsageError, match="--folds groups would train 12 runs, one for each recording. Give a number"):
        train.main(TrainConfig(**TINY, folds="groups"))
    monkeypatch.setattr("engine.training.several.MOST_FOLDS", 12)
    folder = train.main(TrainConfig(**TINY | {"epochs": 1, "val": "none"}, folds="groups"))
    assert len(list(folder.glob("fold-*/answers.npz"))) == 12
    assert json.loads((folder / "config.json").read_text())["folds"] == "12"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"folds": "1"}, "--folds 1 is neither a number from 2 on nor 'groups'"),
        ({"folds": "five"}, "--folds five is neither"),
        ({"split": "1"}, "Leave --split 1 out"),
        ({"folds": 13}, "13 folds of 12 recordings"),
    ],
)
def test_mistakes_leave_nothing_behind(toy_project, changes, message):
    with pytest.raises(UserError, match=message):
        train.main(TrainConfig(**FOLDS | changes))
    assert not toy_project.runs.exists() or not list(toy_project.runs.iterdir())


def test_what_cannot_be_changed_within_it_is_said(folder):
    with pytest.raises(UsageError, match="--epochs cannot be changed within a cross-validation"):
        train.main(TrainConfig(resume=str(folder), epochs=9))
    (folder / "fold-2" / "answers.npz").unlink()
    (folder / "fold-2" / "last.pth").write_bytes(b"damaged")
    with pytest.raises(UserError, match="last.pth"):
        train.main(TrainConfig(resume=str(folder)))


def test_a_fold_can_be_a_run_of_its_own(toy_project):
    run = run_tiny(epochs=1, split="fold-2-of-3")
    assert load_checkpoint(run / "best.pth")["split"]["name"] == "fold-2-of-3"


@pytest.mark.slow
def test_two_processes_cross_validate_together(toy_project):
    settings = {key: value for key, value in FOLDS.items() if key != "folds"} | {"folds": "2", "name": "both"}
    body = f"import train\nfrom engine.training.config import TrainConfig\ntrain.main(TrainConfig(**{settings!r}))"
    out = finish(torchrun(toy_project, 2, body))
    assert out.count("mean over folds") == 1 and out.count("Cross-validation:") == 1
    assert len(videos_of(toy_project.runs / "both" / "test" / "videos.csv")) == 24
