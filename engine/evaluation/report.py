"""Files of an evaluation: test.json, tables and pictures, also written to TensorBoard. docs/evaluation.md describes
each key and column."""

import csv
import io
import json
import platform
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path

import cv2
import numpy as np
import torch

from common.drawing import save_picture
from common.files import csv_text, utf8, write_atomically
from dataloaders.frame_set import FrameSet
from engine.evaluation.bootstrap import CONFIDENCE, SAMPLES, accuracy_by_class, bootstrap_interval
from engine.evaluation.confusion import confusion_csv, confusion_matrix, draw_confusion, most_confused
from engine.evaluation.worst_videos import draw_worst
from engine.runs.tracking import Tracker

FORMAT = 1  # of test.json; grows where a key changes its meaning or goes, not where one is added


@dataclass(frozen=True)
class EvaluationRecord:
    """The content of test.json; docs/evaluation.md tells what each key means. Accuracies are in percent."""

    checkpoint: str
    weights_hash: str
    arithmetic: str
    model: str
    parameters: int
    weights: str | None
    pretraining: str | None
    epoch: int
    step: int
    dataset: str
    official: str | None
    split: str
    split_hash: str
    part: str
    leak: str | None
    training_known: bool
    num_clips: int | None
    windows: int | None
    crops: int
    input_spec: dict
    top1: float
    top5: float
    clip_top1: float
    loss: float
    num_videos: int
    mean_class: float
    num_classes: int
    num_clips_total: int
    interval: dict
    per_class: dict[str, float | None]
    confused: list[dict]
    temporal: dict[str, float] | None
    device: str
    seconds: float
    clips_per_second: float
    date: str
    versions: dict[str, str]
    published: list[dict] = field(default_factory=list)
    folds: list[dict] = field(default_factory=list)
    fused: list[dict] = field(default_factory=list)

    @property
    def place(self) -> str:
        """ucf101, split 1, test"""
        return f"{self.dataset}, split {self.split}, {self.part}"

    @property
    def is_test_result(self) -> bool:
        return self.part == "test" and not self.leak and self.training_known


@dataclass(frozen=True)
class ClassRow:
    """The videos of one class: how many are right, accuracies in percent, and the class that they are most often taken
    for, `times` of them."""

    name: str
    videos: int = 0
    right: int = 0
    top1: float = 0.0
    top5: float = 0.0
    clip_top1: float = 0.0
    taken_for: str = ""
    times: int = 0


class Analysis:
    """An evaluation taken apart: which videos of which recordings are right, class by class.

    probs (V, K), labels (V,), clips_right (V,), num_clips (V,): as in engine/evaluation.py
    """

    def __init__(
        self,
        frame_set: FrameSet,
        part: str,
        probs: np.ndarray,
        labels: np.ndarray,
        clips_right: np.ndarray,
        num_clips: np.ndarray,
    ):
        self.frame_set, self.rows, self.classes = frame_set, frame_set.part(part), frame_set.classes
        self.probs, self.labels, self.clips_right, self.num_clips = probs, labels, clips_right, num_clips
        self.groups = [row.group for row in self.rows]
        self.order = np.argsort(-probs, axis=1, kind="stable")  # (V, K) the likeliest class first
        self.predictions = self.order[:, 0]
        self.ranks = 1 + (self.order == labels[:, None]).argmax(1)  # (V,) 1: right
        self.matrix = confusion_matrix(labels, self.predictions, len(self.classes))
        self.by_class = accuracy_by_class(self.ranks == 1, labels, len(self.classes))
        self.mean_class = float(np.nanmean(self.by_class))

    def intervals(self) -> dict[str, list[float] | None]:
        """95 % intervals in percent, by resampling recordings; None where nothing varies."""
        clips, of_class = self.num_clips, np.bincount(self.labels, minlength=len(self.classes))
        values = {
            "top1": (self.ranks == 1, None),
            "top5": (self.ranks <= 5, None),
            "clip_top1": (self.clips_right / clips, clips),
            "mean_class": (self.ranks == 1, 1 / of_class[self.labels]),  # each class weighs the same
        }
        found = {name: bootstrap_interval(hits, self.groups, weights) for name, (hits, weights) in values.items()}
        return {name: pair and [100 * bound for bound in pair] for name, pair in found.items()}

    def by_class_table(self) -> list[ClassRow]:
        """A row per class, in the order of the class ids."""
        rows = []
        for number, name in enumerate(self.classes):
            mine = self.labels == number
            if not mine.any():
                rows.append(ClassRow(name))
                continue
            errors = self.matrix[number].copy()
            errors[number] = 0
            taken = int(errors.argmax())
            rows.append(
                ClassRow(
                    name,
                    int(mine.sum()),
                    int(self.matrix[number, number]),
                    float(self.by_class[number]),
                    100 * float((self.ranks[mine] <= 5).mean()),
                    100 * float(self.clips_right[mine].sum() / self.num_clips[mine].sum()),
                    self.classes[taken] if errors[taken] else "",
                    int(errors[taken]),
                )
            )
        return rows

    def per_class_csv(self) -> str:
        """One line per class, in the order of the class ids."""
        lines = [
            [row.name, row.videos, row.right, *(f"{value:.2f}" for value in (row.top1, row.top5, row.clip_top1))]
            + [row.taken_for, row.times or ""]
            if row.videos
            else [row.name, 0, 0, "", "", "", "", ""]
            for row in self.by_class_table()
        ]
        header = ("class", "videos", "right", "top1", "top5", "clip_top1", "most_taken_for", "times")
        return csv_text([header, *lines])

    def videos_csv(self) -> str:
        """One line per video, in the order of the manifest."""
        header = (
            "video", "class", "group", "prediction", "right", "rank", "probability", "own_probability", "clips",
            "clips_right",
        )  # fmt: skip
        own, best = (self.probs[np.arange(len(self.labels)), ids] for ids in (self.labels, self.predictions))
        rows = (
            [
                row.video,
                row.label,
                row.group,
                self.classes[self.predictions[index]],
                int(self.ranks[index] == 1),
                int(self.ranks[index]),
                f"{best[index]:.6f}",
                f"{own[index]:.6f}",
                int(self.num_clips[index]),
                int(self.clips_right[index]),
            ]
            for index, row in enumerate(self.rows)
        )
        return csv_text([header, *rows])

    def numbers(self) -> dict:
        """The part of test.json that follows from the predictions alone."""
        return {
            "mean_class": self.mean_class,
            "num_classes": len(self.classes),
            "num_videos": len(self.labels),
            "num_clips_total": int(self.num_clips.sum()),
            "interval": {
                "confidence": CONFIDENCE,
                "method": "percentile bootstrap over groups",
                "samples": SAMPLES,
                "num_groups": len(set(self.groups)),
                **self.intervals(),
            },
            "per_class": {
                name: None if np.isnan(top1) else float(top1)
                for name, top1 in zip(self.classes, self.by_class, strict=True)
            },
            "confused": [
                {"true": pair.true, "predicted": pair.predicted, "times": pair.times, "videos": pair.videos}
                for pair in most_confused(self.matrix, self.classes, 20)
            ],
        }


