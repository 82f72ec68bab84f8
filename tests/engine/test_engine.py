"""Configuration, optimiser, schedule, metrics, checkpoints, runs and records."""

import json
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from common.errors import UsageError, UserError
from common.files import ROOT
from engine.evaluation.metrics import Mean, topk_correct
from engine.hardware.device import pick_amp, pick_device, to_device
from engine.runs.checkpoint import find_checkpoint, load_checkpoint, load_model, save_checkpoint
from engine.runs.folder import create_run_dir
from engine.runs.tracking import Tracker, clip_sheet, read_metrics
from engine.training.config import TrainConfig, parse_configs
from engine.training.optimizer import Schedule, build_optimizer
from network import InputSpec, create_model, input_spec

CONFIG = TrainConfig(
    dataset="toy", model="r3d_10", epochs=10, lr=0.1, weight_decay=0.01, optimizer="sgd", warmup_epochs=2.0
)


# configuration


def parse(*argv: str) -> TrainConfig:
    [config] = parse_configs(argv, "ucf101", "r2plus1d_18")
    return config


def test_every_field_is_a_flag_and_arrives():
    argv = {
        "--dataset": "d", "--frames": "f", "--model": "c3d", "--split": "2", "--val": "none", "--epochs": "7",
        "--batch-size": "8", "--lr": "0.5", "--weight-decay": "0.25", "--optimizer": "adam", "--schedule": "step",
        "--warmup-epochs": "1.5", "--clip-len": "4", "--frame-stride": "3", "--crop-size": "48", "--weights": "w",
        "--freeze": "stem", "--head-lr-scale": "5", "--dropout": "0.5", "--pool5": "ceil", "--model-options": "a=1",
        "--val-clips": "2", "--workers": "0", "--device": "cpu", "--amp": "bf16", "--seed": "5", "--name": "n",
        "--accumulate": "2", "--save-every": "3",
        "--input": "diff", "--label-smoothing": "0.1", "--class-weights": "balanced", "--mixup": "0.2", "--cutmix": "1",
        "--ema": "0.9", "--clips-per-video": "2", "--stride-jitter": "0.3",
        "--recipe": "strong", "--zoom": "0.6", "--colour-jitter": "0.4",
        "--clip-grad": "1", "--early-stopping": "0",
        "--cache": "ram",
    }  # fmt: skip
    config = parse(*[word for pair in argv.items() for word in pair], "--flip", "--compile", "--deterministic")

    default = TrainConfig()
    untouched = [entry.name for entry in fields(config) if getattr(config, entry.name) == getattr(default, entry.name)]
    assert untouched == ["resume"]
    assert (config.split, config.workers, config.lr, config.flip, config.compile) == ("2", 0, 0.5, True, True)


def test_no_flags_mean_mypaths_default_and_flip_can_be_switched_off():
    assert (parse().dataset, parse().model) == ("ucf101", "r2plus1d_18")
    assert parse().flip is None
    assert parse("--no-flip").flip is False


def test_config_survives_json_and_a_setting_of_another_version_is_named(tmp_path):
    CONFIG.save(tmp_path / "config.json", environment={"command": "python train.py"})
    values = json.loads((tmp_path / "config.json").read_text())
    assert TrainConfig.from_dict(values) == CONFIG
    with pytest.raises(UserError, match="another version.*'momentum'"):
        TrainConfig.from_dict(values | {"momentum": 0.2})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": 1, "warmup_epochs": 2.0}, r"--warmup-epochs \(2\) must be smaller than --epochs \(1\)"),
        ({"epochs": 0}, "--epochs must be at least 1, but is 0"),
        ({"batch_size": -4}, "--batch-size must be at least 1, but is -4"),
        ({"lr": 0.0}, "--lr must be greater than 0"),
        ({"lr": float("nan")}, "--lr must be greater than 0"),
        ({"optimizer": "lion"}, "--optimizer is 'lion'. It can be sgd, adam, adamw"),
        ({"name": "a/b"}, "--name 'a/b' is no folder name"),
        ({"name": ".."}, "--name '..' is no folder name"),
        ({"weights": ""}, "--weights is empty"),
        ({"freeze": "trunk"}, "--freeze trunk keeps weights that are there; give some with --weights"),
        ({"dropout": 1.0}, "--dropout must be smaller than 1"),
        ({"resume": ""}, "--resume is empty"),
        ({"seed": 2**64}, "--seed must be smaller than"),
        ({"weight_decay": float("inf")}, "--weight-decay must be smaller than"),
    ],
)
def test_wrong_settings_are_refused_in_the_users_words(values, message):
    with pytest.raises(UsageError, match=message):
        TrainConfig(**values)


