import json
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from common.errors import UserError
from engine.inference import live as live_module
from engine.inference.live import LiveRecognition
from engine.inference.sources import Stream, find_sources
from engine.inference.windows import sliding_clips
from tests.helpers.recognizer import CLASSES, SPEC, by_hand, make_video, run
from tests.helpers.toy import naming_video

RATE = 25


class QuietHandler(BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def listening(handler: type[QuietHandler]):
    """The address of a server on this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def served(content: bytes, pace: float | None = None, stall: threading.Event | None = None):
    """An address on this machine that sends `content`: at once and with its length, or, as a live source does, without
    one and over `pace` seconds; with `stall`, it sends half and then nothing until the event is set."""

    class Handler(QuietHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "video/mp2t")
            if pace is None:
                self.send_header("Content-Length", str(len(content)))
            self.send_header("Connection", "close")
            self.end_headers()
            pieces = np.array_split(np.frombuffer(content, np.uint8), 40)
            try:
                for number, piece in enumerate(pieces):
                    if stall is not None and number == len(pieces) // 2:
                        stall.wait(30)
                        return
                    self.wfile.write(piece.tobytes())
                    time.sleep((pace or 0) / len(pieces))
            except (BrokenPipeError, ConnectionResetError):
                pass

    with listening(Handler) as address:
        yield f"{address}/stream"


@pytest.fixture(scope="module")
def transport_stream(tmp_path_factory) -> bytes:
    return make_video(tmp_path_factory.mktemp("live") / "live.ts", 60, codec="mpeg2video").read_bytes()


@pytest.fixture(scope="module")
def mp4(tmp_path_factory) -> Path:
    return make_video(tmp_path_factory.mktemp("live") / "clip.mp4", 30)


def test_a_video_behind_an_address_loses_nothing(recognizer, mp4):
    with served(mp4.read_bytes()) as address:
        live, pictures = recognizer.watch(address), []
        for picture in live:
            pictures.append(picture)
            while not live.windows:  # the caller is slow: an answer is there before the second picture is taken
                time.sleep(0.01)
    assert not live.live and len(pictures) == 30
    prediction = live.prediction()
    assert np.allclose([w.probabilities for w in prediction.windows], by_hand(mp4, stride=3), atol=1e-5)
    assert live.num_dropped == live.num_skipped == 0 and live.lost is None
    through = 0
    for index, picture in enumerate(pictures):
        through += through < len(prediction.windows) and prediction.windows[through].last_frame < index
        if not through:
            assert picture.probabilities is None, "no window is through yet"
        else:
            assert np.array_equal(picture.probabilities, prediction.windows[through - 1].probabilities)
    assert 0 < through < len(pictures)


@pytest.mark.slow
def test_a_stream_without_end_is_live_and_says_how_far_behind(recognizer, transport_stream):
    with served(transport_stream, pace=1.2) as address:
        live = recognizer.watch(address)
        pictures = list(live)
    assert live.live and live.lost is None
    assert len(pictures) + live.num_dropped == len(live.arrivals) > 50
    assert live.windows[0].last_frame >= 6
    steps = np.diff([window.last_frame for window in live.windows])
    assert (steps >= 3).all(), "at most every third frame"
    latencies = [picture.latency for picture in pictures if picture.latency is not None]
    assert latencies and 0 < min(latencies) < 5
    seconds = [picture.seconds for picture in pictures]
    assert seconds == sorted(seconds) and 0.5 < seconds[-1] < 10


@pytest.mark.slow
def test_what_is_slower_than_the_source_drops_windows_and_pictures_and_not_time(transport_stream):
    def slow(clips: np.ndarray) -> np.ndarray:
        time.sleep(0.3)
        return np.full((1, len(CLASSES)), 1 / len(CLASSES), np.float32)

    with served(transport_stream, pace=1.5) as address:
        live = LiveRecognition(address, SPEC, CLASSES, slow, stride=1)
        assert live.live
        seen = 0
        for _ in live:
            seen += 1
            time.sleep(0.05)  # 60 frames would take 3 s
    assert live.num_skipped > 10
    assert len(live.windows) < 12
    assert seen + live.num_dropped <= len(live.arrivals)


@pytest.mark.slow
def test_a_stream_that_stalls_is_said_and_what_came_is_kept(recognizer, transport_stream):
    end = threading.Event()
    with served(transport_stream, pace=0.5, stall=end) as address:
        live = recognizer.watch(address, timeout=1.0)
        pictures = list(live)
        end.set()
    assert live.lost == "no frame arrived for 1 s"
    assert pictures and live.prediction().windows


def test_the_command_line_watches_for_a_while(checkpoint, transport_stream, tmp_path, capsys, monkeypatch):
    argv = ["--checkpoint", checkpoint, "--duration", "0.5", "--output", tmp_path / "seen.mp4"]
    with served(transport_stream, pace=3) as address:
        status, out, err = run([address, *argv, "--json", tmp_path / "seen.json"], capsys, monkeypatch)
    assert (status, err) == (0, "")
    assert "live, 25 fps" in out and "dropped to keep up" in out
    with av.open(str(tmp_path / "seen.mp4")) as container:
        assert container.streams.video[0].codec_context.name == "h264"
        times = [float(frame.time) for frame in container.decode(video=0)]
    assert len(times) > 3 and 0.3 < times[-1] < 2
    answer = json.loads((tmp_path / "seen.json").read_text())
    assert answer["timeline"][0]["label"] in CLASSES
    assert answer["seconds"] >= 0.5


@pytest.mark.slow
def test_a_video_behind_an_address_that_breaks_off_is_said(checkpoint, tmp_path, capsys, monkeypatch):
    whole = make_video(tmp_path / "long.mkv", 150)
    json_file = tmp_path / "seen.json"
    for content, status, said in ((whole.read_bytes()[: whole.stat().st_size // 2], 1, "was lost: it breaks off after"),
                                  (whole.read_bytes(), 0, "")):  # fmt: skip
        with served(content) as address:
            argv = [address, "--checkpoint", checkpoint, "--json", json_file]
            found, out, err = run(argv, capsys, monkeypatch)
        assert found == status and said in err and bool(err) == bool(said) and "windows" in out
        assert bool(json.loads(json_file.read_text())["lost"]) == bool(said)


def test_that_a_live_source_ended_by_itself_is_said(checkpoint, transport_stream, capsys, monkeypatch):
    with served(transport_stream, pace=0.5) as address:
        status, out, err = run([address, "--checkpoint", checkpoint], capsys, monkeypatch)
    assert (status, err) == (0, "") and "  the source ended by itself\n" in out


def test_a_password_in_an_address_is_not_shown(checkpoint, transport_stream, tmp_path, capsys, monkeypatch):
    with served(transport_stream, pace=0.1) as address:
        secret = address.replace("//", "//anna:se@cret@")
        argv = [secret, "--checkpoint", checkpoint, "--json", tmp_path / "seen.json"]
        status, out, err = run(argv, capsys, monkeypatch)
    assert status == 0 and f"Watching {address}, live" in out
    assert json.loads((tmp_path / "seen.json").read_text())["video"] == address
    status, out, err = run(["rtsp://anna:secret@127.0.0.1:9/x", "--checkpoint", checkpoint], capsys, monkeypatch)
    assert status == 1 and err.startswith("rtsp://127.0.0.1:9/x cannot be opened")
    assert "anna" not in out + err


@contextmanager
def camera_over_http(rate: float, num_frames: int):
    """Motion JPEG as cameras on a network send it: pictures, without a word on their rate. Frames that wait already
    come at once."""
    pictures = [cv2.imencode(".jpg", pixels)[1].tobytes() for pixels in naming_video(num_frames, 0, (160, 120))]

    class Handler(QuietHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=picture")
            self.end_headers()
            try:
                for number, jpeg in enumerate(pictures):
                    head = f"--picture\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                    self.wfile.write(head.encode() + jpeg + b"\r\n")
                    time.sleep(1 / rate if number > 3 else 0)
            except (BrokenPipeError, ConnectionResetError):
                pass

    with listening(Handler) as address:
        yield f"{address}/video.mjpg"


@pytest.mark.slow
def test_a_rate_that_the_source_does_not_state_is_measured(recognizer):
    """FFmpeg says 25 for any Motion JPEG; windows in seconds would be five times too long."""
    with camera_over_http(rate=5, num_frames=18) as address:
        live = LiveRecognition(address, replace(SPEC, fps=5.0), CLASSES, recognizer.probabilities, stride=1)
        list(live)
    assert live.fps == pytest.approx(5, rel=0.4) and live.describe().endswith("fps, measured")
    assert len(live.arrivals) == 18
    assert live.step == pytest.approx(SPEC.frame_stride, rel=0.4), "a window has the network's seconds"


@pytest.mark.slow
def test_a_source_that_is_lost_is_opened_again_with_the_gap_in_the_timeline(recognizer, transport_stream, capsys):
    """Each connection sends half of the stream, as a camera that restarts; the last attempt finds nobody."""
    with served(transport_stream, pace=0.6) as address:
        live = recognizer.watch(address, reconnect=2)
        for picture in live:
            if len(live.gaps) == 2:
                live.reconnect = 0
            assert picture.pixels is not None
    said = capsys.readouterr().out
    assert said.count("it ended by itself; opening it again (1 of 2)") == 2 and "(2 of 2)" not in said
    assert live.closed and live.lost is None and len(live.gaps) == 2
    prediction = live.prediction()
    for window in prediction.windows:
        assert not any(window.first_frame < gap <= window.last_frame for gap in live.gaps)
    gaps = [segment for segment in prediction.timeline() if segment["label"] is None]
    assert len(gaps) == 2 and all(segment["end"] - segment["start"] > 0.9 for segment in gaps)
    covered = [segment for segment in prediction.timeline() if segment["label"]]
    assert covered[0]["first_frame"] == 0 and covered[-1]["last_frame"] == prediction.num_frames - 1


@pytest.mark.slow
def test_a_source_that_does_not_come_back_is_given_up(checkpoint, transport_stream, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("engine.inference.live.LONGEST_PAUSE", 0.1)
    with served(transport_stream, pace=0.5) as address:
        argv = [address, "--checkpoint", checkpoint, "--reconnect", "3", "--json", tmp_path / "seen.json"]
        closing = threading.Timer(1.0, lambda: monkeypatch.setattr(live_module, "open_live_source", refuse))
        closing.start()
        status, out, err = run(argv, capsys, monkeypatch)
    assert status == 0 and "the source ended by itself" in out and "(3 of 3)" in out, err
    assert json.loads((tmp_path / "seen.json").read_text())["windows"]


def refuse(name: str, timeout: float) -> None:
    raise UserError(f"{name} cannot be opened.")


def test_what_cannot_be_watched_is_one_line(checkpoint, transport_stream, capsys, monkeypatch, tmp_path):
    with served(b"no video at all" * 100) as address:
        status, out, err = run([address, "--checkpoint", checkpoint], capsys, monkeypatch)
        assert (status, out) == (1, "") and err.count("\n") == 1 and "cannot be opened" in err
    status, out, err = run(["http://127.0.0.1:9/x", "--checkpoint", checkpoint], capsys, monkeypatch)
    assert status == 1 and "cannot be opened" in err and err.count("\n") == 1
    status, out, err = run(["87", "--checkpoint", checkpoint], capsys, monkeypatch)
    assert status == 1 and "Camera 87 cannot be opened" in err
    status, out, err = run(["nonsense://x", "--checkpoint", checkpoint], capsys, monkeypatch)
    assert status == 1 and "nonsense://x cannot be opened" in err and err.count("\n") == 1
    for flag in (["--csv", tmp_path / "a.csv"], ["--explain"]):
        status, out, err = run(["rtsp://x", "--checkpoint", checkpoint, *flag], capsys, monkeypatch)
        assert status == 2 and "camera or a stream" in err
    status, out, err = run(["0", "1", "--checkpoint", checkpoint], capsys, monkeypatch)
    assert status == 2 and "must be the only source" in err


def test_a_file_named_as_a_number_is_no_camera(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "0").touch()
    assert find_sources(["0"]).live is None and find_sources(["1"]).live == "1"


def test_a_source_without_frames_is_an_error(recognizer, transport_stream):
    with served(transport_stream[:400]) as address, pytest.raises(UserError, match="cannot be opened|sent no frame"):
        live = recognizer.watch(address, timeout=2)
        list(live)
        live.prediction()


def test_an_address_that_does_not_answer_is_given_up(transport_stream):
    end = threading.Event()
    with served(transport_stream[:0] + b"x" * 4, pace=0.1, stall=end) as address:
        start = time.monotonic()
        with pytest.raises(UserError, match="cannot be opened"):
            Stream(address, timeout=0.5)
        assert time.monotonic() - start < 10
        end.set()


def test_a_stream_shorter_than_a_clip_is_read_at_the_networks_rate_and_ends_with_its_last_frame(tmp_path):
    video, spec, seen = make_video(tmp_path / "short.mp4", 5), replace(SPEC, fps=10.0), []

    def predict(clips: np.ndarray) -> np.ndarray:
        seen.append(clips[0])
        return np.full((1, len(CLASSES)), 1 / len(CLASSES), np.float32)

    with served(video.read_bytes()) as address:
        live = LiveRecognition(address, spec, CLASSES, predict, stride=1)
        list(live)
    with sliding_clips(video, spec, 1) as (clips, _):
        [(first, last, clip)] = list(clips)
    [window] = live.prediction().windows
    assert (window.first_frame, window.last_frame) == (first, last) == (0, 4)
    assert np.array_equal(seen[0], clip)
    assert (window.start, window.end) == (0.0, pytest.approx(5 / RATE))
