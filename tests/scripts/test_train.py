"""The train loop, from its command line to the files of its run."""

import json
import re
import shutil
import signal
import subprocess
import sys
import threading

import pytest
import torch

import evaluate as evaluate_script
import mypath
import train
from common.errors import Stopped, UsageError, UserError
from common.files import ROOT
from dataloaders.preprocess.__main__ import main as preprocess
from engine.runs.checkpoint import load_model
from engine.runs.pictures import save_curves
from engine.runs.tracking import read_metrics
from engine.training import checkpointing, records, run
from engine.training.command_line import parse_configs
from engine.training.config import TrainConfig
from network import create_model, list_models, model_entry
from tests.helpers.toy import make_toy_videos, write_naming_video
from tests.helpers.training import assert_equal_weights, read_events, run_tiny, stop_after, weights_of

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_run_leaves_its_settings_curves_and_checkpoints(toy_project, capsys, monkeypatch):
    monkeypatch.setattr(records, "save_curves", save_curves)
    run_dir = run_tiny()

    assert run_dir == toy_project.runs / "r3d_10-toy-000"
    names = {path.name.split(".")[0] for path in run_dir.iterdir() if path.name not in (".lock", ".owner")}
    assert names == {"config", "events", "metrics", "last", "best", "train_clips", "curves"}

    config = json.loads((run_dir / "config.json").read_text())
    assert config["optimizer"] == model_entry("r3d_10").defaults.optimizer
    assert (config["flip"], config["split"], config["epochs"]) == (True, "1", 3)

    lines = read_metrics(run_dir)
    assert [record["epoch"] for record in lines] == [0, 1, 2]
    assert [record["step"] for record in lines] == [3, 6, 9]  # 12 videos, batches of 5, 5 and 2

    tags = set(read_events(run_dir).Tags()["scalars"])
    assert tags >= {
        "train/loss", "train/top1", "train/lr", "val/loss", "val/top1", "val/top5", "val/clip_top1", "best/val_top1",
        "time/clips_per_second", "time/data_wait", "time/epoch_seconds",
    }  # fmt: skip
    out = capsys.readouterr().out
    assert "toy, split 1: 12 train, 6 val, 6 test videos" in out
    assert out.count("\nepoch ") == 3
    assert "tensorboard --logdir" in out


def test_a_log_has_a_line_now_and_then_in_a_long_epoch(toy_project, monkeypatch, capsys):
    monkeypatch.setattr(records, "LINE_SECONDS", 0.0)
    run_tiny(epochs=2)
    lines = [line for line in capsys.readouterr().out.splitlines() if "  step " in line]
    assert [line.split("  loss")[0] for line in lines] == [
        "epoch   1/2  step 1/3", "epoch   1/2  step 2/3", "epoch   2/2  step 1/3", "epoch   2/2  step 2/3",
    ]  # fmt: skip
    assert all(re.search(r"loss +\d\.\d{3} +[\d.]+ clips/s  left about \d+ s$", line) for line in lines)


@pytest.mark.slow
def test_the_test_may_follow_the_training_in_one_command(toy_project, capsys, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    run_dir = run_tiny(epochs=1, test=True)
    out = capsys.readouterr().out
    assert "best.pth (r3d_10) on toy, split 1, test: 6 videos" in out and "Test it:" not in out
    assert torch.backends.cudnn.allow_tf32, "the next network of the command trains as this one"
    assert json.loads((run_dir / "test.json").read_text())["num_videos"] == 6
    with pytest.raises(UserError, match="--test needs test videos, and split given of none has none"):
        run_tiny(dataset=str(without_test(toy_project.runs.parent)), epochs=1, test=True)


def without_test(folder):
    videos = make_toy_videos(folder / "none", naming="folder")
    for part, names in (("train", "g01 g08"), ("val", "g09")):
        for path in [path for path in videos.glob("*/*.avi") if path.name[:3] in names.split()]:
            target = videos / part / path.parent.name / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)
    for path in videos.iterdir():
        if path.name not in ("train", "val"):
            shutil.rmtree(path)
    return videos


@pytest.mark.slow
def test_a_curve_has_one_point_a_step_where_epochs_are_short(toy_project):
    events = read_events(run_tiny(epochs=5, batch_size=3))  # 4 steps an epoch, so that the fifth ends with step 20
    for tag in ("train/loss", "train/lr", "train/grad_norm"):
        assert [event.step for event in events.Scalars(tag)] == [4, 8, 12, 16, 20]


