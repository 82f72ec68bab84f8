"""Confidence intervals by resampling recordings, means by class, mean and deviation over splits."""

from collections.abc import Hashable, Sequence

import numpy as np

SAMPLES = 10_000
CONFIDENCE = 95.0  # percent
CHUNK = 2_000_000  # drawn numbers held at once


def bootstrap_interval(
    values: np.ndarray,
    groups: Sequence[Hashable],
    weights: np.ndarray | None = None,
    confidence: float = CONFIDENCE,
    samples: int = SAMPLES,
    seed: int = 0,
) -> tuple[float, float] | None:
    """(V,) values, (V,) the group of each -> (low, high) of their mean, by the percentile bootstrap over groups.

    Videos cut from one recording are right or wrong together, so they are no independent observations and resampling
    them one by one gives too narrow an interval. Here whole groups are drawn: as many as there are, with replacement,
    `samples` times; each time the mean over the videos of the drawn groups is taken, and the interval is what lies
    between the percentiles of these means. (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, ch. 13; whole
    groups as in Cameron, Gelbach and Miller, 2008.)

    values    hits (bool) or any number a video: a difference of two models' hits gives the interval of the difference
    weights   how much each counts, such as clips per video; values are then means over so many
    None where the answer would be no interval: fewer than two groups, or all groups alike, such as all right, where
    there is nothing to vary. The same numbers give the same bits: the generator is seeded.
    """
    values = np.asarray(values, dtype=np.float64)
    weights = np.ones_like(values) if weights is None else np.asarray(weights, dtype=np.float64)
    number_of: dict[Hashable, int] = {}
    members = np.array([number_of.setdefault(group, len(number_of)) for group in groups], dtype=np.int64)
    if not values.shape == weights.shape == members.shape:
        raise ValueError(f"{len(values)} values, {len(members)} groups and {len(weights)} weights do not go together.")
    num_groups = len(number_of)
    sums = np.bincount(members, values * weights, num_groups)  # (G,)
    sizes = np.bincount(members, weights, num_groups)  # (G,)
    if num_groups < 2 or np.ptp(sums / sizes) == 0:
        return None

    rng = np.random.default_rng(seed)
    means = []
    at_once = max(CHUNK // num_groups, 1)
    for first in range(0, samples, at_once):
        drawn = rng.integers(num_groups, size=(min(at_once, samples - first), num_groups), dtype=np.int32)
        means.append(sums[drawn].sum(1) / sizes[drawn].sum(1))
    tail = (100 - confidence) / 2
    low, high = np.percentile(np.concatenate(means), [tail, 100 - tail])
    return float(low), float(high)


def accuracy_by_class(hits: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """(V,) bool, (V,) ids -> (K,) percent of each class's videos that are right; nan for a class without videos."""
    totals = np.bincount(labels, minlength=num_classes)
    right = np.bincount(labels, np.asarray(hits, dtype=np.float64), num_classes)
    return 100 * np.divide(right, totals, out=np.full(num_classes, np.nan), where=totals > 0)


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation over splits or seeds, with n - 1 in the denominator; nan as the deviation of one."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
