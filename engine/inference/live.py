"""A camera or a stream, answered while it runs.

    source -> grabber thread: reads, prepares the network's crop, keeps the newest       -> ring of crops
              recogniser thread: as soon as a window is due, the newest one              -> answer
              caller: draws the newest answer on each picture, shows, writes, prints

A live source is never waited for by itself: when the network or the drawing is slower than it, windows and pictures are
dropped, and the answer stays about now. An address that has an end (a file behind http) loses nothing and is read as
fast as it can be answered; its pictures have the answer that was there when they came, however late they are drawn.
"""

import errno
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import av
import cv2
import numpy as np

from common.errors import UserError
from common.files import printable
from dataloaders.clips import clip_indices, clip_span, clip_step
from dataloaders.video import open_input, to_array, video_stream
from engine.inference.prediction import Prediction, Window
from engine.inference.windows import prepare_pixels
from network import InputSpec

WAITING = 32  # pictures between grabber and caller
SHORTEST = 0.9  # of the length in a header; videos that come whole have at least this much


@dataclass(frozen=True)
class LivePicture:
    """pixels (H, W, 3) uint8 BGR, upright; seconds since the first; probabilities of the newest window's answer,
    (num_classes,) or None before the first; latency in seconds from a window's last frame to its answer."""

    pixels: np.ndarray
    seconds: float
    probabilities: np.ndarray | None
    latency: float | None


class LiveRecognition:
    """Runs a source; iterating gives LivePictures until it ends, `stop()` is true, or `duration` seconds are over.

    name      camera number or address
    predict   (1, T, S, S, 3) uint8 -> (1, num_classes) probabilities
    stride    frames from one window to the next, at least
    smooth    an answer is the mean over so many windows, the newest and those before it
    timeout   seconds without a frame after which the source counts as lost

    After that: .prediction(), .num_dropped pictures and .num_skipped windows; .lost, why the source went away before
    its end (None where it did not); .closed, whether one without a known end ended by itself.
    """

    def __init__(
        self,
        name: str,
        spec: InputSpec,
        classes: list[str],
        predict: Callable[[np.ndarray], np.ndarray],
        stride: int,
        smooth: int = 1,
        timeout: float = 10.0,
        duration: float | None = None,
        stop: Callable[[], bool] = lambda: False,
    ):
        self.name, self.spec, self.classes, self.predict = name, spec, classes, predict
        self.stride, self.duration, self.stop = stride, duration, stop
        self.source = Camera(int(name), timeout) if name.isdecimal() else Stream(name, timeout)
        self.fps, self.live = self.source.fps, self.source.live
        self.step = clip_step(spec.frame_stride, 1, spec.fps, self.fps)
        self.span = clip_span(spec.read_len, self.step)
        self.offsets = clip_indices(0, spec.read_len, self.step, self.span)

        self.changed = threading.Condition()
        self.ring: deque[np.ndarray] = deque(maxlen=self.span)
        self.waiting: deque[tuple[int, np.ndarray, np.ndarray | None]] = deque()
        self.arrivals: list[float] = []  # of each frame
        self.due = self.span - 1  # the next window's last frame, at the earliest
        self.windows: list[Window] = []
        self.recent: deque[np.ndarray] = deque(maxlen=smooth)
        self.latency: float | None = None
        self.num_dropped = self.num_skipped = 0
        self.ended = self.stopping = self.closed = False
        self.lost: str | None = None
        self.failure: BaseException | None = None

    def __iter__(self) -> Iterator[LivePicture]:
        threads = [threading.Thread(target=self._guarded, args=(work,)) for work in (self._grab, self._recognise)]
        for thread in threads:
            thread.daemon = True  # a source that hangs in the driver must not keep the program
            thread.start()
        try:
            while True:
                with self.changed:
                    self.changed.wait_for(lambda: self.waiting or self.ended or self.failure, timeout=0.1)
                    if self.failure:
                        raise self.failure
                    picture = self.waiting.popleft() if self.waiting else None
                    self.changed.notify_all()
                    done = picture is None and self.ended
                    newest, latency = self._newest(), self.latency
                if picture is not None:
                    index, pixels, answer = picture
                    seconds = self.arrivals[index] - self.arrivals[0]
                    yield LivePicture(pixels, seconds, newest if self.live else answer, latency)
                    done = done or (self.duration is not None and seconds >= self.duration)
                if done or self.stop():
                    break
        finally:
            with self.changed:
                self.stopping = True
                self.changed.notify_all()
            for thread in threads:
                thread.join(timeout=5)
            self.source.close()
        if self.failure:
            raise self.failure

    def describe(self) -> str:
        """live, 25 fps"""
        rate = f"{self.fps:.4g} fps" if self.fps else "frame rate unknown"
        return f"{'live' if self.live else 'a video with an end'}, {rate}"

    def prediction(self) -> Prediction:
        """The answer over the whole time. Raises UserError where no frame came."""
        if not self.windows:
            raise UserError(f"{printable(self.name)} sent no frame{f': {self.lost}' if self.lost else ''}.")
        mean = np.mean([window.probabilities for window in self.windows], axis=0, dtype=np.float64)
        times = np.array(self.arrivals) - self.arrivals[0]
        times = np.maximum.accumulate(times + np.arange(len(times)) * 1e-9)
        return Prediction(printable(self.name), self.fps, len(times), 0, self.classes, mean, self.windows, times)

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # told to the caller, in whose thread it is raised again
            with self.changed:
                self.failure = error
                self.changed.notify_all()

    def _grab(self) -> None:
        try:
            for pixels in self.source:
                now = time.monotonic()
                crop = prepare_pixels(pixels, self.spec)
                with self.changed:
                    if not self.live:
                        self.changed.wait_for(
                            lambda: self.stopping or (len(self.waiting) < WAITING and len(self.arrivals) <= self.due)
                        )
                    if self.stopping:
                        break
                    self.arrivals.append(now if self.live else self._shown(len(self.arrivals)))
                    self.ring.append(crop)
                    if len(self.waiting) >= WAITING:
                        self.waiting.popleft()
                        self.num_dropped += 1
                    self.waiting.append((len(self.arrivals) - 1, pixels, self._newest()))
                    self.changed.notify_all()
            else:
                self.closed = self.live
        except SourceLost as error:
            self.lost = str(error)
        finally:
            with self.changed:
                self.ended = True
                self.changed.notify_all()

    def _newest(self) -> np.ndarray | None:
        return np.mean(self.recent, axis=0) if self.recent else None

    def _shown(self, index: int) -> float:
        return index / (self.fps or 25.0)

    def _recognise(self) -> None:
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.stopping or self.ended or len(self.arrivals) > self.due)
                num_frames = len(self.arrivals)
                if num_frames <= self.due:
                    break
                crops, last = list(self.ring), num_frames - 1
            self._answer(np.stack([crops[i] for i in self.offsets]), last - self.span + 1, last)
            with self.changed:
                self.num_skipped += max(last - self.due, 0) // self.stride
                self.due = last + self.stride
                self.changed.notify_all()
        if not self.windows and self.ring:  # shorter than a clip: it repeats
            crops = list(self.ring)
            indices = clip_indices(0, self.spec.read_len, self.step, len(crops))
            self._answer(np.stack([crops[i] for i in indices]), 0, len(crops) - 1)

    def _answer(self, clip: np.ndarray, first: int, last: int) -> None:
        probs = self.predict(clip[None])[0]
        with self.changed:
            start, end = (self.arrivals[i] - self.arrivals[0] for i in (first, last))
            end += end / last if last else 1 / self.fps if self.fps else 0.0  # as long as the others
            self.windows.append(Window(first, last, start, end, probs))
            self.recent.append(probs)
            self.latency = time.monotonic() - self.arrivals[last] if self.live else None


