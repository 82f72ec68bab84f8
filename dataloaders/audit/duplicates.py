"""Files and frames with equal content among the videos of a data set."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from dataloaders.frames.manifest import VideoRow
from dataloaders.frames.store import open_store


def same_files(paths: Mapping[str, Path]) -> list[list[str]]:
    """Names of files with the same bytes: those of one size are read, and compared by their SHA-256."""
    sizes = {name: _num_bytes(path) for name, path in paths.items()}
    return _same_content({name: size for name, size in sizes.items() if size}, lambda name: _file_digest(paths[name]))


def same_frames(frames: Path, rows: Sequence[VideoRow]) -> list[list[str]]:
    """Names of videos whose stored frames have the same bytes, for when the videos themselves are not there. rows: all
    usable ones of the manifest, in its order. Those with equally many frames and the same first one are read."""
    store = open_store(frames, rows)
    by_name = {row.video: row for row in rows}

    def digest(row: VideoRow, indices: Sequence[int]) -> str:
        total = hashlib.sha256()
        for jpeg in store.read(row, indices):
            total.update(hashlib.sha256(jpeg).digest())
        return total.hexdigest()

    firsts = {row.video: (row.num_frames, digest(row, [0])) for row in rows}
    return _same_content(firsts, lambda name: digest(by_name[name], range(by_name[name].num_frames)))


def _same_content(keys: Mapping[str, object], digest: Callable[[str], str]) -> list[list[str]]:
    """keys: what is cheap to know of each name's content; digest is asked where that is not enough."""
    alike = defaultdict(list)
    for name, key in keys.items():
        alike[key].append(name)
    same = defaultdict(list)
    for names in alike.values():
        for name in names if len(names) > 1 else ():
            same[digest(name)].append(name)
    same.pop(UNREAD, None)
    return sorted(sorted(names) for names in same.values() if len(names) > 1)


def _file_digest(path: Path) -> str:
    """Hash of a file; UNREAD where it cannot be read, which is reported elsewhere."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return UNREAD


def _num_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


UNREAD = ""
