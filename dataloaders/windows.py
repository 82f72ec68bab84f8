"""Every window of a video, for an evaluation that looks at all of it."""

import numpy as np

from common.errors import UserError
from common.input_spec import InputSpec
from dataloaders.clips import clip_indices, window_starts
from dataloaders.crops import cut_offsets
from dataloaders.dataset import ClipSource, FrameSet, frame_size, reorder_frames


class WindowDataset(ClipSource):
    """One window at a time, in 1 or 3 crops: clips of clip_len frames that begin every `window_step` source frames.

    Long videos have more of them, so an item is a window; videos[i] is the number of the video that item i belongs to.
    The order of the frames is as in EvalDataset.
    """

    def __init__(
        self, frame_set: FrameSet, spec: InputSpec, part: str, window_step: int, crops: int = 1, order: str = "normal"
    ):
        super().__init__(frame_set, part, spec)
        self.crops, self.order = crops, order
        self.clip_shape = (crops, spec.read_len, *spec.cut_size[::-1], 3)
        self.starts = []  # of each video's windows, in stored frames
        for row, span in zip(self.rows, self.spans, strict=True):
            if window_step % row.every:
                raise UserError(
                    f"{row.video}: only one in {row.every} frames of the source is stored. Give --windows a number "
                    f"that {row.every} divides, such as {row.every * max(round(window_step / row.every), 1)}."
                )
            self.starts.append(window_starts(row.num_frames, span, window_step // row.every))
        counts = [len(starts) for starts in self.starts]
        self.videos = np.repeat(np.arange(len(counts)), counts)  # (I,)
        self.firsts = np.cumsum(counts) - counts  # item of each video's first window

    def __len__(self) -> int:
        return len(self.videos)

    def load(self, epoch: int, position: int, out: np.ndarray) -> tuple[int, int]:
        """Fills out (crops, T, h, w, 3) uint8; returns (label, position). The epoch makes no difference."""
        number = int(self.videos[position])
        row, window = self.rows[number], position - int(self.firsts[number])
        indices = clip_indices(self.starts[number][window], self.spec.read_len, self.steps[number], row.num_frames)
        indices = reorder_frames(indices, self.order, seed=(number, window))
        offsets = cut_offsets(*frame_size(row, self.spec), self.spec, self.crops)
        self.read_clips(number, [(indices, offset) for offset in offsets], out)
        return int(self.labels[number]), position
