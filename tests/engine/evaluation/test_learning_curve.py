"""train.py --learning-curve: nested shares of the training recordings, and the law through their results."""

import json
from pathlib import Path

import numpy as np
import pytest

import compare
import train
from common.errors import Stopped, UsageError, UserError
from engine.evaluation.learning_curve import CurveRun, accuracy, fit_curve, fit_power_law, starving_classes, write_curve
from engine.runs.checkpoint import load_checkpoint
from engine.training.config import TrainConfig
from tests.helpers.training import TINY, stop_after

pytestmark = pytest.mark.usefixtures("one_thread")
CURVE = TINY | {"epochs": 1, "split": "1", "val": "none", "learning_curve": True}
SIZES = {1: 25, 2: 50, 4: 100, 8: 200}


# --- the law


@pytest.mark.parametrize(("a", "b"), [(1.2, 0.25), (0.9, 0.5), (0.5, 0.05)])
def test_a_law_without_noise_is_found(a, b):
    sizes = np.array([25.0, 50, 100, 200])
    found = fit_power_law(sizes, a * sizes**-b, 10**9)
    assert found == pytest.approx((a, b), rel=1e-6)


def test_more_recordings_never_do_harm():
    a, b = fit_power_law(np.array([10.0, 20, 40]), np.array([0.3, 0.35, 0.4]), 100)
    assert b == 0 and 0.3 < a < 0.4
    assert np.isfinite(fit_power_law(np.array([10.0, 20]), np.array([0.0, 0.0]), 50)).all()


def simulated(a: float, b: float, seed: int, num_groups: int = 60, in_group: int = 4) -> list[CurveRun]:
    """Runs whose true errors follow the law; recordings are easy or hard as a whole."""
    rng = np.random.default_rng(seed)
    hard = rng.normal(0, 0.08, num_groups).repeat(in_group)
    groups = [f"g{number}" for number in range(num_groups) for _ in range(in_group)]
    runs = []
    for share, size in SIZES.items():
        for _ in range(2):
            error = np.clip(a * size**-b + hard + rng.normal(0, 0.01), 0.01, 0.99)
            runs.append(CurveRun(share, size, {}, rng.random(len(error)) > error, groups, ["x"] * len(error)))
    return runs


def test_the_band_holds_the_true_curve():
    a, b = 1.2, 0.25
    inside = []
    for seed in range(40):
        curve = fit_curve(simulated(a, b, seed), samples=100, seed=seed)
        truth = float(accuracy(a, b, np.array([400.0]))[0])
        assert curve.now < curve.twice and curve.interval[0] < curve.twice < curve.interval[1]
        assert abs(curve.twice - truth) < 15
        inside.append(curve.interval[0] <= truth <= curve.interval[1])
    assert np.mean(inside) > 0.85, "95 % is meant; few runs and recordings make it narrower"


def test_classes_that_gained_most_come_first():
    def run(share: int, **right: list[int]) -> CurveRun:
        labels = [name for name, hits in right.items() for _ in hits]
        hits = np.array([hit for hits in right.values() for hit in hits], bool)
        return CurveRun(share, share * 10, {"a": 3, "b": 5, "c": 9}, hits, [str(i) for i in range(len(hits))], labels)

    runs = [run(4, a=[0, 0, 1], b=[1, 0], c=[1, 1]), run(8, a=[1, 1, 1], b=[1, 1], c=[1, 0])]
    found = starving_classes(runs)
    assert [(gain.name, gain.recordings) for gain in found] == [("a", 3), ("b", 5)]
    assert (found[0].half, found[0].whole) == pytest.approx((100 / 3, 100))


def test_what_it_prints_and_writes(tmp_path, capsys):
    curve = write_curve(tmp_path, "net on data", simulated(1.2, 0.25, 0))
    out = capsys.readouterr().out
    low, high = curve.interval
    assert f"twice the recordings: {curve.now:.0f} -> {curve.twice:.0f} ({low:.0f} to {high:.0f})" in out
    assert "240 test videos of 60 recordings" in out and (tmp_path / "curve.png").stat().st_size > 5000
    content = json.loads((tmp_path / "curve.json").read_text())
    assert content["twice"]["recordings"] == 400 and len(content["runs"]) == 8


# --- the runs


def groups_of(folder: Path) -> set[str]:
    return set(load_checkpoint(folder / "best.pth")["split"]["training_groups"])


@pytest.mark.slow
def test_runs_on_nested_shares_are_trained_tested_and_continued(toy_project, monkeypatch, capsys):
    begun = train.begin_run

    def begin_and_stop(config, *others):
        if "train-4-of-8" in config.split:
            stop_after(1, monkeypatch)
        return begun(config, *others)

    note = train.note_bad_loss
    with monkeypatch.context() as patch:
        patch.setattr(train, "begin_run", begin_and_stop)
        with pytest.raises(Stopped, match="To continue: python train.py --resume .*r3d_10-toy-curve-000$"):
            train.main(TrainConfig(**CURVE))
    monkeypatch.setattr(train, "note_bad_loss", note)
    assert (
        "Learning curve: 8 runs on 1/8, 2/8, 4/8, 8/8 of 9 training recordings, 2 draws each" in capsys.readouterr().out
    )
    folder = train.main(TrainConfig(resume="r3d_10-toy-curve-000", workers=0))
    out = capsys.readouterr().out
    assert out.count("is done.") == 4 and "twice the recordings:" in out
    for draw in (0, 1):
        shares = [groups_of(folder / f"train-{share}-of-8-draw-{draw}") for share in (1, 2, 4, 8)]
        assert [len(groups) for groups in shares] == [3, 3, 6, 9]  # of each class one at least
        assert shares[0] <= shares[1] <= shares[2] <= shares[3]
    configs = [json.loads((path / "config.json").read_text()) for path in sorted(folder.glob("train-*"))]
    assert [(config["clips_per_video"], config["seed"]) for config in configs] == [
        (clips, draw) for clips in (8, 4, 2, 1) for draw in (0, 1)
    ]
    tests = [json.loads((path / "test.json").read_text()) for path in folder.glob("train-*")]
    assert {test["num_videos"] for test in tests} == {6} and not any(test["leak"] for test in tests)
    compare.main([str(folder / "train-8-of-8-draw-0"), str(folder)])
    assert "a learning curve, whose result is" in capsys.readouterr().err
    with pytest.raises(UsageError, match="--epochs cannot be changed within a learning curve"):
        train.main(TrainConfig(resume=str(folder), epochs=9))


@pytest.mark.slow
def test_the_runs_can_be_cross_validated(toy_project, capsys):
    settings = CURVE | {"folds": "3"}
    del settings["split"]
    folder = train.main(TrainConfig(**settings))
    assert "24 test videos of 12 recordings" in capsys.readouterr().out
    for share, number in ((1, 3), (8, 8)):
        fold = folder / f"train-{share}-of-8-draw-0" / "fold-1"
        assert len(groups_of(fold)) in (number, number + 1)
        assert load_checkpoint(fold / "best.pth")["split"]["name"] == f"fold-1-of-3-train-{share}-of-8-draw-0"


def test_too_few_recordings_are_said(toy_project):
    with pytest.raises(UsageError, match="--learning-curve takes --folds with a number, not groups"):
        TrainConfig(folds="groups", learning_curve=True)
    with pytest.raises(UserError, match="needs 8 training recordings and a test list; toy has 6 training recordings"):
        train.main(TrainConfig(**CURVE | {"val": "auto"}))
    assert not toy_project.runs.exists() or not list(toy_project.runs.iterdir())
