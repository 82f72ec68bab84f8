"""What explains a result: tables, pictures, published numbers, and why a number means nothing."""

import csv
import io
from dataclasses import asdict, fields, replace
from pathlib import Path

import numpy as np
import pytest

from common.files import ROOT
from dataloaders.frame_set import FrameSet, open_frames
from dataloaders.sources.data_source import DataSource
from dataloaders.sources.splits import Split
from engine.evaluation.confusion import (
    RIGHT,
    confusion_csv,
    confusion_matrix,
    confusion_order,
    draw_confusion,
    most_confused,
)
from engine.evaluation.leaks import find_leak
from engine.evaluation.published import DATASETS, RESULTS, beside, official_name, pretraining_of, published
from engine.evaluation.report import Analysis, EvaluationRecord, is_logged
from engine.evaluation.summary import comparable, print_record, print_splits
from engine.evaluation.worst_videos import caption, draw_worst, worst_videos
from network import InputSpec


def record_of(split: str, top1: float, **others) -> EvaluationRecord:
    values = dict.fromkeys(entry.name for entry in fields(EvaluationRecord))
    return EvaluationRecord(
        **values
        | {
            "model": "r2plus1d_34", "dataset": "ucf", "part": "test", "pretraining": "kinetics400",
            "official": "UCF101", "split": split, "leak": None, "training_known": True, "top1": top1, "top5": 99.0,
            "clip_top1": 90.0, "mean_class": top1, "step": 3,
        }
        | others
    )  # fmt: skip


SPEC = InputSpec(clip_len=4, frame_stride=2, resize=(80, 60), crop_size=32)


@pytest.fixture(scope="module")
def frame_set(toy_source, toy_frames) -> FrameSet:
    return open_frames(toy_source, SPEC)


# confusion


def test_a_row_of_the_matrix_is_a_true_class():
    matrix = confusion_matrix(np.array([0, 0, 1, 2]), np.array([0, 2, 1, 2]), 3)
    assert matrix.tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 1]]
    table = list(csv.reader(io.StringIO(confusion_csv(matrix, ["a,b", "c", "d"]))))
    assert table[:2] == [["true \\ predicted", "a,b", "c", "d"], ["a,b", "1", "0", "1"]]


def test_the_most_confused_pairs_are_named_with_their_direction():
    matrix = np.array([[5, 3, 0], [1, 9, 0], [3, 0, 1]])
    pairs = [str(pair) for pair in most_confused(matrix, ["Run", "Walk", "Ride"])]
    assert pairs == [
        "Ride taken for Run (3 of 4)",  # as many mistakes, of fewer videos
        "Run taken for Walk (3 of 8)",
        "Walk taken for Run (1 of 10)",
    ]


def test_confused_classes_stand_side_by_side_in_the_picture():
    rng = np.random.default_rng(0)
    family = rng.permutation(np.repeat(np.arange(25), 4))  # 100 classes in families of four, anywhere in the list
    matrix = 20 * np.eye(101, dtype=int)  # class 100 is never confused
    matrix[:100, :100] += 3 * (family[:, None] == family[None])
    order = confusion_order(matrix)
    assert sorted(order) == list(range(101))
    assert order[-1] == 100
    blocks = family[order[:100]].reshape(25, 4)
    assert (blocks == blocks[:, :1]).all()


@pytest.mark.parametrize("matrix", [np.eye(4, dtype=int), np.array([[1, 1], [0, 2]]), np.zeros((3, 3), dtype=int)])
def test_few_mistakes_leave_the_data_sets_order(matrix):
    assert confusion_order(matrix).tolist() == list(range(len(matrix)))


@pytest.mark.parametrize("num_classes", [2, 17, pytest.param(101, marks=pytest.mark.slow)])
def test_the_picture_has_a_cell_a_class_and_blue_on_its_diagonal(num_classes):
    names = [f"Übung_{number}" + "x" * (number % 30) for number in range(num_classes)]
    picture = draw_confusion(7 * np.eye(num_classes, dtype=int), names, "net on data")
    blue = (picture == np.array(RIGHT)).all(2)
    rows, columns = np.flatnonzero(blue.any(1)), np.flatnonzero(blue.any(0))
    side = rows[-1] - rows[0] + 1
    cell = round(side / num_classes)
    assert side == pytest.approx(columns[-1] - columns[0] + 1, abs=2)
    assert cell >= 13, "readable"
    for number in range(num_classes):  # a corner of each cell, beside its percent
        assert blue[rows[0] + number * cell + 2, columns[0] + number * cell + 2], number
    assert not blue[rows[0] + 2, columns[-1] - 2]
    assert max(picture.shape) < 2000 + 13 * num_classes


