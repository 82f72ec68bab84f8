import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest

pytest.importorskip("fastapi", reason="pip install fastapi uvicorn python-multipart")

import serve
from engine.checkpoint import save_checkpoint
from engine.errors import ROOT, UsageError, UserError
from inference import Recognizer
from recognition.prediction import Prediction
from serving import connection, options, schema, uploads
from serving.batcher import Batcher
from serving.decoding import Decoder
from serving.limits import Limits
from tests.quicktime import packed_pictures
from tests.service import Running, running
from tests.test_inference import CLASSES, content_of
from tests.toy import naming_video, write_naming_video, write_video

LIMITS = Limits(max_bytes=300_000, max_seconds=8, max_pixels=200 * 150, max_named=1000)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("run") / "best.pth"
    save_checkpoint(path, content_of())
    return path


@pytest.fixture(scope="module")
def recognizer(checkpoint) -> Recognizer:
    return Recognizer(checkpoint, device="cpu", stride=3, amp="off", batch_size=4)


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("videos")
    names = ("clip.mp4", "clip.avi", "short.mkv", "long.mp4")
    lengths = (20, 33, 3, 180)
    return [write_naming_video(folder / name, n, n % 3) for name, n in zip(names, lengths, strict=True)]


@pytest.fixture(scope="module")
def server(recognizer):
    with running(recognizer, LIMITS, decoders=2) as server:
        yield server


class Gate:
    """A network that answers when it is let."""

    def __init__(self, recognizer: Recognizer):
        self.recognizer, self.open = recognizer, threading.Event()
        self.classes, self.input_spec = recognizer.classes, recognizer.input_spec
        self.stride, self.batch_size = recognizer.stride, recognizer.batch_size
        self.asked = threading.Event()

    def probabilities(self, clips: np.ndarray) -> np.ndarray:
        self.asked.set()
        assert self.open.wait(60)
        return self.recognizer.probabilities(clips)


@pytest.fixture
def gate(recognizer):
    gate = Gate(recognizer)
    yield gate
    gate.open.set()


def wait_until(condition) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def assert_same(answer: dict, prediction: Prediction, name: str, top: int = 5, threshold: float = 0.0) -> None:
    expected = prediction.to_dict(top, threshold)
    assert list(answer) == list(expected)
    assert answer["video"] == name
    for key in ("top", "timeline", "windows"):
        assert len(answer[key]) == len(expected[key])
        for ours, theirs in zip(answer[key], expected[key], strict=True):
            assert flat(ours) == pytest.approx(flat(theirs), abs=1e-5)
    rest = set(expected) - {"video", "top", "timeline", "windows"}
    assert {key: answer[key] for key in rest} == {key: expected[key] for key in rest}


def flat(entry: dict) -> dict:
    """Labels as numbers, so that approx takes all of it."""
    top = {f"{i} {likely['label']}": likely["probability"] for i, likely in enumerate(entry.get("top", ()))}
    return {**{k: v for k, v in entry.items() if k not in ("top", "label")}, **top, entry["label"]: 1}


# --- the answer


@pytest.mark.parametrize("number", range(4))
def test_the_answer_is_that_of_the_command_line(server, recognizer, videos, number):
    answer = server.send(videos[number], videos[number].name)
    assert answer.status_code == 200 and answer.headers["content-type"] == "application/json"
    assert_same(answer.json(), recognizer.predict(videos[number]), videos[number].name)


def test_parameters_are_those_of_the_command_line(server, checkpoint, videos):
    answer = server.send(videos[0], top=2, threshold=0.99, stride=5).json()
    other = Recognizer(checkpoint, device="cpu", stride=5, amp="off")
    assert_same(answer, other.predict(videos[0]), "clip.mp4", top=2, threshold=0.99)
    assert answer["label"] == "uncertain" and len(answer["windows"]) == 3


def test_the_body_may_be_the_video_itself(server, recognizer, videos):
    for kind in ("video/mp4", "application/octet-stream"):
        answer = server.client.post("/predict", content=videos[0].read_bytes(), headers={"content-type": kind})
        assert_same(answer.json(), recognizer.predict(videos[0]), "video")


