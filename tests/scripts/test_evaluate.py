"""Accuracy that can be believed: one answer a video, the same one every time."""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn as nn

import compare
import evaluate as script
import mypath
import train
from common.errors import UsageError, UserError
from common.files import ROOT
from dataloaders import open_dataset
from dataloaders.dataset import EvalDataset, WindowDataset
from dataloaders.frame_set import open_frames
from dataloaders.loader import ClipLoader
from dataloaders.sources.data_source import check_classes
from engine.evaluation import job
from engine.evaluation.confusion import draw_confusion
from engine.evaluation.evaluate import evaluate
from engine.runs.checkpoint import load_model
from engine.training.config import TrainConfig
from inference import Recognizer
from network import InputSpec, create_model
from network import __main__ as network_main
from tests.helpers.preprocess import as_plain_user
from tests.helpers.toy import make_toy_videos, write_naming_video
from tests.helpers.training import TINY, read_events

SPEC = InputSpec(clip_len=4, frame_stride=2, resize=(80, 60), crop_size=32)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def frame_set(toy_source, toy_frames):
    return open_frames(toy_source, SPEC)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return create_model("r3d_10", 3)


def run(model, frame_set, workers=2, batch=2, at_once=32, **views):
    loader = ClipLoader(EvalDataset(frame_set, SPEC, "test", **views), batch, workers)
    return evaluate(model, loader, SPEC, CPU, clips_at_once=at_once)


def test_evaluation_is_deterministic_for_any_number_of_workers(model, frame_set):
    """Trap 4: random crops in time and space, so that no two evaluations agree."""
    first = run(model, frame_set, workers=0)
    for workers in (0, 1, 4):
        again = run(model, frame_set, workers=workers)
        assert np.array_equal(first.probs, again.probs)
        assert first.to_dict() == again.to_dict()


def test_the_batch_size_changes_nothing(model, frame_set):
    first = run(model, frame_set, batch=1, at_once=3)
    for batch, at_once in ((2, 32), (5, 7), (6, 60)):
        assert run(model, frame_set, batch=batch, at_once=at_once).probs == pytest.approx(first.probs, abs=1e-5)


def run_windows(model, frame_set, workers=2, batch=2, at_once=32):
    dataset = WindowDataset(frame_set, SPEC, "test", 6)
    loader = ClipLoader(dataset, batch, workers)
    return evaluate(model, loader, SPEC, CPU, clips_at_once=at_once, videos=dataset.videos)


def test_evaluation_of_all_windows_is_as_deterministic(model, frame_set):
    first = run_windows(model, frame_set, workers=0)
    again = run_windows(model, frame_set, workers=3)
    assert np.array_equal(first.probs, again.probs) and first.to_dict() == again.to_dict()
    other = run_windows(model, frame_set, batch=5, at_once=3)
    assert other.probs == pytest.approx(first.probs, abs=1e-5)
    assert first.num_clips.tolist() == [3] * 6


def test_windows_that_are_the_evenly_spaced_clips_give_the_same_answer(model, frame_set):
    dataset = WindowDataset(frame_set, SPEC, "test", 13)  # 20 frames, span 7: starts 0 and 13
    windows = evaluate(model, ClipLoader(dataset, 4, 2), SPEC, CPU, videos=dataset.videos)
    clips = run(model, frame_set, num_clips=2)
    assert windows.probs == pytest.approx(clips.probs, abs=1e-6)
    assert windows.clips_right.tolist() == clips.clips_right.tolist()
    assert (windows.top1, windows.clip_top1) == (clips.top1, clips.clip_top1)
    assert windows.loss == pytest.approx(clips.loss, abs=1e-6)


def test_evaluation_leaves_the_model_and_its_mode_as_they_were(model, frame_set):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    run(model, frame_set)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class Scripted(nn.Module):
    """Says for each clip in turn what it is told to say."""

    def __init__(self, logits):
        super().__init__()
        self.logits, self.at = torch.tensor(logits), 0

    def forward(self, x):
        self.at += len(x)
        return self.logits[self.at - len(x) : self.at]


