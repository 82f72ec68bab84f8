"""Groups of runs that can be compared, and their differences on the same videos."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from common.console import plural
from engine.comparison.run_result import RunResult
from engine.comparison.test_result import TestedVideo, one_line
from engine.evaluation.bootstrap import bootstrap_interval


@dataclass(frozen=True)
class Group:
    """Runs on one data set and one split, the best first; only these may be compared."""

    dataset: str
    split: str
    runs: list[RunResult]

    @property
    def title(self) -> str:
        return f"{self.dataset}, split {self.split}"

    def tested(self) -> list[RunResult]:
        return [run for run in self.runs if run.test is not None]

    def about(self) -> list[str]:
        """Caveats of the comparison, a sentence each."""
        tests = [run.test for run in self.tested()]
        said = [f"Not a test result, {run.name}: {run.test.leak}" for run in self.tested() if run.test.leak]
        if len({test.protocol for test in tests}) > 1:
            each = "; ".join(f"{run.name} {run.test.protocol}" for run in self.tested())
            said.append(f"Tested in different ways: {each}")
        names = {frozenset(video.video for video in test.videos) for test in tests if test.videos}
        if len(names) > 1 or len({test.num_videos for test in tests}) > 1:
            each = "; ".join(f"{run.name} {plural(run.test.num_videos, 'video')}" for run in self.tested())
            said.append(f"Tested on different videos: {each}")
        machines = sorted({run.device for run in self.runs if run.device})
        if len(machines) > 1:
            said.append(f"Trained on different machines, which affects clips/s and hours: {'; '.join(machines)}")
        return said

    def tested_on(self) -> str:
        """224 videos of 28 recordings, 10 clips x 1 crop; empty where the runs differ in it or none is tested."""
        tests = {(run.test.num_videos, run.test.num_recordings, run.test.protocol) for run in self.tested()}
        if len(tests) != 1:
            return ""
        [(videos, recordings, protocol)] = tests
        return f"tested on {plural(videos, 'video')} of {plural(recordings, 'recording')}, {protocol}"

    def hard_videos(self, limit: int = 12) -> list[tuple[TestedVideo, int, dict[str, str]]]:
        """(video, how many runs are wrong, run -> its answer), those that most runs miss first, and one of each
        recording before a second of it. Empty where the runs were not tested on the same videos."""
        runs = self.on_same_videos()
        answers: dict[str, dict[str, TestedVideo]] = {}
        for run in runs:
            for video in run.test.videos:
                answers.setdefault(video.video, {})[run.name] = video
        missed = []
        for by_run in answers.values():
            wrong = sum(not answer.right for answer in by_run.values())
            if wrong:
                video = next(iter(by_run.values()))
                missed.append((video, wrong, {name: answer.prediction for name, answer in by_run.items()}))
        missed.sort(key=lambda row: (-row[1], row[0].video))
        shown, times = [], Counter()
        for row in missed:
            shown.append((times[row[0].group], *row))
            times[row[0].group] += 1
        return [row for _, *row in sorted(shown, key=lambda row: row[0])][:limit]

    def differences(self) -> list[tuple[RunResult, float, tuple[float, float] | None]]:
        """(run, its test top-1 minus that of the first, 95 % interval of this) for each other run. Both answered the
        same videos, so the interval is narrower than those of the two make believe."""
        runs = self.on_same_videos()
        if not runs:
            return []
        answers = [{video.video: video for video in run.test.videos} for run in runs]
        first, groups = answers[0], [video.group for video in answers[0].values()]
        found = []
        for run, other in zip(runs[1:], answers[1:], strict=True):
            change = np.array([100.0 * (int(other[name].right) - int(video.right)) for name, video in first.items()])
            found.append((run, float(change.mean()), bootstrap_interval(change, groups)))
        return found

    def on_same_videos(self) -> list[RunResult]:
        """The tested runs, if at least two have answers to the same videos; else an empty list."""
        runs = [run for run in self.tested() if run.test.videos and not run.test.leak]
        same = len({frozenset(video.video for video in run.test.videos) for run in runs}) == 1
        return runs if same and len(runs) > 1 else []


def group_runs(runs: Sequence[RunResult]) -> list[Group]:
    """Groups runs by data set and split. Two folders of one name are two data sets, shown with their paths."""
    addresses: dict[str, set[str]] = {}
    for run in runs:
        addresses.setdefault(run.short_dataset, set()).add(run.address)
    groups: dict[tuple[str, str], list[RunResult]] = {}
    for run in runs:
        groups.setdefault((run.address, run.split), []).append(run)
    found = []
    for (address, split), members in sorted(groups.items()):
        short = members[0].short_dataset
        shown = short if len(addresses[short]) == 1 else one_line(address)
        found.append(Group(shown, split, [_with_differences(run, members) for run in sorted(members, key=_rank)]))
    return found


def _with_differences(run: RunResult, members: Sequence[RunResult]) -> RunResult:
    """The run with the settings that set it apart: those whose value not more than half of the runs of its table share.
    What a run of an older version does not say counts as "none", which it was."""
    unlike = []
    for name in dict.fromkeys(name for member in members for name in member.settings):
        values = Counter(member.settings.get(name, "none") for member in members)
        mine = run.settings.get(name, "none")
        if 2 * values[mine] <= len(members):
            unlike.append(f"{name} {mine}")
    return replace(run, differs=", ".join(unlike))


def _rank(run: RunResult) -> tuple:
    test = run.test.top1 if run.test and not run.test.leak else -1
    return (-test, -(run.best_val if run.best_val is not None else -1), run.name)
