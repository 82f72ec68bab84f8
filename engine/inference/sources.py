"""The sources of inference.py: files, folders of videos, cameras and streams; and opening videos with clear errors."""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import av

from common.console import progress
from common.errors import UsageError, UserError
from common.files import printable
from dataloaders.video import NO_VIDEO_SUFFIXES, VideoError, VideoReader, is_video_name


@dataclass(frozen=True)
class Sources:
    """The command line's sources: video files (each with its place below the folder that it was found in, for naming
    outputs), or one live source."""

    videos: list[tuple[Path, Path]]
    live: str | None = None  # a camera's number, or an address
    from_folder: bool = False


def find_sources(names: Sequence[str]) -> Sources:
    """Files as they are; folders as all videos below them, in the order of their paths.

    A number is a camera, unless there is a file of that name; rtsp://..., http://... is a stream. A live source is
    alone. Raises UsageError for a mixture, UserError for a folder without videos.
    """
    live = [name for name in names if is_live(name)]
    if live and len(names) > 1:
        raise UsageError(f"{live[0]} is a live source and must be the only source. Run the others separately.")
    if live:
        return Sources([], live=live[0])

    videos, from_folder = [], False
    for name in names:
        path = Path(name)
        if not _is_folder(path):
            videos.append((path, Path(path.name)))
            continue
        from_folder = True
        files = (Path(folder) / name for folder, _, names in os.walk(path, onerror=_unreadable) for name in names)
        found = sorted(file for file in files if file.is_file() and _may_be_video(file.relative_to(path)))
        if not found:
            raise UserError(f"There is no video in the folder {printable(path)} (hidden files are ignored).")
        videos += [(file, file.relative_to(path)) for file in found]
    return Sources(videos, from_folder=from_folder)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # what is above it may not be entered; said when it is opened
        return False


def _unreadable(error: OSError) -> None:
    raise UserError(f"The folder {printable(error.filename)} cannot be read: {error.strerror}.") from error


def is_live(name: str) -> bool:
    return ("://" in name or name.isdecimal()) and not Path(name).exists()


def _may_be_video(relative: Path) -> bool:
    return is_video_name(relative) and not any(part.startswith(".") for part in relative.parts)


@contextmanager
def open_video(path: Path) -> Iterator[VideoReader]:
    """An open video. What is wrong with it, found now or while it is read, becomes a UserError with its name."""
    try:
        path.stat()
    except FileNotFoundError as error:
        raise UserError(f"There is no file {printable(path)}.") from error
    except OSError as error:  # a folder above it may not be entered
        raise UserError(f"{printable(path)} cannot be read: {error.strerror}.") from error
    if not path.is_file():
        raise UserError(
            f"{printable(path)} is {'a folder' if path.is_dir() else 'no regular file'}. A video file is needed."
        )
    if path.suffix.lower() in NO_VIDEO_SUFFIXES:  # FFmpeg would show a text as a film of its letters
        raise UserError(f"{printable(path)} is not a video: it has another file extension.")

    try:
        with VideoReader(path) as reader:
            yield reader
    except VideoError as error:
        raise UserError(f"{printable(path)} cannot be used as a video: {error}.") from error
    except av.error.FFmpegError as error:
        raise UserError(f"{printable(path)} cannot be read: {error.strerror}.") from error


def expected_frames(reader: VideoReader) -> int:
    """Expected number of frames, for the progress bar; 0 where the header does not tell."""
    return reader.stream.frames or int((reader.container.duration or 0) / 1e6 * (reader.fps or 0))


def watch(frames: Iterable[av.VideoFrame], total: int, label: str, show_progress: bool) -> Iterable[av.VideoFrame]:
    return progress(frames, total, label, "frames") if show_progress else frames