class Counted:
    """2 videos of class 0 and 1, 3 clips each."""

    clip_shape = (3, 2, 8, 8, 3)

    def __len__(self):
        return 2

    def load(self, epoch, position, out):
        out[:] = 0
        return position, position


def test_video_accuracy_averages_softmax_and_clip_accuracy_is_another_number():
    """Trap 29: clip accuracy reported as video accuracy. A video is decided by the mean of its clips' softmax: neither
    by their majority nor by the mean of their logits."""
    logits = [
        [6.0, 0.0],  # video 0: one sure clip outweighs two that are nearly undecided
        [0.0, 0.1],
        [0.0, 0.1],
        [9.0, 0.0],  # video 1: by logits class 0 would win, by softmax class 1 does
        [0.0, 4.0],
        [0.0, 4.0],
    ]
    result = evaluate(Scripted(logits), ClipLoader(Counted(), 2, 0), SPEC, CPU)
    assert (result.top1, result.clip_top1) == (100.0, 50.0)
    expected = torch.tensor(logits).double().softmax(1).view(2, 3, 2).mean(1)
    assert result.probs == pytest.approx(expected.numpy())


def test_a_video_with_more_windows_counts_once_among_videos_and_more_among_clips():
    """Trap 29: clip accuracy reported as video accuracy."""

    class Windows(Counted):
        clip_shape = (1, 2, 8, 8, 3)

        def __len__(self):
            return 4

        def load(self, epoch, position, out):
            out[:] = 0
            return int(position == 3), position

    logits = [[2.0, 0.0], [2.0, 0.0], [2.0, 0.0], [1.0, 0.0]]  # three windows of video 0 are right, that of 1 is not
    result = evaluate(Scripted(logits), ClipLoader(Windows(), 3, 0), SPEC, CPU, videos=np.array([0, 0, 0, 1]))
    assert (result.top1, result.clip_top1) == (50.0, 75.0)
    assert (result.labels.tolist(), result.clips_right.tolist(), result.num_clips.tolist()) == ([0, 1], [3, 0], [3, 1])


def test_top5_of_three_classes_is_top3(model, frame_set):
    assert run(model, frame_set).top5 == 100.0


def test_loss_is_the_mean_over_clips():
    logits = torch.randn(6, 2, generator=torch.Generator().manual_seed(0))
    result = evaluate(Scripted(logits.tolist()), ClipLoader(Counted(), 1, 0), SPEC, CPU)
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    assert result.loss == pytest.approx(nn.functional.cross_entropy(logits, labels).item(), rel=1e-6)


def test_it_stops_between_two_batches_when_asked(model, frame_set):
    loader = ClipLoader(EvalDataset(frame_set, SPEC, "test"), 2, 2)
    assert evaluate(model, loader, SPEC, CPU, stop=lambda: True) is None


# as a script


def test_the_script_prints_and_records_the_test_accuracy_once(toy_project, capsys):
    run_dir = train.main(TrainConfig(**TINY | {"epochs": 1}))
    capsys.readouterr()
    for _ in range(2):
        script.main([str(run_dir), "--num-clips", "3", "--crops", "3"])
    out = capsys.readouterr().out
    assert "split 1, test: 6 videos, 3 clips x 3 crops" in out
    assert out.count("video top-1") == 2
    assert len(re.findall(r"video top-3 +100\.00\n", out)) == 2

    record = json.loads((run_dir / "test.json").read_text())
    assert (record["num_videos"], record["num_clips"], record["crops"]) == (6, 3, 3)
    assert (record["num_clips_total"], record["interval"]["num_groups"]) == (54, 3)
    assert (record["leak"], record["pretraining"], record["official"]) == (None, "scratch", None)
    events = read_events(run_dir)
    for tag in ("test/top1", "test/top5", "test/clip_top1", "test/mean_class"):
        assert len(events.Scalars(tag)) == 1, tag
    assert {"test/confusion", "test/worst_videos"} <= set(events.Tags()["images"])
    assert "test/per_class/text_summary" in events.Tags()["tensors"]
    assert events.Scalars("test/top1")[0].value == pytest.approx(record["top1"], rel=1e-6)


