"""compare.py: runs side by side, from their files to the table."""

import base64
import csv
import hashlib
import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex

import compare
import evaluate
import mypath
import train
from common.errors import UsageError, UserError
from common.figures import SERIES
from common.files import ROOT
from engine.comparison.charts import LABEL_GAP, _apart, cost_figure, curve_figure
from engine.comparison.groups import group_runs
from engine.comparison.run_result import read_run
from engine.comparison.tables import COLUMNS
from engine.training.config import TrainConfig
from network import create_model
from network.cost import num_parameters

SETTINGS = {"dataset": "toy", "epochs": 2, "batch_size": 6, "crop_size": 32, "clip_len": 4, "workers": 1}
PATHS = ("best.pth", "config.json", "metrics.jsonl", "test.json", "test/videos.csv")


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch) -> None:
    """Tables are as wide as the terminal, and where tests run in several processes there is none."""
    monkeypatch.setenv("COLUMNS", "120")


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
    assert "toy-000" not in err

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


def nine_runs(runs: Path) -> None:
    """Copies of one run that say other settings."""
    shutil.rmtree(runs / "mc3_10-toy-000")
    config = torch.load(runs / "r3d_10-toy-000" / "best.pth", weights_only=True)["config"]
    for number, changes in enumerate(
        ({"lr": 0.01}, {"mixup": 0.2}, {"seed": 1}, {"weights": "/data/kinetics.pth"}, {"workers": 9, "name": "x"})
        + ({"recipe": "scratch", "ema": 0.9}, {"dropout": 0.5}, {"accumulate": 2}),
        1,
    ):
        shutil.copytree(runs / "r3d_10-toy-000", runs / f"r3d_10-toy-00{number}")
        change_checkpoint(runs / f"r3d_10-toy-00{number}", config=config | changes)
        record = (runs / f"r3d_10-toy-00{number}" / "metrics.jsonl").read_text().splitlines()
        lines = [json.dumps(json.loads(line) | {"val/top1": 10 * number + 3 * row}) for row, line in enumerate(record)]
        (runs / f"r3d_10-toy-00{number}" / "metrics.jsonl").write_text("\n".join(lines) + "\n")


def test_each_run_says_in_which_settings_it_is_unlike_the_others(runs, capsys, tmp_path):
    nine_runs(runs)
    compare.main(["--csv", str(tmp_path / "runs.csv"), "--markdown"])
    capsys.readouterr()
    with (tmp_path / "runs.csv").open(newline="") as file:
        rows = {row["run"].rpartition("-")[2]: row["differs_in"] for row in csv.DictReader(file)}
    assert rows == {
        "000": "", "001": "lr 0.01", "002": "mixup 0.2", "003": "seed 1", "004": "weights kinetics.pth",
        "005": "", "006": "recipe scratch, ema 0.9", "007": "dropout 0.5", "008": "accumulate 2",
    }  # fmt: skip

    compare.main(["r3d_10-toy-000", "r3d_10-toy-001"])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("r3d_10")]
    assert {line.rpartition("  ")[2][:3] for line in lines} >= {"lr "} and any("lr 0.01" in line for line in lines)


def test_runs_that_share_a_colour_have_other_lines_and_dots(runs):
    nine_runs(runs)
    [group] = group_runs([read_run(path, path.name) for path in sorted(runs.iterdir())])
    looks = {(line.get_color(), line.get_linestyle()) for line in curve_figure(group).axes[0].lines}
    assert len(looks) == 9
    dots = {(line.get_color(), line.get_marker()) for line in cost_figure(group).axes[0].lines}
    assert len(dots) == 9


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
        ({"top1": float("nan")}, "test.json is damaged"),
        ({"interval": {"top1": [0, float("inf")], "num_groups": 3}}, "test.json is damaged"),
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
    assert "3 tables: results on different data sets or splits are not comparable." in capsys.readouterr().out


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


# which network is better


def change_videos(run: Path, wrong: dict[int, str]) -> list[str]:
    """Makes all answers of a run right but those: place -> class. -> the videos by their places"""
    path = run / "test" / "videos.csv"
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for place, row in enumerate(rows):
        row["prediction"] = wrong.get(place, row["class"])
        row["right"] = int(row["prediction"] == row["class"])
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    change_test(run, top1=100 * (1 - len(wrong) / len(rows)))
    return [row["video"] for row in rows]


