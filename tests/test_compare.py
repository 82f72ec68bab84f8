"""compare.py: runs side by side, from their files to the table."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch

import compare
import evaluate
import mypath
import train
from engine.comparison import group_runs, read_run
from engine.config import TrainConfig
from engine.errors import UserError
from network import create_model
from network.cost import num_parameters

SETTINGS = {"dataset": "toy", "epochs": 2, "batch_size": 6, "crop_size": 32, "clip_len": 4, "workers": 1}
PATHS = ("best.pth", "config.json", "metrics.jsonl", "test.json", "test/videos.csv")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, toy_source, toy_frames) -> Path:
    """Two runs of two networks on the toy data set, trained and tested: <folder>/r3d_10-toy-000, mc3_10-toy-000."""
    runs = tmp_path_factory.mktemp("compared")
    entry = {"layout": "ucf101", "videos": str(toy_source.videos), "frames": str(toy_source.frames), "flip": True}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mypath, "DATASETS", {"toy": entry})
        patch.setattr(mypath, "RUNS", str(runs))
        for model in ("r3d_10", "mc3_10"):
            run = train.main(TrainConfig(model=model, **SETTINGS))
            evaluate.main([str(run), "--num-clips", "2"])
    return runs


@pytest.fixture
def runs(trained, tmp_path, monkeypatch) -> Path:
    """A copy to damage."""
    shutil.copytree(trained, tmp_path / "run")
    monkeypatch.setattr(mypath, "RUNS", str(tmp_path / "run"))
    return tmp_path / "run"


def change_test(run: Path, **changes: object) -> None:
    record = json.loads((run / "test.json").read_text())
    (run / "test.json").write_text(json.dumps(record | changes))


def change_checkpoint(run: Path, **changes: object) -> None:
    content = torch.load(run / "best.pth", weights_only=True)
    torch.save(content | changes, run / "best.pth")


def test_without_arguments_all_runs_stand_in_one_table(runs, capsys, tmp_path):
    compare.main(["--csv", str(tmp_path / "new" / "runs.csv")])
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0].startswith("toy, split 1, tested on 6 videos of 3 recordings, 2 clips x 1 crop")
    assert lines[2].split()[:2] == ["run", "model"]
    assert {line.split()[0] for line in lines[3:]} == {path.name for path in runs.iterdir()}
    assert "Left out" not in err and "Note" not in err

    with (tmp_path / "new" / "runs.csv").open(newline="") as file:
        rows = {row["run"]: row for row in csv.DictReader(file)}
    for name, row in rows.items():
        model = name.split("-")[0]
        test = json.loads((runs / name / "test.json").read_text())
        assert (row["dataset"], row["split"], row["model"], row["pretraining"]) == ("toy", "1", model, "scratch")
        assert int(row["parameters"]) == num_parameters(create_model(model, 3))
        assert float(row["test_top1"]) == test["top1"]
        assert (row["epochs"], row["planned_epochs"]) == ("2", "2")
        assert float(row["hours"]) > 0 and float(row["clips_per_second"]) > 0
    assert 0 < float(rows["r3d_10-toy-000"]["gmacs"]) < 0.05  # of the run's own clip; 0.15 at the network's usual one


def test_named_runs_alone_are_compared_by_folder_name_or_checkpoint(runs, capsys):
    compare.main(["r3d_10-toy-000", str(runs / "r3d_10-toy-000" / "best.pth")])
    out = capsys.readouterr().out
    assert out.count("r3d_10-toy-000") == 1 and "mc3_10" not in out
    with pytest.raises(UserError, match="There is no run and no checkpoint 'nothing'"):
        compare.main(["nothing"])


@pytest.mark.parametrize("columns", [40, 72, 120])
def test_no_line_of_the_table_is_wider_than_the_terminal(runs, monkeypatch, capsys, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    compare.main([])
    lines = capsys.readouterr().out.splitlines()[1:]
    assert max(map(len, lines)) <= columns
    assert sum(line.count("hours") for line in lines) == 1


def test_the_markdown_is_a_table_whatever_a_run_is_called(runs, capsys):
    (runs / "r3d_10-toy-000").rename(runs / "a|b<script>")
    compare.main(["--markdown"])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(lines) == 4
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1
    assert "a\\|b\\<script\\>" in "".join(lines)


@pytest.mark.parametrize("file", PATHS)
@pytest.mark.parametrize("damage", ["gone", "empty", "cut", "other"])
def test_whatever_is_wrong_with_a_run_is_named_and_the_others_are_compared(runs, capsys, file, damage):
    path = runs / "mc3_10-toy-000" / file
    data = path.read_bytes()
    path.unlink()
    if damage != "gone":
        path.write_bytes({"empty": b"", "cut": data[: len(data) * 2 // 3], "other": b"[1, 2]\n\xff\x00"}[damage])
    compare.main([])
    out, err = capsys.readouterr()
    assert "r3d_10-toy-000" in out
    assert "mc3_10-toy-000" in err  # its fault is named
    assert ("mc3_10-toy-000" in out) == (file != "best.pth")
    assert ("Left out: mc3_10-toy-000: " in err) == (file == "best.pth")


def test_an_epoch_that_a_killed_run_left_half_written_is_not_counted(runs):
    path = runs / "r3d_10-toy-000" / "metrics.jsonl"
    path.write_text(path.read_text()[:-20])
    run = read_run(path.parent, "r")
    assert (run.epochs, run.planned, len(run.curve)) == (1, 2, 1)
    assert run.notes == ["metrics.jsonl: 1 line cut or damaged, left out"]


def test_numbers_that_are_none_are_blanks(runs):
    path = runs / "r3d_10-toy-000" / "metrics.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for record in records:
        record |= {"time/clips_per_second": "fast", "val/top1": None, "time/gpu_memory_gb": float("nan")}
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    run = read_run(path.parent, "r")
    assert (run.clips_per_second, run.curve, run.memory_gb) == (None, [], None)


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({"step": 1}, "test.json is of step 1, best.pth of "),
        ({"split_hash": "0"}, "test.json is of other videos than the run's own"),
        ({"format": 2}, "test.json is of a newer version"),
        ({"top1": None}, "test.json is damaged"),
    ],
)
def test_a_test_of_other_weights_or_videos_is_not_shown_as_the_runs(runs, changes, note):
    change_test(runs / "r3d_10-toy-000", **changes)
    run = read_run(runs / "r3d_10-toy-000", "r")
    assert run.test is None
    assert [said for said in run.notes if said.startswith(note)]


def test_a_number_that_leaks_is_marked_and_ranks_last(runs, capsys):
    """Trap 28: a fine-tuned model scored on a split whose test videos it was trained on."""
    change_test(runs / "r3d_10-toy-000", top1=100.0, leak="this checkpoint has seen 3 of the recordings")
    change_test(runs / "mc3_10-toy-000", top1=20.0)
    compare.main([])
    lines = capsys.readouterr().out.splitlines()
    assert lines[3].startswith("mc3_10") and lines[4].startswith("r3d_10")
    assert "100.00 leak!" in lines[4]
    assert lines[5] == "Not a test result, r3d_10-toy-000: this checkpoint has seen 3 of the recordings"


def test_video_accuracy_is_compared_and_never_clip_accuracy(runs):
    """Trap 29: clip accuracy reported as video accuracy."""
    change_test(runs / "r3d_10-toy-000", top1=50.0, clip_top1=40.0)
    assert read_run(runs / "r3d_10-toy-000", "r").test.top1 == 50.0


def test_runs_on_other_data_or_splits_stand_in_tables_of_their_own(runs, capsys):
    shutil.copytree(runs / "r3d_10-toy-000", runs / "other")
    content = torch.load(runs / "other" / "best.pth", weights_only=True)
    change_checkpoint(runs / "other", config=content["config"] | {"dataset": "/elsewhere/toy"})
    shutil.copytree(runs / "r3d_10-toy-000", runs / "second")
    change_checkpoint(runs / "second", split=content["split"] | {"name": "2"})
    groups = group_runs([read_run(path, path.name) for path in runs.iterdir()])
    assert {group.title: len(group.runs) for group in groups} == {
        "/elsewhere/toy, split 1": 1,  # the address, where the name alone would be taken for the other toy
        "toy, split 1": 2,
        "toy, split 2": 1,
    }
    compare.main([])
    assert "3 tables: numbers of different data sets or splits do not compare." in capsys.readouterr().out


def test_other_protocols_and_other_videos_are_said_below_the_table(runs, capsys):
    change_test(runs / "r3d_10-toy-000", num_clips=None, windows=8)
    videos = runs / "r3d_10-toy-000" / "test" / "videos.csv"
    first = videos.read_text().splitlines()[1].split(",")[0]
    videos.write_text(videos.read_text().replace(first, "another/video.avi"))
    compare.main([])
    out = capsys.readouterr().out
    assert "Tested in different ways: " in out and "r3d_10-toy-000 windows 8 apart x 1 crop" in out
    assert "Tested on different videos: " in out


def test_runs_of_one_name_are_told_apart_by_their_folder(runs, capsys, tmp_path):
    shutil.copytree(runs / "r3d_10-toy-000", tmp_path / "more" / "r3d_10-toy-000")
    compare.main(["r3d_10-toy-000", str(tmp_path / "more" / "r3d_10-toy-000")])
    out = capsys.readouterr().out
    assert str(tmp_path / "more" / "r3d_10-toy-000") in out


def test_nothing_to_compare_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(mypath, "RUNS", str(tmp_path / "run"))
    with pytest.raises(UserError, match="There are no runs in "):
        compare.main([])
    (tmp_path / "run" / "begun").mkdir(parents=True)
    with pytest.raises(UserError, match="No run is left to compare"):
        compare.main([])
