"""The answer on a video: probabilities of its classes as a whole, and over time."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from engine.console import count
from recognition.files import shown

TOP = 5


@dataclass(frozen=True)
class Window:
    """What one clip of a video shows.

    first_frame, last_frame   of the source, counted from 0, both included
    start, end                the same in seconds: from when the first is shown until the last is gone; None where the
                              source does not say its frame rate
    probabilities             (num_classes,) float32
    """

    first_frame: int
    last_frame: int
    start: float | None
    end: float | None
    probabilities: np.ndarray

    @classmethod
    def of(cls, first: int, last: int, fps: float | None, probabilities: np.ndarray) -> "Window":
        return cls(first, last, first / fps if fps else None, (last + 1) / fps if fps else None, probabilities)


@dataclass(frozen=True)
class Prediction:
    """The answer on one video.

    fps             of the source; None where it does not say
    num_frames      that could be decoded
    num_damaged     packets that could not; their frames are missing
    classes         names in the order of the probabilities
    probabilities   (num_classes,) float64, the mean over the windows
    """

    video: str
    fps: float | None
    num_frames: int
    num_damaged: int
    classes: list[str]
    probabilities: np.ndarray
    windows: list[Window]

    def top(self, number: int = TOP) -> list[tuple[str, float]]:
        """The likeliest classes of the video with their probabilities, at most `number`."""
        return likeliest(self.classes, self.probabilities, number)

    def at(self, frame: int) -> np.ndarray:
        """(num_classes,) probabilities at a frame: the mean of the windows that cover it, else those of the nearest."""
        before = bisect_left(self.windows, frame, key=lambda window: window.last_frame)  # so many end before it
        begun = bisect_right(self.windows, frame, key=lambda window: window.first_frame)
        if before < begun:
            return np.mean([window.probabilities for window in self.windows[before:begun]], axis=0, dtype=np.float64)
        around = self.windows[max(before - 1, 0) : before + 1]
        nearest = min(around, key=lambda window: max(window.first_frame - frame, frame - window.last_frame))
        return nearest.probabilities

    def to_dict(self, top: int = TOP) -> dict:
        """What --json writes."""
        return {
            "video": shown(self.video),
            "fps": self.fps,
            "num_frames": self.num_frames,
            "classes": self.classes,
            "top": named(self.top(top)),
            "windows": [self._window_to_dict(window, top) for window in self.windows],
        }

    def _window_to_dict(self, window: Window, top: int) -> dict:
        likely = named(likeliest(self.classes, window.probabilities, top))
        return {
            "start": window.start,
            "end": window.end,
            "first_frame": window.first_frame,
            "last_frame": window.last_frame,
            **likely[0],
            "top": likely,
        }


def likeliest(classes: Sequence[str], probabilities: np.ndarray, number: int) -> list[tuple[str, float]]:
    order = np.argsort(-probabilities, kind="stable")[:number]
    return [(classes[i], float(probabilities[i])) for i in order]


def named(top: Iterable[tuple[str, float]]) -> list[dict]:
    return [{"label": label, "probability": probability} for label, probability in top]


def report(prediction: Prediction, top: int) -> str:
    """clip.avi: 164 frames, 6.6 s at 25 fps, 19 windows, and a line for each of the likeliest classes."""
    facts = [count(prediction.num_frames, "frame")]
    if prediction.fps:
        facts.append(f"{prediction.num_frames / prediction.fps:.1f} s at {prediction.fps:.4g} fps")
    facts.append(count(len(prediction.windows), "window"))
    if prediction.num_damaged:
        facts.append(f"{count(prediction.num_damaged, 'damaged place')}")
    likely = prediction.top(top)
    lines = [f"  {100 * probability:5.1f} %  {label}" for label, probability in likely]
    return "\n".join([f"{shown(prediction.video)}: {', '.join(facts)}", *lines])
