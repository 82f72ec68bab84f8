"""Videos whose label may be wrong: those whose own class gets the least probability from a classifier that has not
learnt their recording (python -m dataloaders.audit --labels).

Northcutt, Jiang, Chuang: "Confident Learning: Estimating Uncertainty in Dataset Labels", JAIR 2021, ranks by the same
number, the self-confidence.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from common.console import plural
from common.drawing import GREY, canvas, save_picture
from common.errors import UserError
from common.files import csv_text, printable, relative_to_cwd, write_atomically
from dataloaders.sources.data_source import DataSource
from dataloaders.video import VideoReader, to_array
from engine.evaluation.report import read_videos
from engine.evaluation.worst_videos import COLUMNS, FRAME_HEIGHT, FRAMES, HEAD, MARGIN, RED, draw_heading, side_by_side
from engine.features.protocol import FeatureSet, open_features

FOLDS = 5
C = 10.0  # inverse strength of the regularisation, for features of length 1
SHOWN, PRINTED = 40, 10  # videos in the picture, and on the terminal


@dataclass(frozen=True)
class Doubt:
    """own: probability of the label; predicted: the likeliest class, with its probability."""

    video: str
    label: str
    own: float
    predicted: str
    probability: float


def doubts_of_features(folder: Path, source: DataSource | None) -> list[Doubt]:
    """All videos of a folder of features, by a logistic regression that learns from the other recordings."""
    data = open_features([folder], source)
    probs = out_of_fold(data)
    own, best = probs[np.arange(len(probs)), data.labels], probs.argmax(1)
    return [
        Doubt(video.video, video.label, float(p), data.classes[number], float(row[number]))
        for video, p, number, row in zip(data.videos, own, best, probs, strict=True)
    ]


def out_of_fold(data: FeatureSet) -> np.ndarray:
    """(V, K) probabilities, each video's by a classifier of the other folds; folds divide no recording."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold

    groups, labels = [video.group for video in data.videos], data.labels
    folds = min(FOLDS, len(set(groups)))
    if folds < 2 or len(data.classes) < 2:
        raise UserError("To find wrong labels, features of two classes and two recordings at least are needed.")
    features = data.features.astype(np.float64)
    features /= np.linalg.norm(features, axis=1, keepdims=True).clip(min=1e-12)
    probs = np.zeros((len(features), len(data.classes)))
    divider = StratifiedGroupKFold(folds, shuffle=True, random_state=0)
    for train, test in divider.split(features, labels, groups):
        fitted = LogisticRegression(C=C, max_iter=2000).fit(features[train], labels[train])
        probs[np.ix_(test, fitted.classes_)] = fitted.predict_proba(features[test])
    return probs


def doubts_of_run(folder: Path) -> list[Doubt]:
    """The tested videos of a run, or of a cross-validation, which has tested all."""
    return [
        Doubt(row["video"], row["class"], float(row["own_probability"]), row["prediction"], float(row["probability"]))
        for row in read_videos(folder)
    ]


def write_doubts(folder: Path, doubts: Sequence[Doubt], source: DataSource | None) -> None:
    """Prints the first and writes labels.csv, all videos with the most doubtful first, and labels.jpg, frames of the
    first ones whose videos are there."""
    order = sorted(doubts, key=lambda doubt: (doubt.own, doubt.video))
    print(f"Labels by doubt, {plural(len(order), 'video')}: the own class gets the least probability first")
    width = max(len(printable(doubt.video)) for doubt in order[:PRINTED])
    for doubt in order[:PRINTED]:
        print(
            f"  {printable(doubt.video):{width}}  {printable(doubt.label)} {100 * doubt.own:.1f} %, rather "
            f"{printable(doubt.predicted)} {100 * doubt.probability:.1f} %"
        )
    rows = [
        [place, doubt.video, doubt.label, f"{doubt.own:.6f}", doubt.predicted, f"{doubt.probability:.6f}"]
        for place, doubt in enumerate(order, 1)
    ]
    header = ("rank", "video", "class", "own_probability", "prediction", "probability")
    write_atomically(folder / "labels.csv", csv_text([header, *rows]))
    written = relative_to_cwd(folder / "labels.csv")
    there = [doubt for doubt in order[:SHOWN] if source and (source.videos / doubt.video).is_file()]
    if there:
        save_picture(folder / "labels.jpg", draw_doubts(there, source))
        written += ", labels.jpg"
    else:
        written += " (no pictures: the videos are not found; --dataset says where they are)"
    print(f"  {written}")


def draw_doubts(doubts: Sequence[Doubt], source: DataSource) -> np.ndarray:
    """Draws five frames of each video with its label and its prediction, (H, W, 3) uint8 RGB."""
    strips = [_strip(source.videos / doubt.video) for doubt in doubts]
    width = max(strip.shape[1] for strip in strips) + MARGIN
    height, columns = HEAD + FRAME_HEIGHT + MARGIN, min(COLUMNS, len(doubts))
    sheet = canvas(-(-len(doubts) // columns) * height + MARGIN, MARGIN + columns * width)
    for place, (doubt, strip) in enumerate(zip(doubts, strips, strict=True)):
        top, left = MARGIN + place // columns * height, MARGIN + place % columns * width
        own = f"{place + 1}. {doubt.label} {100 * doubt.own:.1f} %"
        rather = f"rather {doubt.predicted} {100 * doubt.probability:.1f} %"
        colour = RED if doubt.predicted != doubt.label else GREY
        draw_heading(sheet, (left, top), width - MARGIN, own, printable(Path(doubt.video).name), rather, colour)
        sheet[top + HEAD : top + HEAD + FRAME_HEIGHT, left : left + strip.shape[1]] = strip
    return sheet


def _strip(video: Path) -> np.ndarray:
    """Frames from the beginning to the end of a video side by side, (FRAME_HEIGHT, W, 3) uint8 RGB."""
    with VideoReader(video) as reader:
        count = sum(1 for _ in reader)
    wanted = set(np.linspace(0, count - 1, min(FRAMES, count)).round().astype(int).tolist())
    with VideoReader(video) as reader:
        frames = [to_array(frame) for index, frame in enumerate(islice(reader, count)) if index in wanted]
    return side_by_side(frames)
