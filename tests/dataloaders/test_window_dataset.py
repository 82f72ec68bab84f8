"""Every window of a video: neither the last one lost, nor one of another video counted."""

from dataclasses import replace

import numpy as np
import pytest

from common.errors import UserError
from dataloaders.clips import window_starts
from dataloaders.dataset import EvalDataset, WindowDataset
from dataloaders.frame_set import open_frames
from network import InputSpec
from tests.helpers.toy import frames_of

SPEC = InputSpec(clip_len=4, frame_stride=2, resize=(80, 60), crop_size=32)  # span 7


@pytest.fixture(scope="module")
def frame_set(toy_source, toy_frames):
    return open_frames(toy_source, SPEC)


def read(dataset, position: int) -> np.ndarray:
    out = np.empty(dataset.clip_shape, np.uint8)
    assert dataset.load(0, position, out)[1] == position
    return out


@pytest.mark.parametrize(("num_frames", "count"), [(1, 1), (16, 1), (17, 1), (24, 2), (25, 2), (32, 3), (104, 12)])
def test_windows_of_16_with_step_8_are_neither_lost_nor_too_many(num_frames, count):
    """Trap 14: floor((T - 16) / 8) + 1; range(0, T - 16, 8) loses the last aligned one, and gives none for T = 16."""
    starts = window_starts(num_frames, 16, 8)
    assert len(starts) == count
    assert starts == [8 * number for number in range(count)]
    assert num_frames < 16 or starts[-1] + 16 <= num_frames < starts[-1] + 16 + 8


def test_an_item_shows_its_window_of_its_video(frame_set):
    dataset = WindowDataset(frame_set, SPEC, "test", window_step=6)
    assert dataset.videos.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4, 5, 5, 5]  # 20 frames: 0, 6, 12
    for position in (0, 2, 3, 17):
        start = 6 * (position % 3)
        [clip] = read(dataset, position)
        assert frames_of(clip) == [start, start + 2, start + 4, start + 6]
    assert dataset.load(0, 17, np.empty(dataset.clip_shape, np.uint8))[0] == dataset.labels[5]


def test_videos_of_different_lengths_have_as_many_windows_as_fit(frame_set):
    lengths = dict(zip((row.video for row in frame_set.part("test")), (20, 7, 6, 13, 12, 19), strict=True))
    rows = [replace(row, num_frames=lengths.get(row.video, row.num_frames)) for row in frame_set.rows]
    dataset = WindowDataset(replace(frame_set, rows=rows), SPEC, "test", window_step=6)
    assert np.bincount(dataset.videos).tolist() == [3, 1, 1, 2, 1, 3]
    assert frames_of(read(dataset, 4)[0]) == [0, 2, 4, 0]  # 6 frames repeat


def test_crops_and_disturbed_frames_are_those_of_evenly_spaced_clips(frame_set):
    for order in ("normal", "shuffled", "reversed", "frozen"):
        spaced = EvalDataset(frame_set, SPEC, "test", 2, 3, order)  # starts 0 and 13
        every = WindowDataset(frame_set, SPEC, "test", 13, 3, order)
        out = np.empty(spaced.clip_shape, np.uint8)
        spaced.load(0, 1, out)
        assert np.array_equal(out, np.concatenate([read(every, 2), read(every, 3)])), order


def test_the_step_counts_frames_of_the_source(frame_set):
    rows = [replace(row, every=2) for row in frame_set.rows]  # 20 stored frames of 40
    thinned = replace(frame_set, rows=rows)
    assert WindowDataset(thinned, SPEC, "test", 8).starts[0] == [0, 4, 8, 12, 16]  # span 4
    with pytest.raises(UserError, match="only one in 2 frames .* Give --windows a number that 2 divides, such as 8"):
        WindowDataset(thinned, SPEC, "test", 7)