def test_every_key_of_the_record_and_every_file_is_documented_and_there(toy_project):
    run_dir = train.main(TrainConfig(**TINY | {"epochs": 1}))
    script.main([str(run_dir), "--num-clips", "1"])
    record = json.loads((run_dir / "test.json").read_text())
    text = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    assert [key for key in record if f"`{key}`" not in text] == []
    assert all((run_dir / name).is_file() for name in record["files"].values())
    assert {f"`{name}`" for name in record["files"].values()} == {
        name for name in re.findall(r"^\| (`test/[^`]+`)", text, re.MULTILINE)
    }
    weights = record["weights_hash"]
    script.main([str(run_dir), "--windows", "6"])
    record = json.loads((run_dir / "test.json").read_text())
    assert (record["num_clips"], record["windows"], record["num_clips_total"]) == (None, 6, 12)  # 20 frames, span 10
    assert record["weights_hash"] == weights


def test_nothing_overwrites_the_test_of_the_best_epoch(toy_project, tmp_path):
    run_dir = train.main(TrainConfig(**TINY | {"epochs": 1}))
    script.main([str(run_dir), "--num-clips", "1"])
    before = (run_dir / "test.json").read_text()
    events = len(list(run_dir.glob("events*")))
    script.main([str(run_dir), "--num-clips", "1", "--on", "val"])
    script.main([str(run_dir / "last.pth"), "--num-clips", "1"])
    script.main([str(run_dir), "--num-clips", "1", "--split", "2", "--allow-leak"])
    script.main([str(run_dir), "--num-clips", "2", "--output", str(tmp_path / "out")])
    assert (run_dir / "test.json").read_text() == before
    assert len(list(run_dir.glob("events*"))) == events, "TensorBoard shows the test of the best epoch alone"
    assert {path.name for path in run_dir.glob("*.json")} == {
        "config.json", "test.json", "val.json", "last-test.json", "test-toy-split2.json",
    }  # fmt: skip
    assert json.loads((tmp_path / "out" / "test.json").read_text())["num_clips"] == 2


def test_a_run_that_may_not_be_written_is_said_before_the_work(toy_project, monkeypatch):
    run_dir = train.main(TrainConfig(**TINY | {"epochs": 1}))
    monkeypatch.setattr(job, "evaluate_answers", None)
    run_dir.chmod(0o500)
    with as_plain_user(), pytest.raises(UserError, match=r"test.json cannot be written: Permission denied"):
        script.main([str(run_dir)])


def test_a_leak_that_is_allowed_is_marked_everywhere(toy_project, capsys):
    """Trap 28: a fine-tuned model scored on another split, of which it has seen the test videos."""
    run_dir = train.main(TrainConfig(**TINY | {"epochs": 1}))
    capsys.readouterr()
    script.main([str(run_dir), "--split", "2", "--allow-leak", "--num-clips", "1"])
    out = capsys.readouterr().out
    assert "NOT A TEST RESULT: this checkpoint has seen 6 of the recordings that split 2 has for test" in out
    assert re.search(r"video top-1 +\d+\.\d\d   \(leak\)", out)
    record = json.loads((run_dir / "test-toy-split2.json").read_text())
    assert record["leak"].startswith("this checkpoint has seen 6 of the recordings")
    assert record["published"] == []


def test_a_split_that_the_folders_give_must_not_share_recordings(toy_project, tmp_path):
    """Trap 28 by trap 2: train/ and test/ made by dealing out videos of the same recordings."""
    dealt = tmp_path / "dealt"
    make_toy_videos(dealt / "train", groups=(8, 9), clips=1)
    make_toy_videos(dealt / "test", groups=(8, 1), clips=1)
    for path in (dealt / "test").rglob("*_g08_c01.avi"):
        path.rename(path.with_name(path.name.replace("c01", "c02")))
    run_dir = train.main(TrainConfig(**TINY | {"epochs": 1, "dataset": str(dealt), "split": "given", "val": "none"}))
    with pytest.raises(
        UserError, match="Split given of dealt has 3 of its 6 test recordings in training or validation"
    ):
        script.main([str(run_dir), "--num-clips", "1"])
    script.main([str(run_dir), "--num-clips", "1", "--allow-leak"])
    assert "has 3 of its 6" in json.loads((run_dir / "test.json").read_text())["leak"]