def only_group(runs: Path):
    [group] = group_runs([read_run(path, path.name) for path in sorted(runs.iterdir())])
    return group


def test_hard_videos_are_those_that_most_runs_miss_and_of_other_recordings_first(runs):
    videos = change_videos(runs / "r3d_10-toy-000", {0: "x", 1: "x", 4: "x"})
    change_videos(runs / "mc3_10-toy-000", {1: "y", 4: "y"})
    hard = only_group(runs).hard_videos()
    assert [(video.video, wrong) for video, wrong, _ in hard] == [(videos[1], 2), (videos[4], 2), (videos[0], 1)]
    assert hard[0][2] == {"r3d_10-toy-000": "x", "mc3_10-toy-000": "y"}


def test_the_difference_of_two_runs_is_that_of_the_same_videos(runs):
    change_videos(runs / "r3d_10-toy-000", {0: "x"})
    change_videos(runs / "mc3_10-toy-000", {0: "x", 1: "x", 2: "x"})
    [(run, change, (low, high))] = only_group(runs).differences()
    assert run.name == "mc3_10-toy-000"
    assert change == pytest.approx(-100 / 3)
    assert low < change < high <= 0


def test_a_table_of_videos_whose_last_line_is_cut_is_not_used(runs):
    path = runs / "mc3_10-toy-000" / "test" / "videos.csv"
    path.write_text(path.read_text().rstrip().rsplit(",", 6)[0])
    run = read_run(runs / "mc3_10-toy-000", "r")
    assert run.test.videos == () and len(run.notes) == 1


def test_runs_with_other_answers_missing_are_not_compared_by_video(runs):
    (runs / "mc3_10-toy-000" / "test" / "videos.csv").unlink()
    group = only_group(runs)
    assert (group.hard_videos(), group.differences()) == ([], [])
    assert group.about() == []  # nothing says that the videos are others


# the gate


def gated(new: str, old: str, *flags: str) -> int:
    return compare.main(["--gate", new, old, *flags])


def test_the_gate_fails_only_for_a_run_that_is_worse_beyond_the_margin(runs, capsys):
    change_videos(runs / "mc3_10-toy-000", {})
    videos = change_videos(runs / "r3d_10-toy-000", {1: "x", 2: "x", 3: "x", 4: "x"})
    assert gated("r3d_10-toy-000", "mc3_10-toy-000") == 1
    lost = 100 * 4 / len(videos)
    out = capsys.readouterr().out
    assert f"video top-1  {100 - lost:.2f} - 100.00 = {-lost:+.2f}   95 % interval -" in out
    assert out.endswith("Worse: the whole interval lies below zero.\n")
    assert "  class" in out and "change  95 % interval" in out
    assert gated("r3d_10-toy-000", "mc3_10-toy-000", "--margin", "100") == 0
    assert capsys.readouterr().out.endswith("does not lie below -100 points (--margin).\n")
    change_videos(runs / "r3d_10-toy-000", {1: "x"})  # one video of one recording may be chance
    assert gated("r3d_10-toy-000", "mc3_10-toy-000") == 0
    assert capsys.readouterr().out.endswith("does not lie below zero.\n")
    change_videos(runs / "r3d_10-toy-000", {1: "x", 2: "x", 3: "x", 4: "x"})
    assert gated("mc3_10-toy-000", "r3d_10-toy-000") == 0
    assert capsys.readouterr().out.endswith("Better: the whole interval lies above zero.\n")
    assert gated("mc3_10-toy-000", "mc3_10-toy-000") == 0
    out = capsys.readouterr().out
    assert "= +0.00   95 % interval +0.0 to +0.0" in out and "Not shown to be worse" in out and "change" not in out


