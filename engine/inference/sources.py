"""The sources of inference.py: files, folders of videos or frames, cameras, streams; opening them with clear errors."""

import errno
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from common.console import progress
from common.errors import UsageError, UserError
from common.files import printable
from dataloaders.frames.foreign import FRAME_NAME, frame_pattern
from dataloaders.video import (
    NO_VIDEO_SUFFIXES,
    VideoError,
    VideoReader,
    breaks_off,
    is_video_name,
    length_of,
    open_input,
    stated_rate,
    to_array,
    video_stream,
)


@dataclass(frozen=True)
class Sources:
    """The command line's sources: video files and folders of frames (each with its place below the folder that it was
    found in, for naming outputs), or one live source."""

    videos: list[tuple[Path, Path]]
    live: str | None = None  # a camera's number, or an address
    from_folder: bool = False


def find_sources(names: Sequence[str]) -> Sources:
    """Files as they are; folders as all videos below them, in the order of their paths, or where there is no video as
    all folders of frames: the folder itself, or those below it.

    A number is a camera, unless there is a file of that name; rtsp://..., http://... is a stream. A live source is
    alone. Raises UsageError for a mixture, UserError for a folder without videos and frames.
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
        files = [Path(folder) / name for folder, _, names in os.walk(path, onerror=_unreadable) for name in names]
        found = sorted(file for file in files if file.is_file() and _may_be_video(file.relative_to(path)))
        found = found or sorted({file.parent for file in files if FRAME_NAME.fullmatch(file.name)})
        if not found:
            raise UserError(
                f"There is no video and no frame (00001.jpg, ...) in the folder {printable(path)} (hidden files are "
                "ignored)."
            )
        if found[0] == path:  # it holds frames itself, and is one video
            videos.append((path, Path(path.absolute().name)))
            continue
        from_folder = True
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


class FrameFolder:
    """The pictures in a folder as an open video: see VideoReader.

    fps: frames a second, which pictures do not say. Raises UserError where there is no picture, a number is missing
    between theirs, or one cannot be read.
    """

    num_damaged, lost, pixel_aspect = 0, None, None

    def __init__(self, path: Path, fps: float | None = None):
        self.path, self.fps = path, fps
        self.pattern, self.first, self.expected_frames = frame_pattern(path)
        self.shown_rate = Fraction(fps).limit_denominator(1001) if fps else None

    def __iter__(self) -> Iterator[av.VideoFrame]:
        for number in range(self.first, self.first + self.expected_frames):
            path = self.path / self.pattern.format(number)
            pixels = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR) if path.stat().st_size else None
            if pixels is None:
                raise UserError(f"The frame {printable(path)} cannot be read as a picture.")
            yield av.VideoFrame.from_ndarray(pixels, format="bgr24")


@contextmanager
def open_video(path: Path, fps: float | None = None) -> Iterator[VideoReader | FrameFolder]:
    """An open video, or a folder of frames (fps: see FrameFolder). What is wrong with it, found now or while it is
    read, becomes a UserError with its name."""
    try:
        path.stat()
    except FileNotFoundError as error:
        raise UserError(f"There is no file {printable(path)}.") from error
    except OSError as error:  # a folder above it may not be entered
        raise UserError(f"{printable(path)} cannot be read: {error.strerror}.") from error
    if path.is_dir():
        yield FrameFolder(path, fps)
        return
    if not path.is_file():
        raise UserError(f"{printable(path)} is no regular file. A video file is needed.")
    if path.suffix.lower() in NO_VIDEO_SUFFIXES:  # FFmpeg would show a text as a film of its letters
        raise UserError(f"{printable(path)} is not a video: it has another file extension.")

    try:
        with VideoReader(path) as reader:
            yield reader
    except VideoError as error:
        raise UserError(f"{printable(path)} cannot be used as a video: {error}.") from error
    except av.error.FFmpegError as error:
        raise UserError(f"{printable(path)} cannot be read: {error.strerror}.") from error


def watch(frames: Iterable[av.VideoFrame], total: int, label: str, show_progress: bool) -> Iterable[av.VideoFrame]:
    return progress(frames, total, label, "frames") if show_progress else frames


def array_frames(video: np.ndarray) -> Iterator[np.ndarray]:
    """(T, H, W, 3) uint8 RGB -> frames (H, W, 3) uint8 BGR. Raises UsageError for another array."""
    if video.dtype != np.uint8 or video.ndim != 4 or video.shape[3] != 3 or 0 in video.shape:
        raise UsageError(f"An array {video.shape} of {video.dtype} is no video: it must be (T, H, W, 3) uint8 RGB.")
    return (np.ascontiguousarray(frame[..., ::-1]) for frame in video)


class SourceLost(Exception):
    """A live source went away before its end."""


def open_live_source(name: str, timeout: float) -> "Camera | Stream":
    """The camera with a number, or the stream at an address. Iterating gives its frames: pixels (H, W, 3) uint8 BGR,
    the time.monotonic() of its arrival, and for how many seconds it was waited for; and raises SourceLost."""
    return Camera(int(name)) if name.isdecimal() else Stream(name, timeout)


class Camera:
    """fps is None: what OpenCV states is what the camera was asked for, not what it sends in the dark."""

    live, fps = True, None

    def __init__(self, number: int):
        self.capture = cv2.VideoCapture(number)
        if not self.capture.isOpened():
            raise UserError(
                f"Camera {number} cannot be opened: it is not there, in use, or not permitted. The first one is 0."
            )
        self.capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # the newest frame, not one that waited

    def __iter__(self) -> Iterator[tuple[np.ndarray, float, float]]:
        while True:
            before = time.monotonic()
            good, pixels = self.capture.read()
            if not good:
                raise SourceLost("the camera no longer sends frames")
            now = time.monotonic()
            yield pixels, now, now - before

    def close(self) -> None:
        self.capture.release()


class Stream:
    """An address that FFmpeg reads (rtsp, http, udp, ...).

    live   whether it has no end that is known: then what comes late is not waited for
    fps    None where the stream states none, for which FFmpeg would say 25
    """

    def __init__(self, address: str, timeout: float):
        self.timeout = timeout
        options = {"rtsp_transport": "tcp"} if address.startswith("rtsp") else {}
        try:
            self.container = open_input(address, timeout=(timeout, timeout), options=options)
        except av.error.FFmpegError as error:
            why = f"no answer within {timeout:g} s" if _timed_out(error) else error.strerror
            raise UserError(f"{printable(address)} cannot be opened: {why}.") from error
        except ValueError as error:  # a protocol that FFmpeg does not know
            raise UserError(f"{printable(address)} cannot be opened: {printable(str(error))}.") from error
        self.stream = video_stream(self.container)
        if self.stream is None:
            self.container.close()
            raise UserError(f"{printable(address)} has no video stream.")
        self.live = self.container.duration is None
        rate = stated_rate(self.container, self.stream)
        self.fps = float(rate) if rate else None

    def __iter__(self) -> Iterator[tuple[np.ndarray, float, float]]:
        seconds, before = 0.0, time.monotonic()
        try:
            for packet in self.container.demux(self.stream):
                now = time.monotonic()
                try:
                    frames = packet.decode()
                except av.error.InvalidDataError:  # one joins a stream in the middle, and packets get lost
                    continue
                for frame in frames:
                    seconds = max(seconds, frame.time or 0.0)
                    yield to_array(frame, "bgr24"), now, now - before
                before = time.monotonic()
        except av.error.EOFError:
            pass
        except av.error.FFmpegError as error:
            if error.errno != errno.EIO:  # the other side closed: of a stream without a length, that is its end
                why = f"no frame arrived for {self.timeout:g} s" if _timed_out(error) else error.strerror
                raise SourceLost(why) from error
        begin = float((self.stream.start_time or 0) * self.stream.time_base)
        if not self.live and (why := breaks_off(seconds - begin, length_of(self.container, self.stream))):
            raise SourceLost(why)

    def close(self) -> None:
        self.container.close()


def _timed_out(error: av.error.FFmpegError) -> bool:
    return isinstance(error, av.error.ExitError | av.error.TimeoutError)