def test_runs_on_several_splits_are_refused_before_the_first_is_evaluated_or_give_a_mean(toy_project, capsys):
    first = train.main(TrainConfig(**TINY | {"epochs": 1}))
    second = train.main(TrainConfig(**TINY | {"epochs": 1, "split": "2"}))
    with pytest.raises(UserError, match="has seen .* of the recordings that split 1 has for test"):
        script.main([str(first), str(second), "--split", "1", "--num-clips", "1"])
    assert not (first / "test.json").exists()
    capsys.readouterr()
    script.main([str(first), str(second), "--num-clips", "1"])
    out = capsys.readouterr().out
    assert "r3d_10 on toy, splits 1, 2, test: mean and standard deviation" in out
    tops = [json.loads((run_dir / "test.json").read_text())["top1"] for run_dir in (first, second)]
    assert f"{np.mean(tops):.2f} ± {np.std(tops, ddof=1):.2f}   ({tops[0]:.2f}, {tops[1]:.2f})" in out


def test_training_never_touches_the_test_list(toy_project, monkeypatch):
    parts = []
    init = EvalDataset.__init__

    def note(self, frame_set, spec, part="val", *args, **options):
        parts.append(part)
        init(self, frame_set, spec, part, *args, **options)

    monkeypatch.setattr(EvalDataset, "__init__", note)
    train.main(TrainConfig(**TINY | {"epochs": 1}))
    assert parts == ["val"]


def test_from_python_three_lines_train_test_and_recognise(toy_project):
    run_dir = train.train(**TINY | {"epochs": 1})
    record = script.evaluate(run_dir, num_clips=2, on="val")
    assert (record["part"], record["num_videos"], record["num_clips"]) == ("val", 6, 2)
    prediction = Recognizer(run_dir, device="cpu").predict(next(toy_project.source.videos.rglob("*.avi")))
    assert prediction.top(1)[0][0] in prediction.classes
    with pytest.raises(UsageError, match="--lr must be smaller than|--lr must be greater than"):
        train.train(**TINY | {"lr": -1.0})


@pytest.mark.slow
def test_a_run_is_named_alike_everywhere(toy_project, monkeypatch, tmp_path, capsys):
    """Positionally or as --checkpoint; by its bare name in mypath's folder of runs, or in --runs."""
    run_dir = train.main(TrainConfig(**TINY | {"epochs": 1, "runs": str(tmp_path / "elsewhere"), "name": "mine"}))
    assert run_dir == tmp_path / "elsewhere" / "mine"
    for words in ([str(run_dir)], ["--checkpoint", str(run_dir)], ["mine", "--runs", str(run_dir.parent)]):
        script.main([*words, "--stride", "8"])
    record = json.loads((run_dir / "test.json").read_text())
    assert record["windows"] == 8
    compare.main(["mine", "--runs", str(run_dir.parent)])
    assert "mine" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        script.main(["--on", "val"])
    assert "there is no run: python evaluate.py RUN" in capsys.readouterr().err


def test_training_videos_show_what_is_learnt_by_heart(toy_project, capsys):
    run_dir = train.main(TrainConfig(**TINY | {"epochs": 1}))
    script.main([str(run_dir), "--on", "train", "--num-clips", "1"])
    out = capsys.readouterr().out
    assert "on toy, split 1, train: 12 videos" in out and "NOT A TEST" not in out and "content of a" not in out
    record = json.loads((run_dir / "train.json").read_text())
    assert (record["part"], record["num_videos"], record["leak"]) == ("train", 12, None)
    assert not (run_dir / "test.json").exists()


def test_validation_videos_can_be_asked_for(toy_project, capsys):
    run_dir = train.main(TrainConfig(**TINY | {"epochs": 1}))
    script.main([str(run_dir), "--on", "val", "--num-clips", "1"])
    assert "val: 6 videos, 1 clip x 1 crop" in capsys.readouterr().out
    assert not (run_dir / "test.json").exists(), "validation is no test result"


