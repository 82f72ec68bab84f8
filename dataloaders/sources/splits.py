"""Division of videos into training, validation and test. A group (one recording) is never divided."""

import hashlib
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from common.console import plural
from common.errors import UsageError, UserError
from dataloaders.sources.data_source import DataSource
from dataloaders.sources.layout import SPLIT_NUMBERS, Video, layouts

FOLD = re.compile(r"fold-([1-9]\d*)-of-([1-9]\d*)")  # one of N parts that take turns in testing
# a part of the training recordings of another split: the first K of N shares in the order of a draw
SHARE = re.compile(r"(?:(.+)-)?train-([1-9]\d*)-of-([1-9]\d*)-draw-(\d+)")


class SplitNames(tuple):
    """Names of splits as choices of a flag. Among them, but not listed, are folds, such as fold-1-of-5, and shares of
    the training recordings, such as 1-train-2-of-8-draw-0."""

    def __contains__(self, name: object) -> bool:
        if super().__contains__(name) or not isinstance(name, str):
            return super().__contains__(name)
        if share := SHARE.fullmatch(name):
            return share[1] is None or share[1] in self
        return FOLD.fullmatch(name) is not None


SPLITS = SplitNames((*SPLIT_NUMBERS, "given", "random"))
TEST_FRACTION = 0.15
VAL_FRACTION = 0.15
DRAWN_BY_HASH = 2  # see DataSource.drawing
SEED = 0  # of every split that is drawn: the same videos on every machine and in every run


@dataclass(frozen=True)
class Split:
    """A division of videos. parts: "train", "val", "test" or "unused" by relative path; hash: equal for equal parts."""

    name: str
    parts: dict[str, str]
    notes: list[str] = field(default_factory=list)

    @property
    def hash(self) -> str:
        lines = "\n".join(f"{video} {part}" for video, part in sorted(self.parts.items()))
        return hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()[:16]

    def videos(self, part: str) -> list[str]:
        return [video for video, its_part in self.parts.items() if its_part == part]


def default_split(source: DataSource, videos: Iterable[Video]) -> str:
    """The first official split; without one, the split that folders or a list give; else random."""
    if source.kind.splits:
        return source.kind.splits[0]
    return "given" if any(video.given for video in videos) else "random"


def split_videos(source: DataSource, videos: Sequence[Video], split: str | None = None, val: str = "auto") -> Split:
    """Gives each video its part.

    val: "auto" takes validation videos out of the training list by whole groups (UCF101: groups 23-25); "none" trains
    on the whole list. Raises UsageError for a split that the layout does not have, UserError for missing lists.
    """
    if share := SHARE.fullmatch(split or ""):
        whole = split_videos(source, videos, share[1], val)
        parts = _with_share(videos, whole.parts, *map(int, share.groups()[1:]))
        return Split(split if share[1] else f"{whole.name}-{split}", parts, whole.notes)
    asked, split = split, split or default_split(source, videos)
    if split == "given":
        parts, notes = _given_parts(source, videos), []
    elif split == "random":
        parts, notes = _random_parts(videos, source.drawing), []
    elif fold := FOLD.fullmatch(split):
        parts, notes = _fold_parts(source, videos, int(fold[1]), int(fold[2])), []
    elif split in source.kind.splits:
        parts, notes = source.kind.official_split(source, videos, split)
    else:
        having = ", ".join(name for name, kind in layouts().items() if split in kind.splits)
        raise UsageError(
            f"--split {split} is an official split ({having}), and '{source.name}' has none. "
            "Use --split given (train/ val/ test/ folders, or a list that says it) or --split random."
        )

    if asked is None and split in source.kind.splits and any(video.given for video in videos):
        who = "list divides" if source.list else "folders divide"
        notes.append(
            f"The {who} these videos, but their names are those of {source.layout}, so its split {split} is used. "
            "--split given uses the given one."
        )
    if "val" not in parts.values() and val == "auto":
        notes += _hold_out_validation(source, videos, parts, by_name=not FOLD.fullmatch(split))
    elif val == "none":
        parts = {video: "train" if part == "val" else part for video, part in parts.items()}
    return Split(split, parts, notes)


