"""Findings: problems of a data set and its split, from its videos, their properties and their parts."""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median

from common.console import duration, plural
from dataloaders.audit.duplicates import same_files
from dataloaders.audit.probe import VideoInfo
from dataloaders.frames.manifest import VideoRow
from dataloaders.sources.data_source import DataSource
from dataloaders.sources.folder import class_folders, stray_videos, video_files, why_no_videos
from dataloaders.sources.layout import Video
from dataloaders.sources.splits import Split, leaking_groups

PARTS = ("train", "val", "test")

# kind -> heading; findings are shown in this order
KINDS = {
    "shared_recording": "recordings with videos in more than one part of the split",
    "shared_file": "the same file in more than one part of the split",
    "duplicate_across_classes": "the same file in more than one class",
    "duplicate": "the same file more than once in one class",
    "unreadable": "files that cannot be used",
    "empty_class": "class folders without videos, which preprocessing and training refuse",
    "missing_part": "classes without training, validation or test videos",
    "case_only": "class folders whose names differ in upper and lower case only",
    "ignored": "files outside the class folders, which are not read",
    "damaged": "videos that are damaged in places",
    "still": "videos without motion",
    "too_short": "videos shorter than a clip, which repeat from their beginning",
    "long": "videos much longer than the others",
    "aspect": "videos of an unusual aspect, which storing at one size distorts",
    "tiny": "videos with very small frames",
    "header_count": "videos with a wrong number of frames in the header",
    "uneven": "videos whose frames are not evenly spaced in time",
}
SHARING = ("shared_recording", "shared_file")
PROBLEMS = (
    "duplicate_across_classes",
    "duplicate",
    "unreadable",
    "empty_class",
    "missing_part",
    "case_only",
    "ignored",
    "damaged",
)

LONG = 10  # times the median of the data set, and
LONG_SECONDS = 60  # at least this
ASPECT = 2.5  # wider is wider than any film; higher than 1:2.5 is higher than any telephone
TINY = 64  # pixels of the shorter side
HEADER_TOLERANCE = 0.05  # many headers are wrong by a frame or two, which harms nobody
UNEVEN = 0.05  # share of the steps in time

READ_AT_START = 256_000_000  # bytes that training may read to compare files of one size: about a second


@dataclass(frozen=True)
class Finding:
    """kind: a key of KINDS; level: "leak", "problem" or "note"; text: one line, with the names of what it is about."""

    kind: str
    level: str
    text: str
    videos: tuple[str, ...] = ()


def is_official(source: DataSource, split: Split) -> bool:
    """Whether the split is from the data set's own list files: what it shares, everybody's split shares."""
    return source.splits is not None and split.name in source.kind.splits


def leak_level(parts: Collection[str], official: bool, tested: Collection[str]) -> str:
    """Severity of something that `parts` share: "leak", "problem" or "note".

    tested: the parts whose accuracy is reported. A leak is what makes such a result wrong: training or validation has
    seen something that is tested on. A validation part that is held out here only chooses an epoch. What the official
    lists of a data set share is a note: every result on them shares it.
    """
    if official:
        return "note"
    return "leak" if set(tested) & set(parts) else "problem"


def tested_parts(videos: Iterable[Video]) -> set[str]:
    """The parts whose accuracy is reported: "test", and "val" where the owner divided the videos."""
    return {"test"} | {video.given for video in videos if video.given == "val"}


def find_all(
    source: DataSource,
    videos: Sequence[Video],
    facts: Mapping[str, VideoInfo],
    split: Split,
    duplicates: Iterable[Sequence[str]],
    span: int,
) -> list[Finding]:
    """All findings, in the order of KINDS. The split has the usable videos only."""
    usable = [video for video in videos if video.video in split.parts]
    judge = partial(leak_level, official=is_official(source, split), tested=tested_parts(usable))
    labels = {video.video: video.label for video in videos}
    found = [
        *_shared_recordings(split, usable, judge),
        *(_judge_duplicate(split, labels, names, judge) for names in duplicates),
        *_empty_classes(source),
        *_missing_parts(split, videos),
        *_case_only({video.label for video in videos}),
        *_ignored(source),
    ]
    usual_seconds = median([facts[video.video].seconds for video in usable] or [0])
    for video in videos:
        for kind, text in _about_one(facts[video.video], span, usual_seconds):
            level = "problem" if kind in PROBLEMS else "note"
            found.append(Finding(kind, level, f"{video.video}: {text}", (video.video,)))
    order = list(KINDS)
    return sorted(found, key=lambda finding: order.index(finding.kind))


def _shared_recordings(split: Split, videos: Sequence[Video], judge: Callable) -> list[Finding]:
    """Recordings of which one part of the split has some videos and another part others."""
    members = {group: {part: [] for part in PARTS} for group in leaking_groups(split, videos)}
    for video in videos if members else ():
        if video.group in members and split.parts[video.video] in PARTS:
            members[video.group][split.parts[video.video]].append(video.video)
    found = []
    for name, parts in members.items():
        level = judge([part for part in PARTS if parts[part]])
        numbers = ", ".join(f"{len(parts[part])} in {part}" for part in PARTS if parts[part])
        names = tuple(video for part in PARTS for video in parts[part])
        found.append(Finding("shared_recording", level, f"{name}: {numbers}{_so_published(level)}", names))
    return found


def _judge_duplicate(split: Split, labels: Mapping[str, str], names: Sequence[str], judge: Callable) -> Finding:
    """names: videos with the same bytes; labels: the class of each video."""
    parts = {split.parts[name] for name in names if name in split.parts} & set(PARTS)
    if len(parts) > 1:
        level = judge(parts)
        text = " = ".join(f"{name} ({split.parts.get(name, 'unused')})" for name in names)
        return Finding("shared_file", level, text + _so_published(level), tuple(names))
    kind = "duplicate_across_classes" if len({labels[name] for name in names}) > 1 else "duplicate"
    return Finding(kind, "problem", " = ".join(names), tuple(names))


