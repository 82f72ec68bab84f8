"""Fetches UCF101 or HMDB51 with its official lists, unpacks them, and prints the entry for mypath.py.

    python -m dataloaders.download ucf101
    python -m dataloaders.download hmdb51 --to /data

After an interruption, the same command continues; archives that were fetched by hand into the folder are
taken as they are. The SHA-256 of every archive is checked before it is unpacked.
"""

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from common.cli import Parser, run_cli
from common.console import progress
from common.errors import UserError
from common.files import ROOT, Busy, held
from dataloaders.download.archives import install_advice, needs_unpacker, rar_tools, unpack
from dataloaders.download.http import Unreachable, check, fetch, num_bytes_there, size
from dataloaders.sources.folder import class_folders, video_files
from dataloaders.sources.layout import Archive, Layout, layouts

DOWNLOADS = {name: kind for name, kind in layouts().items() if kind.download}


def main(argv: Sequence[str]) -> None:
    args = parse_args(argv)
    folder = Path(args.to).expanduser().resolve() if args.to else ROOT / "data"
    download(DOWNLOADS[args.name], folder, args.mirror, args.lists_only, args.check_certificate)


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser(prog="python -m dataloaders.download", description=__doc__.split("\n")[0])
    parser.add_argument("name", choices=DOWNLOADS, help="data set to fetch")
    parser.add_argument("--to", metavar="DIR", help="folder for archives and videos (default: data/ in the project)")
    parser.add_argument(
        "--from", dest="mirror", type=address, metavar="URL", help="fetch URL/<archive> instead of the official address"
    )
    parser.add_argument(
        "--lists-only", action="store_true", help="fetch the official lists only, for videos that you have"
    )
    parser.add_argument(
        "--check-certificate",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="check the server's certificate; the archives' SHA-256 is checked in any case",
    )
    return parser.parse_args(argv)


def address(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        raise argparse.ArgumentTypeError(f"'{text}' is not an address that begins with https:// or http://")
    return text


def download(
    kind: Layout, folder: Path, mirror: str | None = None, lists_only: bool = False, check_certificate: bool = True
) -> None:
    """Brings the lists and the videos into `folder`, as far as they are not there yet. Raises UserError with what to do
    by hand where the network does not allow it."""
    data = kind.download
    archives = [archive for archive in (data.lists, data.videos) if not _is_whole(kind, archive, folder)]
    if lists_only:
        archives = [archive for archive in archives if archive is data.lists]
    if not archives:
        print(f"All files already exist in {folder}.")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with held(folder / ".download.lock"):
            _bring(kind, archives, folder, mirror, check_certificate)
    except Busy as error:
        raise UserError(f"{error} Wait until it is done.") from error
    _say_entry(kind, folder, lists_only)


def _bring(
    kind: Layout, archives: Sequence[Archive], folder: Path, mirror: str | None, check_certificate: bool
) -> None:
    if archives:
        _say_space(kind, archives, folder)
    if not rar_tools() and any(needs_unpacker(folder / archive.name) for archive in archives):
        raise UserError(f"No program here unpacks .rar. {install_advice()} Then give the same command again.")
    for archive in archives:
        path = folder / archive.name
        if not path.is_file():
            try:
                fetch(archive, path, mirror, check_certificate)
            except Unreachable as error:
                _say_by_hand(archives, folder, kind.download.page)
                raise UserError(f"{archive.name} could not be fetched: {error}.") from error
        check(archive, path)
        _unpack_whole(kind, archive, folder)


def _is_whole(kind: Layout, archive: Archive, folder: Path) -> bool:
    """Whether an archive's contents are unpacked. Raises UserError where something else is in their place."""
    unpacked = folder / archive.folder
    if not unpacked.exists():
        return False
    what = _what_is_missing(kind, archive, unpacked)
    if what:
        raise UserError(f"{unpacked} {what}. Move it away, or choose another folder: --to DIR")
    return True


def _what_is_missing(kind: Layout, archive: Archive, unpacked: Path) -> str:
    data = kind.download
    if archive is data.lists:
        found = len(list(unpacked.glob(kind.list_files)))
        return "" if found >= data.num_lists else f"has {found} of {data.num_lists} lists {kind.list_files}"
    folders = [path for _, path in class_folders(unpacked)]
    found = sum(len(video_files(path)) for path in folders)
    if found >= data.num_videos and len(folders) >= data.num_classes:
        return ""
    return f"has {found:,} of {data.num_videos:,} videos in {len(folders)} of {data.num_classes} classes"


def _say_space(kind: Layout, archives: Sequence[Archive], folder: Path) -> None:
    """Size and free space, before anything is fetched. Raises UserError where the disk is too small."""
    data = kind.download
    to_fetch = sum(archive.about - num_bytes_there(folder / archive.name) for archive in archives)
    need = max(to_fetch, 0) + (data.unpacked if data.videos in archives else 0)
    free = shutil.disk_usage(folder).free
    names = " and ".join(archive.name for archive in archives)
    print(f"{names}: {size(max(to_fetch, 0))} to download, {size(need)} with the unpacked files, into {folder}.")
    if need > free:
        raise UserError(
            f"The disk of {folder} has {size(free)} free, and {size(need)} are needed. Free some space, or "
            "choose a folder on another disk: --to DIR"
        )
    print(f"Its disk has {size(free)} free.")


def _unpack_whole(kind: Layout, archive: Archive, folder: Path) -> None:
    """<folder>/<archive.folder>, whole or not at all."""
    temporary = folder / f".{archive.folder}.part"
    shutil.rmtree(temporary, ignore_errors=True)
    print(f"Unpacking {archive.name}")
    try:
        unpack(folder / archive.name, temporary)
        inner = sorted(path for path in temporary.iterdir() if path.suffix == ".rar")
        if inner:  # HMDB51: one archive a class
            for path in progress(inner, len(inner), "Unpacking", "archives"):
                unpack(path, temporary / archive.folder)
                path.unlink()
        found = temporary / archive.folder
        found = found if found.is_dir() else temporary
        missing = _what_is_missing(kind, archive, found)
        if missing:
            raise UserError(f"{folder / archive.name}, unpacked, {missing}.")
        found.rename(folder / archive.folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _say_by_hand(archives: Sequence[Archive], folder: Path, page: str) -> None:
    print(f"\nTo download them on another machine (from {page}):")
    for archive in archives:
        print(f"  fetch {archive.urls[0]}  ({size(archive.about)})")
        print(f"  to    {folder / archive.name}")
    print("and repeat the command: it checks and unpacks the files.\n")


def _say_entry(kind: Layout, folder: Path, lists_only: bool) -> None:
    data = kind.download
    videos, frames, lists = (
        json.dumps((folder / name).as_posix(), ensure_ascii=False)
        for name in (data.videos.folder, f"{data.videos.folder}-frames", data.lists.folder)
    )
    if lists_only:
        print(f'In mypath.py, in the entry of your data set:\n        "splits": {lists},')
        return
    left = [folder / archive.name for archive in (data.videos, data.lists) if (folder / archive.name).is_file()]
    if left:
        taken = size(sum(path.stat().st_size for path in left))
        print(f"No longer needed ({taken}): {', '.join(path.name for path in left)}")
    print("In mypath.py, as an entry of DATASETS:")
    print(f'    "{kind.name}": {{')
    print(f'        "layout": "{kind.name}",')
    print(f'        "videos": {videos},')
    print(f'        "frames": {frames},')
    print(f'        "splits": {lists},')
    print('        "flip": True,\n    },')
    print(f"and then: python train.py --dataset {kind.name}")


if __name__ == "__main__":
    run_cli(main)