def _given_parts(source: DataSource, videos: Sequence[Video]) -> dict[str, str]:
    if not any(video.given for video in videos):
        raise UsageError(
            f"--split given: '{source.name}' has no train/ and test/ folders, or no list with a column that says it. "
            "Use --split random, which holds whole groups out."
        )
    return {video.video: video.given or "unused" for video in videos}


def _random_parts(videos: Sequence[Video], drawing: int) -> dict[str, str]:
    parts = dict.fromkeys((video.video for video in videos), "train")
    _take_groups(videos, parts, "test", TEST_FRACTION, drawing)
    _take_groups(videos, parts, "val", VAL_FRACTION / (1 - TEST_FRACTION), drawing)  # of what is left
    return parts


def _fold_parts(source: DataSource, videos: Sequence[Video], number: int, num_folds: int) -> dict[str, str]:
    if number > num_folds:
        raise UsageError(f"--split fold-{number}-of-{num_folds}: the folds are counted from 1 to {num_folds}.")
    folds = divide_into_folds(videos, num_folds, source.drawing)
    return {video.video: "test" if folds[video.group] == number else "train" for video in videos}


def divide_into_folds(videos: Sequence[Video], num_folds: int, drawing: int) -> dict[str, int]:
    """The fold of each group, counted from 1: each class is spread as evenly as its recordings allow, and with as many
    folds as groups, each group is a fold, in the order of their names.

    Raises UserError where there are too few recordings.
    """
    labels_of: dict[str, Counter[str]] = defaultdict(Counter)
    for video in videos:
        labels_of[video.group][video.label] += 1
    num_groups = Counter(label for labels in labels_of.values() for label in labels)
    if not 2 <= num_folds <= len(labels_of):
        raise UserError(
            f"{plural(num_folds, 'fold')} of {plural(len(labels_of), 'recording')}: there can be 2 folds, and at most "
            "one for each recording."
        )
    if alone := sorted(label for label, number in num_groups.items() if number == 1):
        more = f" (and {plural(len(alone) - 1, 'other class')})" if len(alone) > 1 else ""
        raise UserError(
            f"{alone[0]}{more} has videos of one recording alone: while that is tested, it could not be trained on. "
            "Cross-validation needs two recordings of each class."
        )
    if num_folds == len(labels_of):
        return {group: number for number, group in enumerate(sorted(labels_of), 1)}

    found, videos_in = {}, [Counter() for _ in range(num_folds)]  # of each class
    groups_in = [Counter() for _ in range(num_folds)]
    order = _in_drawn_order(labels_of, "fold", drawing)
    for group in sorted(order, key=lambda group: -labels_of[group].total()):  # the large ones first
        labels = labels_of[group]

        def cost(fold: int, labels: Counter[str] = labels) -> tuple[bool, int, int]:
            takes_all = any(groups_in[fold][label] + 1 == num_groups[label] for label in labels)
            alike = sum(videos_in[fold][label] * number for label, number in labels.items())
            return takes_all, alike, videos_in[fold].total()

        fold = min(range(num_folds), key=cost)
        found[group] = fold + 1
        videos_in[fold].update(labels)
        groups_in[fold].update(labels.keys())
    if whole := next((label for label in num_groups for fold in groups_in if fold[label] == num_groups[label]), None):
        raise UserError(
            f"{plural(num_folds, 'fold')} cannot be made: one would test all recordings of {whole}, and none would be "
            "left to train on. Take another number of folds, or groups."
        )
    return found


def _with_share(
    videos: Sequence[Video], parts: dict[str, str], share: int, num_shares: int, draw: int
) -> dict[str, str]:
    """Leaves of the training recordings of each class share / num_shares, at least one; the others become unused. A
    smaller share is part of a larger one."""
    if share > num_shares:
        raise UsageError(
            f"--split ...train-{share}-of-{num_shares}-...: the shares are counted from 1 to {num_shares}."
        )
    of_class: dict[str, set[str]] = defaultdict(set)
    for video in videos:
        if parts[video.video] == "train":
            of_class[video.label].add(video.group)
    kept = set()
    for groups in of_class.values():
        order = _in_drawn_order(groups, f"share {draw}", DRAWN_BY_HASH)
        kept.update(order[: max(round(len(order) * share / num_shares), 1)])
    left_out = {video.video for video in videos if parts[video.video] == "train" and video.group not in kept}
    return {name: "unused" if name in left_out else part for name, part in parts.items()}


