"""Videos -> folders of JPEG frames and a manifest.

    python -m dataloaders.preprocess --dataset ucf101
    python -m dataloaders.preprocess --dataset my/videos --size 80x60 --workers 8

A video's folder appears whole or not at all. Stopped at any moment, the same command goes on where it was.
"""

import argparse
import errno
import os
import queue
import secrets
import shutil
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

from filelock import FileLock, Timeout

from dataloaders import manifest
from dataloaders.extract import Extracted, Extractor
from dataloaders.manifest import VideoRow
from dataloaders.source import (
    DEFAULT_SIZE,
    DataSource,
    SourceVideo,
    find_source,
    find_videos,
    still_valid,
)
from dataloaders.splits import SPLITS, split_videos
from engine.arguments import positive
from engine.console import count, duration, gigabytes, progress
from engine.errors import ROOT, Stopped, UserError, run_cli

SHOWN_REFUSALS = 20


@dataclass(frozen=True)
class Settings:
    """How frames are stored: size (width, height), each every-th frame, JPEG quality 1 to 100."""

    size: tuple[int, int] = DEFAULT_SIZE
    every: int = 1
    quality: int = 95

    def __str__(self) -> str:
        return f"{self.size[0]}x{self.size[1]}, every {self.every}, quality {self.quality}"


def main(argv: Sequence[str]) -> None:
    import mypath

    args = parse_args(argv)
    settings = Settings(args.size, args.every, args.quality)
    source = find_source(args.dataset or mypath.DEFAULT_DATASET, mypath.DATASETS, ROOT, args.frames)
    make_demo_videos(source)
    preprocess(source, settings, args.split, args.workers)


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m dataloaders.preprocess", description=__doc__.split("\n")[0])
    parser.add_argument("--dataset", help="name in mypath.py, a folder of class folders, or a list (.csv, .txt)")
    parser.add_argument("--frames", help="where the frames go (default: as mypath.py says, or FOLDER-frames)")
    parser.add_argument("--split", choices=SPLITS, help="the split that the folders show (default: 1, given or random)")
    parser.add_argument("--workers", type=positive, default=None, help="processes (default: one a processor)")
    parser.add_argument("--size", type=size, default=DEFAULT_SIZE, help="stored frames, WxH (default: 171x128)")
    parser.add_argument("--every", type=positive, default=1, help="keep each k-th frame (default: 1, all)")
    parser.add_argument("--quality", type=percent, default=95, help="of the JPEGs, 1 to 100 (default: 95)")
    return parser.parse_args(argv)


def size(text: str) -> tuple[int, int]:
    try:
        width, height = (positive(number) for number in text.lower().split("x"))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"'{text}' is no size; write it as 171x128 (width x height)") from error
    return width, height


