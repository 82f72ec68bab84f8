from dataclasses import replace
from fractions import Fraction
from itertools import chain
from math import floor

import av
import cv2
import numpy as np
import pytest

from common.errors import UserError
from common.input_spec import InputSpec
from dataloaders.clips import clip_indices
from dataloaders.dataset import ClipSource, EvalDataset, TrainDataset
from dataloaders.frame_set import of_frames, open_frames
from dataloaders.frames.manifest import read_manifest
from dataloaders.frames.settings import Settings, read_size, stored_size
from dataloaders.preprocess.__main__ import main
from dataloaders.preprocess.resample import Irregular, copies, has_constant_rate, resampled
from dataloaders.preprocess.run import preprocess
from dataloaders.sources.data_source import DataSource
from engine.inference.windows import evenly_spaced_clips
from tests.helpers.preprocess import make_source
from tests.helpers.toy import TOY_SIZE, frame_naming, frames_of, write_naming_video


def stored(source: DataSource, settings: Settings) -> dict[str, list[int]]:
    """The source frames that the stored ones of each video name."""
    frames = source.frames_for(settings.size)
    return {
        row.video: frames_of(
            cv2.imread(str(frames / row.folder / row.frame_name(index)))[..., ::-1] for index in range(row.num_frames)
        )
        for row in preprocess(source, settings, workers=1)
    }