def _so_published(level: str) -> str:
    return " (so in the official lists)" if level == "note" else ""


def leak_warning(source: DataSource, split: Split, rows: Sequence[VideoRow], command: str) -> str:
    """One line for the start of training, "" where nothing leaks: recordings, and files that are equal, in more than
    one part. Where too many files have equal rows in the manifest to be read in a moment, recordings alone are said.
    """
    judge = partial(leak_level, official=is_official(source, split), tested=tested_parts(rows))
    suspects = _possibly_equal(split, [row for row in rows if row.source_bytes])
    readable = sum(row.source_bytes for row in suspects) <= READ_AT_START
    equal = same_files({row.video: source.videos / row.video for row in suspects}) if readable else []

    labels = {row.video: row.label for row in suspects}
    found = _shared_recordings(split, rows, judge) + [_judge_duplicate(split, labels, names, judge) for names in equal]
    leaks = []
    for kind, what in (("shared_recording", "recording"), ("shared_file", "file")):
        of_kind = [finding.text for finding in found if finding.kind == kind and finding.level == "leak"]
        if of_kind:
            leaks.append(f"{plural(len(of_kind), what)} in more than one part (first: {of_kind[0]})")
    if not leaks:
        return ""
    return f"WARNING: split {split.name} leaks, and its accuracy will be too high: {'; '.join(leaks)}. All: {command}"


def _possibly_equal(split: Split, rows: Sequence[VideoRow]) -> list[VideoRow]:
    """Rows of more than one part that have equal numbers in the manifest."""
    first: dict[tuple, str] = {}
    shared = set()
    keys = [(row.source_bytes, row.num_frames, row.fps, row.source_width) for row in rows]
    for row, key in zip(rows, keys, strict=True):
        part = split.parts[row.video]
        if part in PARTS and first.setdefault(key, part) != part:
            shared.add(key)
    return [row for row, key in zip(rows, keys, strict=True) if key in shared]


def _empty_classes(source: DataSource) -> Iterator[Finding]:
    if source.list is not None or not source.videos.is_dir():
        return
    for _, folder in class_folders(source.videos):
        if not video_files(folder):
            name = folder.relative_to(source.videos).as_posix()
            yield Finding(
                "empty_class", "problem", f"{name}: {why_no_videos(folder, source.videos) or 'no video in it'}"
            )


def _missing_parts(split: Split, videos: Iterable[Video]) -> Iterator[Finding]:
    """Classes without training or test videos. A part that the whole split lacks is reported once, not for each
    class."""
    there = set(split.parts.values())
    if set(PARTS) - there:
        missing = ", ".join(part for part in PARTS if part not in there)
        yield Finding("missing_part", "problem", f"all classes: no usable video in {missing}")
    have = Counter((video.label, split.parts.get(video.video)) for video in videos)
    for label in sorted({video.label for video in videos}, key=str.lower):
        missing = [part for part in PARTS if part in there and not have[label, part]]
        if missing:
            yield Finding("missing_part", "problem", f"{label}: no usable video in {', '.join(missing)}")


def _case_only(labels: Iterable[str]) -> Iterator[Finding]:
    alike = defaultdict(list)
    for label in sorted(labels):
        alike[label.casefold()].append(label)
    for names in alike.values():
        if len(names) > 1:
            text = f"{', '.join(names)}: two classes here, one folder on Windows and macOS"
            yield Finding("case_only", "problem", text)


def _ignored(source: DataSource) -> Iterator[Finding]:
    """Videos beside the class folders or in folders inside of them. A list names its own videos."""
    if source.list is not None or not source.videos.is_dir():
        return
    classes = [folder for _, folder in class_folders(source.videos)]
    for path in stray_videos(source.videos, classes):
        name = path.relative_to(source.videos).as_posix()
        where = "in a folder inside a class folder" if path.parent.parent in classes else "beside the class folders"
        yield Finding("ignored", "problem", f"{name}: {where}", (name,))


def _about_one(facts: VideoInfo, span: int, usual_seconds: float) -> Iterator[tuple[str, str]]:
    if facts.unreadable:
        yield "unreadable", facts.unreadable
        return
    if facts.damaged:
        yield "damaged", f"damaged in {plural(facts.damaged, 'place')}"
    if facts.still:
        what = "all black" if facts.still == "black" else "every frame shows the same picture"
        yield "still", f"{what} ({plural(facts.num_frames, 'frame')})"
    if facts.num_frames < span:
        yield "too_short", f"{plural(facts.num_frames, 'frame')}, and a clip spans {span}"
    if facts.seconds > max(LONG * usual_seconds, LONG_SECONDS):
        yield "long", f"{duration(facts.seconds)}; half of the videos have at most {duration(usual_seconds)}"
    if facts.width and not 1 / ASPECT <= facts.width / facts.height <= ASPECT:
        yield "aspect", f"{facts.width}x{facts.height}"
    if facts.width and min(facts.width, facts.height) < TINY:
        yield "tiny", f"{facts.width}x{facts.height}"
    off = abs(facts.header_frames - facts.num_frames)
    if facts.header_frames and off > max(2, HEADER_TOLERANCE * facts.num_frames):
        counted = "packets follow" if facts.counted == "packets" else "decode"
        yield "header_count", f"{facts.header_frames} in the header, {facts.num_frames} {counted}"
    if facts.uneven > UNEVEN:
        yield "uneven", f"{100 * facts.uneven:.0f} % of the time steps differ by half or more from the usual step"