def read_videos(folder: Path) -> list[dict[str, str]]:
    """Reads test/videos.csv of a run or a cross-validation: a dict of the columns for each video."""
    with (folder / "test" / "videos.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write_report(
    folder: Path, stem: str, record: EvaluationRecord, analysis: Analysis, title: str
) -> dict[str, np.ndarray]:
    """<folder>/<stem>.json and the tables and pictures in <folder>/<stem>/; returns the pictures.

    The .json comes last: where it is, the rest is there too.
    """
    details = folder / stem
    details.mkdir(parents=True, exist_ok=True)
    worst = draw_worst(analysis.frame_set, analysis.rows, analysis.probs, analysis.labels, title)
    pictures = {"confusion.png": draw_confusion(analysis.matrix, analysis.classes, title), "worst.jpg": worst}
    tables = {
        "per_class.csv": analysis.per_class_csv(),
        "confusion.csv": confusion_csv(analysis.matrix, analysis.classes),
        "videos.csv": analysis.videos_csv(),
    }
    for name, text in tables.items():
        write_atomically(details / name, text)
    for name, picture in pictures.items():
        save_picture(details / name, picture)
    files = {
        name.split(".")[0] + ("_picture" if name == "confusion.png" else ""): name for name in (*tables, *pictures)
    }
    content = {"format": FORMAT, **asdict(record), "files": {key: f"{stem}/{name}" for key, name in files.items()}}
    write_atomically(folder / f"{stem}.json", json.dumps(content, indent=2) + "\n")
    return pictures


def log_report(run_dir: Path, record: EvaluationRecord, analysis: Analysis, pictures: dict[str, np.ndarray]) -> None:
    """The tags test/... of a run in TensorBoard."""
    step = record.step
    tracker = Tracker(run_dir)
    tracker.scalars(
        {f"test/{name}": getattr(record, name) for name in ("top1", "top5", "clip_top1", "mean_class")}, step
    )
    tracker.picture("test/confusion", pictures["confusion.png"], step)
    tracker.picture("test/worst_videos", pictures["worst.jpg"], step)
    tracker.text("test/per_class", utf8(_markdown(analysis.per_class_csv())).decode(), step)
    tracker.close()


def is_logged(old: Path, record: EvaluationRecord) -> bool:
    """Whether an earlier test.json holds the same result of the same weights, so that TensorBoard has it already."""
    try:
        before = json.loads(old.read_text(encoding="utf-8"))
        return all(before[key] == getattr(record, key) for key in ("step", "top1", "top5", "clip_top1", "mean_class"))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def provenance() -> dict:
    """Date and library versions of a result."""
    return {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "versions": {
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "numpy": np.__version__,
            "opencv": cv2.__version__,
        },
    }


def _markdown(table: str) -> str:
    lines = [" | ".join(cell.replace("|", "\\|") for cell in line) for line in csv.reader(io.StringIO(table))]
    rule = " | ".join("---" for _ in next(csv.reader(io.StringIO(table))))
    return "\n".join(f"| {line} |" for line in (lines[0], rule, *lines[1:]))