def test_best_holds_no_optimizer_and_last_all_that_goes_on(toy_project):
    run_dir = run_tiny(epochs=1)
    best = torch.load(run_dir / "best.pth", weights_only=True)
    last = torch.load(run_dir / "last.pth", weights_only=True)
    assert set(last) - set(best) == {"optimizer", "scheduler", "scaler", "means", "random"}
    assert best["classes"] == ["Biking", "Hammering", "HammerThrow"]
    assert best["split"]["name"] == "1"
    for part, groups in (("training", (8, 9)), ("validation", (23,))):
        names = sorted(f"{name}/g{group:02d}" for name in best["classes"] for group in groups)
        assert best["split"][f"{part}_groups"] == names
    assert (best["epoch"], best["step"]) == (1, 3)


def test_training_lowers_the_loss_and_learns_the_toy_classes(toy_project):
    records = read_metrics(run_tiny(epochs=12, flip=False))
    assert records[-1]["train/loss"] < 0.6 * records[0]["train/loss"]
    assert records[-1]["best/val_top1"] == 100


def test_best_is_the_epoch_with_the_best_validation(toy_project):
    run_dir = run_tiny(epochs=4)
    records = read_metrics(run_dir)
    best = max(records, key=lambda record: (record["val/top1"], -record["val/loss"]))
    assert torch.load(run_dir / "best.pth", weights_only=True)["epoch"] == best["epoch"] + 1
    assert torch.load(run_dir / "last.pth", weights_only=True)["epoch"] == 4


def test_without_validation_the_whole_list_trains_and_the_last_epoch_is_kept(toy_project, capsys):
    run_dir = run_tiny(val="none", epochs=2)
    assert "18 train, 6 test videos" in capsys.readouterr().out
    assert torch.load(run_dir / "best.pth", weights_only=True)["epoch"] == 2
    assert_equal_weights(run_dir / "best.pth", run_dir / "last.pth")
    assert "val/top1" not in read_metrics(run_dir)[-1]


def test_equal_seeds_give_equal_weights_for_any_number_of_workers_and_other_seeds_others(toy_project):
    first, second, third = run_tiny(workers=0), run_tiny(workers=3), run_tiny(seed=1)
    assert_equal_weights(first / "last.pth", second / "last.pth")
    assert not torch.equal(weights_of(first / "last.pth")["fc.weight"], weights_of(third / "last.pth")["fc.weight"])


@pytest.mark.parametrize(
    ("step", "done"),  # in the first epoch, at its end, in the middle of the second
    [
        pytest.param(1, "0 epochs and 1 step.", marks=pytest.mark.slow),
        pytest.param(3, "0 epochs and 3 steps.", marks=pytest.mark.slow),
        (5, "1 epoch and 2 steps."),
    ],
)
def test_a_run_interrupted_and_resumed_ends_with_the_same_weights_bit_for_bit(
    toy_project, monkeypatch, capsys, step, done
):
    settings = {"model": "r3d_10", "workers": 2}
    whole = run_tiny(**settings)

    with monkeypatch.context() as patch:
        stop_after(step, patch)
        with pytest.raises(Stopped, match=f"after step {step}. To continue: python train.py --resume") as stopped:
            run_tiny(name="stopped", **settings)
    assert stopped.value.signum == signal.SIGTERM
    resumed = train.main(TrainConfig(resume="stopped", workers=0))
    assert f"Continuing after {done}" in capsys.readouterr().out

    assert_equal_weights(whole / "last.pth", resumed / "last.pth")
    assert_equal_weights(whole / "best.pth", resumed / "best.pth")
    for left, right in zip(read_metrics(whole), read_metrics(resumed), strict=True):
        for key in left:
            if not key.startswith("time/"):
                assert left[key] == pytest.approx(right[key], rel=1e-6), key
    steps = [event.step for event in read_events(resumed).Scalars("val/top1")]
    assert steps == [3, 6, 9], "a resumed run logs each epoch once"


