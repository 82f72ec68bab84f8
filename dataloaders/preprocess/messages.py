"""Messages of preprocessing."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from common.console import duration, gigabytes, plural
from common.errors import UserError
from common.files import printable
from dataloaders.frames import manifest
from dataloaders.frames.manifest import VideoRow

SHOWN_REFUSALS = 20


@dataclass
class Outcome:
    """The result of a run: rows of videos that were extracted, refused or confirmed; the confirmed ones, whose frames
    existed already; bytes written; seconds."""

    rows: list[VideoRow] = field(default_factory=list)
    confirmed: set[str] = field(default_factory=set)
    num_bytes: int = 0
    seconds: float = 0.0


def print_split(shown: str, split: str) -> None:
    print(
        f"The folders stay arranged by split {shown}. Training on split {split} reads its videos from the manifest; "
        "nothing is extracted again."
    )


def print_removed(rows: Sequence[VideoRow], videos: Path) -> None:
    _print_number(f"No longer in {videos}, and removed from the manifest", [row.video for row in rows])


def print_missing(videos: Sequence[str]) -> None:
    _print_number("Frames differ from the manifest, and are extracted again", videos)


def print_retried(videos: Sequence[str]) -> None:
    _print_number("Refused earlier for a reason that may be gone, and tried again", videos)


def _print_number(title: str, videos: Sequence[str]) -> None:
    if videos:
        print(f"{title}: {plural(len(videos), 'video')} (first: {printable(videos[0])}).")


def print_damage(path: Path, problems: Sequence[str], num_trusted: int) -> None:
    others = f", and {plural(len(problems) - 1, 'other fault')}" if len(problems) > 1 else ""
    print(
        f"{path} is damaged: {problems[0]}{others}. {plural(num_trusted, 'row')} can be trusted; the rest is rebuilt "
        "from the frames and the videos."
    )


def print_nothing_to_do(frames: Path, rows: Sequence[VideoRow]) -> None:
    refused = sum(row.status == "refused" for row in rows)
    also = f" ({refused} refused, see {frames / manifest.NAME})" if refused else ""
    print(f"Nothing to do: {plural(len(rows) - refused, 'video')} extracted in {frames}{also}.")


def print_summary(frames: Path, rows: Sequence[VideoRow], outcome: Outcome) -> None:
    """rows: of all the run's videos, those that were done before too."""
    if outcome.confirmed:
        print(
            f"Rebuilt {plural(len(outcome.confirmed), 'row')} of the manifest from existing frames, which were "
            "compared with their videos."
        )
    refused = [row for row in outcome.rows if row.status == "refused"]
    extracted = [row for row in outcome.rows if row.status == "ok" and row.video not in outcome.confirmed]
    damaged = [row for row in extracted if row.reason]
    if len(outcome.confirmed) < len(outcome.rows):
        print(
            f"Extracted {plural(len(extracted), 'video')}, "
            f"{plural(sum(row.num_frames for row in extracted), 'frame')}, {gigabytes(outcome.num_bytes)} "
            f"into {frames} in {duration(outcome.seconds)}."
        )
    _say_reasons(refused, f"{plural(len(refused), 'file')} refused:")
    _say_reasons(damaged, f"{plural(len(damaged), 'video')} used despite damage:")
    for label in sorted({row.label for row in rows} - {row.label for row in rows if row.status == "ok"}):
        print(f"Class {printable(label)} has no video that can be used.")
    if not any(row.status == "ok" for row in rows):
        raise UserError(f"None of the {plural(len(rows), 'file')} can be used; the reasons are in the manifest.")


def _say_reasons(rows: Sequence[VideoRow], title: str) -> None:
    if rows:
        print(title)
        for row in rows[:SHOWN_REFUSALS]:
            print(f"  {printable(row.video)}: {row.reason}")
        if len(rows) > SHOWN_REFUSALS:
            print(f"  ... and {len(rows) - SHOWN_REFUSALS} more, see the manifest's column 'reason'")