def test_requests_at_the_same_time_get_each_its_own_answer(server, recognizer, videos):
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda number: server.send(videos[number % 4]), range(8)))
    for number, answer in enumerate(answers):
        assert_same(answer.json(), recognizer.predict(videos[number % 4]), "clip.mp4")


def test_windows_of_several_requests_go_through_the_network_together():
    sizes, begun, may_go_on = [], threading.Event(), threading.Event()

    def probabilities(clips: np.ndarray) -> np.ndarray:
        sizes.append(len(clips))
        begun.set()
        assert may_go_on.wait(20)
        return clips.reshape(len(clips), -1)[:, :1].astype(np.float32)

    batcher = Batcher(probabilities, batch_size=4)
    futures = [batcher.submit(np.full((1, 2, 2, 3), 0, np.uint8))]
    assert begun.wait(20)
    futures += [batcher.submit(np.full((1, 2, 2, 3), number, np.uint8)) for number in range(1, 8)]
    futures[2].cancel()  # its client went away
    may_go_on.set()
    batcher.close()
    assert sizes == [1, 4, 2]
    assert [future.result()[0] for i, future in enumerate(futures) if i != 2] == [0, 1, 3, 4, 5, 6, 7]


def test_a_network_that_answers_too_few_windows_leaves_nobody_waiting():
    batcher = Batcher(lambda clips: clips[1:], batch_size=1)
    futures = [batcher.submit(np.zeros((1, 2, 2, 3), np.uint8)) for _ in range(2)]
    for future in futures:
        with pytest.raises(ValueError, match="shorter"):
            future.result(20)
    batcher.close()


def test_what_the_documents_say_is_what_comes(server, recognizer, videos):
    answer = server.send(videos[0]).json()
    assert schema.Answer.model_validate(answer).model_dump() == answer
    paths = server.client.get("/openapi.json").json()["paths"]
    assert set(paths) == {"/predict", "/health", "/model"}
    assert set(paths["/predict"]["post"]["responses"]) >= {"200", "400", "408", "413", "415", "422", "503", "504"}
    assert "multipart/form-data" in paths["/predict"]["post"]["requestBody"]["content"]

    model = server.client.get("/model").json()
    assert (model["model"], model["classes"]) == ("r3d_10", CLASSES)
    assert model["input_spec"] == recognizer.input_spec.to_dict()
    assert model["limits"]["max_bytes"] == LIMITS.max_bytes
    health = server.client.get("/health").json()
    assert (health["status"], health["there"], health["working"], health["queue"]) == ("ok", 0, 0, 8)
    assert health["answered"] > 0


# --- what is refused


def form(content: bytes, name: str = "video", file: str | None = '"clip.mp4"') -> dict:
    disposition = f'form-data; name="{name}"' + (f"; filename={file}" if file else "")
    body = b"--x\r\nContent-Disposition: " + disposition.encode() + b"\r\n\r\n" + content + b"\r\n--x--\r\n"
    return {"content": body, "headers": {"content-type": "multipart/form-data; boundary=x"}}


PLAYLIST = b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"
RAW = {"content-type": "video/mp4"}