@pytest.mark.slow
def test_dropout_goes_on_with_the_same_draws(toy_project, monkeypatch):
    """Trap 15: the state of the random generators is part of a checkpoint."""
    create = create_model
    monkeypatch.setattr(
        "engine.training.setup.create_model",
        lambda name, classes, **options: create(name, classes, **{"dropout": 0.5} | options),
    )
    whole = run_tiny()
    with monkeypatch.context() as patch:
        stop_after(4, patch)
        with pytest.raises(Stopped):
            run_tiny(name="stopped")
    torch.manual_seed(123)
    assert_equal_weights(whole / "last.pth", train.main(TrainConfig(resume="stopped")) / "last.pth")


def test_a_finished_run_goes_on_with_more_epochs(toy_project):
    run_dir = run_tiny(epochs=1)
    with pytest.raises(UserError, match=r"has done 1 epoch\. To continue, give a higher number: --epochs 2 or more"):
        train.main(TrainConfig(resume=str(run_dir)))
    train.main(TrainConfig(resume=str(run_dir), epochs=2))
    assert torch.load(run_dir / "last.pth", weights_only=True)["epoch"] == 2
    assert json.loads((run_dir / "config.json").read_text())["epochs"] == 2


def test_a_batch_of_one_clip_that_batch_norm_cannot_take_is_refused_before_the_run_begins(toy_project):
    """It was torch's "Expected more than 1 value per channel", with a traceback, at the end of the first epoch."""
    tiny = {"clip_len": 1, "crop_size": 16, "epochs": 1, "val": "none"}
    with pytest.raises(
        UserError, match="A batch of this run has one clip, of which the batch norm layer4.*Choose another"
    ):
        run_tiny(batch_size=1, **tiny)
    assert not toy_project.runs.exists() or not list(toy_project.runs.iterdir())
    run_tiny(batch_size=4, **tiny)


def test_resuming_what_is_not_there_says_which_runs_are(toy_project):
    with pytest.raises(UserError, match="There is no run and no checkpoint 'x'. There are no runs in"):
        train.main(TrainConfig(resume="x"))
    run_dir = run_tiny(epochs=1)
    with pytest.raises(UserError, match="no run and no checkpoint 'x'. Runs in .*: r3d_10-toy-000"):
        train.main(TrainConfig(resume="x"))
    with pytest.raises(UserError, match="run is a folder of runs. Name one of them. Runs in .*: r3d_10-toy-000"):
        train.main(TrainConfig(resume=str(toy_project.runs)))
    with pytest.raises(UserError, match="has weights only"):
        train.main(TrainConfig(resume=str(run_dir / "best.pth"), epochs=9))


