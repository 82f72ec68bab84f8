"""Features on disk: <folder>/<class>/<video>.npy and index.json, or a tree of files made elsewhere."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from common.console import plural
from common.errors import UserError
from common.files import VIDEO_SUFFIXES, atomic_write, named_errors, printable, write_atomically
from engine.features.pooling import pool_windows

INDEX, PARTIAL = "index.json", "index.partial.jsonl"
FORMAT = 1
OLDEST = frozenset("video label group file".split())  # of an entry, in the first versions
# what decides the numbers in a file; those of one folder share all of it
SETTINGS = tuple("format weights_hash model layer step pooling norm per_window precision input_spec".split())


@dataclass(frozen=True)
class FeatureEntry:
    """A video that has a feature: relative path, class and group, its file below the folder, and its part of the
    data set where folders or a list say it ("" elsewhere).

    content  what changes when the video does: FrameSet.content_ids of frames, the size of a file; "" where unknown
    seen     the network, or the weights it began with, was trained or chosen on this video or its recording
    """

    video: str
    label: str
    group: str
    file: str
    num_windows: int = 1
    given: str = ""
    content: str = ""
    seen: bool = False

    @property
    def stem(self) -> str:
        return Path(self.video).stem


class FeatureWriter:
    """Fills a folder with features. Stopped at any moment, the next one goes on: what stands in index.partial.jsonl
    is whole. Features of videos that have changed are dropped, aloud, and made anew.

    entries  of the videos whose features are to be there; whole: and of no others
    Raises UserError for a folder that holds features of other settings, or, with whole, of other videos, and where two
    videos, of the entries to come and of those that are there, would be written as one file.
    """

    def __init__(self, folder: Path, settings: dict, entries: Sequence[FeatureEntry] = (), whole: bool = False):
        self.folder, self.settings = folder, settings
        self.done: dict[str, dict] = {}
        folder.mkdir(parents=True, exist_ok=True)
        earlier = read_partial(folder) or read_index(folder)
        if earlier:
            check_same(folder, earlier, settings)
            self.done = {entry["video"]: entry for entry in earlier["videos"]}
        elif any(folder.rglob("*.npy")):
            raise UserError(f"{folder} has .npy files but no {INDEX}. Choose another --output.")
        dropped = self._drop_changed(entries, whole)
        self._check_names(entries)
        partial = folder / PARTIAL
        if dropped or not partial.is_file():
            lines = [settings, *self.done.values()]
            write_atomically(partial, "".join(json.dumps(line) + "\n" for line in lines))
        self.file = partial.open("a", encoding="utf-8")

    def add(self, entry: FeatureEntry, feature: np.ndarray) -> None:
        """Writes (D,) or (N, D) float32."""
        path = self.folder / entry.file
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with atomic_write(path) as temporary, temporary.open("wb") as file:
                np.save(file, feature.astype(np.float32), allow_pickle=False)
        except OSError as error:
            raise UserError(f"{path} cannot be written: {error.strerror}. Existing files are kept.") from error
        self._note({**vars(entry)})

    def refuse(self, video: str, reason: str) -> None:
        self._note({"video": video, "refused": reason})

    def _note(self, entry: dict) -> None:
        self.done[entry["video"]] = entry
        with named_errors(self.folder / PARTIAL):
            self.file.write(json.dumps(entry) + "\n")
            self.file.flush()

    def _drop_changed(self, entries: Sequence[FeatureEntry], whole: bool) -> bool:
        """Keeps the features of unchanged videos, with what the entries say of them now."""
        wanted = {entry.video: entry for entry in entries}
        gone = [name for name in self.done if name not in wanted] if whole else []
        if gone and len(gone) == len(self.done):
            raise UserError(
                f"{self.folder} holds features of {plural(len(gone), 'other video')} (first: {gone[0]}). Choose "
                "another --output."
            )
        changed, is_new = [], False
        for name in self.done.keys() & wanted.keys():
            earlier, entry = self.done[name], wanted[name]
            if "file" in earlier:
                same = earlier["file"] == entry.file and earlier.get("content") in (None, "", entry.content)
                now = {**vars(entry), "num_windows": earlier["num_windows"]}
                changed += [] if same else [name]
                is_new |= now != earlier
                self.done[name] = now if same else earlier
        for title, names in (("Of videos that are gone, and removed", gone), ("Of videos that have changed", changed)):
            if names:
                print(f"{title}: {plural(len(names), 'feature')} (first: {printable(min(names))}).")
        files = [self.done.pop(name).get("file") for name in [*gone, *changed]]
        for file in set(files) - {None} - {entry.get("file") for entry in self.done.values()}:
            (self.folder / file).unlink(missing_ok=True)
        return is_new or bool(files)

    def _check_names(self, entries: Iterable[FeatureEntry]) -> None:
        taken = {entry["file"].lower(): entry["video"] for entry in self.done.values() if "file" in entry}
        for entry in entries:
            other = taken.setdefault(entry.file.lower(), entry.video)  # some file systems do not tell A from a
            if other != entry.video:
                raise UserError(
                    f"{other} and {entry.video} would both be written as {entry.file}. Rename one, or give another "
                    "--output."
                )

    def finish(self) -> None:
        """index.json instead of the partial one: all videos, sorted."""
        self.file.close()
        videos = sorted(self.done.values(), key=lambda entry: entry["video"])
        write_atomically(self.folder / INDEX, json.dumps({**self.settings, "videos": videos}, indent=1) + "\n")
        (self.folder / PARTIAL).unlink()


def read_partial(folder: Path) -> dict | None:
    """Settings and videos of an interrupted extraction; None without one. An incomplete last line is dropped."""
    path = folder / PARTIAL
    if not path.is_file():
        return None
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        write_atomically(path, whole)
    lines = [json.loads(line) for line in whole.splitlines()]
    return {**lines[0], "videos": lines[1:]} if lines else None


def read_index(folder: Path) -> dict | None:
    path = folder / INDEX
    if not path.is_file():
        return None
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}). Extract again, into another --output.") from error
    if not isinstance(index, dict) or index.get("format") != FORMAT:
        raise UserError(f"{path} was written by another version of this program. Extract again, into another --output.")
    videos = index.get("videos")
    if not isinstance(videos, list) or not all(map(_is_entry, videos)):
        raise UserError(f"{path} is damaged (its list of videos is not whole). Extract again, into another --output.")
    return index


def _is_entry(line: object) -> bool:
    if not isinstance(line, dict) or not isinstance(line.get("video"), str):
        return False
    return "refused" in line or OLDEST <= line.keys() <= {field.name for field in fields(FeatureEntry)}


def check_same(folder: Path, earlier: dict, settings: dict) -> None:
    for key in SETTINGS:
        if earlier.get(key) != settings[key]:
            what = "other weights" if key == "weights_hash" else f"{key} {earlier.get(key)}, not {settings[key]}"
            raise UserError(f"{folder} holds features of {what}. Choose another --output.")


def list_features(folder: Path) -> tuple[dict, list[FeatureEntry]]:
    """Settings (empty for a tree made elsewhere) and the videos that have a feature, by their paths.

    Elsewhere: <class>/<video>.npy, the video's name before ".proc." or the ending of a video in it. Raises UserError
    for a folder without any, an interrupted extraction, and files that the index has and the folder has not.
    """
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}. Extract them first: python features.py extract")
    if (folder / PARTIAL).is_file():
        raise UserError(f"The extraction into {folder} was interrupted. Repeat the command: it continues.")
    index = read_index(folder)
    if index is None:
        return {}, _foreign(folder)
    entries = [FeatureEntry(**entry) for entry in index.pop("videos") if "refused" not in entry]
    missing = [entry.file for entry in entries if not (folder / entry.file).is_file()]
    if missing:
        raise UserError(
            f"{folder / INDEX} lists {plural(len(missing), 'file')} that are missing (first: {missing[0]}). Copy "
            f"them, or delete {INDEX} and its folder's files, and extract again."
        )
    if not entries:
        raise UserError(f"{folder / INDEX} lists no feature.")
    return index, entries


def _foreign(folder: Path) -> list[FeatureEntry]:
    entries = []
    for path in sorted(folder.rglob("*.npy")):
        relative = path.relative_to(folder)
        if len(relative.parts) < 2:
            raise UserError(f"{path} is in no class folder. The layout is <class>/<video>.npy.")
        stem = relative.stem.split(".proc.")[0]
        while Path(stem).suffix.lower() in VIDEO_SUFFIXES:
            stem = stem[: stem.rfind(".")]
        label = relative.parts[-2]
        entries.append(FeatureEntry(f"{label}/{stem}.avi", label, "", relative.as_posix()))
    if not entries:
        raise UserError(f"{folder} has neither {INDEX} nor <class>/<video>.npy.")
    doubled = [video for video, times in Counter(entry.video for entry in entries).items() if times > 1]
    if doubled:
        raise UserError(f"{folder} has two features of {doubled[0]} ({plural(len(doubled), 'video')} in all).")
    return entries


def load_features(folder: Path, entries: Sequence[FeatureEntry], per_window: bool = False) -> np.ndarray:
    """(V, D) float32, a row an entry. Files of shape (N, D) are windows, and are averaged and scaled to length 1; one
    of (1, D) is a window where the folder was made with per_window, else the feature itself.

    Raises UserError where files are damaged, of different lengths, or hold NaN: counted, the first one named.
    """
    rows, problems = [], []
    for entry in entries:
        path = folder / entry.file
        try:
            values = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            problems.append(f"{path} cannot be read ({str(error).splitlines()[0]})")
            continue
        if values.ndim == 2 and (per_window or len(values) > 1):
            values = pool_windows(values)
        values = values.reshape(-1)
        if not np.isfinite(values).all():
            problems.append(f"{path} has values that are not numbers")
        elif rows and values.shape != rows[0].shape:
            problems.append(f"{path} has {len(values)} values, and the first file {len(rows[0])}")
        else:
            rows.append(values.astype(np.float32))
    if problems:
        raise UserError(f"{plural(len(problems), 'feature')} cannot be used; first: {problems[0]}. Extract them anew.")
    return np.stack(rows)


LAYERS = ("fc6", "fc7", "pool", "prob")


POOLINGS = ("mean", "max")
NORMS = ("after", "before", "none")


STEP = 8  # frames from one window to the next
