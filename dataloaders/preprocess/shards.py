"""One data set extracted by several machines, each of which takes a part of the videos.

    python -m dataloaders.preprocess --dataset ucf101 --shard 3/8

takes the videos whose names hash there, and writes a manifest of its own, manifest.3-of-8.csv. The command that finds
all eight (the last of them, or any later one, training too) makes manifest.csv of them. The tree and the manifest are
the same for any number of shards, and for none.
"""

import argparse
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from common.console import plural
from common.errors import UserError
from dataloaders.frames import manifest
from dataloaders.frames.manifest import VideoRow

SHARD_NAME = re.compile(r"manifest\.(\d+)-of-(\d+)(\.partial)?\.csv")


@dataclass(frozen=True)
class Shard:
    """Part `number` of `total`, counted from 1."""

    number: int
    total: int

    def __str__(self) -> str:
        return f"{self.number}/{self.total}"

    @property
    def name(self) -> str:
        return f"{self.number}-of-{self.total}"

    @property
    def manifest_name(self) -> str:
        return f"manifest.{self.name}.csv"

    @property
    def partial_name(self) -> str:
        return f"manifest.{self.name}.partial.csv"

    def takes(self, video: str) -> bool:
        """Whether the shard extracts a video: by its relative path, so that all machines and versions agree."""
        digest = hashlib.blake2b(video.encode("utf-8", "surrogateescape"), digest_size=8).digest()
        return int.from_bytes(digest, "big") % self.total == self.number - 1


def read_shard(text: str) -> Shard:
    """3/8 -> Shard. Raises argparse's error."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None or not 1 <= int(match.group(1)) <= int(match.group(2)):
        raise argparse.ArgumentTypeError(f"'{text}' is not a shard; write 3/8, from 1/8 to 8/8")
    return Shard(int(match.group(1)), int(match.group(2)))


@dataclass(frozen=True)
class ShardState:
    """State of the shards in a frames folder: their number, the finished ones, and the unfinished ones."""

    total: int
    done: frozenset[int]
    begun: frozenset[int]

    @property
    def missing(self) -> list[int]:
        return [number for number in range(1, self.total + 1) if number not in self.done]

    def __str__(self) -> str:
        """shards 2, 5 of 8 (5 has begun)"""
        missing = ", ".join(map(str, self.missing))
        begun = ", ".join(str(number) for number in sorted(self.begun) if number in self.missing)
        word = "shard" if len(self.missing) == 1 else "shards"
        return f"{word} {missing} of {self.total}" + (f" ({begun} begun)" if begun else "")


def shard_state(frames: Path) -> ShardState | None:
    """State of the shards in a folder; None where none has been extracted since the last merge."""
    found = [match for name in manifest.names(frames) if (match := SHARD_NAME.fullmatch(name))]
    if not found:
        return None
    totals = {int(match.group(2)) for match in found}
    if len(totals) > 1:
        raise UserError(
            f"{frames} holds shards of different divisions ({', '.join(sorted(match.group(0) for match in found))}). "
            "Preprocess without --shard to extract only the missing videos."
        )
    begun = frozenset(int(match.group(1)) for match in found if match.group(3))
    done = frozenset(int(match.group(1)) for match in found if not match.group(3)) - begun
    return ShardState(totals.pop(), done, begun)


def check_division(frames: Path, shard: Shard) -> None:
    """The shards of one folder must be of one division."""
    state = shard_state(frames)
    if state is not None and state.total != shard.total:
        raise UserError(
            f"{frames} is extracted in {state.total} shards, not as {shard}. Use shards of {state.total}, or "
            "preprocess without --shard to extract only the missing videos."
        )


def merge_shards(frames: Path) -> list[VideoRow] | None:
    """Merges the shards' manifests into manifest.csv; returns None where some are missing. The folder must be
    locked."""
    manifest.clear_merged(frames)
    state = shard_state(frames)
    if state is None or state.missing:
        return None
    rows: list[VideoRow] = []
    first = None
    for number in range(1, state.total + 1):
        name = Shard(number, state.total).manifest_name
        for row in manifest.read_manifest(frames, name):
            first = first or (name, row)
            if (row.settings, row.split) != (first[1].settings, first[1].split):
                raise UserError(
                    f"{frames / name} has frames at {row.settings}, split {row.split}, and {first[0]} at "
                    f"{first[1].settings}, split {first[1].split}. Delete the manifest of the wrong one, and extract "
                    "that shard again."
                )
            rows.append(row)
    manifest.replace_all(frames, rows)
    print(f"Merged {plural(state.total, 'shard')}: {plural(len(rows), 'video')} in {frames / manifest.NAME}.")
    return sorted(rows, key=lambda row: row.video)
