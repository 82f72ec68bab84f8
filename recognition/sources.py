"""Where frames come from."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import av

from dataloaders.video import NO_VIDEO_SUFFIXES, VideoError, VideoReader
from engine.console import progress
from engine.errors import UserError


@contextmanager
def open_video(path: Path) -> Iterator[VideoReader]:
    """An open video. What is wrong with it, found now or while it is read, becomes a UserError with its name."""
    if not path.exists():
        raise UserError(f"There is no file {path}.")
    if not path.is_file():
        raise UserError(f"{path} is {'a folder' if path.is_dir() else 'no regular file'}. SOURCE is a video file.")
    if path.suffix.lower() in NO_VIDEO_SUFFIXES:  # FFmpeg would show a text as a film of its letters
        raise UserError(f"{path} is no video: that is not how the name of one ends.")

    try:
        # absolute: FFmpeg would read the name 12:30.mp4 as an address
        with VideoReader(path.absolute()) as reader:
            yield reader
    except VideoError as error:
        raise UserError(f"{path} cannot be used as a video: {error}.") from error
    except av.error.FFmpegError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error


def expected_frames(reader: VideoReader) -> int:
    """Roughly, for the progress bar; 0 where the header says nothing."""
    return reader.stream.frames or int((reader.container.duration or 0) / 1e6 * (reader.fps or 0))


def watch(frames: Iterable[av.VideoFrame], total: int, what: str, show_progress: bool) -> Iterable[av.VideoFrame]:
    return progress(frames, total, what, "frames") if show_progress else frames