def test_resume_admits_only_epochs_workers_cache_and_device():
    config = parse("--resume", "r", "--epochs", "9", "--workers", "1", "--cache", "none", "--device", "cpu")
    assert (config.epochs, config.workers, config.cache, config.device) == (9, 1, "none", "cpu")
    with pytest.raises(UsageError, match="--lr cannot be changed. Only --epochs, --workers, --cache and --device can."):
        parse("--resume", "r", "--lr", "0.1")


def test_options_of_the_network_are_numbers_where_they_look_like_numbers():
    config = parse("--dropout", "0.3", "--pool5", "symmetric", "--model-options", "pool=last, hidden=256,eps=1e-3")
    options = {"dropout": 0.3, "pool5": "symmetric", "pool": "last", "hidden": 256, "eps": 1e-3}
    assert config.build_options() == options
    with pytest.raises(UsageError, match="--model-options 'pool' is no NAME=VALUE"):
        parse("--model-options", "pool").build_options()


def test_resolved_fills_every_gap_with_what_the_model_brings():
    spec = input_spec("r3d_10")
    config = TrainConfig(dataset="d", model="r3d_10", epochs=2).resolved(spec, flip=False, split="1", workers=3)
    gaps = [name for name, value in config.to_dict().items() if value is None]
    assert gaps == ["frames", "weights", "dropout", "pool5", "model_options", "resume", "name"]
    assert config.warmup_epochs < 2, "the default warm-up must not refuse a short run"
    assert replace(config, epochs=config.epochs) == config


def test_clip_flags_change_the_spec_and_a_crop_that_does_not_fit_is_refused():
    spec = TrainConfig(clip_len=4, frame_stride=1, crop_size=32).adapt(input_spec("r3d_10"))
    assert (spec.clip_len, spec.frame_stride, spec.crop_size) == (4, 1, 32)
    with pytest.raises(UsageError, match="crop_size 500 does not fit into frames of 80x60"):
        TrainConfig(crop_size=500).adapt(input_spec("r3d_10"))


# optimiser and schedule


def test_norms_and_biases_are_not_decayed_and_what_is_new_learns_faster_than_what_was_loaded():
    model = create_model("r3d_10", 4)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    optimizer = build_optimizer(model, CONFIG, new=["fc.weight", "fc.bias"])

    seen = set()
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            seen.add(name)
            assert group["weight_decay"] == (0.01 if parameter.ndim > 1 else 0.0), name
            assert group["peak_lr"] == pytest.approx(1.0 if name.startswith("fc.") else 0.1), name
    assert seen == set(names.values())
    assert {group["peak_lr"] for group in build_optimizer(model, CONFIG).param_groups} == {0.1}


@pytest.mark.parametrize(("name", "kind"), [("sgd", "SGD"), ("adam", "Adam"), ("adamw", "AdamW")])
def test_the_optimizer_asked_for_is_built(name, kind):
    optimizer = build_optimizer(create_model("r3d_10", 2), replace(CONFIG, optimizer=name))
    assert type(optimizer).__name__ == kind
    if name == "sgd":
        assert all(group["momentum"] == 0.9 for group in optimizer.param_groups)


def test_cosine_rises_over_the_warm_up_and_ends_at_zero():
    schedule = Schedule(CONFIG, steps_per_epoch=10)
    factors = [schedule.factor(step) for step in range(100)]
    assert factors[0] == pytest.approx(1 / 20)
    assert factors[19] == factors[20] == 1.0
    assert factors == sorted(factors[:20]) + sorted(factors[20:], reverse=True)
    assert factors[60] == pytest.approx(0.5, abs=0.02)
    assert factors[99] < 0.001


def test_step_schedule_is_a_tenth_from_half_on_and_a_hundredth_from_three_quarters_on():
    schedule = Schedule(replace(CONFIG, schedule="step", warmup_epochs=0.0), steps_per_epoch=10)
    assert [schedule.factor(step) for step in (0, 49, 50, 74, 75, 99)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_the_first_step_is_made_at_the_first_rate_of_the_schedule():
    """Trap 15: a scheduler that steps before the optimiser loses the first rate."""
    optimizer = build_optimizer(create_model("r3d_10", 2), CONFIG)
    assert Schedule(CONFIG, 10).set_lr(optimizer, 0) == pytest.approx(0.1 / 20)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.1 / 20] * len(optimizer.param_groups))


# metrics