@pytest.mark.slow
def test_a_run_that_another_process_writes_is_not_resumed_beside_it(toy_project, monkeypatch, capsys):
    """A job that is queued again while the one before it still ends; and one that was resumed twice."""
    run_dir = run_tiny(epochs=1)
    (run_dir / "last.pth.99.tmp").write_bytes(b"half")
    holder = f"import sys; sys.path.insert(0, {str(ROOT)!r})\nfrom pathlib import Path\n"
    holder += f"from engine.runs.folder import lock_run\nlock = lock_run(Path({str(run_dir)!r}))\nprint(flush=True)\n"
    other = subprocess.Popen([sys.executable, "-c", holder + "input()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    other.stdout.readline()
    files = {path: path.stat().st_mtime_ns for path in run_dir.iterdir()}
    monkeypatch.setattr("engine.runs.folder.lock_run.__defaults__", (0.2,))
    with pytest.raises(UserError, match=f"process {other.pid} on .* is writing into .* right now. Stop it, or wait"):
        train.main(TrainConfig(resume=str(run_dir), epochs=2))
    assert files == {path: path.stat().st_mtime_ns for path in run_dir.iterdir()}

    monkeypatch.setattr("engine.runs.folder.lock_run.__defaults__", (60.0,))
    threading.Timer(1, other.communicate).start()  # ends it
    train.main(TrainConfig(resume=str(run_dir), epochs=2))
    assert f"process {other.pid} on " in capsys.readouterr().out
    assert [record["epoch"] for record in read_metrics(run_dir)] == [0, 1]
    assert not list(run_dir.glob("*.tmp"))


def test_a_run_whose_videos_have_changed_is_not_resumed(toy_project):
    run_dir = run_tiny(epochs=1)
    content = torch.load(run_dir / "last.pth", weights_only=True)
    content["split"]["hash"] = "another"
    torch.save(content, run_dir / "last.pth")
    with pytest.raises(UserError, match="differ from those of this run"):
        train.main(TrainConfig(resume=str(run_dir), epochs=2))


@pytest.mark.slow
def test_a_run_whose_data_moved_goes_on_and_frames_of_another_quality_are_refused(toy_project, tmp_path, monkeypatch):
    videos = make_toy_videos(tmp_path / "mine", naming="folder")
    whole = run_tiny(dataset=str(videos), epochs=2)
    with monkeypatch.context() as patch:
        stop_after(2, patch)
        with pytest.raises(Stopped):
            run_tiny(dataset=str(videos), epochs=2, name="part")
    run_dir = toy_project.runs / "part"
    moved = tmp_path / "disk" / "films"
    moved.parent.mkdir()
    videos.rename(moved)
    frames = next(tmp_path.glob("mine-frames*"))
    frames.rename(moved.parent / "frames")
    resume = {"resume": "part", "dataset": str(moved)}
    preprocess(["--dataset", str(moved), "--frames", str(tmp_path / "other"), "--size", "80x60", "--quality", "50"])
    with pytest.raises(UserError, match=r"other has other frames of \d+ training videos than those that"):
        train.main(TrainConfig(frames=str(tmp_path / "other"), **resume))
    train.main(TrainConfig(frames=str(moved.parent / "frames"), **resume))
    assert_equal_weights(whole / "last.pth", run_dir / "last.pth")
    config = json.loads((run_dir / "config.json").read_text())
    assert (config["dataset"], config["frames"]) == (str(moved), str(moved.parent / "frames"))


@pytest.mark.slow
def test_videos_replaced_under_their_names_end_a_run_and_are_said_by_an_evaluation(toy_project, tmp_path, capsys):
    videos = make_toy_videos(tmp_path / "mine", naming="folder")
    run_dir = run_tiny(dataset=str(videos), epochs=1)
    evaluate_script.main([str(run_dir), "--num-clips", "1"])
    own = (run_dir / "test.json").read_bytes()
    for number, path in enumerate(sorted(videos.rglob("*.avi"))):
        write_naming_video(path, 18, number % 3)

    with pytest.raises(UserError, match=r"mine-frames-80x60 has other frames of \d+ training videos than those"):
        train.main(TrainConfig(resume=str(run_dir), epochs=2))
    capsys.readouterr()
    evaluate_script.main([str(run_dir), "--num-clips", "1"])
    assert "The result is written beside the run's own." in capsys.readouterr().out
    assert (run_dir / "test.json").read_bytes() == own
    assert (run_dir / "test-mine-splitrandom.json").is_file()


@pytest.mark.slow
def test_a_run_whose_classes_have_changed_says_which(toy_project, tmp_path):
    videos = make_toy_videos(tmp_path / "mine", naming="folder")
    run_dir = run_tiny(dataset=str(videos), epochs=1)
    shutil.copytree(videos / "Biking", videos / "Cycling")
    with pytest.raises(UserError, match="has 3 classes, and mine has 4: 'Cycling' is new. A run cannot"):
        train.main(TrainConfig(resume=str(run_dir), epochs=2))


def test_a_loss_that_is_no_number_stops_before_a_checkpoint_holds_it(toy_project):
    with pytest.raises(UserError, match=r"not a number since step \d+ \(learning rate .*Try a lower rate"):
        run_tiny(lr=1e30, optimizer="sgd", warmup_epochs=0.0)
    run_dir = toy_project.runs / "r3d_10-toy-000"
    assert not list(run_dir.glob("*.pth"))


def test_weights_spoilt_by_the_last_step_are_not_saved(toy_project):
    """The loss is computed before the step: one step an epoch, and it looks well to the end."""
    with pytest.raises(UserError, match="not a number since step 0"):
        run_tiny(lr=1e30, optimizer="sgd", warmup_epochs=0.0, batch_size=12)
    assert not list((toy_project.runs / "r3d_10-toy-000").glob("*.pth"))


@pytest.mark.slow
def test_an_epoch_whose_records_could_not_be_written_is_made_again(toy_project, monkeypatch):
    whole = run_tiny(epochs=2)
    save = checkpointing.save_checkpoint

    def fail_at_best(path, content):
        if path.name == "best.pth" and content["epoch"] == 2:
            raise OSError(28, "No space left on device", str(path))
        save(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(checkpointing, "save_checkpoint", fail_at_best)
        patch.setattr(records, "_is_better", lambda *_: True)
        with pytest.raises(OSError, match="No space"):
            run_tiny(epochs=2, name="full")
    resumed = train.main(TrainConfig(resume="full"))
    assert_equal_weights(whole / "last.pth", resumed / "last.pth")
    assert [record["epoch"] for record in read_metrics(resumed)] == [0, 1]


@pytest.mark.parametrize("key", ["epoch", "means", "random", "split", "best_loss", "scaler"])
def test_a_checkpoint_that_lacks_something_is_not_resumed(toy_project, key):
    run_dir = run_tiny(epochs=1)
    content = torch.load(run_dir / "last.pth", weights_only=True)
    del content[key]
    torch.save(content, run_dir / "last.pth")
    with pytest.raises(UserError, match=f"cannot be resumed from: its '{key}' is missing or damaged"):
        train.main(TrainConfig(resume=str(run_dir), epochs=2))


def test_a_size_that_the_network_cannot_take_is_said_before_a_run_is_begun(toy_project):
    with pytest.raises(UserError, match="needs .B, 3, 16, 112, 112. *.*--clip-len 16"):
        run_tiny(model="c3d", clip_len=4)
    assert not toy_project.runs.exists()


def test_weights_with_other_classes_get_a_new_head_that_learns_faster(toy_project, capsys, tmp_path):
    torch.save(create_model("r3d_10", 400).state_dict(), tmp_path / "trunk.pth")
    run_dir = run_tiny(weights=str(tmp_path / "trunk.pth"), epochs=1)
    assert "The last layer starts anew: fc has 400 classes in the file and 3 here." in capsys.readouterr().out
    groups = torch.load(run_dir / "last.pth", weights_only=True)["optimizer"]["param_groups"]
    assert sorted({group["peak_lr"] for group in groups}) == pytest.approx([0.003, 0.03])


def test_a_frozen_trunk_keeps_its_weights_and_its_statistics(toy_project, tmp_path, monkeypatch):
    """Trap 17: a frozen trunk left in train mode, whose batch norms go on counting. Resumed, it is still frozen."""
    torch.save(create_model("r3d_10", 400).state_dict(), tmp_path / "trunk.pth")
    before = torch.load(tmp_path / "trunk.pth", weights_only=True)
    settings = {"weights": str(tmp_path / "trunk.pth"), "freeze": "trunk", "head_lr_scale": 3.0}
    with monkeypatch.context() as patch:
        stop_after(4, patch)
        with pytest.raises(Stopped):
            run_tiny(name="frozen", **settings)
    run_dir = train.main(TrainConfig(resume="frozen"))
    after = weights_of(run_dir / "last.pth")
    assert [name for name in after if not torch.equal(after[name], before[name])] == ["fc.weight", "fc.bias"]
    groups = torch.load(run_dir / "last.pth", weights_only=True)["optimizer"]["param_groups"]
    assert [group["peak_lr"] for group in groups] == pytest.approx([0.009, 0.009])
    assert_equal_weights(run_tiny(**settings) / "last.pth", run_dir / "last.pth")


def test_what_the_weights_do_not_bring_is_not_frozen_at_random_values(toy_project, tmp_path):
    run = create_model("r3d_10", 400).state_dict()
    torch.save({name: value for name, value in run.items() if not name.startswith("stem.")}, tmp_path / "part.pth")
    with pytest.raises(UserError, match="would keep 3 parameters at random values: .* has no stem.0.weight"):
        run_tiny(weights=str(tmp_path / "part.pth"), freeze="trunk")
    assert not toy_project.runs.exists()
    run_tiny(weights=str(tmp_path / "part.pth"), epochs=1)


def test_recordings_that_the_weights_have_seen_stay_seen(toy_project, capsys):
    """Trap 28 by a detour: split 1's weights, fine-tuned on split 2, which tests on what split 1 trains on."""
    first = run_tiny(epochs=1)
    second = run_tiny(epochs=1, weights=str(first), split="2", val="none", name="second")
    assert "was trained on 6 recordings that split 2 tests on" in capsys.readouterr().out
    with pytest.raises(UserError, match="has seen 6 of the recordings that split 2 has for test"):
        evaluate_script.main([str(second), "--num-clips", "1"])


def test_a_checkpoint_as_weights_names_its_model(toy_project):
    best = run_tiny(epochs=1) / "best.pth"
    [config] = parse_configs(["--weights", str(best)], "toy", "r2plus1d_18")
    assert config.model == "r3d_10"
    [config] = parse_configs(["--weights", str(best), "--model", "c3d"], "toy", "r2plus1d_18")
    assert config.model == "c3d"


def test_options_of_the_network_are_kept_in_its_checkpoint(toy_project, capsys):
    run_dir = run_tiny(epochs=1, dropout=0.25)
    trained = load_model(run_dir / "best.pth")
    assert trained.model.options == {"dropout": 0.25}
    train.main(TrainConfig(resume=str(run_dir), epochs=2))
    assert load_model(run_dir / "best.pth").model.options == {"dropout": 0.25}
    with pytest.raises(UsageError, match="Model 'r3d_10' has no option 'pool5'"):
        run_tiny(pool5="ceil")


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"model": "r3d10"}, UsageError, "Unknown model 'r3d10'. Did you mean 'r3d_10'? Available: c3d, "),
        ({"dataset": "toi"}, UsageError, "Unknown data set 'toi'. Did you mean 'toy'"),
        ({"dataset": "./nowhere"}, UserError, "There is no folder './nowhere'"),
        ({"weights": "none.pth"}, UserError, "none.pth"),
        ({"device": "cuda:77"}, UserError, "--device cuda"),
        ({"crop_size": 99}, UsageError, "crop_size 99 does not fit into frames of 80x60"),
    ],
)
def test_a_mistake_is_named_and_leaves_nothing_behind(toy_project, changes, error, message):
    with pytest.raises(error) as raised:
        run_tiny(**changes)
    assert message in str(raised.value)
    assert not toy_project.runs.exists()