def _hold_out_validation(
    source: DataSource, videos: Sequence[Video], parts: dict[str, str], by_name: bool
) -> list[str]:
    """by_name: first those that the data set's own split leaves free for it"""
    for video in videos:
        if by_name and parts[video.video] == "train" and source.kind.validates(video):
            parts[video.video] = "val"
    if "val" in parts.values():
        return []
    training = [video for video in videos if parts[video.video] == "train"]
    _take_groups(training, parts, "val", VAL_FRACTION, source.drawing)
    if "val" not in parts.values():
        return ["Too few groups to hold some out for validation: the run keeps the last epoch."]
    return []


def _in_drawn_order(groups: Iterable[str], part: str, drawing: int) -> list[str]:
    """Groups in the order in which they are taken. By a hash of each one's name: a recording that is added or removed
    later moves only itself, and at most one other at the end of the part."""
    order = sorted(groups)
    if drawing == 1:
        random.Random(f"{SEED} {part}").shuffle(order)
        return order

    def drawn(group: str) -> bytes:
        return hashlib.sha256(f"{SEED} {part} {group}".encode("utf-8", "surrogateescape")).digest()

    return sorted(order, key=drawn)


def _take_groups(videos: Sequence[Video], parts: dict[str, str], part: str, fraction: float, drawing: int) -> None:
    """Moves whole groups from training to `part` until each class has about `fraction` of its videos there, at least
    one group a class, and never the last group that a class trains on."""
    videos = [video for video in videos if parts[video.video] == "train"]
    members: dict[str, list[Video]] = defaultdict(list)
    for video in videos:
        members[video.group].append(video)
    wanted = {label: fraction * number for label, number in Counter(video.label for video in videos).items()}
    groups_left = Counter(label for its_videos in members.values() for label in {video.label for video in its_videos})

    def count_labels(group: str) -> dict[str, int]:
        """Number of a group's videos in each class; most groups have one class."""
        labels: dict[str, int] = {}
        for video in sorted(members[group], key=lambda video: video.video):
            labels[video.label] = labels.get(video.label, 0) + 1
        return labels

    def take(group: str, labels: dict[str, int]) -> None:
        for video in members.pop(group):
            parts[video.video] = part
        for label, number in labels.items():
            wanted[label] -= number
            groups_left[label] -= 1
            served.add(label)

    def can_go(labels: Iterable[str]) -> bool:
        return all(groups_left[label] > 1 for label in labels)

    served: set[str] = set()
    order = _in_drawn_order(members, part, drawing)
    for group in order:
        labels = count_labels(group)
        useful = sum(min(max(wanted[label], 0.0), number) for label, number in labels.items())
        if 2 * useful >= len(members[group]) and can_go(labels):
            take(group, labels)

    groups_of: dict[str, list[str]] = defaultdict(list)  # of each class that got none: all its groups are too large
    if wanted.keys() - served:
        for group in order:
            for label in {video.label for video in members.get(group, ())} - served:
                groups_of[label].append(group)
    for label in sorted(groups_of):
        candidates = [group for group in groups_of[label] if group in members and can_go(count_labels(group))]
        if candidates and label not in served:
            smallest = min(candidates, key=lambda group: len(members[group]))
            take(smallest, count_labels(smallest))


def leaking_groups(split: Split, videos: Iterable[Video]) -> list[str]:
    """Groups with videos in more than one of training, validation and test."""
    first: dict[str, str] = {}
    leaking = set()
    for video in videos:
        part = split.parts[video.video]
        if part != "unused" and first.setdefault(video.group, part) != part:
            leaking.add(video.group)
    return sorted(leaking)