def test_topk_is_top_min_k_classes():
    logits = torch.tensor([[0.1, 0.9, 0.0], [0.9, 0.5, 0.1]])
    assert topk_correct(logits, torch.tensor([1, 2])).tolist() == [True, False]
    assert topk_correct(logits, torch.tensor([0, 1]), 2).tolist() == [True, True]
    assert topk_correct(logits, torch.tensor([2, 2]), 5).tolist() == [True, True]


def test_a_mean_counts_samples_not_batches():
    """Trap 22: the mean of batch means gives the last, smaller batch too much weight."""
    mean = Mean()
    mean.add(torch.tensor([1.0, 1.0, 1.0]))
    mean.add(torch.tensor([5.0]))
    assert mean.value() == 2.0
    again = Mean()
    again.load(mean.state())
    assert again.value() == 2.0
    assert np.isnan(Mean().value())


def test_cross_entropy_of_logits_can_reach_zero():
    """Trap 16: with a softmax in front, 101 classes cannot get below 3.63."""
    logits = torch.full((1, 101), -50.0)
    logits[0, 7] = 50.0
    assert F.cross_entropy(logits, torch.tensor([7])).item() < 1e-6
    assert F.cross_entropy(logits.softmax(1), torch.tensor([7])).item() == pytest.approx(3.63, abs=0.01)


# checkpoints


def content(model_name: str = "r3d_10", classes: tuple[str, ...] = ("A", "B", "C")) -> dict:
    model = create_model(model_name, len(classes))
    return {
        "model": model.state_dict(),
        "ema": None,
        "config": {"model": model_name},
        "input_spec": input_spec(model_name).to_dict(),
        "classes": list(classes),
    }


def test_a_checkpoint_alone_rebuilds_the_model(tmp_path):
    saved = content()
    save_checkpoint(tmp_path / "best.pth", saved)
    trained = load_model(tmp_path / "best.pth")
    assert (trained.name, trained.classes, trained.input_spec) == ("r3d_10", ["A", "B", "C"], input_spec("r3d_10"))
    assert not trained.model.training
    for name, value in trained.model.state_dict().items():
        assert torch.equal(value, saved["model"][name]), name


def test_checkpoints_load_with_weights_only(tmp_path):
    save_checkpoint(tmp_path / "best.pth", content())
    assert torch.load(tmp_path / "best.pth", weights_only=True)["classes"] == ["A", "B", "C"]


@pytest.mark.parametrize("value", [torch.__version__, np.float64(1.0), ROOT, (1, {2})])
def test_what_weights_only_would_refuse_is_not_saved(tmp_path, value):
    with pytest.raises(AssertionError):
        save_checkpoint(tmp_path / "best.pth", {"model": {}, "bad": [value]})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_leaves_the_old_checkpoint_and_says_so(tmp_path):
    save_checkpoint(tmp_path / "last.pth", {"step": 1})
    (tmp_path / "last.pth.tmp").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device") as raised:
        save_checkpoint(tmp_path / "last.pth", {"step": 2, "weights": torch.zeros(100_000)})
    assert raised.value.filename == str(tmp_path / "last.pth")
    assert [path.name for path in tmp_path.iterdir()] == ["last.pth"]
    assert torch.load(tmp_path / "last.pth")["step"] == 1


def test_other_files_are_refused_as_checkpoints(tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="not a checkpoint of this program: it has no 'model'"):
        load_checkpoint(tmp_path / "other.pth")
    saved = content() | {"classes": ["A", "B"]}
    save_checkpoint(tmp_path / "mixed.pth", saved)
    with pytest.raises(UserError, match="do not fit VideoResNet: size mismatch for fc.weight"):
        load_model(tmp_path / "mixed.pth")
    save_checkpoint(tmp_path / "spec.pth", content() | {"input_spec": {"clip_size": 3}})
    with pytest.raises(UserError, match="another version of the program: its input_spec differs"):
        load_model(tmp_path / "spec.pth")


def test_a_run_is_found_by_folder_by_name_and_by_file(tmp_path):
    (tmp_path / "run" / "a-000").mkdir(parents=True)
    with pytest.raises(UserError, match=r"has no best\.pth"):
        find_checkpoint("a-000", tmp_path / "run")
    path = tmp_path / "run" / "a-000" / "best.pth"
    path.touch()
    for name in ("a-000", path, path.parent):
        assert find_checkpoint(name, tmp_path / "run") == path
    with pytest.raises(UserError, match="no run and no checkpoint 'b-000'. Runs in .*: a-000"):
        find_checkpoint("b-000", tmp_path / "run")


# runs