def test_runs_that_the_gate_cannot_compare_end_with_status_2(runs, tmp_path):
    new, old = "r3d_10-toy-000", "mc3_10-toy-000"
    protocol = json.loads((runs / old / "test.json").read_text())
    damages = [
        ("has no test result. Run: python evaluate.py", lambda: (runs / old / "test.json").unlink()),
        ("is not a test result: why", lambda: change_test(runs / old, leak="why")),
        ("was tested with 2 clips x 1 crop, mc3_10-toy-000 with 3 clips", lambda: change_test(runs / old, num_clips=3)),
        ("has no answers", lambda: (runs / old / "test" / "videos.csv").unlink()),
        ("no best.pth", lambda: (runs / old / "best.pth").unlink()),
    ]
    for message, damage in damages:
        shutil.copytree(runs / old, tmp_path / "kept")
        damage()
        with pytest.raises(UsageError, match=message):
            gated(new, old)
        shutil.rmtree(runs / old)
        (tmp_path / "kept").rename(runs / old)
    assert json.loads((runs / old / "test.json").read_text()) == protocol
    with pytest.raises(UsageError, match="nothing"):
        gated(new, "nothing")
    path = runs / old / "test" / "videos.csv"
    path.write_text(path.read_text().replace("_g01", "_g99"))
    with pytest.raises(UsageError, match="not tested on the same videos|do not agree"):
        gated(new, old)
    with pytest.raises(SystemExit, match="2"):
        gated(new, old, "--margin=-1")
    with pytest.raises(UsageError, match="leave out other runs"):
        gated(new, old, "--csv", "x.csv")
    with pytest.raises(UsageError, match="--margin 1 is for --gate"):
        compare.main(["--margin", "1"])


# charts and page


def series(axes, run_number: int) -> list:
    """The lines and dots that a chart draws in a run's colour."""
    return [line for line in axes.lines if line.get_color() == SERIES[run_number]]


def test_a_dot_stands_where_accuracy_and_cost_say_and_its_line_is_the_interval(runs):
    interval = {"confidence": 95, "num_groups": 3, "top1": [40.0, 80.0]}
    change_test(runs / "r3d_10-toy-000", top1=60.0, interval=interval)
    change_test(runs / "mc3_10-toy-000", top1=60.0, interval=interval | {"top1": None})
    group = only_group(runs)
    [axes] = cost_figure(group).axes
    for number, run in enumerate(group.runs):
        [dot] = series(axes, number)
        assert (dot.get_xdata().item(), dot.get_ydata().item()) == (run.gmacs, 60)
    [interval_line] = axes.collections
    number = [run.model for run in group.runs].index("r3d_10")
    assert to_hex(interval_line.get_color()[0]) == SERIES[number]
    assert interval_line.get_segments()[0].tolist() == [[group.runs[number].gmacs, 40], [group.runs[number].gmacs, 80]]


def test_charts_are_drawn_whatever_is_known(runs):
    for name, files in (("r3d_10-toy-000", ("test.json",)), ("mc3_10-toy-000", ("test.json", "metrics.jsonl"))):
        for file in files:
            (runs / name / file).unlink()
    group = only_group(runs)
    assert cost_figure(group).axes[0].get_title("left").startswith("best validation")
    assert len(curve_figure(group).axes[0].lines) == 1
    (runs / "r3d_10-toy-000" / "metrics.jsonl").unlink()
    assert [text.get_text() for text in curve_figure(only_group(runs)).axes[0].texts] == ["no run has a validation"]


def test_labels_of_equal_points_do_not_overlap():
    apart = _apart([(10.0, 50.0), (10.0, 50.0), (12.0, 52.0), (90.0, 50.0)])
    heights = sorted(down for _, down in apart[:3])
    assert all(second - first >= LABEL_GAP for first, second in zip(heights, heights[1:], strict=False))
    assert apart[3] == (90.0, 50.0)


def test_the_chart_is_a_picture_with_a_colour_for_each_run(runs, tmp_path):
    compare.main(["--chart", str(tmp_path / "new" / "runs.png")])
    picture = cv2.cvtColor(cv2.imread(str(tmp_path / "new" / "runs.png")), cv2.COLOR_BGR2RGB)
    for colour in ((0, 114, 178), (213, 94, 0)):
        assert (picture == np.array(colour)).all(2).sum() > 500
    compare.main(["--chart", str(tmp_path / "runs.svg")])
    assert "r3d_10-toy-000" in (tmp_path / "runs.svg").read_text()
    with pytest.raises(UsageError, match="must end with .png or .svg"):
        compare.main(["--chart", "runs.pdf"])


