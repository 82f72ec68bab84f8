"""Packs folders of frames into a few large tar files with an index, which are read like folders.

    python -m dataloaders.pack --dataset ucf101
    python -m dataloaders.pack --frames my/frames --output /fast/my-frames-packed
    python -m dataloaders.pack --verify /fast/my-frames-packed
    python -m dataloaders.pack --repair /fast/my-frames-packed         after pack.json or index.npy was lost

For network file systems, and for data sets of millions of frames. After an interruption, the same
command continues.
"""

import argparse
import glob
import hashlib
import json
import os
import shlex
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from common.cli import Parser, run_cli
from common.console import duration, gigabytes, plural, progress
from common.errors import Stopped, UserError
from common.files import ROOT, atomic_write, put_in_place, sha256_of, write_atomically
from dataloaders.frames import manifest
from dataloaders.frames.foreign import index_frames
from dataloaders.frames.manifest import VideoRow
from dataloaders.frames.pack_check import repair, verify
from dataloaders.frames.pack_volumes import READERS, Volume, plan_volumes, write_volume
from dataloaders.frames.settings import DEFAULT_SIZE, FrameSize, parse_size
from dataloaders.frames.store import (
    INDEX_DTYPE,
    INDEX_NAME,
    PACK_FORMAT,
    PACK_NAME,
    PARTIAL_PACK_NAME,
    check_manifest,
    is_packed,
    read_pack,
    redo,
    volumes_in,
)
from dataloaders.preprocess.locks import only_one_run
from dataloaders.sources.data_source import DataSource
from dataloaders.sources.find import find_source

VOLUME_GIGABYTES = 1.0


def main(argv: Sequence[str]) -> None:
    args = parse_args(argv)
    if args.verify:
        verify(Path(args.verify).expanduser().resolve())
        return
    if args.repair:
        repair(Path(args.repair).expanduser().resolve())
        return
    if args.frames:
        frames = Path(args.frames).expanduser().resolve()
    else:
        import mypath

        frames = frames_of(find_source(args.dataset, mypath.DATASETS, ROOT), args.size)
    output = Path(args.output).expanduser().resolve() if args.output else frames.with_name(f"{frames.name}-packed")
    pack(frames, output, args.volume_gb or VOLUME_GIGABYTES)


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser(prog="python -m dataloaders.pack", description=__doc__.split("\n")[0])
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--dataset", metavar="NAME|FOLDER", help="name in mypath.py, or a folder of class folders")
    which.add_argument("--frames", metavar="DIR", help="a folder of extracted frames")
    which.add_argument("--verify", metavar="DIR", help="read a whole pack and check its hashes")
    which.add_argument("--repair", metavar="DIR", help="rebuild a pack's index.npy and pack.json from its tar files")
    parser.add_argument("--size", type=parse_size, help="frames of --dataset, WxH or short:256 (default: 171x128)")
    parser.add_argument("--output", metavar="DIR", help="folder for the pack (default: <frames>-packed)")
    parser.add_argument(
        "--volume-gb", type=_gigabytes, metavar="X", help=f"size of a tar file in GB (default: {VOLUME_GIGABYTES:g})"
    )
    args = parser.parse_args(argv)
    if args.size and not args.dataset:
        parser.error("--size says which frames of --dataset are packed; --frames and --verify name the folder itself")
    if (args.verify or args.repair) and (args.output or args.volume_gb):
        parser.error("--output and --volume-gb go with --dataset or --frames, not with --verify or --repair")
    return args


def frames_of(source: DataSource, asked: FrameSize | None) -> Path:
    """The folder of a data set's frames. Raises UserError, with the existing sizes, where this one is missing."""
    frames = source.frames_for(asked or DEFAULT_SIZE)
    if frames.is_dir():
        return frames
    beside = sorted(source.frames.parent.glob(f"{glob.escape(source.frames.name)}*"))
    others = [folder for folder in beside if folder.is_dir() and not volumes_in(folder)]
    if others:
        there = " and ".join(str(folder) for folder in others)
        raise UserError(f"There are no frames in {frames}, but in {there}: choose them by --frames or --size.")
    raise UserError(
        f"There are no frames in {frames}. Extract them first: python -m dataloaders.preprocess --dataset {source.name}"
    )


