"""The answer on a video: probabilities of its classes as a whole, and over time."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from common.console import plural
from common.files import printable

STRIDE = 8  # source frames from one window to the next
TOP = 5  # classes that are named
TIMEOUT = 10.0  # seconds without a picture, after which a camera or stream counts as lost
UNCERTAIN = "uncertain"  # the label where no class reaches the threshold


@dataclass(frozen=True)
class Window:
    """The probabilities of one clip of a video, and its place in the video.

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


@dataclass(frozen=True)
class Prediction:
    """The answer on one video.

    fps             of the source; None where it does not say
    num_frames      that could be decoded
    num_damaged     packets that could not; their frames are missing
    classes         names in the order of the probabilities
    probabilities   (num_classes,) float64, the mean over the windows
    times           (num_frames,) float64, seconds at which each frame is shown, where frames do not come evenly; else
                    None, and frame i is shown at i / fps
    lost            why the source ended before its end; None where it is whole
    gaps            frames before which a live source was away and was opened again
    """

    video: str
    fps: float | None
    num_frames: int
    num_damaged: int
    classes: list[str]
    probabilities: np.ndarray
    windows: list[Window]
    times: np.ndarray | None = None
    lost: str | None = None
    gaps: tuple[int, ...] = ()

    def top(self, number: int = TOP) -> list[tuple[str, float]]:
        """The likeliest classes of the video with their probabilities, at most `number`."""
        return likeliest(self.classes, self.probabilities, number)

    def label(self, threshold: float = 0.0) -> str:
        """The likeliest class, or "uncertain" where its probability is below the threshold."""
        return answer(self.classes, self.probabilities, threshold)

    def at(self, frame: int) -> np.ndarray:
        """(num_classes,) probabilities at a frame: the mean of the windows that cover it, else those of the nearest."""
        before = bisect_left(self.windows, frame, key=lambda window: window.last_frame)  # so many end before it
        begun = bisect_right(self.windows, frame, key=lambda window: window.first_frame)
        if before < begun:
            return np.mean([window.probabilities for window in self.windows[before:begun]], axis=0, dtype=np.float64)
        around = self.windows[max(before - 1, 0) : before + 1]
        nearest = min(around, key=lambda window: max(window.first_frame - frame, frame - window.last_frame))
        return nearest.probabilities

    def smoothed(self, number: int) -> "Prediction":
        """Each window's probabilities become the mean over `number` windows with it in the middle, fewer at the ends.

        The answer on the whole video stays: smoothing is about how fast a label may change.
        """
        probs = np.array([window.probabilities for window in self.windows], dtype=np.float64)  # (windows, classes)
        sums = np.concatenate([np.zeros((1, probs.shape[1])), probs.cumsum(axis=0)])
        middle = np.arange(len(probs))
        low = np.maximum(middle - (number - 1) // 2, 0)
        high = np.minimum(middle + number // 2, len(probs) - 1) + 1
        means = (sums[high] - sums[low]) / (high - low)[:, None]
        windows = [replace(w, probabilities=p.astype(np.float32)) for w, p in zip(self.windows, means, strict=True)]
        return replace(self, windows=windows)

    def seconds(self, frame: int) -> float | None:
        """Time of a frame in seconds from the first; frame == num_frames gives the end. None: unknown."""
        return frame_time(frame, self.fps, self.times)

    def timeline(self, threshold: float = 0.0) -> list[dict]:
        """The label over time: {first_frame, last_frame, start, end, label, probability} one after the other, from the
        first frame to the last. A label holds for as long as it is the likeliest at each frame; its probability is the
        mean over those frames, for "uncertain" that of the likeliest class. A gap in a live source has a segment too,
        whose frames, label and probability are None.
        """
        segments: list[dict] = []
        for frame in range(self.num_frames):
            probs = self.at(frame)
            label, probability = answer(self.classes, probs, threshold), float(probs.max())
            if segments and segments[-1]["label"] == label and frame not in self.gaps:
                segments[-1]["last_frame"] = frame
                segments[-1]["probability"] += probability
            else:
                segments.append({"first_frame": frame, "last_frame": frame, "label": label, "probability": probability})
        timeline = []
        for segment in segments:
            first, last = segment["first_frame"], segment["last_frame"]
            start, end = self.seconds(first), self.seconds(last + 1)
            if last + 1 in self.gaps:
                end = self.seconds(last) + (1 / self.fps if self.fps else 0.0)
            if first in self.gaps:
                nothing = dict.fromkeys(("first_frame", "last_frame", "label", "probability"))
                timeline.append({"start": timeline[-1]["end"], "end": start, **nothing})
            timeline.append(
                {"start": start, "end": end, **segment, "probability": segment["probability"] / (last - first + 1)}
            )
        return timeline

    def to_dict(self, top: int = TOP, threshold: float = 0.0) -> dict:
        """The content of --json."""
        return {
            "video": printable(self.video),
            "fps": self.fps,
            "num_frames": self.num_frames,
            "num_damaged": self.num_damaged,
            "lost": self.lost,
            "seconds": self.seconds(self.num_frames),
            "classes": self.classes,
            "label": self.label(threshold),
            "top": named(self.top(top)),
            "timeline": self.timeline(threshold),
            "windows": [self._window_to_dict(window, top, threshold) for window in self.windows],
        }

    def _window_to_dict(self, window: Window, top: int, threshold: float) -> dict:
        likely = named(likeliest(self.classes, window.probabilities, top))
        return {
            "start": window.start,
            "end": window.end,
            "first_frame": window.first_frame,
            "last_frame": window.last_frame,
            "label": answer(self.classes, window.probabilities, threshold),
            "probability": likely[0]["probability"],
            "top": likely,
        }


def assemble(
    video: str,
    fps: float | None,
    times: np.ndarray | None,
    num_frames: int,
    num_damaged: int,
    lost: str | None,
    classes: list[str],
    positions: Sequence[tuple[int, int]],
    probabilities: Sequence[np.ndarray],
) -> Prediction:
    """The prediction from the (first_frame, last_frame) of each window and its probabilities (num_classes,)."""
    windows = [
        Window(first, last, frame_time(first, fps, times), frame_time(last + 1, fps, times), p)
        for (first, last), p in zip(positions, probabilities, strict=True)
    ]
    mean = np.mean(probabilities, axis=0, dtype=np.float64)
    return Prediction(video, fps, num_frames, num_damaged, classes, mean, windows, times, lost)


def frame_time(frame: int, fps: float | None, times: np.ndarray | None) -> float | None:
    """Seconds from the first frame; the frame after the last one lasts as long as the others in the mean."""
    if times is None:
        return frame / fps if fps else None
    if frame < len(times):
        return float(times[frame])
    return float(times[-1] + (times[-1] / (len(times) - 1) if len(times) > 1 else 1 / fps if fps else 0.0))


def answer(classes: Sequence[str], probabilities: np.ndarray, threshold: float) -> str:
    best = int(np.argmax(probabilities))
    return classes[best] if probabilities[best] >= threshold else UNCERTAIN


def likeliest(classes: Sequence[str], probabilities: np.ndarray, number: int) -> list[tuple[str, float]]:
    order = np.argsort(-probabilities, kind="stable")[:number]
    return [(classes[i], float(probabilities[i])) for i in order]


def named(top: Iterable[tuple[str, float]]) -> list[dict]:
    return [{"label": label, "probability": probability} for label, probability in top]


def report(prediction: Prediction, top: int, threshold: float = 0.0) -> str:
    """clip.avi: 164 frames, 6.6 s at 25 fps, 19 windows, and a line for each of the likeliest classes."""
    facts = [plural(prediction.num_frames, "frame")]
    seconds = prediction.seconds(prediction.num_frames)
    if seconds is not None and prediction.fps:
        rate = "" if prediction.times is None else "about "
        facts.append(f"{seconds:.1f} s at {rate}{prediction.fps:.4g} fps")
    facts.append(plural(len(prediction.windows), "window"))
    if prediction.num_frames == 1:
        facts.append("a single frame, which the clip repeats")
    if prediction.num_damaged:
        facts.append(f"{plural(prediction.num_damaged, 'damaged place')}")
    likely = prediction.top(top)
    lines = [f"  {100 * probability:5.1f} %  {printable(label)}" for label, probability in likely]
    if prediction.label(threshold) == UNCERTAIN:
        lines.insert(0, f"  {UNCERTAIN}: no class reaches {100 * threshold:g} %")
    return "\n".join([f"{printable(prediction.video)}: {', '.join(facts)}", *lines])