def test_mypath_not_edited_yet_says_so(toy_project):
    mypath.DATASETS["ucf101"] = {"layout": "ucf101", "videos": "/path/to/UCF-101", "frames": "/path/to/frames"}
    with pytest.raises(UserError, match="mypath.py is not edited yet.*--dataset demo"):
        run_tiny(dataset="ucf101")


def test_a_folder_of_class_folders_trains_without_an_entry_in_mypath(toy_project, tmp_path, capsys):
    videos = make_toy_videos(tmp_path / "mine", naming="folder", clips=1)
    run_dir = run_tiny(dataset=str(videos), epochs=1, val_clips=1)
    out = capsys.readouterr().out
    assert "Frames of 'mine' at 80x60 are not extracted yet: 12 videos" in out
    assert "Clips are not mirrored" in out
    assert "--flip" in out
    assert "Note: each video counts as a separate recording." in out
    assert run_dir.name == "r3d_10-mine-000"
    assert (tmp_path / "mine-frames-80x60" / "manifest.csv").is_file()
    assert train.main(TrainConfig(resume=str(run_dir), epochs=2)) == run_dir, "found again by its full path"


def test_batches_are_mirrored_only_where_the_data_set_says_so(toy_project, monkeypatch):
    """Trap 3: a flip that is applied to the test split only, and twice."""
    seen = []
    convert = run.to_model_input
    monkeypatch.setattr(run, "to_model_input", lambda x, spec, flip: seen.append(flip) or convert(x, spec, flip))
    run_tiny(epochs=1, flip=False)
    assert seen == [None] * 3
    run_tiny(epochs=1)
    mirrored = torch.cat(seen[3:])
    assert mirrored.dtype == torch.bool
    assert 0 < mirrored.sum() < len(mirrored) == 12


