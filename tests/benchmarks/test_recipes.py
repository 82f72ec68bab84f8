"""benchmarks/recipes.py: what it keeps in its log, and what its table says."""

import json
import shlex

import numpy as np
import pytest

from benchmarks import recipes
from common.errors import UsageError
from engine.training.command_line import parse_configs
from tests.helpers.training import run_tiny  # noqa: F401

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def args(tmp_path):
    return recipes.parse_args(
        [
            "--dataset",
            "toy",
            "--seeds",
            "2",
            "--num-clips",
            "2",
            "--device",
            "cpu",
            "--log",
            str(tmp_path / "log.jsonl"),
        ]
    )


def test_a_setting_is_a_name_of_the_table_or_a_name_with_flags():
    assert recipes.read_setting("diff") == ("diff", "--input diff")
    assert recipes.read_setting("slow=--lr 1e-4 --schedule=step") == ("slow", "--lr 1e-4 --schedule=step")
    assert recipes.read_setting("rgb=--crop-size 48") == ("rgb", "--crop-size 48")
    with pytest.raises(UsageError, match="Unknown setting 'dif'"):
        recipes.read_setting("dif")
    with pytest.raises(UsageError, match="goes into a folder's name"):
        recipes.read_setting("a/b=--lr 1")


@pytest.mark.parametrize(("setting", "flags"), recipes.SETTINGS.items())
def test_every_setting_of_the_table_is_understood_by_train(setting, flags):
    parse_configs(["--dataset", "d", "--model", "r3d_10", *shlex.split(flags)], "d", "r3d_10")


def test_the_log_of_a_killed_script_goes_on_after_its_half_line(args):
    key = recipes.key_of(args, "r3d_10", "rgb", "", 0)
    assert recipes.find_record(args, "r3d_10", "rgb", "", 0) is None
    args.log.write_text(json.dumps(key | {"top1": 50.0}) + "\n" + json.dumps(key | {"seed": 1, "top1": 60.0})[:-9])
    assert recipes.find_record(args, "r3d_10", "rgb", "", 0)["top1"] == 50.0
    assert recipes.find_record(args, "r3d_10", "rgb", "", 1) is None
    recipes.write_record(args, key | {"seed": 1, "top1": 70.0})
    assert recipes.find_record(args, "r3d_10", "rgb", "", 1)["top1"] == 70.0
    assert recipes.find_record(args, "r3d_10", "rgb", "--lr 1", 1) is None, "other flags are another run"
    args.on = "test"
    assert recipes.find_record(args, "r3d_10", "rgb", "", 1) is None, "validation is not the test"


def test_a_run_is_looked_at_on_the_videos_asked_for(args, toy_project):
    run_dir = run_tiny(epochs=2)
    for on, group in (("val", "g23"), ("test", "g01")):
        args.on = on
        record = recipes.look_at(args, run_dir)
        assert len(record["hits"]) == len(record["groups"]) == 6
        assert all(name.endswith(group) for name in record["groups"])
        assert record["top1"] == pytest.approx(100 * np.mean(record["hits"]))
    assert (record["epochs"], record["run"]) == (2, run_dir.name)
    assert record["train_seconds"] > 0
    assert json.loads(json.dumps(record)) == record


def test_the_table_has_means_over_seeds_and_gains_over_the_first_setting(args, capsys):
    groups = [f"g{number // 2}" for number in range(20)]
    for name, rates in (("rgb", (8, 10)), ("diff", (12, 14))):
        for seed, right in enumerate(rates):
            key = recipes.key_of(args, "r3d_10", name, recipes.SETTINGS[name], seed)
            hits = [int(number < right) for number in range(20)]
            numbers = {"top1": 5.0 * right, "train_top1": 90.0, "train_seconds": 120.0, "hits": hits, "groups": groups}
            recipes.write_record(args, key | numbers)
    recipes.print_table(args, {name: recipes.SETTINGS[name] for name in ("rgb", "diff")})
    rgb, diff = capsys.readouterr().out.splitlines()[-2:]
    assert rgb.split()[:4] == ["r3d_10", "rgb", "45.0", "7.1"] and rgb.split()[-2:] == ["90.0", "2.0"]
    assert diff.split()[:4] == ["r3d_10", "diff", "65.0", "7.1"] and "+20.0" in diff