@pytest.mark.parametrize(
    ("query", "request_", "status", "says"),
    [
        ("", {"data": {"a": "b"}}, 415, "The body is 'application/x-www-form-urlencoded'. Send multipart/form-data"),
        ("", {}, 415, "The body is ''."),
        ("", form(b"", "film"), 400, "Unknown field 'film'."),
        ("", form(b"clip.mp4", file=None), 400, "The field 'video' is no file: curl -F video=@clip.mp4 (with the @)"),
        ("", {**form(b""), "content": form(b"")["content"][:-4]}, 400, "The form is cut off"),
        ("", {**form(b""), "content": b"no form at all"}, 400, "The form cannot be read"),
        ("", {**form(b""), "headers": {"content-type": "multipart/form-data"}}, 400, "names no boundary"),
        ("", {**form(b""), "content": b"--x--\r\n"}, 400, "The form has no field 'video'"),
        ("", {"files": [("video", ("a.mp4", b"a")), ("video", ("b.mp4", b"b"))]}, 400, "more than one field 'video'"),
        ("", form(b""), 415, "This cannot be used as a video: the file is empty (0 bytes)."),
        ("", form(b"a text, and long enough\n" * 50), 415, "it is not a video that can be opened."),
        ("", form(PLAYLIST), 415, "it is not a video that can be opened."),
        (
            "",
            {**form(b""), "headers": {"content-type": f"multipart/form-data; {';' * 5000}"}},
            400,
            "more than 4,096 bytes",
        ),
        ("", {**form(b""), "headers": {**RAW, "sec-fetch-site": "cross-site"}}, 403, "asked by a page from elsewhere"),
        ("", {"content": b"", "headers": {**RAW, "content-encoding": "gzip"}}, 415, "without Content-Encoding"),
        ("", {"content": b"0" * 400_000, "headers": RAW}, 413, "The file is larger than 0.3 MB, the limit of this"),
        ("", {"content": iter([b"0" * 200_000] * 2), "headers": RAW}, 413, "The file is larger than 0.3 MB"),
        ("", {"files": {"video": b"0" * 310_000}}, 413, "The file is larger than 0.3 MB"),
        ("?top=0", form(b""), 422, "top: Input should be greater than or equal to 1, but is '0'."),
        ("?threshold=2", form(b""), 422, "threshold: Input should be less than or equal to 1, but is '2'."),
        ("?stride=x", form(b""), 422, "stride: Input should be a valid integer"),
        ("?tpo=3", form(b""), 422, "Unknown parameter 'tpo'. Did you mean 'top'?"),
        ("?a%0Ab=3", form(b""), 422, "Unknown parameter 'a\ufffdb'."),
    ],
)
def test_what_is_wrong_is_said_in_one_line(server, query, request_, status, says):
    answer = server.client.post(f"/predict{query}", **request_)
    assert answer.status_code == status
    detail = answer.json()["detail"]
    assert says in detail and "\n" not in detail
    assert str(server.folder) not in detail
    assert list(server.folder.iterdir()) == []


def test_a_client_writes_no_lines_of_its_own_into_the_log(server, capsys):
    for path in ("/x%0A12:00:00 200 forged", "/predict?x%0D%0A12:00:00 200 forged=1", f"/predict?{'x' * 10_000}=1"):
        server.client.post(path)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and max(map(len, lines)) < 300
    assert [line[9:12] for line in lines] == ["404", "422", "422"]


def test_head_is_get_without_the_content(server):
    for path in ("/", "/health", "/model"):
        got, asked = server.client.get(path), server.client.head(path)
        assert (asked.status_code, asked.content) == (200, b"")
        assert asked.headers["content-type"] == got.headers["content-type"]
    assert server.client.head("/predict").status_code == 405


def test_other_addresses_and_methods_are_refused_alike(server):
    assert server.client.get("/predict").status_code == 405
    assert server.client.post("/nothing", content=b"x" * 1000).json() == {"detail": "Not Found"}