def _gigabytes(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of gigabytes greater than 0")
    return value


def pack(frames: Path, output: Path, volume_gb: float = VOLUME_GIGABYTES) -> None:
    """Writes the pack of `frames` into `output`. Raises UserError where frames are missing or the disk is too small."""
    rows = _rows_to_pack(frames)
    if output == frames or frames in output.parents or output in frames.parents:
        raise UserError(f"--output {output} and the frames in {frames} contain each other. Choose a separate folder.")
    manifest_hash = sha256_of(frames / manifest.NAME)
    if _is_packed_already(frames, output, manifest_hash):
        return
    if output.exists() and not output.is_dir():
        raise UserError(f"{output} is a file, not a folder. Choose another --output.")
    is_begun = (output / PARTIAL_PACK_NAME).is_file()
    if output.is_dir() and not is_begun and any(not path.name.startswith(".") for path in output.iterdir()):
        raise UserError(f"{output} has files that are not from a pack. Choose another --output.")

    start = time.monotonic()
    sizes = _frame_sizes(frames, rows)
    volumes = plan_volumes(rows, sizes, volume_gb)
    output.mkdir(parents=True, exist_ok=True)
    with only_one_run(output):
        if _is_packed_already(frames, output, manifest_hash):  # by another run, which ended in the meantime
            return
        done = _done_volumes(output, volumes, manifest_hash)
        need = sum(volume.num_bytes for volume in volumes[len(done) :]) + INDEX_DTYPE.itemsize * sum(map(len, sizes))
        free = shutil.disk_usage(output).free
        print(
            f"Packing {plural(len(rows), 'video')}, {plural(sum(map(len, sizes)), 'frame')}, into {output}: "
            f"{gigabytes(need)} in {plural(len(volumes) - len(done), 'file')}"
            + (f" ({len(done)} of {len(volumes)} are there)" if done else "")
            + f"; {gigabytes(free)} are free."
        )
        if need > free:
            raise UserError(
                f"The disk of {output} lacks {gigabytes(need - free)}. Free some space, or choose a folder on another "
                "disk: --output DIR"
            )
        _write_volumes(frames, output, volumes, done, manifest_hash)
        _finish(frames, output, volumes, done, manifest_hash)
    print(
        f"Packed and read back in {duration(time.monotonic() - start)}. To train on it: python train.py --frames "
        f"{shlex.quote(str(output))} ...; the frames in {frames} are no longer needed for that."
    )


def _is_packed_already(frames: Path, output: Path, manifest_hash: str) -> bool:
    """Whether the pack exists; prints that it does. Raises UserError for a pack of other frames or a damaged one."""
    if (output / PARTIAL_PACK_NAME).is_file() and not (output / PACK_NAME).is_file():
        return False
    if not is_packed(output):
        return False
    check_manifest(output)
    if read_pack(output)["manifest_sha256"] != manifest_hash:
        raise UserError(f"{output} holds a pack of other frames. Choose another --output.")
    (output / PARTIAL_PACK_NAME).unlink(missing_ok=True)  # of a run that was killed at its very end
    print(f"Nothing to do: the frames in {frames} are packed in {output}.")
    return True


def _rows_to_pack(frames: Path) -> list[VideoRow]:
    if not frames.is_dir():
        raise UserError(f"There are no frames in {frames}. Extract them first: python -m dataloaders.preprocess")
    if is_packed(frames):
        raise UserError(f"{frames} is a pack already.")
    if not manifest.names(frames):
        manifest.write_manifest(frames, index_frames(frames))  # made elsewhere
    if not manifest.is_complete(frames):
        raise UserError(f"The extraction into {frames} was interrupted. Complete it first, with the same command.")
    rows = manifest.usable(manifest.read_manifest(frames))
    if not rows:
        raise UserError(f"{frames / manifest.NAME} lists no video that can be used.")
    return rows


def _frame_sizes(frames: Path, rows: Sequence[VideoRow]) -> list[np.ndarray]:
    """Sizes of each video's JPEGs in bytes. Raises UserError where one is missing or empty."""

    def sizes_of(row: VideoRow) -> np.ndarray:
        try:
            with os.scandir(frames / row.folder) as entries:
                found = {entry.name: entry.stat().st_size for entry in entries}
        except FileNotFoundError:
            found = {}
        sizes = [found.get(row.frame_name(index), 0) for index in range(row.num_frames)]
        if 0 in sizes:
            path = frames / row.folder / row.frame_name(sizes.index(0))
            raise UserError(f"The frame {path} is {'empty' if path.exists() else 'missing'}. {redo(row)}")
        return np.array(sizes, np.uint32)

    with ThreadPoolExecutor(READERS) as pool:
        return list(progress(pool.map(sizes_of, rows), len(rows), "Checking frames", "videos"))


def _done_volumes(output: Path, volumes: Sequence[Volume], manifest_hash: str) -> list[dict]:
    """The volumes that an interrupted run of the same plan has finished; its other files are deleted."""
    try:
        begun = json.loads((output / PARTIAL_PACK_NAME).read_text(encoding="utf-8"))
        done = begun["volumes"] if begun["plan"] == _plan_hash(volumes, manifest_hash) else []
    except (OSError, ValueError, KeyError, TypeError):
        done = []
    whole = []
    for volume, entry in zip(volumes, done, strict=False):
        path = output / volume.name
        if not path.is_file() or path.stat().st_size != volume.num_bytes:
            break
        whole.append(entry)
    keep = {entry["name"] for entry in whole}
    for path in [*output.glob("frames-*.tar"), *output.glob(".frames-*.tar.tmp")]:
        if path.name not in keep:
            path.unlink()
    return whole


def _plan_hash(volumes: Sequence[Volume], manifest_hash: str) -> str:
    plan = hashlib.sha256(manifest_hash.encode())
    for volume in volumes:
        plan.update(volume.entries)
    return plan.hexdigest()


def _write_volumes(frames: Path, output: Path, volumes: Sequence[Volume], done: list[dict], manifest_hash: str) -> None:
    """Adds the volumes that are not there yet to `done`, each once it is on the disk and reads back as written."""
    plan = _plan_hash(volumes, manifest_hash)
    _save_json(output / PARTIAL_PACK_NAME, {"plan": plan, "volumes": done})
    todo = volumes[len(done) :]
    try:
        for volume in progress(todo, len(todo), "Packing", "files"):
            temporary = output / f".{volume.name}.tmp"
            try:
                written = write_volume(frames, temporary, volume)
                if sha256_of(temporary) != written:
                    raise UserError(f"{temporary} differs from what was written: is the disk failing?")
                put_in_place(temporary, output / volume.name)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
            done.append({"name": volume.name, "bytes": volume.num_bytes, "sha256": written})
            _save_json(output / PARTIAL_PACK_NAME, {"plan": plan, "volumes": done})
    except (KeyboardInterrupt, Stopped):
        print(f"{len(done)} of {plural(len(volumes), 'file')} are packed; the same command continues.")
        raise


def _finish(frames: Path, output: Path, volumes: Sequence[Volume], done: list[dict], manifest_hash: str) -> None:
    """Writes the manifest, the index and, last, the file that marks the pack as complete."""
    index = np.concatenate([volume.entries for volume in volumes])
    with atomic_write(output / INDEX_NAME) as temporary, temporary.open("wb") as file:
        np.save(file, index)
        file.flush()
        os.fsync(file.fileno())
    shutil.copyfile(frames / manifest.NAME, output / manifest.NAME)
    content = {
        "format": PACK_FORMAT,
        "num_frames": len(index),
        "manifest_sha256": manifest_hash,
        "index_sha256": sha256_of(output / INDEX_NAME),
        "volumes": done,
    }
    _save_json(output / PACK_NAME, content)
    (output / PARTIAL_PACK_NAME).unlink()


def _save_json(path: Path, content: dict) -> None:
    write_atomically(path, json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    run_cli(main)