def test_a_split_whose_test_recordings_were_trained_on_is_refused(toy_project):
    """Trap 28: a fine-tuned model scored on another split, of which it has seen the test videos."""
    run_dir = train.main(TrainConfig(**TINY | {"epochs": 1}))
    with pytest.raises(
        UserError, match="This checkpoint has seen 6 of the .* split 2 has for test .*its own split, 1,"
    ):
        script.main([str(run_dir), "--split", "2"])


@pytest.mark.slow
def test_videos_added_after_training_do_not_turn_training_videos_into_test_videos(toy_project, tmp_path):
    """Where a random split moves a video, its content gives it away (here all videos of a class are alike)."""
    mine = make_toy_videos(tmp_path / "mine", naming="folder", clips=1)
    run_dir = train.main(TrainConfig(**TINY | {"epochs": 1, "dataset": str(mine), "val_clips": 1}))
    make_toy_videos(mine, groups=(30, 31, 32, 33, 34), naming="folder", clips=1)
    with pytest.raises(UserError, match="was trained or chosen on 3 of the 3 videos that split random has for test"):
        script.main([str(run_dir), "--num-clips", "1"])


def own_videos(folder: Path) -> Path:
    """12 videos of 3 classes, each of another length, so that no two have the same content."""
    for number in range(12):
        label = number % 3
        write_naming_video(folder / f"c{label}" / f"p{number // 3}_{'abc'[label]}.avi", 20 + number, label)
    return folder


@pytest.mark.slow
def test_training_videos_are_known_where_groups_are_added_after_training(toy_project, tmp_path, monkeypatch):
    """The number was printed clean: names of groups had changed, and nothing else was compared."""
    mine = own_videos(tmp_path / "mine")
    run_dir = train.main(TrainConfig(**TINY | {"epochs": 1, "dataset": str(mine), "val_clips": 1}))
    entry = {"layout": "folder", "videos": str(mine), "frames": str(tmp_path / "mine-frames-80x60")}
    monkeypatch.setitem(mypath.DATASETS, "mine", entry | {"groups": r"^(p\d)"})
    trained = {row for row in torch.load(run_dir / "best.pth", weights_only=True)["split"]["training_videos"]}
    frame_set = open_dataset("mine", load_model(run_dir / "best.pth").input_spec, datasets=mypath.DATASETS)
    shared = trained & {row.video for row in frame_set.part("test")}
    assert shared, "the case that this is about"
    with pytest.raises(UserError, match=r"was trained or chosen on \d of the \d videos that split random has for test"):
        script.main([str(run_dir), "--dataset", "mine", "--num-clips", "1"])


def test_a_copy_under_other_names_is_known_by_its_content(toy_project, tmp_path):
    mine = own_videos(tmp_path / "mine")
    run_dir = train.main(TrainConfig(**TINY | {"epochs": 1, "dataset": str(mine), "val_clips": 1}))
    for video in sorted(mine.rglob("*.avi")):
        target = tmp_path / "copy" / video.parent.name / f"other_{video.stem[::-1]}.avi"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(video.read_bytes())
    with pytest.raises(UserError, match=r"was trained or chosen on \d of the \d videos"):
        script.main([str(run_dir), "--dataset", str(tmp_path / "copy"), "--num-clips", "1"])


@pytest.mark.slow
def test_copies_of_training_videos_in_the_own_test_list_are_said(toy_project, tmp_path, capsys):
    videos = own_videos(tmp_path / "videos")
    for video in list(videos.glob("*/*.avi")):
        shutil.copy(video, video.with_name(f"copy{video.stem}.avi"))
    run_dir = train.main(TrainConfig(**TINY | {"dataset": str(videos), "epochs": 1}))
    capsys.readouterr()
    script.main([str(run_dir)])
    split = torch.load(run_dir / "best.pth", weights_only=True)["split"]
    frame_set = open_dataset(str(videos), load_model(run_dir / "best.pth").input_spec, datasets={})
    trained = {name.replace("copy", "") for name in split["training_videos"]}
    number = sum(row.video.replace("copy", "") in trained for row in frame_set.part("test"))
    assert number > 0 and f"Note: {number} of these" in capsys.readouterr().out