def test_a_file_that_breaks_off_is_answered_or_refused(server, videos):
    content = videos[1].read_bytes()
    assert server.send(content[: len(content) // 2]).json()["num_damaged"] >= 0
    assert server.send(videos[0].read_bytes()[:600]).status_code == 415


def test_a_picture_is_refused_by_its_header(server, tmp_path):
    """A few bytes may claim to be a picture of any size."""
    write_video(tmp_path / "large.mp4", naming_video(3, size=(400, 300)))
    answer = server.send(tmp_path / "large.mp4")
    assert answer.status_code == 422
    assert "its pictures are 400x300, and this server takes at most 30,000 pixels a picture" in answer.json()["detail"]


def test_a_picture_is_refused_where_the_header_is_not_believed(server, tmp_path):
    """The stream changes to a larger picture behind its first frames, which a header cannot tell."""
    small = write_video(tmp_path / "small.h264", naming_video(3), "libx264")
    large = write_video(tmp_path / "large.h264", naming_video(3, size=(400, 300)), "libx264")
    answer = server.send(small.read_bytes() + large.read_bytes())
    assert answer.status_code == 422 and "400x300" in answer.json()["detail"]


def test_pictures_that_fill_the_memory_are_refused(gate):
    """12 KB that become 300 MB."""
    gate.open.set()
    content = packed_pictures(10_000, 1)
    with running(gate, Limits(max_pixels=10**9, memory=300 << 20)) as server:
        answer = server.send(content)
        assert answer.status_code == 422
        assert "its pictures take more memory than one video may have on this server" in answer.json()["detail"]
    with running(gate, Limits(max_pixels=10**9)) as server:
        assert server.send(content).status_code == 200


def test_a_long_video_is_refused_by_its_header_and_by_its_frames(server, tmp_path):
    write_naming_video(tmp_path / "long.mp4", 240, size=(32, 32))
    answer = server.send(tmp_path / "long.mp4")
    assert answer.status_code == 422 and "it lasts 10 s, and this server takes at most 8 s" in answer.json()["detail"]
    write_naming_video(tmp_path / "long.h264", 240, size=(32, 32), codec="libx264")  # a stream without a duration
    answer = server.send(tmp_path / "long.h264")
    assert answer.status_code == 422 and "it has more than 200 frames, at 25 a second" in answer.json()["detail"]


def test_an_answer_has_a_largest_size(server, videos):
    """180 frames, 174 windows, 6 classes"""
    assert server.send(videos[3], stride=1, top=5).status_code == 200
    answer = server.send(videos[3], stride=1, top=100)
    assert answer.status_code == 422
    assert "more than 1,000 probabilities, 6 for each window. Ask for a larger stride" in answer.json()["detail"]


def test_an_upload_without_end_is_cut(server):
    sent = 0

    def endless():
        nonlocal sent
        while sent < 1 << 30:
            sent += 1 << 16
            yield bytes(1 << 16)

    answer = server.client.post("/predict", content=endless(), headers=RAW)
    assert answer.status_code == 413 and sent < 1 << 28
    assert list(server.folder.iterdir()) == []


def test_no_name_of_a_client_touches_the_disk(gate, videos):
    """../ and the like are only echoed, without what a terminal or a log would act on."""
    with running(gate) as server, ThreadPoolExecutor() as pool:
        for name, shown in [
            ("../../../etc/passwd", "../../../etc/passwd"),
            ("/etc/cron.d/x\x1b[2J.mp4", "/etc/cron.d/x\ufffd[2J.mp4"),
            ("Übung <b>.mp4", "Übung <b>.mp4"),
            ("a" * 500, "a" * 117 + "..."),
        ]:
            gate.open.clear()
            gate.asked.clear()
            answer = pool.submit(httpx.post, f"{server.address}/predict", timeout=60, **form(
                videos[0].read_bytes(), file=f'"{name}"'
            ))  # fmt: skip
            assert gate.asked.wait(60)
            [path] = server.folder.iterdir()
            assert len(path.name) == 32 and set(path.name) <= set("0123456789abcdef")
            gate.open.set()
            assert answer.result().json()["video"] == shown
        assert list(server.folder.iterdir()) == []


# --- time, places, and processes that end


def raw_request(server: Running, content: bytes, length: int | None = None) -> socket.socket:
    """A client of which we hold the line."""
    line = connected(server)
    head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: video/mp4\r\nContent-Length: {length or len(content)}"
    line.sendall(head.encode() + b"\r\n\r\n" + content)
    return line


def connected(server: Running) -> socket.socket:
    host, port = server.address.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=20)


def read_to_the_end(line: socket.socket) -> bytes:
    """What the server still says until it ends the connection. Raises TimeoutError where it does not."""
    content = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := line.recv(1 << 20):
            content += piece
    return content


def test_a_full_queue_is_503_with_retry_after(gate, videos):
    with running(gate, decoders=1, waiting=1) as server, ThreadPoolExecutor() as pool:
        answers = [pool.submit(server.send, videos[0]) for _ in range(2)]
        wait_until(lambda: server.service.num_there == 2)
        refused = server.send(videos[0])
        assert refused.status_code == 503 and int(refused.headers["retry-after"]) >= 1
        assert "2 requests are waiting or at work" in refused.json()["detail"]
        gate.open.set()
        assert [answer.result().status_code for answer in answers] == [200, 200]
        assert server.send(videos[0]).status_code == 200


def test_a_killed_decoder_costs_its_own_request_only(gate, videos):
    with running(gate) as server, ThreadPoolExecutor() as pool:
        answer = pool.submit(server.send, videos[3], stride=1)  # more windows than are read ahead: it is at work
        assert gate.asked.wait(60)
        [decoder] = server.service.decoders
        before = decoder.process.pid
        os.kill(before, signal.SIGKILL)
        gate.open.set()
        assert answer.result().status_code == 500
        assert answer.result().json() == {"detail": "Something went wrong in the server. Its log has the reason."}
        assert server.send(videos[3]).status_code == 200
        assert decoder.process.pid != before
        assert server.client.get("/health").json()["failed"] == 1


def test_a_crash_on_a_video_is_the_videos_fault(gate, videos):
    with running(gate) as server, ThreadPoolExecutor() as pool:
        answer = pool.submit(server.send, videos[3], stride=1)
        assert gate.asked.wait(60)
        os.kill(server.service.decoders[0].process.pid, signal.SIGSEGV)
        gate.open.set()
        assert answer.result().status_code == 415
        assert "the decoder crashed on it (SIGSEGV)" in answer.result().json()["detail"]


def test_work_ends_when_the_client_goes_away(gate, videos):
    with running(gate, decoders=1) as server:
        lines = [raw_request(server, videos[3].read_bytes()) for _ in range(2)]  # one at work, one waiting
        assert gate.asked.wait(60)
        wait_until(lambda: server.service.num_there == 2 and len(list(server.folder.iterdir())) == 2)
        half = raw_request(server, b"0" * 1000, 2000)  # and one that is still being sent
        wait_until(lambda: server.service.num_there == 3)
        for line in [*lines, half]:
            line.close()
        wait_until(lambda: server.service.num_there == 0)
        assert list(server.folder.iterdir()) == []
        gate.open.set()
        assert server.send(videos[0]).status_code == 200


def test_work_and_uploads_that_take_too_long_are_ended(gate, videos):
    with running(gate, Limits(timeout=0.3, upload_timeout=0.3)) as server:
        answer = server.send(videos[3], stride=1)
        assert answer.status_code == 504 and "no answer after 0.3 s" in answer.json()["detail"]
        with raw_request(server, b"0" * 1000, 2000) as line:
            answer = b""
            while b'"}' not in answer:
                answer += line.recv(10_000)
        assert answer.startswith(b"HTTP/1.1 408") and b"The upload was not through after 0.3 s" in answer
        assert list(server.folder.iterdir()) == []
        gate.open.set()
        assert server.send(videos[0]).status_code == 200


def test_who_still_waits_when_the_server_must_end_is_told(gate, videos, capfd):
    with running(gate) as server, ThreadPoolExecutor() as pool:
        answer = pool.submit(server.send, videos[3])
        assert gate.asked.wait(60)
        server.web.should_exit = server.web.force_exit = True  # Ctrl-C, twice
        assert answer.result().status_code == 503
        assert answer.result().json() == {"detail": "The server is being stopped."}
        gate.open.set()
    assert "Traceback" not in capfd.readouterr().err


def test_a_killed_decoder_is_given_no_video(recognizer, videos):
    """The processor may take its time with the end of a process: it looks alive until then."""
    decoder = Decoder(recognizer.input_spec, Limits())
    decoder.start()
    try:
        for _ in range(2):
            windows = decoder.windows(videos[3], stride=1)
            next(windows)
            windows.close()  # left before its end, which kills the process
        assert len(list(decoder.windows(videos[3], stride=1))) == 174
    finally:
        decoder.close()


def test_who_never_comes_to_the_end_of_a_header_is_left(gate):
    with running(gate, Limits(upload_timeout=1)) as server, connected(server) as line:
        line.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert line.recv(12) == b"HTTP/1.1 200"
        line.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\n")
        assert b'"status":"ok"' in read_to_the_end(line)


def test_who_takes_nothing_of_an_answer_is_left(gate):
    request = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n"
    with running(gate, Limits(upload_timeout=1)) as server, connected(server) as line:
        length = len(server.client.get("/openapi.json").content)
        with contextlib.suppress(ConnectionError):  # left before all was asked
            line.sendall(request)
            line.recv(1)  # the connection is there
            line.sendall(request * 2000)
        wait_until(lambda: line.getsockname() not in clients_of(server))
        assert len(read_to_the_end(line)) < 2000 * length


def clients_of(server: Running) -> list[tuple[str, int]]:
    return [connection.client for connection in list(server.web.server_state.connections)]


def test_who_only_holds_the_line_makes_room_for_others(gate, videos, monkeypatch):
    monkeypatch.setattr(connection, "SPARE", 10)
    with running(gate, decoders=1, waiting=1) as server, ThreadPoolExecutor() as pool, contextlib.ExitStack() as stack:
        answer = pool.submit(server.send, videos[3])
        assert gate.asked.wait(60)
        lines = [stack.enter_context(connected(server)) for _ in range(50)]
        assert read_to_the_end(lines[0]) == b""
        assert httpx.get(f"{server.address}/health", timeout=60).json()["working"] == 1
        wait_until(lambda: len(server.web.server_state.connections) <= 12)
        gate.open.set()
        assert answer.result().status_code == 200, "who waits for an answer is not idle"


def test_an_upload_that_hardly_moves_is_ended(gate, monkeypatch):
    """Far sooner than one that is only large: it holds a place."""
    monkeypatch.setattr(uploads, "PATIENCE", 0.5)
    with running(gate, Limits(upload_timeout=100)) as server, raw_request(server, b"0", 1000) as line:
        line.settimeout(0.1)
        answer = b""
        for _ in range(300):
            with contextlib.suppress(TimeoutError):
                answer = line.recv(10_000)
                break
            line.sendall(b"0")
        line.settimeout(60)
        while answer and not answer.endswith(b"}") and (more := line.recv(10_000)):  # the head may come alone
            answer += more
        assert answer.startswith(b"HTTP/1.1 408") and b"less than 16 KB a second" in answer
        wait_until(lambda: server.service.num_there == 0)


def test_a_network_that_fails_is_said_without_its_traceback(recognizer, videos, capfd):
    gate = Gate(recognizer)
    gate.probabilities = lambda clips: clips["no such thing"]
    with running(gate) as server:
        answer = server.send(videos[0])
        assert answer.status_code == 500
        assert answer.json() == {"detail": "Something went wrong in the server. Its log has the reason."}
    assert "Traceback" in capfd.readouterr().err


def test_whether_only_a_new_start_helps_is_asked_of_health(recognizer, videos):
    gate = Gate(recognizer)
    gate.open.set()
    gate.probabilities = lambda clips: clips["no such thing"]
    with running(gate) as server:
        for failed in range(4):
            health = server.client.get("/health")
            assert (health.status_code, health.json()["status"]) == ((200, "ok"), (503, "failing"))[failed == 3]
            assert health.json()["failed"] == failed
            assert server.send(videos[2]).status_code == 500  # too short for more than one window
        server.service.batcher.probabilities = recognizer.probabilities
        assert server.send(videos[2]).status_code == 200
        assert server.client.get("/health").json()["status"] == "ok"

        known = server.service.decoders[0].known
        server.service.decoders[0].known = "no JSON"
        server.service.decoders[0].kill()
        assert server.send(videos[2]).status_code == 500
        wait_until(lambda: server.client.get("/health").status_code == 503)
        server.service.decoders[0].known = known
        assert server.send(videos[2]).status_code == 200
        wait_until(lambda: server.client.get("/health").status_code == 200)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs a file that nobody writes")
def test_a_decoder_ends_with_its_server(recognizer, tmp_path):
    """In the middle of what it does: a killed server cannot end it."""
    os.mkfifo(tmp_path / "without end")
    decoder = Decoder(recognizer.input_spec, Limits())
    decoder.start()
    try:
        decoder.process.stdin.write(json.dumps({"path": str(tmp_path / "without end"), "stride": 1}).encode() + b"\n")
        decoder.process.stdin.close()
        decoder.process.wait(30)
    finally:
        decoder.close()


def test_decoding_loads_no_torch():
    code = "import sys, serving.decoder; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


# --- the command line


def test_a_killed_server_leaves_nothing_for_long(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    ended = subprocess.Popen(["true"])
    ended.wait()
    for name in (f"{ended.pid}-left", f"{os.getpid()}-container", f"{os.getppid()}-used", "other"):
        (tmp_path / f"video-serve-{name}").mkdir()
    with uploads.upload_folder() as folder, uploads.upload_folder() as second:
        assert {path.name for path in tmp_path.iterdir()} == {
            f"video-serve-{os.getppid()}-used", "video-serve-other", folder.name, second.name
        }  # fmt: skip
    assert not folder.exists() and not second.exists()


def not_in_the_image() -> list[str]:
    """Modules of what requirements.txt has and the Dockerfile does not install."""
    lists = re.findall(r"grep -E '\^\(([^)]+)\)=='", (ROOT / "Dockerfile").read_text())
    installed = {name for names in lists for name in names.split("|")}
    pinned = set(re.findall(r"^(\S+)==", (ROOT / "requirements.txt").read_text(), re.MULTILINE))
    assert installed < pinned
    return sorted({"scikit-learn": "sklearn"}.get(name, name.replace("-", "_")) for name in pinned - installed)


def test_the_command_line_serves_and_ends_with_what_it_began(checkpoint, videos, recognizer, tmp_path):
    """And needs nothing that the image of the Dockerfile has not."""
    absent = f"import runpy, sys; sys.modules.update(dict.fromkeys({not_in_the_image()}));"
    command = [sys.executable, "-c", f"{absent} runpy.run_path('serve.py', run_name='__main__')"]
    command += [str(checkpoint), "--port", "0", "--device", "cpu", "--amp", "off"]
    env = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [*command, "--stride", "3"], cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        first = process.stdout.readline()
        assert "(6 classes) on http://127.0.0.1:" in first
        address = first.split()[-3].rstrip(";")
        answer = httpx.post(f"{address}/predict", files={"video": videos[0].read_bytes()}, timeout=60)
        assert_same(answer.json(), recognizer.predict(videos[0]), "upload")
        assert len(list(tmp_path.glob("video-serve-*"))) == 1
    finally:
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 143 and err == "Stopped by SIGTERM.\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ([], "Give CHECKPOINT, or --model NAME with --weights"),
        (["run", "--weights", "a.pth", "--model", "c3d"], "CHECKPOINT brings network, weights and class names"),
        (["run", "--port", "99999"], "'99999' is no port: a whole number up to 65535"),
        (["run", "--max-size", "0"], "'0' is not a number greater than 0"),
        (["run", "--queue", "-1"], "'-1' is not a whole number of at least 0"),
    ],
)
def test_a_wrong_command_line_is_said_in_one_line(argv, says, capsys):
    with pytest.raises((UsageError, SystemExit)) as ended:
        options.parse_args(argv)
    assert says in (str(ended.value) if isinstance(ended.value, UsageError) else capsys.readouterr().err)