def test_clips_longer_than_their_videos_are_said(toy_project, capsys):
    run_tiny(epochs=1)
    assert "shorter than a clip" not in capsys.readouterr().out
    run_tiny(epochs=1, clip_len=8)  # 22 frames of 20
    assert "WARNING: 12 of 12 training videos are shorter than a clip, which spans 22 frames" in capsys.readouterr().out


def test_bf16_autocast_trains_where_it_is_asked_for(toy_project):
    records = read_metrics(run_tiny(epochs=2, amp="bf16"))
    assert records[-1]["train/loss"] < 2


def test_c3d_without_norms_and_weights_points_to_the_one_with_norms():
    """Trap 21: C3D without normalisation layers from scratch: stuck at chance, or a loss that is no number."""
    assert "c3d_bn" in model_entry("c3d").defaults.from_scratch
    assert not model_entry("c3d_bn").defaults.from_scratch


@pytest.mark.parametrize("name", list_models())
def test_every_model_has_settings_of_its_own(name):
    defaults = model_entry(name).defaults
    config = TrainConfig(dataset="d", model=name).resolved(model_entry(name).input_spec, False, "1", 0)
    assert (config.optimizer, config.lr, config.epochs) == (defaults.optimizer, defaults.lr, defaults.epochs)
    assert config.warmup_epochs < config.epochs


