"""Features on the splits of their data set: accuracy a split, their mean, and what explains it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.console import plural
from common.errors import UserError
from common.files import csv_text
from dataloaders.sources.data_source import DataSource, SourceVideo, class_names
from dataloaders.sources.find import with_lists
from dataloaders.sources.layout import layout_of
from dataloaders.sources.recordings import groups_of
from dataloaders.sources.splits import Split, split_videos
from engine.evaluation.bootstrap import accuracy_by_class, bootstrap_interval
from engine.evaluation.confusion import confusion_matrix
from engine.features.store import FeatureEntry, list_features, load_features
from engine.features.svm import LinearSvm, Pca, fit_pca, fit_svm, search_c


@dataclass(frozen=True)
class FeatureSet:
    """Features of the videos of a data set.

    settings  of each folder, as its index has them; {} for one made elsewhere
    features  (V, F) float32: where several folders are put together, their features side by side
    seen      (V,) bool: a network of these features has seen the video or its recording
    """

    source: DataSource
    settings: list[dict]
    videos: list[SourceVideo]
    features: np.ndarray
    classes: list[str]
    seen: np.ndarray

    @property
    def labels(self) -> np.ndarray:
        ids = {name: number for number, name in enumerate(self.classes)}
        return np.array([ids[video.label] for video in self.videos])


def open_features(folders: Sequence[Path], source: DataSource | None) -> FeatureSet:
    """The videos that every folder describes. source: whose splits and class order count; None: told from the names.

    Raises UserError for folders that are not usable, or describe other videos each.
    """
    settings, listed = zip(*(list_features(folder) for folder in folders), strict=True)
    by_video = [by_key(entries) for entries in listed]
    common = sorted(set.intersection(*map(set, by_video)))
    for folder, entries in zip(folders, by_video, strict=True):
        if len(common) < len(entries):
            alone = sorted(set(entries) - set(common))
            raise UserError(
                f"{folder} has features of {plural(len(alone), 'video')} that the other folders lack (first: "
                f"{alone[0]}). "
                "Features are concatenated per video: extract the missing ones."
            )
    first = [by_video[0][key] for key in common]
    if source is None:
        layout = layout_of([entry.stem for entry in first])
        source = with_lists(DataSource(folders[0].name, folders[0], folders[0], layout=layout))
    parts = []
    for folder, made, entries in zip(folders, settings, by_video, strict=True):
        parts.append(load_features(folder, [entries[key] for key in common], made.get("per_window", False)))
    groups = groups_of(source, [(entry.label, entry.stem) for entry in first])
    videos = [
        SourceVideo(entry.video, entry.label, entry.group or group, entry.given)
        for entry, group in zip(first, groups, strict=True)
    ]
    classes = class_names(source, {video.label for video in videos})
    seen = np.array([any(entries[key].seen for entries in by_video) for key in common])
    return FeatureSet(source, list(settings), videos, np.concatenate(parts, axis=1), classes, seen)


def by_key(entries: Sequence[FeatureEntry]) -> dict[str, FeatureEntry]:
    """Entries by a key that is the same in any folder of features: class and name without ending, or the whole path
    where train/ and test/ have videos of the same name."""
    count = Counter(f"{entry.label}/{entry.stem}" for entry in entries)
    keys = [f"{entry.label}/{entry.stem}" for entry in entries]
    return {key if count[key] == 1 else entry.video: entry for key, entry in zip(keys, entries, strict=True)}


@dataclass(frozen=True)
class Outcome:
    """One classifier on one split. dims: values after PCA, None without; predictions (V,) of the test videos."""

    split: str
    dims: int | None
    svm: LinearSvm
    labels: np.ndarray
    predictions: np.ndarray
    groups: list[str]

    @property
    def accuracy(self) -> float:
        return 100 * float(np.mean(self.labels == self.predictions))

    @property
    def interval(self) -> tuple[float, float] | None:
        interval = bootstrap_interval(self.labels == self.predictions, self.groups)
        return None if interval is None else (100 * interval[0], 100 * interval[1])

    def matrix(self) -> np.ndarray:
        return confusion_matrix(self.labels, self.predictions, len(self.svm.classes))

    def per_class_csv(self) -> str:
        classes = self.svm.classes
        accuracies = accuracy_by_class(self.labels == self.predictions, self.labels, len(classes))
        totals = np.bincount(self.labels, minlength=len(classes))
        rows = zip(classes, totals.tolist(), [f"{value:.2f}" for value in accuracies], strict=True)
        return csv_text([("class", "videos", "top1"), *rows])


def run_split(
    data: FeatureSet, split_name: str | None, dims: Sequence[int | None], c: float | None, say=print
) -> list[Outcome]:
    """Trains on the whole training list of a split and tests on its test list, once for each number of dims.

    c: None searches it by holding out whole groups of the training list. PCA is fitted on the training list alone.
    Raises UserError for a class without training videos, and for a split without test videos.
    """
    split = split_videos(data.source, data.videos, split_name, val="none")
    for note in split.notes:
        say(f"  {note}")
    train, test = (np.array([split.parts[v.video] == part for v in data.videos]) for part in ("train", "test"))
    check_split(data, split, train, test)
    x, labels = data.features[train], data.labels[train]
    groups = [video.group for video, is_in in zip(data.videos, train, strict=True) if is_in]
    wanted = [number for number in dims if number]
    pca = fit_pca(x, max(wanted)) if wanted else None

    outcomes = []
    for number in dims:
        projection: Pca | None = pca.first(number) if number else None
        chosen = c
        if chosen is None:
            chosen, scores = search_c(projection.project(x) if projection else x, labels, groups)
            tried = ", ".join(f"{value:g}: {score:.1f}" for value, score in scores.items())
            what = f"split {split.name}" + (f", PCA {number}" if number else "")
            say(f"  {what}: C = {chosen:g} (held-out accuracy of {tried})")
        svm = fit_svm(x, labels, data.classes, chosen, projection)
        predictions = svm.margins(data.features[test]).argmax(1)
        tested = [video.group for video, is_in in zip(data.videos, test, strict=True) if is_in]
        outcomes.append(Outcome(split.name, number, svm, data.labels[test], predictions, tested))
    return outcomes


def check_split(data: FeatureSet, split: Split, train: np.ndarray, test: np.ndarray) -> None:
    if len(data.classes) < 2:
        raise UserError(f"These features are all of one class ({data.classes[0]}). An SVM needs two or more.")
    if not data.features.shape[1]:
        raise UserError("These features have no values. Extract them again, with another --layer.")
    if not test.any():
        raise UserError(f"Split {split.name} has none of its test videos among these {plural(len(test), 'feature')}.")
    without = sorted(set(data.classes) - {v.label for v, is_in in zip(data.videos, train, strict=True) if is_in})
    if without:
        raise UserError(
            f"Split {split.name} has no training video of {plural(len(without), 'class')} (first: {without[0]}). "
            "Extract them, or choose another split."
        )


def seen_in_training(data: FeatureSet, split_name: str | None) -> list[str]:
    """Why the accuracy would mean nothing: a network of these features was trained on test videos, or on recordings of
    theirs. The index says which videos those are; names of recordings mean the same in some data sets everywhere."""
    split = split_videos(data.source, data.videos, split_name, val="none")
    tested = [(v, seen) for v, seen in zip(data.videos, data.seen, strict=True) if split.parts[v.video] == "test"]
    kinds = [("video", sorted(video.video for video, seen in tested if seen))]
    for settings in data.settings:
        trained = settings.get("trained_on") or {}
        if trained.get("dataset") == data.source.name or data.source.kind.same_groups:
            groups = {video.group for video, _ in tested}
            kinds.append(("recording", sorted(groups & set(trained.get("groups", [])))))
    return [
        f"the network of these features was trained on {plural(len(names), kind)} that split {split.name} tests on "
        f"(first: {names[0]})"
        for kind, names in kinds
        if names
    ]


def is_whole_ucf101(data: FeatureSet) -> bool:
    """Whether these are all classes of UCF101, so that the paper's numbers may stand beside."""
    return data.source.layout == "ucf101" and len(data.classes) == 101
