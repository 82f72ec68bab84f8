"""The frames that are stored of a data set: a folder for each size, and what it takes on the disk."""

import glob
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.console import gigabytes, plural
from common.files import printable
from dataloaders.frames import manifest
from dataloaders.frames.manifest import VideoRow
from dataloaders.frames.store import PACK_NAME
from dataloaders.sources.data_source import DataSource

SIZE_NAME = re.compile(r"-(\d+x\d+|short\d+)")  # of the folders beside the one of 171x128
SAMPLED = 300  # videos whose files are counted; UCF101 has 2.5 million files


@dataclass(frozen=True)
class FramesFolder:
    """content: the settings of its frames, "made elsewhere", or "not read" where its manifest is damaged or missing."""

    path: Path
    content: str
    videos: int
    num_bytes: int

    @property
    def made_here(self) -> bool:
        """Whether preprocessing can make it again."""
        return self.content.startswith("--size")

    def describe(self) -> str:
        of = f"{plural(self.videos, 'video')}, {self.content}" if self.videos else self.content
        return f"about {gigabytes(self.num_bytes)} in {printable(str(self.path))} ({of})"


def frames_folders(source: DataSource) -> list[FramesFolder]:
    """The frames folder of the data set, and those of other sizes beside it, those that exist."""
    return [_read(folder) for folder in folders_of(source)]


def folders_of(source: DataSource) -> list[Path]:
    """Folders with content; --frames names one alone."""
    folders = [source.frames]
    if not source.frames_given:
        beside = sorted(source.frames.parent.glob(f"{glob.escape(source.frames.name)}-*"))
        folders += [path for path in beside if SIZE_NAME.fullmatch(path.name.removeprefix(source.frames.name))]
    return [folder for folder in folders if folder.is_dir() and any(folder.iterdir())]


def removal(folders: Sequence[FramesFolder]) -> str:
    """The command that removes what can be made again, of several sizes; "" where there is one."""
    can_go = [folder for folder in folders if folder.made_here]
    if len(folders) < 2 or not can_go:
        return ""
    names = "  or  ".join(f"rm -r {shlex.quote(printable(str(folder.path)))}" for folder in can_go)
    return f"{names}  removes one; training and preprocessing make it again from the videos"


def _read(folder: Path) -> FramesFolder:
    rows: list[VideoRow] = []
    content = "not read: it has no whole manifest"
    if (folder / manifest.NAME).is_file():
        try:
            rows = manifest.usable(manifest.read_manifest(folder))
        except manifest.DamagedManifest:
            pass
        else:
            own = next((row for row in rows if row.quality), None)
            content = own.settings.flags if own else "made elsewhere"
            content += ", packed" if (folder / PACK_NAME).is_file() else ""
    return FramesFolder(folder, content, len(rows), _num_bytes(folder, rows))


def _num_bytes(folder: Path, rows: Sequence[VideoRow]) -> int:
    """Adds up the sizes of all files; for more than 300 videos, estimates the sum from a sample of them."""
    if (folder / PACK_NAME).is_file() or len(rows) <= SAMPLED:
        return sum(_sizes(folder))
    sampled = rows[:: len(rows) // SAMPLED]
    in_sample = sum(size for row in sampled for size in _sizes(folder / row.folder))
    return round(in_sample * sum(row.num_frames for row in rows) / sum(row.num_frames for row in sampled))


def _sizes(folder: Path) -> Iterator[int]:
    return (path.stat().st_size for path in folder.rglob("*") if path.is_file())