class SourceLost(Exception):
    """A live source went away before its end."""


class Camera:
    """Frames of a camera by its number, (H, W, 3) uint8 BGR."""

    live = True

    def __init__(self, number: int, timeout: float):
        self.capture = cv2.VideoCapture(number)
        if not self.capture.isOpened():
            raise UserError(
                f"Camera {number} cannot be opened: it is not there, in use, or not permitted. The first one is 0."
            )
        self.capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # the newest frame, not one that waited
        self.fps = self.capture.get(cv2.CAP_PROP_FPS) or None

    def __iter__(self) -> Iterator[np.ndarray]:
        while True:
            good, pixels = self.capture.read()
            if not good:
                raise SourceLost("the camera no longer sends frames")
            yield pixels

    def close(self) -> None:
        self.capture.release()


class Stream:
    """Frames of an address that FFmpeg reads (rtsp, http, udp, ...), (H, W, 3) uint8 BGR.

    live   whether it has no end that is known: then what comes late is not waited for
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
        rate = self.stream.average_rate or self.stream.guessed_rate
        self.fps = float(rate) if rate else None
        self.live = self.container.duration is None

    def __iter__(self) -> Iterator[np.ndarray]:
        seconds = 0.0
        try:
            for packet in self.container.demux(self.stream):
                try:
                    frames = packet.decode()
                except av.error.InvalidDataError:  # one joins a stream in the middle, and packets get lost
                    continue
                for frame in frames:
                    seconds = max(seconds, frame.time or 0.0)
                    yield to_array(frame, "bgr24")
        except av.error.EOFError:
            pass
        except av.error.FFmpegError as error:
            if error.errno != errno.EIO:  # the other side closed: of a stream without a length, that is its end
                why = f"no frame arrived for {self.timeout:g} s" if _timed_out(error) else error.strerror
                raise SourceLost(why) from error
        if not self.live and seconds < SHORTEST * (length := self._length()) - 1:
            raise SourceLost(f"it broke off after {seconds:.0f} of {length:.0f} s")

    def _length(self) -> float:
        """Time of its end in seconds, as its header has it."""
        if self.stream.duration is not None:
            return float(((self.stream.start_time or 0) + self.stream.duration) * self.stream.time_base)
        return ((self.container.start_time or 0) + self.container.duration) / 1e6

    def close(self) -> None:
        self.container.close()


def _timed_out(error: av.error.FFmpegError) -> bool:
    return isinstance(error, av.error.ExitError | av.error.TimeoutError)
