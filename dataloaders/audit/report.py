"""The result of an audit as text and as JSON."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from common.console import duration, gigabytes, plural
from common.files import printable
from dataloaders.audit.findings import KINDS, SHARING, Finding, is_official
from dataloaders.audit.frames_folders import FramesFolder, removal
from dataloaders.audit.probe import VideoInfo
from dataloaders.sources.data_source import DataSource
from dataloaders.sources.layout import Video
from dataloaders.sources.splits import Split

FORMAT = 1  # of the JSON: a key that changes its meaning counts it up
PART_NAMES = ("train", "val", "test", "unused")
SHOWN_CLASSES = 24
SHOWN_FINDINGS = 8
WIDTH = 100  # of the table; findings are as wide as the names in them


@dataclass(frozen=True)
class Audit:
    """The result of an audit. facts has every video, split.parts the usable ones.

    videos_there: whether the videos exist, from which frames can be made again
    """

    source: DataSource
    videos: list[Video]
    facts: dict[str, VideoInfo]
    split: Split
    classes: list[str]
    span: int
    findings: list[Finding]
    frames: Sequence[FramesFolder] = ()
    videos_there: bool = True

    @property
    def leaks(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.level == "leak"]


def report(audit: Audit, everything: bool = False) -> str:
    """The table of classes and the findings, as text."""
    return "\n".join([*_summary(audit), "", *_class_table(audit, everything), *_found(audit, everything), ""])


def _summary(audit: Audit) -> list[str]:
    source, totals = audit.source, _totals(audit)
    parts = ", ".join(f"{number:,} {part}" for part, number in _parts(audit).items() if number)
    official = " (official lists)" if is_official(source, audit.split) else ""
    lines = [
        f"Data set   {source.name}: {printable(str(source.videos))}",
        f"Split      {audit.split.name}{official}: {parts}",
        f"Found      {plural(totals['classes'], 'class')}, {plural(totals['videos'], 'video')} of "
        f"{plural(totals['recordings'], 'recording')}, {plural(totals['frames'], 'frame')}, "
        f"{duration(totals['seconds'])}, {gigabytes(totals['bytes'])}",
        f"Frames     {_how_counted(audit)}",
    ]
    lines += [f"Stored     {folder.describe()}" for folder in audit.frames]
    if audit.videos_there and (command := removal(audit.frames)):
        lines.append(f"           {command}")
    if totals["recordings"] == totals["videos"] and source.groups is None and source.layout == "folder":
        lines.append("Groups     each video is its own recording; if several share one, set 'groups' in mypath.py")
    balance = _imbalance(audit)
    lines.append(
        f"Imbalance  largest class {_short(balance['largest']['class'])} ({balance['largest']['videos']:,} videos), "
        f"smallest {_short(balance['smallest']['class'])} ({balance['smallest']['videos']:,})"
        + (f": {balance['ratio']:g} to 1" if balance["ratio"] else "")
    )
    return lines + [f"Note       {note}" for note in audit.split.notes]


def _how_counted(audit: Audit) -> str:
    ways = Counter(fact.counted for fact in audit.facts.values() if not fact.unreadable)
    if ways["packets"]:
        known = len(audit.facts) - ways["packets"] - sum(bool(fact.unreadable) for fact in audit.facts.values())
        some = f" of {plural(ways['packets'], 'video')}" if known else ""
        return f"the number of packets{some}, some of which may have no frame (--decode counts the frames)"
    return "as decoded by preprocessing (manifest.csv)" if ways["manifest"] else "every one decoded"


def _class_table(audit: Audit, everything: bool) -> list[str]:
    """The table of classes; of many classes, those with the fewest and the most videos."""
    classes = _classes(audit)
    head = f"{'Class':<26}{'Videos':>7}{'Recordings':>11}" + "".join(f"{part:>7}" for part in PART_NAMES)
    head += f"{'Frames':>11}{'Seconds':>9}"
    rows = [_class_line(row["class"], row) for row in classes]
    title = []
    if len(rows) > SHOWN_CLASSES and not everything:
        order = sorted(range(len(rows)), key=lambda number: -classes[number]["videos"])
        half = SHOWN_CLASSES // 2
        left_out = f"... {len(rows) - 2 * half} classes between them (--all prints all)"
        rows = [rows[number] for number in order[:half]] + [left_out] + [rows[number] for number in order[-half:]]
        title = [f"The {half} largest and the {half} smallest of {plural(len(classes), 'class')}:"]
    rule = "-" * len(head)
    return [*title, head, rule, *rows, rule, _class_line("All", _totals(audit) | _parts(audit))]


def _class_line(name: str, row: dict) -> str:
    return (
        f"{_short(name):<26}{row['videos']:>7,}{row['recordings']:>11,}"
        + "".join(f"{row[part]:>7,}" for part in PART_NAMES)
        + f"{row['frames']:>11,}{row['seconds']:>9,.0f}"
    )


def _short(name: str) -> str:
    return name if len(name) <= 26 else f"{name[:25]}…"


def _found(audit: Audit, everything: bool) -> list[str]:
    lines = []
    titles = (("leak", "LEAKS"), ("problem", "PROBLEMS"), ("note", "WORTH A LOOK"))
    for level, title in titles:
        found = [finding for finding in audit.findings if finding.level == level]
        if found:
            lines += ["", title]
        for kind, heading in KINDS.items():
            of_kind = [finding.text for finding in found if finding.kind == kind]
            shown = of_kind if everything else of_kind[:SHOWN_FINDINGS]
            if of_kind:
                lines.append(f"  {len(of_kind):,}  {heading}")
                lines += [line for text in shown for line in _broken(printable(text))]
            if len(shown) < len(of_kind):
                lines.append(f"       ... and {len(of_kind) - len(shown):,} more (--all prints all)")
    return [*lines, "", _verdict(audit)]


def _broken(text: str) -> list[str]:
    """A line; where it is too long and names equal files, a line each."""
    if len(text) + 7 <= WIDTH:
        return [f"       {text}"]
    first, *others = text.split(" = ")
    return [f"       {first}", *(f"         = {other}" for other in others)]


def _verdict(audit: Audit) -> str:
    name = audit.split.name
    levels = {finding.level for finding in audit.findings if finding.kind in SHARING}
    if not levels:
        return f"Split {name} does not leak: no recording and no file is in two parts."
    if "leak" not in levels:
        where = "files shared in the official lists" if "note" in levels else "videos shared with validation"
        return f"Split {name} does not leak, except for {where}, above."
    advice = []
    if any(finding.kind == "shared_recording" for finding in audit.leaks):
        advice.append("put all videos of a recording into one part (--split random does)")
    if any(finding.kind == "shared_file" for finding in audit.leaks):
        advice.append("keep one of each set of equal files" + audit.source.kind.duplicates_note)
    return f"Split {name} LEAKS: its accuracy will be too high. To fix it, {'; '.join(advice)}."


def to_dict(audit: Audit) -> dict:
    """The result as plain lists, strings and numbers, with the keys that docs/data.md describes."""
    facts = audit.facts
    return {
        "format": FORMAT,
        "dataset": audit.source.name,
        "videos_folder": printable(str(audit.source.videos)),
        "layout": audit.source.layout,
        "split": audit.split.name,
        "official": is_official(audit.source, audit.split),
        "split_hash": audit.split.hash,
        "clip_span": audit.span,
        "frames_folders": [
            {
                "folder": printable(str(folder.path)),
                "content": folder.content,
                "videos": folder.videos,
                "bytes": folder.num_bytes,
            }
            for folder in audit.frames
        ],
        "totals": _totals(audit) | {"parts": _parts(audit)},
        "imbalance": _imbalance(audit),
        "classes": _classes(audit),
        "leaks": len(audit.leaks),
        "findings": [
            {
                "kind": finding.kind,
                "level": finding.level,
                "text": printable(finding.text),
                "videos": [printable(name) for name in finding.videos],
            }
            for finding in audit.findings
        ],
        "videos": [
            {
                "video": printable(video.video),
                "class": video.label,
                "recording": printable(video.group),
                "part": audit.split.parts.get(video.video, ""),
                "seconds": round(facts[video.video].seconds, 3),
            }
            | asdict(facts[video.video])
            for video in audit.videos
        ],
    }


def _totals(audit: Audit) -> dict:
    facts = audit.facts.values()
    return {
        "classes": len(audit.classes),
        "videos": len(audit.videos),
        "usable": len(audit.split.parts),
        "recordings": len({video.group for video in audit.videos}),
        "frames": sum(fact.num_frames for fact in facts),
        "seconds": round(sum(fact.seconds for fact in facts), 3),
        "bytes": sum(fact.num_bytes for fact in facts),
    }


def _parts(audit: Audit) -> dict[str, int]:
    numbers = Counter(audit.split.parts.values())
    return {part: numbers[part] for part in PART_NAMES}


def _classes(audit: Audit) -> list[dict]:
    """One row per class, in the order of the ids."""
    members = {label: [] for label in audit.classes}
    for video in audit.videos:
        members[video.label].append(video)
    rows = []
    for label, videos in members.items():
        facts = [audit.facts[video.video] for video in videos]
        parts = Counter(audit.split.parts[video.video] for video in videos if video.video in audit.split.parts)
        rows.append(
            {
                "class": printable(label),
                "videos": len(videos),
                "usable": parts.total(),
                "recordings": len({video.group for video in videos}),
                **{part: parts[part] for part in PART_NAMES},
                "frames": sum(fact.num_frames for fact in facts),
                "seconds": round(sum(fact.seconds for fact in facts), 3),
            }
        )
    return rows


def _imbalance(audit: Audit) -> dict:
    """Largest and smallest class by usable videos; ratio is None where a class has none."""
    rows = _classes(audit)
    largest, smallest = max(rows, key=lambda row: row["usable"]), min(rows, key=lambda row: row["usable"])
    return {
        "largest": {"class": largest["class"], "videos": largest["usable"]},
        "smallest": {"class": smallest["class"], "videos": smallest["usable"]},
        "ratio": round(largest["usable"] / smallest["usable"], 2) if smallest["usable"] else None,
    }
