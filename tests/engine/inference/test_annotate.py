"""Videos with the answer drawn on them: what is drawn, and what becomes of the picture, its times and its sound."""

import threading
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from common.drawing import DRAWS_UNICODE, drawable, shorten
from common.errors import UserError
from engine.inference.annotate import annotate, draw_on
from engine.inference.overlay import draw_answer, draw_curve, draw_heat, panel_box, readable_factor
from engine.inference.video_writer import GIF_SECONDS
from tests.helpers.recognizer import decode, make_frames, make_video, prediction_of, run

# --- the annotated video


@pytest.mark.parametrize(
    ("name", "options", "output"),
    [
        ("clip.avi", {"codec": "mpeg4", "rate": Fraction(30000, 1001)}, "out.mp4"),
        ("odd.mp4", {"width": 161, "height": 121, "rate": 15}, "out.mp4"),
        ("large.mp4", {"width": 640, "height": 360, "num_frames": 4, "aspect": Fraction(4, 3)}, "out.mov"),
        ("fast.mp4", {"rate": 1000}, "out.mkv"),
        ("odd_large.mp4", {"width": 641, "height": 361, "num_frames": 2}, "out.mp4"),
        ("tiny.mp4", {"width": 2, "height": 2, "rate": Fraction(1, 10)}, "out.mp4"),
    ],
)
def test_the_annotated_video_is_the_source_with_a_panel(recognizer, tmp_path, name, options, output):
    """Trap 31: OpenCV writes no H.264 and does not say so."""
    source = make_video(tmp_path / name, **options)
    prediction = recognizer.predict(source)
    annotate(source, prediction, tmp_path / output)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, output])

    with av.open(str(tmp_path / output)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == options.get("rate", 25)
        assert (stream.sample_aspect_ratio or 1) == options.get("aspect", 1)

    before, after = decode(source), decode(tmp_path / output)
    assert len(before) == len(after) == prediction.num_frames
    height, width = before[0].shape[:2]
    factor = readable_factor(width, height)
    assert after[0].shape == (-(-factor * height // 2) * 2, -(-factor * width // 2) * 2, 3)

    left, top, right, bottom = panel_box(after[0].shape[1], after[0].shape[0], 5)
    outside = np.ones(after[0].shape[:2], bool)
    outside[top - 2 : bottom + 2, left - 2 : right + 2] = False
    for old, new in zip(before, after, strict=True):
        enlarged = cv2.resize(old, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC).astype(int)
        different = np.abs(new[: enlarged.shape[0], : enlarged.shape[1]].astype(int) - enlarged).mean(axis=2)
        mask = outside[: enlarged.shape[0], : enlarged.shape[1]]
        assert different[mask].mean() < 4
        assert different[~mask].mean() > 20


def test_an_odd_size_is_padded_and_not_stretched():
    [frame] = make_frames(1, 641, 361)
    picture = draw_on(frame, [("Bowling", 0.5)])
    assert picture.shape == (362, 642, 3)
    assert (picture[200:361, :641] == frame[200:]).all()
    assert (picture[361] == picture[360]).all() and (picture[:, 641] == picture[:, 640]).all()
    assert (frame == make_frames(1, 641, 361)[0]).all(), "the decoder's own picture is left as it is"


def test_the_label_changes_with_the_windows(tmp_path):
    source = make_video(tmp_path / "clip.mp4", num_frames=30, width=320, height=320)
    annotate(source, prediction_of([[1, 0], [0, 1]], num_frames=30, stride=20, span=10), tmp_path / "out.mp4")
    first, last = (decode(tmp_path / "out.mp4")[i][:, :, 1].astype(int) for i in (0, 29))
    left, top, right, bottom = panel_box(320, 320, 2)
    header = np.abs(first - last)[top : top + 24, left:right]
    assert header.max() > 100, "another letter"


def test_colours_are_tagged_as_they_are_converted(recognizer, tmp_path):
    source = make_video(tmp_path / "hd.mp4", num_frames=1, width=1280, height=720)
    annotate(source, recognizer.predict(source), tmp_path / "out.mp4")
    with av.open(str(tmp_path / "out.mp4")) as container:
        frame = next(container.decode(video=0))
    assert (frame.colorspace, frame.color_range) == (5, 1)  # BT.601, limited


def test_nothing_half_written_stays_after_a_failure(recognizer, video, tmp_path, monkeypatch):
    def interrupted(frame, top, threshold):
        if list(tmp_path.glob("out.mp4.*tmp")):
            raise KeyboardInterrupt
        calls.append(frame)

    calls = []
    monkeypatch.setattr("engine.inference.annotate.draw_answer", interrupted)
    (tmp_path / "out.mp4").write_bytes(b"of an earlier run")
    with pytest.raises(KeyboardInterrupt):
        annotate(make_video(tmp_path / "long.mp4", 200), recognizer.predict(video), tmp_path / "out.mp4")
    assert calls, "the encoder had begun"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["long.mp4", "out.mp4"]
    assert (tmp_path / "out.mp4").read_bytes() == b"of an earlier run"


@contextmanager
def small_disk(size):
    """A file of this process may have so many bytes: writing more fails as on a full disk. Not longer than it must,
    since the tests' own output may be a file, too."""
    resource = pytest.importorskip("resource")  # not on Windows
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("output", ["out.mp4", "out.mkv", pytest.param("out.gif", marks=pytest.mark.slow)])
def test_a_disk_that_is_full_is_one_line_and_leaves_nothing(checkpoint, tmp_path, capsys, monkeypatch, output):
    source = make_video(tmp_path / "clip.mp4", 60)
    argv = [source, "--checkpoint", checkpoint, "--output", tmp_path / output]
    with small_disk(4000):
        status, _, err = run(argv, capsys, monkeypatch)
    assert status == 1 and err == f"{tmp_path / output} cannot be written: File too large.\n"
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


def test_a_table_that_cannot_be_written_ends_the_run(checkpoint, tmp_path, capsys, monkeypatch):
    (tmp_path / "in").mkdir()
    for number in range(8):
        make_video(tmp_path / f"in/{number}.mp4", 12)
    (tmp_path / "in/broken.mp4").write_text("no video")
    argv = [tmp_path / "in", "--checkpoint", checkpoint, "--csv", tmp_path / "a.csv"]
    threads = threading.active_count()
    with small_disk(500):
        status, _, err = run(argv, capsys, monkeypatch)
    assert status == 1 and err == f"{tmp_path / 'a.csv'} cannot be written: File too large.\n"
    assert threading.active_count() == threads, "none is left that would keep the program"
    assert not (tmp_path / "a.csv").exists()


# --- sound, GIF


def with_sound(path: Path, codec: str, rate: int = 16000, num_frames: int = 50) -> Path:
    """2 s of video with a tone that begins after 1 s."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        sound = container.add_stream(codec, rate=rate, layout="mono")
        for picture in make_frames(num_frames, 64, 48):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="bgr24")))
        container.mux(stream.encode(None))
        time = np.arange(2 * rate) / rate
        wave = (12000 * np.sin(2 * np.pi * 440 * time) * (time >= 1)).astype(np.int16)
        for start in range(0, len(wave), 1000):
            frame = av.AudioFrame.from_ndarray(wave[None, start : start + 1000], format="s16", layout="mono")
            frame.rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
            for piece in av.AudioResampler(sound.codec_context.format, "mono", rate).resample(frame):
                container.mux(sound.encode(piece))
        container.mux(sound.encode(None))
    return path


@pytest.mark.parametrize(
    "source, codec, output, kept",
    [
        ("a.mp4", "aac", "out.mp4", "aac"),
        ("a.mkv", "libopus", "out.mkv", "opus"),
        ("a.avi", "pcm_s16le", "out.mp4", "aac"),
        ("a.avi", "libmp3lame", "out.mkv", "aac"),
    ],
)
def test_the_sound_stays_and_stays_in_time(recognizer, tmp_path, source, codec, output, kept):
    source = with_sound(tmp_path / source, codec, rate=48000 if codec == "libopus" else 16000)
    annotate(source, recognizer.predict(source), tmp_path / output)
    with av.open(str(tmp_path / output)) as container:
        assert container.streams.audio[0].codec_context.name == kept
        loud = []
        for frame in container.decode(audio=0):
            samples = np.abs(frame.to_ndarray().astype(float)).mean(axis=0)
            scale = 1.0 if samples.max() <= 1.5 else 32768.0
            loud += [(frame.time + i / frame.rate) for i in np.flatnonzero(samples / scale > 0.1)]
    assert min(loud) == pytest.approx(1.0, abs=0.08)
    assert max(loud) == pytest.approx(2.0, abs=0.1)


def test_a_gif_has_the_answer_in_at_most_12_and_a_half_frames_a_second(recognizer, tmp_path):
    source = make_video(tmp_path / "clip.mp4", 20)
    annotate(source, recognizer.predict(source), tmp_path / "out.gif")
    pictures = decode(tmp_path / "out.gif")
    assert len(pictures) == 10
    with av.open(str(tmp_path / "out.gif")) as container:
        assert container.duration / 1e6 == pytest.approx(0.8, abs=0.05)
    annotate(source, recognizer.predict(source), tmp_path / "out.mp4")
    for gif, mp4 in zip(pictures[::6], decode(tmp_path / "out.mp4")[::12], strict=False):
        mp4 = cv2.resize(mp4, gif.shape[1::-1], interpolation=cv2.INTER_AREA)
        assert np.abs(gif.astype(int) - mp4).mean() < 12


def test_a_long_gif_is_refused_with_the_limit(tmp_path):
    prediction = prediction_of([[1, 0]], num_frames=10 * (GIF_SECONDS + 2))
    with pytest.raises(UserError, match="limit. Write an .mp4"):
        annotate(make_video(tmp_path / "clip.mp4"), prediction, tmp_path / "out.gif")
    assert not (tmp_path / "out.gif").exists()


# --- drawing


@pytest.mark.parametrize("size", [(160, 120), (161, 121), (320, 240), (1920, 1080), (1080, 1920), (3840, 2160), (1, 1)])
def test_the_panel_stays_in_its_box_and_leaves_the_picture(size):
    factor = readable_factor(*size)
    width, height = factor * size[0], factor * size[1]
    assert min(width, height) >= 320
    frame = np.full((height, width, 3), 200, np.uint8)
    draw_answer(frame, [("W" * 200, 1.0)] + [("name", 0.1)] * 4)
    left, top, right, bottom = panel_box(width, height, 5)
    assert 0 < left < right < width and 0 < top < bottom < 0.75 * height
    inside = frame[top:bottom, left:right].copy()
    frame[top:bottom, left:right] = 200
    assert (frame == 200).all()
    assert inside.max() > 240 and inside.min() < 90, "white letters on a dark ground"


def test_bars_are_as_long_as_their_class_is_probable():
    frame = np.zeros((480, 640, 3), np.uint8)
    draw_answer(frame, [("", 0.5), ("", 0.25)])
    blue = (frame[:, :, 0] > 120) & (frame[:, :, 2] < 60)
    lengths = sorted(set(blue.sum(axis=1).tolist()))  # no bar, and the two
    left, _, right, _ = panel_box(640, 480, 2)
    assert lengths == [0, pytest.approx(0.25 * (right - left), abs=4), pytest.approx(0.5 * (right - left), abs=6)]


@pytest.mark.parametrize("size", [(2, 3000), (3000, 2), (100, 4096), (30, 20)])
def test_drawing_on_any_size_is_no_error(size):
    draw_answer(np.zeros((size[1], size[0], 3), np.uint8), [("name", 0.5)])


def test_names_are_shortened_to_what_fits():
    assert shorten("Bowling", 500, 1.0, 1) == "Bowling"
    short = shorten("CleanAndJerkAndMore", 120, 1.0, 1)
    assert short.endswith("...") and "CleanAndJerkAndMore".startswith(short[:-3]) and len(short) > 4
    assert cv2.getTextSize(short, cv2.FONT_HERSHEY_SIMPLEX, 1.0, 1)[0][0] <= 120
    assert shorten("Bowling", 1, 1.0, 1) == ""


def test_names_become_what_opencv_can_draw():
    assert drawable("Übung\n跳", draws_unicode=False) == "Ubung ?"
    assert drawable("Übung\n跳", draws_unicode=True) == "Übung 跳"
    assert int(cv2.__version__.split(".")[0]) >= 5 or not DRAWS_UNICODE


@pytest.mark.parametrize("size", [(160, 120), (320, 240), (1920, 1080), (3840, 2160), (1, 1), (2000, 4)])
def test_heat_and_curve_fit_any_size(size):
    width, height = size
    frame = np.full((height, width, 3), 200, np.uint8)
    hot = draw_heat(frame, np.pad(np.ones((4, 4)), 4), (0, 0), (width, height))
    assert hot.shape == frame.shape and (frame == 200).all(), "a copy"
    if min(size) > 100:
        middle = hot[height // 2, width // 2].astype(int) - hot[height // 8, width // 8]
        assert np.abs(middle).max() > 60
    draw_curve(hot, np.linspace(0, 1, 50).astype(np.float32), 10, "Golf")


def test_the_header_says_uncertain_below_the_threshold():
    frames = [np.full((240, 320, 3), 90, np.uint8) for _ in range(3)]
    for frame, threshold in zip(frames, (0.0, 0.4, 0.9), strict=True):
        draw_answer(frame, [("Golf", 0.5), ("Diving", 0.3)], threshold)
    assert (frames[0] == frames[1]).all() and not (frames[0] == frames[2]).all()