@pytest.mark.slow
def test_test_videos_that_the_first_weights_were_trained_on_are_known_by_their_content(toy_project, tmp_path, capsys):
    mine = own_videos(tmp_path / "mine")
    first = train.main(TrainConfig(**TINY | {"epochs": 1, "dataset": str(mine), "val_clips": 1}))
    for video in sorted(mine.rglob("*.avi")):  # another folder, with other recordings in its test list
        target = tmp_path / "copy" / video.parent.name / f"other_{video.stem[::-1]}.avi"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(video.read_bytes())
    settings = {"epochs": 1, "dataset": str(tmp_path / "copy"), "val_clips": 1, "weights": str(first)}
    run_dir = train.main(TrainConfig(**TINY | settings))
    assert re.search(r"WARNING: .* was trained on \d videos? that split random tests on", capsys.readouterr().out)
    train.main(TrainConfig(resume=str(run_dir), epochs=2))
    with pytest.raises(UserError, match=r"was trained or chosen on \d of the \d videos"):
        script.main([str(run_dir), "--num-clips", "1"])
    again = train.main(TrainConfig(**TINY | settings | {"dataset": str(mine)}))
    script.main([str(again), "--num-clips", "1"])  # the same split: no test video was seen


def test_a_checkpoint_of_an_earlier_version_says_that_only_names_were_compared(toy_project, capsys):
    best = train.main(TrainConfig(**TINY | {"epochs": 1})) / "best.pth"
    content = torch.load(best, weights_only=True)
    for name in [name for name in content["split"] if name.endswith(("_videos", "_content"))]:
        del content["split"][name]
    torch.save(content, best)
    script.main([str(best), "--num-clips", "1"])
    assert "overlap is detected by those names only" in capsys.readouterr().out


def test_a_converted_checkpoint_is_evaluated_on_the_data_set_that_is_named(toy_project, tmp_path, capsys):
    best = train.main(TrainConfig(**TINY | {"epochs": 1})) / "best.pth"
    network_main.main(["convert", str(best), str(tmp_path / "c.pth"), "--model", "r3d_10"])
    with pytest.raises(UserError, match="does not name its data set. Give one: --dataset"):
        script.main([str(tmp_path / "c.pth")])
    script.main([str(tmp_path / "c.pth"), "--dataset", "toy", "--num-clips", "1"])
    assert "an overlap cannot be detected" in capsys.readouterr().out


@pytest.mark.slow
def test_a_folder_whose_videos_are_gone_is_still_evaluated_on_its_frames(toy_project, tmp_path, capsys):
    mine = make_toy_videos(tmp_path / "mine", clips=1)
    run_dir = train.main(TrainConfig(**TINY | {"epochs": 1, "dataset": str(mine), "val_clips": 1}))
    mine.rename(tmp_path / "elsewhere")
    script.main([str(run_dir), "--num-clips", "1"])
    assert "on mine, split 1, test: 3 videos" in capsys.readouterr().out


def test_a_data_set_with_other_classes_is_refused_by_name(toy_project, tmp_path):
    run_dir = train.main(TrainConfig(**TINY | {"epochs": 1}))
    two = make_toy_videos(tmp_path / "two", classes=("Biking", "HammerThrow"), clips=1)
    with pytest.raises(UserError, match="has 3 classes, and two has 2: 'Hammering' is missing. Evaluate it"):
        script.main([str(run_dir), "--dataset", str(two)])
    others = make_toy_videos(tmp_path / "others", classes=("Biking", "Hammering", "Yoyo"), clips=1)
    with pytest.raises(UserError, match="others has 3: 'Yoyo' is new, 'HammerThrow' is missing"):
        script.main([str(run_dir), "--dataset", str(others)])


def test_classes_in_another_order_are_other_classes(frame_set):
    with pytest.raises(UserError, match="Class 1 of the checkpoint is 'HammerThrow', and that of .* 'Hammering'. Try"):
        check_classes(["Biking", "HammerThrow", "Hammering"], "Try another.", frame_set.classes, "toy")


