"""Packs read to their last byte: verified against their hashes, or given a new index from their tar files."""

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from common.console import gigabytes, plural, progress
from common.errors import UserError
from common.files import atomic_write, held, sha256_of, write_atomically
from dataloaders.frames import manifest
from dataloaders.frames.pack_volumes import JPEG, JPEG_END, PNG
from dataloaders.frames.store import (
    INDEX_DTYPE,
    INDEX_NAME,
    PACK_FORMAT,
    PACK_NAME,
    RECOPY,
    REPAIR,
    check_manifest,
    read_index,
    read_pack,
    volumes_in,
)

Place = tuple[int, int, int]  # volume, offset and size of a frame


def verify(folder: Path) -> None:
    """Reads a pack to its last byte. Raises UserError that names the files which are not as they were written."""
    if not (folder / PACK_NAME).is_file():
        if volumes_in(folder):
            raise UserError(f"{folder} is a pack without {PACK_NAME}. {REPAIR}")
        raise UserError(f"{folder} is not a pack: it has no {PACK_NAME}. Create one: python -m dataloaders.pack")
    check_manifest(folder)
    content = read_pack(folder)
    rows = manifest.usable(manifest.read_manifest(folder))
    read_index(folder, sum(row.num_frames for row in rows))
    files = [(INDEX_NAME, content["index_sha256"])] + [(entry["name"], entry["sha256"]) for entry in content["volumes"]]
    damaged = [
        name for name, known in progress(files, len(files), "Reading", "files") if sha256_of(folder / name) != known
    ]
    if damaged:
        advice = REPAIR if damaged == [INDEX_NAME] else RECOPY
        raise UserError(f"{folder}: files are damaged: {', '.join(damaged)}. {advice}")
    num_bytes = sum(entry["bytes"] for entry in content["volumes"])
    print(
        f"{folder} is complete: {plural(len(rows), 'video')}, {plural(len(files) - 1, 'file')}, {gigabytes(num_bytes)}."
    )


def repair(folder: Path) -> None:
    """Writes index.npy and pack.json anew, from the tar files and manifest.csv. Raises UserError where these are not
    whole: for a damaged tar file there is no other source than a copy."""
    volumes = volumes_in(folder)
    if not volumes:
        raise UserError(f"{folder} has no frames-00000.tar, so it is no pack.")
    with held(folder / ".lock"):  # not before: a mistyped folder is left as it is
        _rebuild(folder, volumes)


def _rebuild(folder: Path, volumes: list[Path]) -> None:
    if not (folder / manifest.NAME).is_file():
        raise UserError(
            f"{folder / manifest.NAME} is missing. Copy it from the frames or from another copy of the pack; without "
            "it, unpack the tar files (tar xf) and give their folder as --frames."
        )
    rows = manifest.usable(manifest.read_manifest(folder))
    known = _known_hashes(folder)
    places: dict[str, Place] = {}
    entries = []
    for number, path in enumerate(progress(volumes, len(volumes), "Reading", "files")):
        if path.name != f"frames-{number:05d}.tar":
            raise UserError(f"{folder / f'frames-{number:05d}.tar'} is missing. {RECOPY}")
        found = sha256_of(path)
        if known.get(path.name, found) != found:
            raise UserError(f"{path} is damaged: its SHA-256 is not that of {PACK_NAME}. {RECOPY}")
        places.update((name, (number, offset, size)) for name, offset, size in _frames_in(path))
        entries.append({"name": path.name, "bytes": path.stat().st_size, "sha256": found})

    index = np.empty(sum(row.num_frames for row in rows), INDEX_DTYPE)
    names = (f"{row.folder}/{row.frame_name(frame)}" for row in rows for frame in range(row.num_frames))
    missing = []
    for place, name in enumerate(names):
        if name in places:
            index["volume"][place], index["offset"][place], index["size"][place] = places[name]
        else:
            missing.append(name)
    if missing:
        raise UserError(
            f"{plural(len(missing), 'frame')} of {folder / manifest.NAME} {'is' if len(missing) == 1 else 'are'} in no "
            f"tar file, or damaged there (first: {missing[0]}). {RECOPY}"
        )
    with atomic_write(folder / INDEX_NAME) as temporary, temporary.open("wb") as file:
        np.save(file, index)
    content = {
        "format": PACK_FORMAT,
        "num_frames": len(index),
        "manifest_sha256": sha256_of(folder / manifest.NAME),
        "index_sha256": sha256_of(folder / INDEX_NAME),
        "volumes": entries,
    }
    write_atomically(folder / PACK_NAME, json.dumps(content, indent=2) + "\n")
    print(f"{folder} is repaired: {plural(len(rows), 'video')}, {plural(len(index), 'frame')}.")


def _known_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of the tar files, as far as pack.json is readable."""
    try:
        content = json.loads((folder / PACK_NAME).read_text(encoding="utf-8"))
        return {volume["name"]: volume["sha256"] for volume in content["volumes"]}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _frames_in(path: Path) -> Iterator[tuple[str, int, int]]:
    """Yields (name, offset, size) of the whole frames in a tar file, up to the place where it is damaged."""
    try:
        with tarfile.open(path, "r:", errors="surrogateescape") as archive, path.open("rb") as file:
            for member in archive:
                file.seek(member.offset_data)
                content = file.read(member.size)
                is_jpeg = content.startswith(JPEG) and content.rstrip(b"\0").endswith(JPEG_END)
                if len(content) == member.size and (is_jpeg or content.startswith(PNG)):
                    yield member.name, member.offset_data, member.size
    except tarfile.TarError:
        return