@pytest.mark.parametrize("rate", [Fraction(1, 3), Fraction(1, 2), Fraction(15, 25), Fraction(1), Fraction(50, 25)])
def test_stored_frame_j_is_frame_j_over_rate_rounded_down(rate):
    served = list(chain.from_iterable([index] * copies(index, rate) for index in range(30)))

    assert served == [floor(j / rate) for j in range(len(served))]
    assert len(served) == -(-30 * rate // 1)


@pytest.mark.parametrize(
    ("fps", "expected"),
    [
        (15, [0, 1, 3, 5, 6, 8, 10, 11, 13, 15, 16, 18]),
        (12.5, [0, 2, 4, 6, 8, 10, 12, 14, 16, 18]),
        (25, list(range(20))),
        (50, [index for index in range(20) for _ in range(2)]),
    ],
)
@pytest.mark.parametrize("b_frames", [0, 2])
def test_a_constant_rate_is_resampled_by_counting(tmp_path, fps, expected, b_frames):
    write_naming_video(tmp_path / "videos" / "run" / "a.avi", 20, b_frames=b_frames)
    source = make_source(tmp_path / "videos")

    assert stored(source, Settings(TOY_SIZE, fps=fps)) == {"run/a.avi": expected}
    (row,) = read_manifest(source.frames_for(TOY_SIZE))
    assert (row.fps, row.source_fps, row.resampled, row.every) == (fps, 25.0, fps, 1)


def write_variable(path, milliseconds):
    """Frame number i is shown from milliseconds[i] on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "6", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for index, time in enumerate(milliseconds):
            frame = av.VideoFrame.from_ndarray(frame_naming(index), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def test_a_variable_rate_is_resampled_by_time_stamps(tmp_path):
    """Dense at first, then one that stands for half a second."""
    times = [0, 20, 40, 60, 80, 100, 600, 640, 680, 720, 760, 800]
    path = write_variable(tmp_path / "videos" / "run" / "a.mkv", times)
    assert not has_constant_rate(path, Fraction(25))

    found = stored(make_source(tmp_path / "videos"), Settings(TOY_SIZE, fps=10))["run/a.mkv"]

    assert found == [max(i for i, time in enumerate(times) if time <= 100 * j) for j in range(len(found))]
    assert found[:7] == [0, 5, 5, 5, 5, 5, 6] and len(found) == 9


def test_a_time_stamp_that_jumps_does_not_fill_the_disk(tmp_path):
    """40 frames with a gap of an hour became 108,024 JPEGs."""
    times = [40 * number + (3_600_000 if number >= 6 else 0) for number in range(12)]
    write_variable(tmp_path / "videos" / "run" / "a.mkv", times)
    [row] = preprocess(make_source(tmp_path / "videos"), Settings(TOY_SIZE, fps=10), workers=1)
    assert row.status == "ok" and 1 < row.num_frames <= 12
    assert "its time stamps jump by 3,600 s, so its frames are taken at the rate" in row.reason


def test_resampling_shows_the_frame_of_the_moment():
    frames = [(Fraction(3), "a"), (Fraction(4), "b"), (Fraction(13, 2), "c")]

    assert list(resampled(frames, Fraction(2), Fraction(1))) == list("aabbbbbcc")
    with pytest.raises(Irregular):
        list(resampled([*frames, (Fraction(5), "d")], Fraction(2), Fraction(1)))


@pytest.mark.parametrize(
    ("size", "source", "expected"),
    [
        ((171, 128), (320, 240), (171, 128)),
        (256, (320, 240), (342, 256)),
        (256, (240, 320), (256, 342)),
        (128, (1920, 1080), (228, 128)),
        (101, (50, 50), (101, 101)),
        (64, (1000, 64), (1000, 64)),
    ],
)
def test_the_shorter_side_is_what_was_asked_for_and_the_longer_one_even(size, source, expected):
    assert stored_size(size, *source) == expected


@pytest.mark.parametrize("text", ["short:", "short:0", "long:256", "256", "axb", "171x", "short:12x3"])
def test_a_size_that_is_none_is_refused(text):
    with pytest.raises(ValueError, match="is not a size; write 171x128"):
        read_size(text)


@pytest.fixture
def mixed(tmp_path) -> DataSource:
    """A wide, a tall and a turned video."""
    run = tmp_path / "videos" / "run"
    write_naming_video(run / "v_run_g01_c01.avi", 8, size=(160, 120))
    write_naming_video(run / "v_run_g08_c01.avi", 8, size=(96, 144))
    write_naming_video(run / "v_run_g09_c01.mp4", 8, size=(200, 100), codec="libx264", rotation=90)
    return make_source(tmp_path / "videos")


def test_frames_that_keep_their_aspect_are_trained_on_by_a_model_whose_shorter_side_they_have(mixed):
    rows = preprocess(mixed, Settings(60))
    frames = mixed.frames_for(60)
    assert frames.name == "videos-frames-short60"
    assert [(row.width, row.height, row.size) for row in rows] == [
        (80, 60, "short:60"),
        (60, 90, "short:60"),
        (60, 120, "short:60"),
    ]
    for row in rows:
        assert cv2.imread(str(frames / row.folder / row.frame_name(0))).shape == (row.height, row.width, 3)

    spec = InputSpec(clip_len=4, resize=(80, 60), crop_size=56)
    given = DataSource("given", mixed.videos, frames, layout="ucf101", frames_given=True)
    frame_set = open_frames(given, spec, val="none", any_aspect=True)
    for part, data in (("train", TrainDataset), ("test", EvalDataset)):
        dataset = data(frame_set, spec, part=part)
        for position in range(len(dataset)):
            out = np.zeros(dataset.clip_shape, np.uint8)
            dataset.load(0, position, out)
            assert out.min() >= 0 and (out.reshape(-1, 56 * 56 * 3).max(1) > 0).all()

    with pytest.raises(UserError, match=r"shorter side 60; this model expects 171x128.*or --size short:128"):
        open_frames(given, InputSpec(clip_len=4), val="none", any_aspect=True)


def test_a_network_that_learnt_from_kept_aspects_sees_them_everywhere(mixed):
    """Inference cuts from the video what evaluation cuts from its frames; other frames are refused."""
    preprocess(mixed, Settings(60))
    given = DataSource("given", mixed.videos, mixed.frames_for(60), layout="ucf101", frames_given=True)
    spec = InputSpec(clip_len=4, resize=(80, 60), crop_size=56)
    with pytest.raises(UserError, match="shorter side 60; this model expects 80x60"):
        open_frames(given, spec, val="none")
    learnt = of_frames(spec, open_frames(given, spec, val="none", any_aspect=True))
    assert learnt == replace(spec, keep_aspect=True) == InputSpec.from_dict(learnt.to_dict())

    frame_set = open_frames(given, learnt, val="none")
    for part in ("train", "test"):
        dataset = EvalDataset(frame_set, learnt, part=part, num_clips=3)
        for position, row in enumerate(dataset.rows):
            expected = np.zeros(dataset.clip_shape, np.uint8)
            dataset.load(0, position, expected)
            _, clips, _ = evenly_spaced_clips(mixed.videos / row.video, learnt, 3)
            assert np.abs(clips.astype(int) - expected).mean() < 4, row.video

    preprocess(mixed, Settings((80, 60)))
    squeezed = DataSource("given", mixed.videos, mixed.frames_for((80, 60)), layout="ucf101", frames_given=True)
    with pytest.raises(UserError, match=r"expects frames that keep their aspect \(--size short:60\)"):
        open_frames(squeezed, learnt, val="none")


def test_a_resampled_tree_is_read_in_its_own_frames(tmp_path):
    """frame_stride counts the frames of the resampled video; a model's own rate is reached from there."""
    write_naming_video(tmp_path / "videos" / "run" / "v_run_g08_c01.avi", 40, fps=30)
    source = make_source(tmp_path / "videos")
    frames = stored(source, Settings(TOY_SIZE, fps=15))["run/v_run_g08_c01.avi"]
    assert frames == list(range(0, 40, 2))

    for spec, expected in (
        (InputSpec(clip_len=4, frame_stride=2, resize=TOY_SIZE, crop_size=56), [0, 4, 8, 12]),
        (InputSpec(clip_len=4, frame_stride=1, fps=15, resize=TOY_SIZE, crop_size=56), [0, 2, 4, 6]),
        (InputSpec(clip_len=4, frame_stride=1, fps=5, resize=TOY_SIZE, crop_size=56), [0, 6, 12, 18]),
    ):
        clips = ClipSource(open_frames(source, spec, val="none"), "train", spec)
        indices = clip_indices(0, spec.clip_len, clips.steps[0], len(frames))
        assert [frames[index] for index in indices] == expected

    faster = InputSpec(clip_len=4, fps=25, resize=TOY_SIZE, crop_size=56)
    with pytest.raises(
        UserError, match="stored at 15 frames a second instead of 30; this model expects 25. Preprocess with --fps 25"
    ):
        ClipSource(open_frames(source, faster, val="none"), "train", faster)


@pytest.mark.parametrize("wrong", [["--fps", "0"], ["--fps", "x"], ["--fps", "nan"], ["--size", "short:0"]])
def test_rates_and_sizes_that_are_none_are_bad_usage(wrong, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(wrong)
    assert exit_.value.code == 2