# tables


def analysis_of(frame_set: FrameSet, predictions: list[int], labels: list[int]) -> Analysis:
    probs = np.full((len(labels), 3), 0.2)
    probs[np.arange(len(labels)), predictions] = 0.6
    right = np.array(predictions) == labels
    return Analysis(frame_set, "test", probs, np.array(labels), 3 * right, np.full(len(labels), 3))


def test_the_tables_add_up(frame_set):
    analysis = analysis_of(frame_set, [0, 2, 1, 1, 2, 0], [0, 0, 1, 1, 2, 2])
    classes = list(csv.DictReader(io.StringIO(analysis.per_class_csv())))
    assert [
        (line["class"], line["right"], line["top1"], line["most_taken_for"], line["times"]) for line in classes
    ] == [
        ("Biking", "1", "50.00", "HammerThrow", "1"),
        ("Hammering", "2", "100.00", "", ""),
        ("HammerThrow", "1", "50.00", "Biking", "1"),
    ]
    videos = list(csv.DictReader(io.StringIO(analysis.videos_csv())))
    assert [line["video"] for line in videos] == [row.video for row in frame_set.part("test")]
    assert sum(line["right"] == "1" for line in videos) == 4
    assert {line["own_probability"] for line in videos} == {"0.600000", "0.200000"}
    numbers = analysis.numbers()
    assert numbers["mean_class"] == pytest.approx(100 * (0.5 + 1 + 0.5) / 3)
    assert (numbers["num_videos"], numbers["num_clips_total"]) == (6, 18)
    assert numbers["per_class"] == {"Biking": 50.0, "Hammering": 100.0, "HammerThrow": 50.0}
    assert [pair["times"] for pair in numbers["confused"]] == [1, 1]


def test_the_interval_resamples_recordings_not_videos(frame_set):
    interval = analysis_of(frame_set, [0, 0, 1, 1, 0, 0], [0, 0, 1, 1, 2, 2]).numbers()["interval"]
    assert interval["num_groups"] == 3  # of two videos each, both right or both wrong
    assert interval["top1"] == [0.0, 100.0]  # all three draws may be the wrong one: once in 27
    assert interval["top5"] is None  # all right: nothing varies


def test_a_class_without_videos_has_no_accuracy(frame_set):
    analysis = analysis_of(frame_set, [0, 0, 1, 1, 0, 0], [0, 0, 1, 1, 1, 1])
    assert analysis.numbers()["per_class"]["HammerThrow"] is None
    assert analysis.mean_class == 75.0
    assert "HammerThrow,0,0,,,,," in analysis.per_class_csv()


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"step": 3}', "\xff"])
def test_a_half_written_record_counts_as_none(tmp_path, text):
    (tmp_path / "test.json").write_bytes(text.encode("latin1"))
    assert not is_logged(tmp_path / "test.json", record_of("1", 1.0))


# worst


def test_the_surest_mistakes_come_first_and_each_recording_once_before_any_twice():
    probs = np.array([[0.9, 0.1], [0.2, 0.8], [0.1, 0.9], [0.45, 0.55], [0.6, 0.4]])
    labels = np.array([0, 0, 0, 0, 0])
    assert worst_videos(probs, labels, list("abcde")) == [2, 1, 3, 4, 0]
    assert worst_videos(probs, labels, list("abbde")) == [2, 3, 4, 0, 1]
    assert worst_videos(probs, labels, list("abbde"), 2) == [2, 3]