def percent(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 100:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number from 1 to 100")
    return int(text)


def make_demo_videos(source: DataSource) -> None:
    """Generates the demo data set where it is asked for and not there yet."""
    if source.name == "demo":
        from dataloaders.demo import generate_demo

        generate_demo(source.videos)


def preprocess(
    source: DataSource, settings: Settings, split: str | None = None, workers: int | None = None
) -> list[VideoRow]:
    """Extracts what is not extracted yet, and returns the whole manifest. Prints what it does and what it refused."""
    videos = find_videos(source)
    shown = split_videos(source, videos, split)
    frames = source.frames_for(settings.size)
    frames.mkdir(parents=True, exist_ok=True)

    with only_one_run(frames):
        old = _old_rows(frames, settings)
        if old and old[0].split != shown.name:
            _say_split(old[0].split, shown.name)
            shown = split_videos(source, videos, old[0].split)
        folders = _folders(videos, shown.parts)
        sizes = {video.video: _num_bytes(source.videos / video.video) for video in videos}
        done = still_valid(old, videos, sizes)
        todo = [video for video in videos if video.video not in done]
        gone = [row for row in old if row.video not in sizes]
        _say_gone(gone, source)
        if not todo and not gone and manifest.is_complete(frames) and all(done[row.video] == row for row in old):
            (frames / manifest.NAME).touch()  # so that ensure_frames need not look again
            _say_nothing_to_do(frames, list(done.values()))
            return list(done.values())

        for video in todo:  # frames of a source that has changed, or of a run that was killed between two steps
            shutil.rmtree(frames / folders[video.video], ignore_errors=True)
        shutil.rmtree(frames / ".partial", ignore_errors=True)
        partial = manifest.PartialManifest(frames, done.values())
        start, num_done, num_bytes = time.monotonic(), 0, 0
        try:
            # a name of its own: the workers of a run that was killed may still be writing for a moment
            temporary = frames / ".partial" / secrets.token_hex(4)
            results = _extract_all(source, temporary, todo, settings, workers)
            for video, temporary, result in progress(results, len(todo), "Extracting", "videos"):
                folder = frames / folders[video.video]
                if result.refused:
                    shutil.rmtree(temporary, ignore_errors=True)
                else:
                    folder.parent.mkdir(parents=True, exist_ok=True)
                    temporary.rename(folder)
                row = _row(video, folders[video.video], sizes[video.video], result, settings, shown.name)
                partial.add(row)
                done[video.video] = row
                num_done += 1
                num_bytes += result.num_bytes
        except OSError as error:
            raise _explain(error, frames, len(todo), num_done, num_bytes) from error
        except (KeyboardInterrupt, Stopped):
            print(f"{num_done} of {count(len(todo), 'video')} done; the same command goes on from there.")
            raise
        finally:
            partial.close()
            shutil.rmtree(frames / ".partial", ignore_errors=True)

        rows = sorted(done.values(), key=lambda row: row.video)
        manifest.write_manifest(frames, rows)
        (frames / manifest.PARTIAL_NAME).unlink()
        if todo:
            _say_summary(frames, rows, {video.video for video in todo}, num_bytes, time.monotonic() - start)
        else:
            _say_nothing_to_do(frames, rows)
        return rows


def _num_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # a link to nothing; the extraction refuses it
        return 0


@contextmanager
def only_one_run(frames: Path) -> Iterator[None]:
    """Holds the folder for this process. The lock goes with the process, however that ends."""
    owner = frames / ".lock-owner"
    try:
        with FileLock(frames / ".lock", timeout=0):
            owner.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
            yield
    except Timeout as error:
        who = owner.read_text(encoding="utf-8") if owner.exists() else "another process"
        raise UserError(f"{who} is extracting into {frames} right now. Wait until it is done.") from error


def _old_rows(frames: Path, settings: Settings) -> list[VideoRow]:
    """Rows of earlier runs, which must have had the same settings."""
    rows = {}
    names = [name for name in (manifest.NAME, manifest.PARTIAL_NAME) if (frames / name).is_file()]
    for name in names:
        rows.update({row.video: row for row in manifest.read_manifest(frames, name)})
    if not names and has_content(frames):
        raise UserError(
            f"{frames} has files in it that no run of this program wrote. Frames made elsewhere can be trained on as "
            "they are; to extract, choose another folder: --frames DIR"
        )
    for row in rows.values():
        stored = Settings((row.width, row.height), row.every, row.quality)
        if row.quality and stored != settings:
            raise UserError(
                f"{frames} holds frames at {stored}, and {settings} is asked for. "
                "Choose another folder (--frames DIR), or delete that one."
            )
        if not row.quality:
            raise UserError(f"{frames} holds frames that were made elsewhere. Choose another folder: --frames DIR")
    return list(rows.values())


def _folders(videos: Sequence[SourceVideo], parts: dict[str, str]) -> dict[str, str]:
    """Folder of each video. `a.avi` and `a.mp4` of one class keep their endings, `A.avi` beside `a.avi` too."""
    stems = Counter((video.given, video.label, Path(video.video).stem.lower()) for video in videos)
    names = Counter((video.given, video.label, Path(video.video).name.lower()) for video in videos)
    folders = {}
    for video in videos:
        path = Path(video.video)
        name = path.stem if stems[video.given, video.label, path.stem.lower()] == 1 else path.name
        if names[video.given, video.label, path.name.lower()] > 1:  # a list may name a/1.avi and b/1.avi
            name += f"-{sha256(os.fsencode(video.video)).hexdigest()[:8]}"
        folders[video.video] = f"{parts[video.video]}/{video.label}/{name}"
    return folders


def _extract_all(
    source: DataSource, temporary: Path, todo: Sequence[SourceVideo], settings: Settings, workers: int | None
) -> Iterator[tuple[SourceVideo, Path, Extracted]]:
    """Videos with the folder of their frames and what came of them, as they become ready. An OSError ends all."""
    jobs: queue.SimpleQueue = queue.SimpleQueue()
    results: queue.SimpleQueue = queue.SimpleQueue()
    ending = threading.Event()
    for number, video in enumerate(todo):
        jobs.put((video, temporary / str(number)))

    def work(extractor: Extractor) -> None:
        try:
            while not ending.is_set():
                video, folder = jobs.get_nowait()
                path = source.videos / video.video
                result = extractor.extract(video=path, folder=folder, **asdict(settings))
                results.put((video, folder, result))
        except queue.Empty:
            return
        except BaseException as error:  # passed to the main thread, which ends the run
            results.put((None, None, error))
        finally:
            extractor.close()

    extractors = [Extractor() for _ in range(min(workers or num_processors(), len(todo)))]
    threads = [threading.Thread(target=work, args=(extractor,), daemon=True) for extractor in extractors]
    for thread in threads:
        thread.start()
    try:
        for _ in todo:
            video, folder, result = results.get()
            if video is None:
                raise result
            yield video, folder, result
    finally:
        ending.set()
        for extractor in extractors:
            extractor.kill()
        for thread in threads:
            thread.join()


def num_processors() -> int:
    """Processors that this process may use (fewer than the machine has, in a container or under a scheduler)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _row(
    video: SourceVideo, folder: str, source_bytes: int, result: Extracted, settings: Settings, split: str
) -> VideoRow:
    return VideoRow(
        video=video.video,
        label=video.label,
        group=video.group,
        folder="" if result.refused else folder,
        num_frames=result.num_frames,
        every=settings.every,
        quality=settings.quality,
        width=settings.size[0],
        height=settings.size[1],
        fps=round(result.fps, 6),
        source_width=result.width,
        source_height=result.height,
        source_bytes=source_bytes,
        status="refused" if result.refused else "ok",
        reason=result.refused or result.note,
        given=video.given,
        split=split,
    )


def _explain(error: OSError, frames: Path, num_todo: int, num_done: int, num_bytes: int) -> Exception:
    """A full disk, with the space that is still needed; any other error as it is."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return error
    needed = f" (about {gigabytes(num_bytes / num_done * (num_todo - num_done))} more)" if num_bytes else ""
    return UserError(
        f"The disk of {frames} is full. What is extracted is kept: free some space{needed} and give the same command "
        "again, or choose another folder (--frames DIR)."
    )


def _say_split(shown: str, split: str) -> None:
    print(
        f"The folders go on showing split {shown}. Training on split {split} picks its videos from the manifest; "
        "nothing needs to be extracted again."
    )


def _say_gone(gone: Sequence[VideoRow], source: DataSource) -> None:
    if gone:
        print(
            f"No longer in {source.videos} and therefore out of the manifest: {count(len(gone), 'video')} "
            f"(first: {_printable(gone[0].video)})."
        )


def _say_nothing_to_do(frames: Path, rows: Sequence[VideoRow]) -> None:
    refused = sum(row.status == "refused" for row in rows)
    also = f" ({refused} refused, see {frames / manifest.NAME})" if refused else ""
    print(f"Nothing to do: {count(len(rows) - refused, 'video')} extracted in {frames}{also}.")


def _say_summary(frames: Path, rows: Sequence[VideoRow], new: set[str], num_bytes: int, seconds: float) -> None:
    extracted = [row for row in rows if row.video in new and row.status == "ok"]
    refused = [row for row in rows if row.video in new and row.status == "refused"]
    damaged = [row for row in extracted if row.reason]
    print(
        f"Extracted {count(len(extracted), 'video')}, {count(sum(row.num_frames for row in extracted), 'frame')}, "
        f"{gigabytes(num_bytes)} into {frames} in {duration(seconds)}."
    )
    _say_reasons(refused, f"{count(len(refused), 'file')} refused:")
    _say_reasons(damaged, f"{count(len(damaged), 'video')} used in spite of damage:")
    for label in sorted({row.label for row in rows} - {row.label for row in rows if row.status == "ok"}):
        print(f"Class {label} has no video that can be used.")
    if not any(row.status == "ok" for row in rows):
        raise UserError(f"None of the {count(len(rows), 'file')} can be used; the reasons are in the manifest.")


def _say_reasons(rows: Sequence[VideoRow], title: str) -> None:
    if rows:
        print(title)
        for row in rows[:SHOWN_REFUSALS]:
            print(f"  {_printable(row.video)}: {row.reason}")
        if len(rows) > SHOWN_REFUSALS:
            print(f"  ... and {len(rows) - SHOWN_REFUSALS} more, see the manifest's column 'reason'")


def _printable(name: str) -> str:
    """File names may hold bytes that are no UTF-8, which a terminal cannot be given."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def has_content(folder: Path) -> bool:
    """Anything but hidden files."""
    return any(not path.name.startswith(".") for path in folder.iterdir())


if __name__ == "__main__":
    run_cli(main)
