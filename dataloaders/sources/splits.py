"""Which videos train, which validate, which test. A group (one recording) is never divided."""

import hashlib
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from common.console import plural
from common.errors import UsageError, UserError
from dataloaders.sources.data_source import DataSource
from dataloaders.sources.naming import group_of, read_lines

OFFICIAL = ("1", "2", "3")
SPLITS = (*OFFICIAL, "given", "random")
TEST_FRACTION = 0.15
VAL_FRACTION = 0.15
SEED = 0  # of every split that is drawn: the same videos on every machine and in every run

UCF101_TEST_GROUPS = {"1": range(1, 8), "2": range(8, 15), "3": range(15, 22)}
HMDB51_PARTS = {"0": "unused", "1": "train", "2": "test"}
UCF101_VAL_GROUPS = range(23, 26)  # no official split tests on them


class Video(Protocol):
    """What a split needs to know of a video: SourceVideo and VideoRow both have it."""

    video: str
    label: str
    group: str
    given: str

    @property
    def stem(self) -> str: ...


@dataclass(frozen=True)
class Split:
    """name; part of each video ("train", "val", "test" or "unused") by its relative path; a hash of who is where."""

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
    """1 for UCF101 and HMDB51; else what the folders give, else random."""
    if source.layout in ("ucf101", "hmdb51"):
        return "1"
    return "given" if any(video.given for video in videos) else "random"


def split_videos(source: DataSource, videos: Sequence[Video], split: str | None = None, val: str = "auto") -> Split:
    """Gives each video its part.

    val: "auto" takes validation videos out of the training list by whole groups (UCF101: groups 23-25); "none" trains
    on the whole list. Raises UsageError for a split that the layout does not have, UserError for missing lists.
    """
    asked, split = split, split or default_split(source, videos)
    if split == "given":
        parts, notes = _given_parts(source, videos), []
    elif split == "random":
        parts, notes = _random_parts(videos), []
    elif source.layout == "ucf101":
        parts, notes = _ucf101_parts(source, videos, split)
    elif source.layout == "hmdb51":
        parts, notes = _hmdb51_parts(source, videos, split)
    else:
        raise UsageError(
            f"--split {split} is an official split of UCF101 or HMDB51; '{source.name}' is neither. "
            "Use --split given (train/ val/ test/ folders, or a list that says it) or --split random."
        )

    if asked is None and split in OFFICIAL and any(video.given for video in videos):
        who = "list divides" if source.list else "folders divide"
        notes.append(
            f"The {who} these videos, which by their names are of {source.layout}: its split {split} is taken. "
            "--split given keeps to what is there."
        )
    if "val" not in parts.values() and val == "auto":
        notes += _hold_out_validation(source, videos, parts)
    elif val == "none":
        parts = {video: "train" if part == "val" else part for video, part in parts.items()}
    return Split(split, parts, notes)


def _ucf101_parts(source: DataSource, videos: Sequence[Video], split: str) -> tuple[dict[str, str], list[str]]:
    if source.splits is not None:
        return _listed_parts(source, videos, read_ucf101_lists(source.splits, split))
    tested = UCF101_TEST_GROUPS[split]
    return {v.video: "test" if _group_number(source, v) in tested else "train" for v in videos}, []


def _hmdb51_parts(source: DataSource, videos: Sequence[Video], split: str) -> tuple[dict[str, str], list[str]]:
    if source.splits is None:
        raise UserError(
            f"The splits of HMDB51 are in its list files, and there are none in {source.videos}, beside it or beside "
            f"{source.frames}. Fetch test_train_splits.rar and unpack it (python -m dataloaders.download hmdb51 "
            "--lists-only does both), or name its folder in mypath.py's 'splits'; without lists: --split random, which "
            "keeps films whole."
        )
    return _listed_parts(source, videos, read_hmdb51_lists(source.splits, split))


def _listed_parts(
    source: DataSource, videos: Sequence[Video], listed: dict[str, str]
) -> tuple[dict[str, str], list[str]]:
    parts = {video.video: listed.get(_key(video), "unused") for video in videos}
    unlisted = [video.video for video in videos if _key(video) not in listed]
    notes = []
    if len(unlisted) == len(parts):
        raise UserError(
            f"None of the {plural(len(parts), 'video')} of '{source.name}' stands in the lists in {source.splits} "
            f"(first video: {unlisted[0]}). Is this the right folder of lists?"
        )
    if unlisted:
        notes.append(f"In no list and therefore unused: {plural(len(unlisted), 'video')} (first: {unlisted[0]}).")
    here, labels = {_key(video) for video in videos}, {video.label for video in videos}
    absent = [key for key in listed if key not in here and key.partition("/")[0] in labels and listed[key] != "unused"]
    if absent:
        notes.append(
            f"In the lists, and not here or of no use: {plural(len(absent), 'video')} of these classes "
            f"(first: {absent[0]})."
        )
    return parts, notes