def test_a_network_that_cannot_answer_is_not_served(tmp_path):
    content = content_of()
    content["model"]["fc.bias"][0] = float("nan")
    save_checkpoint(tmp_path / "best.pth", content)
    with pytest.raises(UserError, match="The network's answer is not a number"):
        serve.main([str(tmp_path / "best.pth"), "--port", "0", "--device", "cpu"])


def test_the_model_is_described_without_the_place_of_its_data(tmp_path):
    save_checkpoint(tmp_path / "best.pth", content_of(config={"model": "r3d_10", "dataset": "/home/me/my videos"}))
    about = serve.about(Recognizer(tmp_path / "best.pth", device="cpu"))
    assert (about["model"], about["dataset"], about["classes"]) == ("r3d_10", "my videos", CLASSES)


def test_a_port_in_use_is_said_before_the_network_is_loaded():
    with serve.listen("127.0.0.1", 0) as sock:
        sock.listen()
        port = sock.getsockname()[1]
        with pytest.raises(UserError, match=f"Cannot listen on 127.0.0.1, port {port}: .* Choose another --port"):
            serve.main(["no such run", "--port", str(port)])


def test_the_second_of_two_servers_on_one_port_is_told():
    """Both may take it as long as none of them listens."""
    with serve.listen("127.0.0.1", 0) as first, serve.listen("127.0.0.1", first.getsockname()[1]) as second:
        serve.open_to_clients(first, 1)
        with pytest.raises(UserError, match=f"Cannot listen on 127.0.0.1, port {first.getsockname()[1]}: "):
            serve.open_to_clients(second, 1)


def test_a_host_that_cannot_be_is_said_in_one_line():
    with pytest.raises(UserError, match="Cannot listen on a..b, port 0: no such name. Choose another"):
        serve.listen("a..b", 0)


def test_what_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(UserError, match="uvicorn, which is not installed: pip install fastapi uvicorn python-multi"):
        options.check_installed()
