import json
from dataclasses import fields, replace

import pytest

from common.errors import UsageError, UserError
from engine.training.command_line import parse_configs
from engine.training.config import TrainConfig
from network import input_spec
from tests.helpers.training import CONFIG


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
        "--runs": "r",
        "--accumulate": "2", "--save-every": "3", "--on-full-disk": "wait",
        "--input": "diff", "--label-smoothing": "0.1", "--class-weights": "balanced", "--mixup": "0.2", "--cutmix": "1",
        "--ema": "0.9", "--clips-per-video": "2", "--stride-jitter": "0.3",
        "--recipe": "finetune", "--zoom": "0.6", "--colour-jitter": "0.4",
        "--clip-grad": "1", "--early-stopping": "0",
        "--cache": "ram",
    }  # fmt: skip
    config = parse(
        *[word for pair in argv.items() for word in pair],
        "--flip",
        "--compile",
        "--deterministic",
        "--test",
        "--learning-curve",
    )

    default = TrainConfig()
    untouched = [entry.name for entry in fields(config) if getattr(config, entry.name) == getattr(default, entry.name)]
    assert untouched == ["folds", "resume"]  # --folds and --resume stand alone
    assert (config.split, config.workers, config.lr, config.flip, config.compile) == ("2", 0, 0.5, True, "on")


def test_folds_arrive_as_text():
    assert parse("--folds", "groups").folds == "groups" and TrainConfig(folds=5).folds == "5"


def test_weights_takes_the_bare_name_of_a_run(tmp_path):
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "best.pth").write_bytes(b"")
    argv = ["--model", "r3d_10", "--weights"]
    for given, found in (("first", str(tmp_path / "first")), ("./first", "./first"), ("second", "second")):
        [config] = parse_configs([*argv, given], "ucf101", "r3d_18", tmp_path)
        assert config.weights == found


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
        ({"name": "a/b"}, "--name 'a/b' is not a name for a run"),
        ({"name": ".."}, "--name '..' is not a name for a run"),
        ({"name": "-z"}, "--name '-z' is not a name for a run"),
        ({"name": " "}, "--name ' ' is not a name for a run"),
        ({"weights": ""}, "--weights is empty"),
        ({"freeze": "trunk"}, "--freeze trunk keeps pretrained weights; give some with --weights"),
        ({"dropout": 1.0}, "--dropout must be smaller than 1"),
        ({"resume": ""}, "--resume is empty"),
        ({"seed": 2**64}, "--seed must be smaller than"),
        ({"weight_decay": float("inf")}, "--weight-decay must be smaller than"),
    ],
)
def test_wrong_settings_are_refused_in_the_users_words(values, message):
    with pytest.raises(UsageError, match=message):
        TrainConfig(**values)


def test_another_runs_settings_may_be_begun_with(tmp_path):
    first = TrainConfig(dataset="d", model="c3d", lr=0.5, mixup=0.2, epochs=7, name="first", workers=3, seed=4)
    (tmp_path / "first").mkdir()
    first.save(tmp_path / "first" / "config.json", environment={"git": None})
    for name in ("first", str(tmp_path / "first"), str(tmp_path / "first" / "config.json")):
        [config] = parse_configs(["--config", name, "--lr", "0.1"], "x", "r3d_18", tmp_path)
        assert (config.dataset, config.model, config.lr, config.mixup, config.epochs) == ("d", "c3d", 0.1, 0.2, 7)
        assert (config.name, config.workers, config.seed) == (None, None, 4)
    [config] = parse_configs(["--config", "first", "--model", "r3d_10", "--runs", str(tmp_path)], "x", "r3d_18")
    assert (config.model, config.dataset, config.runs) == ("r3d_10", "d", str(tmp_path))
    with pytest.raises(UsageError, match="--config second is neither a run nor a config.json"):
        parse_configs(["--config", "second"], "x", "r3d_18", tmp_path)


def test_resume_admits_only_what_leaves_the_run_what_it_is():
    config = parse("--resume", "r", "--epochs", "9", "--workers", "1", "--cache", "none", "--device", "cpu")
    assert (config.epochs, config.workers, config.cache, config.device) == (9, 1, "none", "cpu")
    with pytest.raises(UsageError, match="--lr cannot be changed. Only --epochs, .*, --dataset and --frames can."):
        parse("--resume", "r", "--lr", "0.1")


def test_options_of_the_network_are_numbers_where_they_look_like_numbers():
    config = parse("--dropout", "0.3", "--pool5", "symmetric", "--model-options", "pool=last, hidden=256,eps=1e-3")
    options = {"dropout": 0.3, "pool5": "symmetric", "pool": "last", "hidden": 256, "eps": 1e-3}
    assert config.build_options() == options
    with pytest.raises(UsageError, match="--model-options 'pool' is not NAME=VALUE"):
        parse("--model-options", "pool").build_options()


def test_resolved_fills_every_gap_with_what_the_model_brings():
    spec = input_spec("r3d_10")
    config = TrainConfig(dataset="d", model="r3d_10", epochs=2).resolved(spec, flip=False, split="1", workers=3)
    gaps = [name for name, value in config.to_dict().items() if value is None]
    assert gaps == ["frames", "folds", "weights", "dropout", "pool5", "model_options", "name", "runs", "resume"]
    assert config.warmup_epochs < 2, "the default warm-up must not refuse a short run"
    assert replace(config, epochs=config.epochs) == config


def test_clip_flags_change_the_spec_and_a_crop_that_does_not_fit_is_refused():
    spec = TrainConfig(clip_len=4, frame_stride=1, crop_size=32).adapt(input_spec("r3d_10"))
    assert (spec.clip_len, spec.frame_stride, spec.crop_size) == (4, 1, 32)
    with pytest.raises(UsageError, match="crop_size 500 does not fit into frames of 80x60"):
        TrainConfig(crop_size=500).adapt(input_spec("r3d_10"))


def test_compile_is_a_switch_that_also_takes_auto():
    assert parse().compile == "auto"
    for words, value in ((["--compile"], "on"), (["--no-compile"], "off"), (["--compile", "auto"], "auto")):
        assert parse(*words).compile == value
    assert parse("--compile", "--epochs", "2").epochs == 2
    with pytest.raises((UsageError, SystemExit)):
        parse("--compile", "yes")


@pytest.mark.parametrize(("stored", "value"), [(True, "on"), (False, "off"), ("auto", "auto")])
def test_settings_of_older_runs_have_compile_as_true_or_false(stored, value):
    assert TrainConfig.from_dict({"model": "r3d_10", "compile": stored}).compile == value