def _key(video: Video) -> str:
    """<class>/<name without ending>: lists say .avi, the files may have been converted."""
    return f"{video.label}/{video.stem}"


def read_ucf101_lists(folder: Path, split: str) -> dict[str, str]:
    """{"<class>/<stem>": "train" | "test"} from trainlist0<split>.txt (`class/video.avi id`) and testlist0<split>.txt
    (`class/video.avi`). The ids, which count from 1, are not needed: the class is the folder."""
    listed = {}
    for part in ("train", "test"):
        path = folder / f"{part}list0{split}.txt"
        if not path.is_file():
            raise UserError(
                f"There is no list {path}. mypath.py's 'splits' should be the folder ucfTrainTestlist of UCF101's "
                "official download; with splits=None the rule that the lists follow is used."
            )
        for line in read_lines(path):
            label, _, name = line.split()[0].partition("/")
            if not name or "/" in name:
                raise UserError(
                    f"{path}: '{line}' is not a line of UCF101's lists, such as Biking/v_Biking_g01_c01.avi."
                )
            listed[f"{label}/{Path(name).stem}"] = part
    return listed


def read_hmdb51_lists(folder: Path, split: str) -> dict[str, str]:
    """{"<class>/<stem>": "train" | "test" | "unused"} from <class>_test_split<split>.txt (`video.avi 1`, 2 or 0)."""
    ending = f"_test_split{split}.txt"
    paths = sorted(folder.glob(f"*{ending}")) if folder.is_dir() else []
    if not paths:
        raise UserError(
            f"There are no lists *{ending} in {folder}. Fetch test_train_splits.rar from the HMDB51 page, unpack it, "
            "and name the folder testTrainMulti_7030_splits in mypath.py's 'splits'."
        )
    listed = {}
    for path in paths:
        label = path.name.removesuffix(ending)
        for line in read_lines(path):
            words = line.rsplit(maxsplit=1)
            if len(words) != 2 or words[1] not in HMDB51_PARTS:
                raise UserError(f"{path}: '{line}' is not a line of HMDB51's lists: a name, and 0, 1 or 2.")
            listed[f"{label}/{Path(words[0]).stem}"] = HMDB51_PARTS[words[1]]
    return listed


def _group_number(source: DataSource, video: Video) -> int:
    """UCF101's gNN, from the name: mypath may have given other groups."""
    name_group = group_of(DataSource(source.name, source.videos, source.frames, "ucf101"), video.label, video.stem)
    return int(name_group.rsplit("g", 1)[1])


def _given_parts(source: DataSource, videos: Sequence[Video]) -> dict[str, str]:
    if not any(video.given for video in videos):
        raise UsageError(
            f"--split given: '{source.name}' has no train/ and test/ folders, or no list with a column that says it. "
            "Use --split random, which holds whole groups out."
        )
    return {video.video: video.given or "unused" for video in videos}


def _random_parts(videos: Sequence[Video]) -> dict[str, str]:
    parts = dict.fromkeys((video.video for video in videos), "train")
    _take_groups(videos, parts, "test", TEST_FRACTION)
    _take_groups(videos, parts, "val", VAL_FRACTION / (1 - TEST_FRACTION))  # of what is left
    return parts


def _hold_out_validation(source: DataSource, videos: Sequence[Video], parts: dict[str, str]) -> list[str]:
    if source.layout == "ucf101":
        for video in videos:
            if parts[video.video] == "train" and _group_number(source, video) in UCF101_VAL_GROUPS:
                parts[video.video] = "val"
        if "val" in parts.values():
            return []
    training = [video for video in videos if parts[video.video] == "train"]
    _take_groups(training, parts, "val", VAL_FRACTION)
    if "val" not in parts.values():
        return ["Too few groups to hold some out for validation; the last epoch is kept."]
    return []


def _take_groups(videos: Sequence[Video], parts: dict[str, str], part: str, fraction: float) -> None:
    """Moves whole groups from training to `part` until each class has about `fraction` of its videos there, at least
    one group a class, and never the last group that a class trains on."""
    videos = [video for video in videos if parts[video.video] == "train"]
    members: dict[str, list[Video]] = defaultdict(list)
    for video in videos:
        members[video.group].append(video)
    wanted = {label: fraction * number for label, number in Counter(video.label for video in videos).items()}
    groups_left = Counter(label for its_videos in members.values() for label in {video.label for video in its_videos})

    def count_labels(group: str) -> dict[str, int]:
        """Its videos in each class: mostly one class."""
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
    order = sorted(members)
    random.Random(f"{SEED} {part}").shuffle(order)
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