def test_a_part_without_videos_is_named(toy_project):
    run_dir = train.main(TrainConfig(**TINY | {"epochs": 1, "val": "none"}))
    with pytest.raises(UserError, match="Split 1 of toy has no val videos"):
        script.main([str(run_dir), "--on", "val"])


def test_the_temporal_table_has_a_line_an_order(toy_project, capsys):
    run_dir = train.main(TrainConfig(**TINY | {"epochs": 1}))
    capsys.readouterr()
    script.main([str(run_dir), "--temporal", "--num-clips", "2"])
    lines = capsys.readouterr().out.splitlines()
    [start] = [number for number, line in enumerate(lines) if "by order of the frames (chance: 33.33)" in line]
    assert [line.split()[0] for line in lines[start + 1 : start + 5]] == ["normal", "shuffled", "reversed", "frozen"]
    assert set(json.loads((run_dir / "test.json").read_text())["temporal"]) == {
        "normal", "shuffled", "reversed", "frozen",
    }  # fmt: skip


def test_other_classes_are_seen_before_anything_is_generated_or_extracted(toy_project, tmp_path, monkeypatch):
    """800 demo videos were made first."""
    run_dir = train.main(TrainConfig(**TINY | {"epochs": 1}))
    demo = {"layout": "ucf101", "videos": str(tmp_path / "demo"), "frames": str(tmp_path / "demo-frames")}
    mine = own_videos(tmp_path / "mine")
    monkeypatch.setitem(mypath.DATASETS, "demo", demo)
    for name in ("demo", str(mine)):
        with pytest.raises(UserError, match="The checkpoint has 3 classes, and .* Evaluate it on the data set it was"):
            script.main([str(run_dir), "--dataset", name])
        with pytest.raises(UserError, match="The checkpoint has 3 classes, and .* A run cannot change its classes"):
            train.main(TrainConfig(resume=str(run_dir), epochs=2, dataset=name))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "run"]


@pytest.mark.slow
def test_a_list_for_testing_without_a_split_is_evaluated_whole_with_on_all(toy_project, tmp_path, capsys):
    """2 of 6 lines were scored, without a word."""
    run_dir = train.main(TrainConfig(**TINY | {"epochs": 1}))
    folder = make_toy_videos(tmp_path / "new", groups=(40, 41), naming="folder", clips=1)
    videos = sorted(folder.rglob("*.avi"))
    (tmp_path / "new.csv").write_text("".join(f"{video},{video.parent.name}\n" for video in videos))
    command = [str(run_dir), "--dataset", str(tmp_path / "new.csv"), "--num-clips", "1", "--allow-leak"]
    script.main(command)
    assert re.search(r"Note: new has no split .*: \d of its 6 videos are drawn .*--on all", capsys.readouterr().out)
    [[results]] = [script.main([*command, "--on", "all"])]
    assert len(results["normal"].probs) == 6 and "split random, all: 6 videos" in capsys.readouterr().out
    with pytest.raises(UserError, match="This checkpoint has seen .* for all"):
        script.main([str(run_dir), "--on", "all"])


@pytest.mark.slow
def test_class_names_that_are_no_utf8_come_through_tables_pictures_and_json(toy_project, tmp_path, monkeypatch):
    monkeypatch.setattr("engine.evaluation.report.draw_confusion", draw_confusion)  # the real one
    mine = own_videos(tmp_path / "mine")
    odd = os.fsdecode(b"h\xf6he")
    (mine / "c0").rename(mine / odd)
    run_dir = train.main(TrainConfig(**TINY | {"epochs": 1, "dataset": str(mine), "val_clips": 1}))
    script.main([str(run_dir), "--num-clips", "1"])
    assert odd in json.loads((run_dir / "test.json").read_text(encoding="utf-8"))["per_class"]
    assert "h\\udcf6he" in (run_dir / "test" / "per_class.csv").read_text(encoding="utf-8")
    assert (run_dir / "test" / "confusion.png").stat().st_size > 1000
