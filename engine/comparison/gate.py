"""Whether a new run is worse than an old one on the same test videos (compare.py --gate)."""

import shlex
from dataclasses import dataclass

import numpy as np

from common.console import plural, table_line
from common.errors import UsageError
from engine.comparison.run_result import RunResult
from engine.comparison.test_result import TestResult
from engine.evaluation.bootstrap import bootstrap_interval

CLASS_LINES = 10
Interval = tuple[float, float]


@dataclass(frozen=True)
class ClassChange:
    """A class's accuracies in percent, and the 95 % interval of new - old; None where nothing varies."""

    name: str
    videos: int
    new: float
    old: float
    interval: Interval | None

    @property
    def change(self) -> float:
        return self.new - self.old


@dataclass(frozen=True)
class Gate:
    """The paired difference of two runs in video top-1.

    top1      of new and old, percent
    interval  95 % interval of new - old, in points, by recordings; both ends are the difference where all recordings
              have the same one
    classes   those that lost most first
    """

    new: RunResult
    old: RunResult
    margin: float
    top1: tuple[float, float]
    interval: Interval
    classes: list[ClassChange]

    @property
    def worse(self) -> bool:
        """The whole interval lies below -margin."""
        return self.interval[1] < -self.margin

    def lines(self) -> list[str]:
        tested, (low, high) = self.new.test, self.interval
        counts = f"{plural(tested.num_videos, 'video')} of {plural(tested.num_recordings, 'recording')}"
        lines = [
            f"{self.new.name} (new) minus {self.old.name} (old): {counts}, {tested.protocol}",
            f"  video top-1  {self.top1[0]:.2f} - {self.top1[1]:.2f} = {self.top1[0] - self.top1[1]:+.2f}   "
            f"95 % interval {low:+.1f} to {high:+.1f}",
        ]
        changed = [row for row in self.classes if row.change]
        table = [("class", "videos", "new", "old", "change", "95 % interval")]
        for row in changed[:CLASS_LINES]:
            shown = f"{row.interval[0]:+.1f} to {row.interval[1]:+.1f}" if row.interval else ""
            table.append((row.name, f"{row.videos}", f"{row.new:.1f}", f"{row.old:.1f}", f"{row.change:+.1f}", shown))
        if changed:
            widths = [max(len(cells[column]) for cells in table) for column in range(len(table[0]) - 1)]
            lines += [f"  {table_line(cells, widths)}" for cells in table]
        if len(changed) > CLASS_LINES:
            lines.append(f"  and {plural(len(changed) - CLASS_LINES, 'class')} that lost less or gained")
        return [*lines, self._verdict()]

    def _verdict(self) -> str:
        allowed = f"-{self.margin:g} points (--margin)" if self.margin else "zero"
        if self.worse:
            return f"Worse: the whole interval lies below {allowed}."
        if self.interval[0] > 0:
            return "Better: the whole interval lies above zero."
        return f"Not shown to be worse: the interval does not lie below {allowed}."


def judge(new: RunResult, old: RunResult, margin: float) -> Gate:
    """Compares the answers to each video. Raises UsageError, one line, where the runs cannot be compared."""
    ours, theirs = _answers(new), _answers(old)
    if ours.keys() != theirs.keys():
        alone = sorted(ours.keys() ^ theirs.keys())
        raise UsageError(
            f"{new.name} and {old.name} were not tested on the same videos: {plural(len(alone), 'video')} of only one "
            f"of them, such as {alone[0]}. Evaluate both on one test list."
        )
    for name, video in ours.items():
        if (video.label, video.group) != (theirs[name].label, theirs[name].group):
            raise UsageError(
                f"{new.name} and {old.name} do not agree on the class or the recording of {name}. Evaluate both again."
            )
    if new.test.protocol != old.test.protocol:
        raise UsageError(
            f"{new.name} was tested with {new.test.protocol}, {old.name} with {old.test.protocol}. Evaluate both alike."
        )
    labels = np.array([video.label for video in ours.values()])
    groups = np.array([video.group for video in ours.values()])
    hits = 100.0 * np.array([[video.right, theirs[name].right] for name, video in ours.items()])  # (V, 2)
    change = hits[:, 0] - hits[:, 1]
    if len(set(groups)) < 2:
        raise UsageError(f"All test videos of {new.name} are of one recording. Evaluate both on several recordings.")
    top1 = float(hits[:, 0].mean()), float(hits[:, 1].mean())
    classes = []
    for label in sorted(set(labels)):
        of = labels == label
        accuracies = hits[of].mean(0)
        interval = bootstrap_interval(change[of], groups[of].tolist())
        classes.append(ClassChange(str(label), int(of.sum()), float(accuracies[0]), float(accuracies[1]), interval))
    classes.sort(key=lambda row: (row.change, row.name))
    interval = bootstrap_interval(change, groups.tolist()) or (float(change.mean()),) * 2
    return Gate(new, old, margin, top1, interval, classes)


def _answers(run: RunResult) -> dict:
    test: TestResult | None = run.test
    if test is None:
        raise UsageError(f"{run.name} has no test result. Run: python evaluate.py {shlex.quote(str(run.path))}")
    if test.leak:
        raise UsageError(f"The accuracy of {run.name} is not a test result: {test.leak}")
    if not test.videos:
        raise UsageError(
            f"{run.name} has no answers in test/videos.csv. Run: python evaluate.py {shlex.quote(str(run.path))}"
        )
    return {video.video: video for video in test.videos}
