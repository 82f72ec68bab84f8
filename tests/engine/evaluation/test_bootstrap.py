"""Intervals that are neither too narrow nor another one tomorrow."""

import numpy as np
import pytest

from engine.evaluation.bootstrap import accuracy_by_class, bootstrap_interval, mean_and_deviation


def alike(num_groups: int, size: int, top1: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Videos whose whole group is right or wrong together."""
    right = np.random.default_rng(seed).random(num_groups) < top1
    return np.repeat(right, size), np.repeat(np.arange(num_groups), size)


def test_the_interval_is_the_same_bits_every_time():
    hits, groups = alike(50, 6, 0.8, 0)
    assert bootstrap_interval(hits, groups) == bootstrap_interval(hits, list(map(str, groups)))
    assert bootstrap_interval(hits, groups, samples=50) != bootstrap_interval(hits, groups, samples=50, seed=1)


def test_resampling_does_not_depend_on_how_much_is_drawn_at_once(monkeypatch):
    hits, groups = alike(50, 6, 0.8, 0)
    whole = bootstrap_interval(hits, groups)
    monkeypatch.setattr("engine.evaluation.bootstrap.CHUNK", 170)
    assert bootstrap_interval(hits, groups) == whole


def test_groups_that_are_right_or_wrong_together_widen_the_interval():
    hits, groups = alike(100, 9, 0.8, 0)
    low, high = bootstrap_interval(hits, groups)
    alone_low, alone_high = bootstrap_interval(hits, np.arange(len(hits)))
    assert high - low == pytest.approx(3 * (alone_high - alone_low), rel=0.05)  # the square root of 9
    expected = 2 * 1.96 * np.sqrt(hits.mean() * (1 - hits.mean()) / 100)
    assert high - low == pytest.approx(expected, rel=0.05)


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    held = 0
    for seed in range(200):
        low, high = bootstrap_interval(*alike(80, 5, 0.7, seed), samples=500, seed=seed)
        held += low <= 0.7 <= high
    assert 0.90 <= held / 200 <= 0.99


def test_weights_count_a_video_as_often_as_it_has_clips():
    values, groups, weights = np.array([1.0, 0.5, 0.0]), ["a", "b", "c"], np.array([1, 4, 2])
    right = np.array([1, 1, 1, 0, 0, 0, 0])
    low, high = bootstrap_interval(right, ["a", "b", "b", "b", "b", "c", "c"])
    assert bootstrap_interval(values, groups, weights) == (low, high)


def test_where_nothing_varies_there_is_no_interval():
    assert bootstrap_interval(np.ones(6), [1, 1, 2, 2, 3, 3]) is None
    assert bootstrap_interval(np.array([1, 0, 1]), ["one", "one", "one"]) is None


def test_a_group_too_few_is_an_error():
    with pytest.raises(ValueError, match="3 values, 2 groups"):
        bootstrap_interval(np.ones(3), [1, 2])


def test_classes_count_alike_in_their_mean_however_many_videos_they_have():
    labels = np.array([0, 0, 0, 0, 2])
    per_class = accuracy_by_class(np.array([1, 1, 1, 0, 0], dtype=bool), labels, 3)
    assert per_class == pytest.approx([75.0, np.nan, 0.0], nan_ok=True)
    assert np.nanmean(per_class) == 37.5


def test_mean_and_deviation_of_splits_are_those_of_a_sample():
    assert mean_and_deviation([82.0, 80.0, 84.0]) == (82.0, 2.0)
    mean, deviation = mean_and_deviation([82.0])
    assert mean == 82.0 and np.isnan(deviation)
