import numpy as np
import pytest

from dataloaders.clips import clip_indices, clip_span, clip_step, random_start, random_step, uniform_starts


@pytest.mark.parametrize(
    ("clip_len", "step", "span"),
    [(4, 3, 10), (16, 1, 16), (16, 2, 31), (1, 7, 1), (4, 0.5, 2), (3, 2.4, 5), (16, 25 / 15, 26), (4, 1 / 3, 2)],
)
def test_the_span_reaches_from_the_first_frame_to_the_last(clip_len, step, span):
    """clip_len=4, step=3   f..f..f..f   span 10"""
    assert clip_span(clip_len, step) == span
    assert clip_indices(0, clip_len, step, num_frames=1000)[-1] == span - 1


@pytest.mark.parametrize(
    ("start", "clip_len", "step", "num_frames", "indices"),
    [
        (0, 4, 3, 10, [0, 3, 6, 9]),
        (5, 4, 1, 10, [5, 6, 7, 8]),
        (0, 6, 1, 4, [0, 1, 2, 3, 0, 1]),
        (0, 4, 3, 5, [0, 3, 1, 4]),
        (0, 3, 1, 1, [0, 0, 0]),
        (2, 4, 2.5, 100, [2, 4, 7, 9]),
        (0, 6, 0.5, 100, [0, 0, 1, 1, 2, 2]),
        (0, 4, 1 / 3, 100, [0, 0, 0, 1]),
    ],
)
def test_a_clip_takes_these_frames_and_a_short_video_repeats_from_its_beginning(
    start, clip_len, step, num_frames, indices
):
    """Trap 5: short videos crash or are dropped."""
    assert clip_indices(start, clip_len, step, num_frames).tolist() == indices


def test_random_start_reaches_first_and_last_start_and_each_between():
    """Trap 5: randint(T - 16) never draws the last start."""
    rng = np.random.default_rng(0)
    starts = [random_start(20, 16, rng) for _ in range(500)]

    assert set(starts) == {0, 1, 2, 3, 4}
    assert min(starts.count(start) for start in range(5)) > 70


@pytest.mark.parametrize("num_frames", [1, 15, 16])
def test_a_video_as_long_as_a_clip_or_shorter_starts_at_its_beginning(num_frames):
    """Trap 5: randint(T - 16) crashes at T == 16."""
    assert random_start(num_frames, 16, np.random.default_rng(0)) == 0
    assert uniform_starts(num_frames, 16, 3) == [0, 0, 0]
    assert uniform_starts(num_frames, 16, 1) == [0]


@pytest.mark.parametrize(
    ("num_frames", "span", "num_clips", "starts"),
    [
        (10, 4, 3, [0, 3, 6]),
        (10, 4, 1, [3]),
        (17, 16, 2, [0, 1]),
        (17, 16, 1, [0]),
        (100, 16, 4, [0, 28, 56, 84]),
        (18, 16, 5, [0, 0, 1, 1, 2]),
    ],
)
def test_uniform_starts_spread_from_the_first_to_the_last(num_frames, span, num_clips, starts):
    assert uniform_starts(num_frames, span, num_clips) == starts


@pytest.mark.parametrize(
    ("stride", "every", "target", "source", "step"),
    [
        (1, 1, None, 25, 1),
        (2, 1, None, 25, 2),
        (4, 2, None, 25, 2),
        (1, 1, 15, 30, 2),
        (2, 1, 15, 30, 4),
        (1, 1, 15, 25, 25 / 15),
        (1, 1, 30, 15, 0.5),
        (1, 2, 15, 60, 2),
        (1, 1, 15, None, 1),
    ],
)
def test_the_step_counts_stored_frames(stride, every, target, source, step):
    """Trap 6: other frame distances in training than in inference."""
    assert clip_step(stride, every, target, source) == pytest.approx(step)


def test_resampling_to_15_frames_a_second_takes_the_frame_shown_at_each_moment():
    step = clip_step(1, 1, target_fps=15, source_fps=25)

    assert (
        clip_indices(0, 7, step, 100).tolist() == [int(k * 25 / 15 + 1e-9) for k in range(7)] == [0, 1, 3, 5, 6, 8, 10]
    )


@pytest.mark.parametrize(("stride", "every", "target"), [(1, 2, None), (3, 2, None), (1, 4, 15)])
def test_frames_stored_too_far_apart_for_a_model_are_refused(stride, every, target):
    with pytest.raises(ValueError, match=f"only one in {every} frames of the source is stored"):
        clip_step(stride, every, target, 25)


def test_a_random_step_stays_near_its_own_and_keeps_the_clip_in_its_video():
    rng = np.random.default_rng(0)
    steps = [random_step(3.0, 0.5, 8, 1000, rng) for _ in range(2000)]
    assert 1.5 <= min(steps) < 1.52 and 4.48 < max(steps) <= 4.5
    for num_frames in (22, 25, 30):  # the span at a step of 3 is 22
        spans = [clip_span(8, random_step(3.0, 0.5, 8, num_frames, rng)) for _ in range(200)]
        assert max(spans) == min(num_frames, 32)
    assert max(random_step(3.0, 0.5, 8, 10, rng) for _ in range(50)) == 3.0, (
        "too short in any case: no longer than before"
    )
    assert min(random_step(1.0, 0.5, 8, 100, rng) for _ in range(50)) == 1.0, "no frame twice"
    assert random_step(2.0, 0.5, 1, 100, rng) > 0