def test_the_sheet_says_what_it_shows():
    wrong, groups = np.array([True, True, True, False, False]), list("abbde")
    assert caption([0, 1], wrong, groups) == "2 of 3 mistakes, the surest first; one a recording"
    assert caption([0, 1, 2], wrong, groups) == "3 of 3 mistakes, the surest first"
    mixed = "2 of 3 mistakes, the surest first, then 1 correct video, the least sure first; one a recording"
    assert caption([0, 1, 4], wrong, groups) == mixed
    none = "no mistake, then 2 correct videos, the least sure first; one a recording"
    assert caption([0, 1], np.zeros(2, bool), groups) == none


def test_the_sheet_shows_frames_of_the_worst_videos(frame_set):
    rows = frame_set.part("test")
    labels = np.array([0, 0, 1, 1, 2, 2])
    sheet = draw_worst(frame_set, rows, np.eye(3)[[1, 0, 1, 1, 2, 2]] * 0.9 + 0.03, labels, "net on data")
    one = draw_worst(frame_set, rows, np.eye(3)[[1, 0, 1, 1, 2, 2]] * 0.9 + 0.03, labels, "net on data", number=1)
    assert sheet.shape[1] > 1.9 * one.shape[1] and sheet.shape[0] > 2.5 * one.shape[0]  # two columns, three rows
    colours = one.reshape(-1, 3).astype(int)
    assert (np.ptp(colours, axis=1) > 60).sum() > 5 * 80 * 60, "five frames in their colours"


# published


def official(toy: FrameSet, name: str, split: str = "1", videos: int | None = None, classes: int | None = None):
    """A data set that looks like the whole of an official one, without frames."""
    num_classes, tested = DATASETS[name]
    number = tested[split] if videos is None else videos
    rows = [replace(toy.rows[0], video=f"v{at}") for at in range(number)]
    return replace(
        toy,
        source=DataSource("mine", Path("videos"), Path("frames"), name.lower()),
        rows=rows,
        classes=[f"c{at}" for at in range(classes or num_classes)],
        split=Split(split, {row.video: "test" for row in rows}),
    )


def test_only_the_whole_of_a_data_set_is_compared(frame_set):
    whole = official(frame_set, "UCF101")
    assert official_name(whole) == "UCF101"
    assert official_name(official(frame_set, "HMDB51", "3", 1520)) == "HMDB51"  # some copies lack a few
    assert official_name(official(frame_set, "UCF101", "1", 3000)) is None
    assert official_name(official(frame_set, "UCF101", "2", 3783)) is None, "that is the number of split 1"
    assert official_name(official(frame_set, "UCF101", "1", classes=17)) is None
    assert official_name(replace(whole, split=replace(whole.split, name="random"))) is None
    assert official_name(replace(whole, source=replace(whole.source, layout="folder"))) is None


def test_the_demo_is_no_ucf101(frame_set):
    assert official_name(frame_set) is None


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"weights": None}, "scratch"),
        ({"weights": "kinetics400"}, "kinetics400"),
        ({"weights": "dir/conv3d_deepnetA_sport1m_iter_1900000"}, "sports1m"),
        ({"weights": "C:\\w\\sports1M_weights_tf.h5"}, "sports1m"),
        ({"weights": "r2plus1d_34_ig65m_kinetics400.pkl"}, None),  # both
        ({"weights": "run/r3d_18-ucf101-000"}, None),
        ({"weights": "kinetics400", "freeze": "trunk"}, None),
    ],
)
def test_pretraining_is_told_or_left_open(config, expected):
    assert pretraining_of(config) == expected


def test_a_published_number_stands_beside_the_same_measurement_only():
    record = record_of("1", 44.1, model="r3d_18", pretraining="scratch")
    [row] = comparable(record)
    line = beside(row, asdict(record))
    assert line.startswith("UCF101 split 1, r3d_18 from scratch: video top-1 42.4 (Hara 2018")
    assert line.endswith(", yours 44.1")
    for other in (
        {"official": None}, {"official": "HMDB51"}, {"split": "2"}, {"model": "r3d_10"}, {"pretraining": None},
        {"pretraining": "kinetics400"}, {"part": "val"}, {"leak": "seen"}, {"training_known": False},
    ):  # fmt: skip
        assert comparable(replace(record, **other)) == [], other