HOSTILE = "<script>document.title='run'</script>&amp;\"'"


@pytest.fixture
def page(runs, tmp_path) -> Path:
    """With a run whose name is a script, one without a test and a folder that is no run."""
    (runs / "r3d_10-toy-000").rename(runs / HOSTILE.replace("/", "\N{DIVISION SLASH}"))
    shutil.copytree(runs / "mc3_10-toy-000", runs / "untested", ignore=shutil.ignore_patterns("test*"))
    (runs / "<img src=x onerror=alert(1)>").mkdir()
    compare.main(["--html", str(tmp_path / "runs.html")])
    return tmp_path / "runs.html"


def test_the_page_holds_all_and_asks_for_nothing(page):
    text = page.read_text(encoding="utf-8")
    sources = re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"'\s>)#]{1,12})""", text)  # #: of the page itself
    assert len(sources) == 5  # two pictures of each tested run, and the one that is but an escaped name
    assert sources.count("data:image/p") == 2 and sources.count("data:image/j") == 2
    assert text.count("<script>") == 1 and "&lt;img src=x onerror" in text and "<img src=x" not in text
    assert "not tested yet" in text
    assert "http" not in re.sub(r'http-equiv="Content-Security-Policy"', "", re.sub(r"data:[^\"]*", "", text))


def test_one_test_recording_gives_no_interval_of_the_difference(runs, tmp_path):
    """The page said "-70.00, nothing varies, beyond chance? no"."""
    for name, wrong in (("r3d_10-toy-000", {}), ("mc3_10-toy-000", {0: "x", 1: "x"})):
        change_videos(runs / name, wrong)
        path = runs / name / "test" / "videos.csv"
        rows = list(csv.reader(path.open(newline="")))
        group = rows[0].index("group")
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([rows[0], *([*row[:group], "one", *row[group + 1 :]] for row in rows[1:])])
        interval = json.loads((runs / name / "test.json").read_text())["interval"]
        change_test(runs / name, interval=interval | {"num_groups": 1, "top1": None})
    compare.main(["--html", str(tmp_path / "runs.html")])
    text = (tmp_path / "runs.html").read_text(encoding="utf-8")
    assert "none: one recording" in text and ">unknown<" in text


BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


@pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome on the path")
def test_in_a_browser_a_click_sorts_and_a_name_that_is_a_script_does_nothing(page):
    """The page with clicks behind its own script, which its policy is told of."""
    text = page.read_text(encoding="utf-8")
    script = (ROOT / "engine" / "comparison" / "page.js").read_text(encoding="utf-8")
    titles = [column.title for column in (COLUMNS[0], COLUMNS[-1], *COLUMNS[1:-1])]
    clicks = (("run", 1), ("GMACs", 2), ("test top-1 (95 %)", 1))
    clicked = script + "const found = [];\n"
    for title, times in clicks:
        at = titles.index(title)
        clicked += times * f"document.querySelectorAll('th button')[{at}].click();"
        clicked += f"found.push([...document.querySelector('tbody').rows].map(row => row.cells[{at}].dataset.value));"
    clicked += "document.body.dataset.found = JSON.stringify(found);"
    for old, new in ((hash_of(script), hash_of(clicked)), (script, clicked)):
        assert text.count(old) == 1
        text = text.replace(old, new)
    page.write_text(text, encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={page.parent / 'profile'}"]
    command = [BROWSER, *options, "--dump-dom", page.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout

    assert "<title>Runs side by side</title>" in dom  # no name was run
    by_name, by_cost, by_test = json.loads(unescape(re.search(r'data-found="([^"]*)"', dom)[1]))
    assert by_name[0].startswith("<script>") and by_name[1:] == ["mc3_10-toy-000", "untested"]
    assert by_cost == sorted(by_cost, key=float) and by_cost[0] != by_cost[2]
    assert by_test[2] == "" and float(by_test[0]) >= float(by_test[1])  # what is not tested stays below


def hash_of(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
