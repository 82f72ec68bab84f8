"""What a prediction says of each frame and of the whole, from its windows."""

from dataclasses import replace

import numpy as np
import pytest

from engine.evaluation.confusion import Confused
from engine.inference.prediction import report
from tests.helpers.recognizer import prediction_of


def test_a_frame_has_the_mean_of_the_windows_that_cover_it():
    prediction = prediction_of([[1, 0], [0.5, 0.5], [0, 1]], num_frames=30, stride=8, span=10)
    assert [prediction.at(frame)[0] for frame in (0, 7, 8, 9, 10, 16, 17, 18, 25)] == [
        1, 1, 0.75, 0.75, 0.5, 0.25, 0.25, 0, 0,
    ]  # fmt: skip


def test_a_frame_that_no_window_covers_has_the_nearest():
    prediction = prediction_of([[1, 0], [0, 1]], num_frames=30, stride=10, span=4)
    assert [prediction.at(frame)[0] for frame in (3, 4, 6, 7, 9, 10, 13, 14, 29)] == [1, 1, 1, 0, 0, 0, 0, 0, 0]


def test_the_timeline_covers_each_frame_once_and_changes_with_the_label():
    prediction = prediction_of([[0.9, 0.1], [0.9, 0.1], [0.1, 0.9], [0.1, 0.9]], num_frames=20)
    timeline = prediction.timeline()
    assert [segment["label"] for segment in timeline] == ["a", "b"]
    assert timeline[0]["first_frame"] == 0 and timeline[-1]["last_frame"] == 19
    assert timeline[1]["first_frame"] == timeline[0]["last_frame"] + 1
    assert timeline[0]["end"] == timeline[1]["start"] and timeline[-1]["end"] == pytest.approx(2.0)
    assert 0.5 <= timeline[0]["probability"] <= 0.9


def test_below_the_threshold_the_label_is_uncertain():
    prediction = prediction_of([[0.9, 0.1], [0.55, 0.45], [0.55, 0.45], [0.55, 0.45]], num_frames=20)
    assert [segment["label"] for segment in prediction.timeline(0.8)] == ["a", "uncertain"]
    assert prediction.label(0.8) == "uncertain" and prediction.label(0.5) == "a"
    content = prediction.to_dict(top=2, threshold=0.8)
    assert content["label"] == "uncertain" and content["top"][0]["label"] == "a"
    assert [window["label"] for window in content["windows"]] == ["a"] + ["uncertain"] * 3


def test_a_class_whose_name_has_a_line_break_is_printed_on_one_line():
    prediction = replace(prediction_of([[0.9, 0.1]], num_frames=20), classes=["two\nlines", "b"])
    assert "90.0 %  two\\nlines" in report(prediction, 2)
    assert str(Confused("two\nlines", "\x1b[31m", 1, 2)) == "two\\nlines taken for \\x1b[31m (1 of 2)"


def test_smoothing_is_the_mean_of_the_neighbours_and_leaves_the_answer():
    rows = [[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0]]
    prediction = prediction_of(rows, num_frames=20)
    smooth = prediction.smoothed(3)
    expected = [np.mean(rows[max(i - 1, 0) : i + 2], axis=0) for i in range(4)]
    assert np.allclose([window.probabilities for window in smooth.windows], expected)
    assert len(smooth.timeline()) == 1 < len(prediction_of(rows, 20, stride=8).timeline())
    assert (smooth.probabilities == prediction.probabilities).all()
    same = prediction.smoothed(1)
    assert np.allclose([w.probabilities for w in same.windows], rows)