def test_published_numbers_are_in_the_docs():
    text = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    for row in RESULTS:
        assert any(f"`{row.model}`" in line and f"{row.value:g}" in line for line in text.splitlines()), row
        assert published(row.dataset, row.split, row.model, row.pretraining)


# several splits


def test_three_splits_give_mean_and_deviation_and_the_mean_that_papers_print(capsys):
    print_splits([record_of("2", 94.0), record_of("1", 96.0), record_of("3", 98.0)])
    out = capsys.readouterr().out
    assert "splits 1, 2, 3, test: mean and standard deviation" in out
    assert "video top-1           96.00 ± 2.00   (94.00, 96.00, 98.00)" in out
    assert "UCF101 mean of three splits, r2plus1d_34 from kinetics400: video top-1 96.8" in out


@pytest.mark.parametrize(
    "records",
    [
        [record_of("1", 96.0)],
        [record_of("1", 96.0), record_of("1", 95.0)],
        [record_of("1", 96.0), record_of("2", 95.0, model="c3d")],
        [record_of("1", 96.0), record_of("2", 95.0, pretraining="scratch")],
    ],
)
def test_what_are_no_splits_of_one_thing_has_no_mean(records, capsys):
    print_splits(records)
    assert capsys.readouterr().out == ""


def test_a_mean_with_a_leak_in_it_says_so(capsys):
    print_splits([record_of("1", 96.0), record_of("2", 99.0, leak="seen"), record_of("3", 95.0)])
    out = capsys.readouterr().out
    assert "NOT A TEST RESULT: split 2 leaks" in out
    assert "UCF101 mean" not in out


# leaks


def test_a_split_that_leaks_in_itself_is_found(frame_set):
    """Trap 28 with trap 2: the run's own split has a recording on both sides."""
    tested = {row.group for row in frame_set.part("test")}
    own = {"hash": frame_set.split.hash, "training_groups": ["other", min(tested)]}
    reason = find_leak({"split": own}, frame_set, "test", same_data=True)
    assert (
        reason == f"split 1 of toy has 1 of its 3 test recordings in training or validation too (first: {min(tested)})"
    )
    assert find_leak({"split": own | {"training_groups": ["other"]}}, frame_set, "test", same_data=True) is None
    folder = replace(frame_set, source=replace(frame_set.source, layout="folder"))
    assert find_leak({"split": own}, folder, "test", same_data=True) is None, "001.avi in train/ and test/ are two"
    grouped = replace(folder, source=replace(folder.source, groups="g(.*)_"))
    assert find_leak({"split": own}, grouped, "test", same_data=True) == reason


def test_what_validation_chose_by_is_no_test_list_and_a_folders_names_mean_nothing_elsewhere(frame_set):
    group = frame_set.part("test")[0].group
    seen = {"split": {"hash": "x", "training_groups": ["a"], "validation_groups": [group]}}
    assert "has seen 1 of the recordings" in find_leak(seen, frame_set, "test", same_data=False)  # UCF101's names
    folder = replace(frame_set, source=replace(frame_set.source, layout="folder"))
    assert find_leak(seen, folder, "test", same_data=False) is None
    assert find_leak(seen, folder, "test", same_data=True)
    assert find_leak({"split": {"hash": "", "training_groups": []}}, frame_set, "test", same_data=True) is None


@pytest.mark.parametrize(
    ("top1", "num_groups", "bounds", "said"),
    [
        (70.0, 1, None, "no interval for top-1: the videos are of one recording"),
        (100.0, 9, None, "no interval for top-1: all recordings have the same accuracy"),
        (97.0, 9, [95.0, 100.0], "over 9 recordings, too narrow so near 100 %"),
        (60.0, 9, [50.0, 70.0], "95 % interval 50.0 to 70.0 over 9 recordings\n"),
    ],
)
def test_why_there_is_no_interval_and_where_it_is_too_narrow_is_said(capsys, tmp_path, top1, num_groups, bounds, said):
    interval = {"num_groups": num_groups, "top1": bounds, "top5": None, "clip_top1": None, "mean_class": None}
    record = record_of("1", top1, interval=interval, num_classes=3, num_videos=10, num_clips=10, crops=1)
    print_record(tmp_path / "test.json", record)
    assert said in capsys.readouterr().out