def test_run_folders_count_as_numbers(tmp_path):
    """Trap 19: sorted as text, run 2 comes after run 10."""
    for name in ("m-d-002", "m-d-010", "m-d-1000", "m-d-x", "other-d-5000"):
        (tmp_path / name).mkdir()
    assert create_run_dir(tmp_path, "m-d").name == "m-d-1001"
    assert create_run_dir(tmp_path, "n-d").name == "n-d-000"
    assert create_run_dir(tmp_path, "n-d").name == "n-d-001"


def test_a_name_that_is_taken_is_refused(tmp_path):
    assert create_run_dir(tmp_path, "m-d", "mine").name == "mine"
    with pytest.raises(UserError, match="exists already. Choose another --name.$"):
        create_run_dir(tmp_path, "m-d", "mine")
    (tmp_path / "mine" / "last.pth").touch()
    with pytest.raises(UserError, match="exists already.*--resume mine"):
        create_run_dir(tmp_path, "m-d", "mine")


# records


def read_events(run_dir) -> EventAccumulator:
    events = EventAccumulator(str(run_dir), size_guidance={"scalars": 0, "images": 0})
    return events.Reload()


def test_tensorboard_reads_what_the_tracker_writes(tmp_path):
    tracker = Tracker(tmp_path)
    tracker.hparams(CONFIG.to_dict())
    tracker.scalars({"train/loss": 2.5, "val/top1": float("nan")}, 20)
    tracker.clips(torch.zeros(2, 3, 8, 16, 16), InputSpec(), 0)
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


# devices and endings


def test_cuda_asked_for_and_absent_is_one_clear_error():
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(UserError, match="finds no GPU.*--device cpu"):
        pick_device("cuda")
    with pytest.raises(UsageError, match="Unknown device 'gpu'"):
        pick_device("gpu")
    assert pick_device("auto").type in ("cpu", "mps")
    assert pick_amp("auto", torch.device("cpu")) is None
    with pytest.raises(UsageError, match="fp16 needs a CUDA device"):
        pick_amp("fp16", torch.device("cpu"))


@pytest.mark.parametrize(
    ("raised", "status", "line"),
    [
        ("UsageError('u')", 2, "u"),
        ("UserError('f')", 1, "f"),
        ("Stopped(15, 's')", 143, "s"),
        ("KeyboardInterrupt()", 130, "Stopped by Ctrl-C."),
        ("OSError(28, 'No space left on device', 'x')", 1, "No space left on device: x."),
        ("PermissionError(13, 'Permission denied', 'y')", 1, "Permission denied: y."),
        ("NotADirectoryError(20, 'Not a directory', 'z')", 1, "Not a directory: z."),
        ("MemoryError()", 1, "Out of memory. Lower --batch-size"),
    ],
)
def test_programs_end_with_one_line_and_their_status(raised, status, line):
    code = f"from common.errors import *\nfrom common.cli import *\ndef main(argv): raise {raised}\nrun_cli(main)"
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == status
    assert ended.stderr.startswith(line)
    assert ended.stderr.count("\n") == 1


def test_a_network_with_2d_convolutions_is_placed_too():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Conv3d(3, 4, 3))
    to_device(model, torch.device("cpu"))
    assert model[1].weight.is_contiguous(memory_format=torch.channels_last_3d)
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)


def test_a_bug_of_ours_keeps_its_traceback():
    code = "from common.errors import *\nfrom common.cli import *\ndef main(argv): raise KeyError('bug')\nrun_cli(main)"
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "Traceback" in ended.stderr


NOT_CLOSED = 'DATASETS = {\n    "own": {"videos": "/data/own"\n'


@pytest.mark.parametrize(
    ("program", "text", "message"),
    [
        ("train.cli", NOT_CLOSED, "mypath.py, line 2: '{' was never closed: "),
        (
            "dataloaders.preprocess.__main__.main",
            'DATASETS = {"own": data}',
            "mypath.py, line 1: name 'data' is not defined (DATA",
        ),
        (
            "dataloaders.preprocess.__main__.main",
            "",
            "mypath.py has no DEFAULT_DATASET any more. Put it back: git diff mypath",
        ),
    ],
)
def test_a_mistake_in_mypath_is_one_line(tmp_path, program, text, message):
    (tmp_path / "mypath.py").write_text(text)
    module, _, function = program.rpartition(".")
    code = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]; sys.argv[1:] = []\n"
    code += f"from {module} import {function}; from common.cli import run_cli; run_cli({function})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)

    assert done.returncode == 1 and done.stderr.startswith(message) and done.stderr.count("\n") == 1
