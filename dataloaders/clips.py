"""Frames of a clip: integers in, indices out.

    clip_len=4, step=3      f..f..f..f      span 10

`step` is the distance of a clip's frames, counted in stored frames. It is a whole number, except where a model asks
for another frame rate than the video has: then frame i of the clip is stored frame floor(i * step).
"""

import numpy as np


def clip_step(frame_stride: int, every: int, target_fps: float | None = None, source_fps: float | None = None) -> float:
    """Distance of a clip's frames in stored frames.

    frame_stride counts frames of the source (of the source resampled to target_fps, where that is set); `every` is the
    distance of stored frames in the source. Raises ValueError when the stored frames lie too far apart. A video that
    itself has fewer frames a second than the model asks for shows some of them twice.
    """
    step = frame_stride * (source_fps / target_fps if target_fps and source_fps else 1.0) / every
    fits = frame_stride % every == 0 if target_fps is None else step >= 1 or every == 1
    if not fits:
        wanted = f"frames at {target_fps:g} a second" if target_fps else f"a frame stride of {frame_stride}"
        raise ValueError(f"only one in {every} frames of the source is stored, which does not give {wanted}")
    return step


def clip_span(clip_len: int, step: float) -> int:
    """Stored frames from a clip's first to its last, both counted."""
    return int((clip_len - 1) * step + 1e-6) + 1


def clip_indices(start: int, clip_len: int, step: float, num_frames: int) -> np.ndarray:
    """-> (clip_len,) indices into the stored frames. A video that is too short repeats from its beginning:

    start=0, clip_len=6, step=1, num_frames=4      0 1 2 3 0 1
    """
    return (start + (np.arange(clip_len) * step + 1e-6).astype(np.int64)) % num_frames


def random_step(step: float, jitter: float, clip_len: int, num_frames: int, rng: np.random.Generator) -> float:
    """The distance times a factor drawn from 1 - jitter to 1 + jitter: the same action, faster or slower.

    Not so far that a clip which fits into its video would not, and not so near that a frame would be shown twice where
    it is not already.
    """
    widest = max(step, (num_frames - 1) / max(clip_len - 1, 1))
    return min(max(step * rng.uniform(1 - jitter, 1 + jitter), min(step, 1.0)), widest)


def random_start(num_frames: int, span: int, rng: np.random.Generator) -> int:
    """A start drawn evenly from all that fit, the first and the last included; 0 where the video is too short."""
    return int(rng.integers(0, max(num_frames - span, 0) + 1))


def uniform_starts(num_frames: int, span: int, num_clips: int) -> list[int]:
    """num_clips starts spread evenly, the first clip at the beginning and the last at the end; one: the middle.

    num_frames=10, span=4, num_clips=3      0 3 6
    """
    last = max(num_frames - span, 0)
    if num_clips == 1:
        return [last // 2]
    return [last * clip // (num_clips - 1) for clip in range(num_clips)]


def window_starts(num_frames: int, span: int, step: int) -> list[int]:
    """Starts of every window, `step` frames apart: floor((num_frames - span) / step) + 1 of them, the last one that
    fits included; one, from the beginning, where the video is shorter than a window.

    num_frames=32, span=16, step=8      0 8 16
    """
    return list(range(0, max(num_frames - span, 0) + 1, step))
