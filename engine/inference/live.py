"""A camera or a stream, answered while it runs.

    source -> grabber thread: reads, prepares the network's crop, keeps the newest       -> ring of crops
              recogniser thread: as soon as a window is due, the newest one              -> answer
              caller: draws the newest answer on each picture, shows, writes, prints

A live source is never waited for by itself: when the network or the drawing is slower than it, windows and pictures are
dropped, and the answer stays about now. An address that has an end (a file behind http) loses nothing and is read as
fast as it can be answered; its pictures have the answer that was there when they came, however late they are drawn.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from common.errors import UserError
from common.files import printable
from dataloaders.clips import clip_indices, clip_span, clip_step
from engine.inference.prediction import Prediction, Window
from engine.inference.sources import SourceLost, open_live_source
from engine.inference.windows import prepare_pixels
from network import InputSpec

WAITING = 32  # pictures between grabber and caller
LONGEST_PAUSE = 30.0  # seconds between two attempts to open a source again
AT_ONCE = 0.01  # seconds: a frame that was there already
MEASURED_SECONDS, MEASURED_FRAMES = 1.0, 4  # of a frame rate


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
    reconnect attempts to open a live source again, in a row, when it is lost or has ended

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
        reconnect: int = 0,
    ):
        self.name, self.spec, self.classes, self.predict = name, spec, classes, predict
        self.stride, self.duration, self.stop = stride, duration, stop
        self.timeout, self.reconnect = timeout, reconnect
        self.source = open_live_source(name, timeout)
        self.fps, self.live, self.is_measured, self.first = self.source.fps, self.source.live, False, deque()
        if self.fps is None and self.live:
            self.fps, self.first = measured_rate(self.source)
            self.is_measured = self.fps is not None
        self.step = clip_step(spec.frame_stride, 1, spec.fps, self.fps)
        self.span = clip_span(spec.read_len, self.step)
        self.offsets = clip_indices(0, spec.read_len, self.step, self.span)

        self.changed = threading.Condition()
        self.ring: deque[np.ndarray] = deque(maxlen=self.span)
        self.waiting: deque[tuple[int, np.ndarray, np.ndarray | None]] = deque()
        self.arrivals: list[float] = []  # of each frame
        self.gaps: list[int] = []  # frames before which the source was away
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
        measured = ", measured" if self.is_measured else ""
        rate = f"{self.fps:.{3 if measured else 4}g} fps{measured}" if self.fps else "frame rate unknown"
        return f"{'live' if self.live else 'a video with an end'}, {rate}"

    def prediction(self) -> Prediction:
        """The answer over the whole time. Raises UserError where no frame came."""
        if not self.windows:
            raise UserError(f"{printable(self.name)} sent no frame{f': {self.lost}' if self.lost else ''}.")
        mean = np.mean([window.probabilities for window in self.windows], axis=0, dtype=np.float64)
        times = np.array(self.arrivals) - self.arrivals[0]
        times = np.maximum.accumulate(times + np.arange(len(times)) * 1e-9)
        name = printable(self.name)
        gaps = tuple(gap for gap in self.gaps if gap < len(times))
        return Prediction(name, self.fps, len(times), 0, self.classes, mean, self.windows, times, self.lost, gaps)

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # told to the caller, in whose thread it is raised again
            with self.changed:
                self.failure = error
                self.changed.notify_all()

    def _grab(self) -> None:
        attempts = 0
        try:
            while True:
                before, why = len(self.arrivals), None
                try:
                    self._read_source()
                except SourceLost as error:
                    why = str(error)
                attempts = 0 if len(self.arrivals) > before else attempts
                while not self.stopping and self.live and attempts < self.reconnect:
                    attempts += 1
                    reason = why or "it ended by itself"
                    print(
                        f"{printable(self.name)}: {reason}; opening it again ({attempts} of {self.reconnect})",
                        flush=True,
                    )
                    if self._reopened(min(2.0 ** (attempts - 1), LONGEST_PAUSE)):
                        break
                else:
                    self.lost, self.closed = why, self.live and not why and not self.stopping
                    return
        finally:
            with self.changed:
                self.ended = True
                self.changed.notify_all()

    def _read_source(self) -> None:
        """Takes frames until the source ends. Raises SourceLost."""
        while self.first:
            if not self._take(*self.first.popleft()):
                return
        for pixels, arrival, _ in self.source:
            if not self._take(pixels, arrival):
                return

    def _take(self, pixels: np.ndarray, arrival: float) -> bool:
        """One frame; False where there are to be no more."""
        crop = prepare_pixels(pixels, self.spec)
        with self.changed:
            if not self.live:
                self.changed.wait_for(
                    lambda: self.stopping or (len(self.waiting) < WAITING and len(self.arrivals) <= self.due)
                )
            if self.stopping:
                return False
            self.arrivals.append(arrival if self.live else self._shown(len(self.arrivals)))
            self.ring.append(crop)
            if len(self.waiting) >= WAITING:
                self.waiting.popleft()
                self.num_dropped += 1
            self.waiting.append((len(self.arrivals) - 1, pixels, self._newest()))
            self.changed.notify_all()
        return True

    def _reopened(self, pause: float) -> bool:
        """Opens the source again after a pause. No window holds frames from before it."""
        with self.changed:
            self.changed.wait_for(lambda: self.stopping, timeout=pause)
        if self.stopping:
            return False
        self.source.close()
        try:
            self.source = open_live_source(self.name, self.timeout)
        except UserError:
            return False
        with self.changed:
            if self.arrivals and self.gaps[-1:] != [len(self.arrivals)]:
                self.gaps.append(len(self.arrivals))
            self.ring.clear()
            self.recent.clear()
            self.due = len(self.arrivals) + self.span - 1
        return True

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


def measured_rate(source: Iterable[tuple[np.ndarray, float, float]]) -> tuple[float | None, deque]:
    """Measures the frame rate of a live source that states none, over a second. -> frames a second, None where too few
    came; the newest frames with their times, which are still to be answered.

    What had arrived before is no measure: it begins with the first frame that was waited for.
    """
    kept: deque[tuple[np.ndarray, float]] = deque(maxlen=WAITING)
    opened, begin, count = time.monotonic(), None, 0
    try:
        for pixels, arrival, waited in source:
            kept.append((pixels, arrival))
            if begin is None:
                begin = arrival if waited > AT_ONCE else None
            else:
                count += 1
            enough = begin is not None and arrival - begin >= MEASURED_SECONDS and count >= MEASURED_FRAMES
            if enough or arrival - opened > 5 * MEASURED_SECONDS:
                break
    except SourceLost:  # reading goes on from here, and says so
        pass
    return (count / (kept[-1][1] - begin) if count else None), kept
