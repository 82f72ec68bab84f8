"""The test result in a run's folder, and values of files in which anything may stand."""

import csv
import json
import math
from dataclasses import dataclass
from pathlib import Path

from common.console import plural


@dataclass(frozen=True)
class TestedVideo:
    """A line of test/videos.csv."""

    __test__ = False  # no test of pytest's

    video: str
    label: str
    prediction: str
    group: str
    right: bool


@dataclass(frozen=True)
class TestResult:
    """The content of test.json. Accuracies are in percent of videos.

    interval  None where nothing varies
    leak      why the number is no test result; None where nothing speaks against it
    protocol  such as "10 clips x 1 crop"
    videos    each video's answer; empty where videos.csv is not there or damaged
    """

    __test__ = False

    top1: float
    interval: tuple[float, float] | None
    leak: str | None
    protocol: str
    num_videos: int
    num_recordings: int
    videos: tuple[TestedVideo, ...]


def read_test(
    run_dir: Path, again: str, notes: list[str], step: int | None = None, split_hash: str | None = None
) -> TestResult | None:
    """test.json of a folder, where it is of this step and split; else None, with a note that says how to make it."""
    try:
        record = json.loads((run_dir / "test.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        notes.append(f"not tested yet: {again}")
        return None
    except (OSError, ValueError):
        notes.append(f"test.json is incomplete or damaged: {again}")
        return None
    if not isinstance(record, dict) or "format" not in record:
        notes.append(f"test.json is of an older version: {again}")
        return None
    if record["format"] != 1:
        notes.append(f"test.json is of a newer version (format {record['format']}), which this one cannot read")
        return None
    try:
        if step is not None and record["step"] != step:
            notes.append(f"test.json is of step {record['step']}, best.pth of {step}: {again}")
            return None
        if split_hash and record["split_hash"] != split_hash:
            notes.append(f"test.json is of other videos than the run's own: {again}")
            return None
        views = f"windows {record['windows']} apart" if record["windows"] else plural(record["num_clips"], "clip")
        bounds = record["interval"]["top1"]
        leak = record["leak"] or (None if record["training_known"] else "its training list is not known")
        return TestResult(
            top1=percent(record["top1"]),
            interval=bounds and (percent(bounds[0]), percent(bounds[1])),
            leak=one_line(str(leak)) if leak else None,
            protocol=f"{views} x {plural(record['crops'], 'crop')}",
            num_videos=int(record["num_videos"]),
            num_recordings=int(record["interval"]["num_groups"]),
            videos=_read_videos(run_dir / "test" / "videos.csv", record["num_videos"], notes),
        )
    except (KeyError, TypeError, ValueError, IndexError):
        notes.append(f"test.json is damaged: {again}")
        return None


RIGHT = {"0": False, "1": True}


def _read_videos(path: Path, num_videos: int, notes: list[str]) -> tuple[TestedVideo, ...]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            videos = tuple(
                TestedVideo(row["video"], row["class"], row["prediction"], row["group"], RIGHT[row["right"]])
                for row in csv.DictReader(file)
            )
    except (OSError, KeyError, ValueError, csv.Error):  # a KeyError for a line that is cut, too: its `right` is None
        videos = ()
    if len(videos) != num_videos:
        notes.append("test/videos.csv is missing or damaged, so its videos are not compared")
        return ()
    return videos


# --- values of files in which anything may stand


def one_line(text: str) -> str:
    """Replaces characters that would move a terminal's cursor or break a line."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def percent(value: object) -> float:
    found = number(value)
    if found is None or not 0 <= found <= 100:
        raise ValueError(f"{value} is no percentage")
    return found


def number(value: object) -> float | None:
    """A finite number from a file, or None: the file may hold anything."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None