PROGRAM = """
import sys, mypath
mypath.DATASETS, mypath.DEFAULT_DATASET, mypath.RUNS = {datasets!r}, "toy", {runs!r}
import torch, train
from common.cli import run_cli
torch.set_num_threads(1)
sys.argv = ["train.py", *{argv!r}]
run_cli(train.cli)
"""


def start(toy_project, *argv: str) -> subprocess.Popen:
    code = PROGRAM.format(datasets=mypath.DATASETS, runs=str(toy_project.runs), argv=argv)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, **pipes)


@pytest.mark.parametrize(
    ("signum", "status"),
    [
        pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow),
        (signal.SIGTERM, 143),
        pytest.param(signal.SIGHUP, 129, marks=pytest.mark.slow),
    ],
)
def test_ctrl_c_and_sigterm_end_the_program_with_last_written(toy_project, signum, status):
    argv = ["--model", "r3d_10", "--crop-size", "32", "--clip-len", "4", "--epochs", "100000", "--batch-size", "5"]
    process = start(toy_project, *argv)
    for line in process.stdout:
        if line.startswith("epoch"):
            process.send_signal(signum)
            break
    process.stdout.read()
    errors = process.stderr.read()
    assert process.wait(60) == status
    assert "To continue: python train.py --resume" in errors
    assert "Traceback" not in errors
    assert torch.load(toy_project.runs / "r3d_10-toy-000" / "last.pth", weights_only=True)["step"] > 0


def test_the_command_line_ends_with_two_for_wrong_usage_and_one_line(toy_project):
    process = start(toy_project, "--model", "r3d_1")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert errors.startswith("Unknown model 'r3d_1'. Did you mean 'r3d_1")
    assert errors.count("\n") == 1


# several networks


def test_several_networks_are_a_run_each_and_each_the_same_as_alone(toy_project, capsys):
    """Under the same settings; nothing of one run is left in the next."""
    argv = "--epochs 1 --batch-size 6 --crop-size 32 --clip-len 4 --workers 1".split()
    assert train.cli([*argv, "--model", "mc3_10", "r3d_10", "--name", "both"]) == 0
    assert "python compare.py " in capsys.readouterr().out
    assert train.cli([*argv, "--model", "r3d_10", "--name", "alone"]) == 0
    assert_equal_weights(toy_project.runs / "both-r3d_10" / "best.pth", toy_project.runs / "alone" / "best.pth")
    for model in ("mc3_10", "r3d_10"):
        settings = json.loads((toy_project.runs / f"both-{model}" / "config.json").read_text())
        assert (settings["model"], settings["crop_size"]) == (model, 32)


@pytest.mark.slow
def test_a_network_that_fails_does_not_keep_the_others_from_their_run(toy_project, capsys):
    argv = "--epochs 1 --batch-size 6 --clip-len 4 --crop-size 2 --model c3d r3d_10".split()
    assert train.cli(argv) == 1  # c3d has no input left at pool5 of so small a clip
    out, err = capsys.readouterr()
    assert "Failed: c3d." in err and "Traceback" not in err
    assert [run.name for run in toy_project.runs.iterdir()] == ["r3d_10-toy-000"]
    assert (toy_project.runs / "r3d_10-toy-000" / "best.pth").is_file()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("--model r3d_10 mc3_10x", "Unknown model 'mc3_10x'. Did you mean 'mc3_10'"),
        ("--model r3d_10 r3d_10", "--model names r3d_10 twice"),
        ("--resume r3d_10-toy-000 --model r3d_10 mc3_10", "--model cannot be changed"),
    ],
)
def test_a_mistake_in_the_list_of_networks_is_said_before_any_is_trained(toy_project, argv, message):
    with pytest.raises(UsageError, match=message):
        train.cli(argv.split())
    assert not toy_project.runs.exists()
