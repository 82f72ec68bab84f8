"""Who has a place in the service and for how long: full queues, clients that go away or only hold the line, work that
takes too long, and decoders that end."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest

pytest.importorskip("fastapi", reason="pip install fastapi uvicorn python-multipart")

from common.files import ROOT
from engine.serving import connection, decoding, uploads
from engine.serving.decoding import Decoder
from engine.serving.limits import Limits
from tests.helpers.service import Gate, Running, running, wait_until


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
        assert "2 requests are waiting or running" in refused.json()["detail"]
        gate.open.set()
        assert [answer.result().status_code for answer in answers] == [200, 200]
        assert server.send(videos[0]).status_code == 200


def test_a_long_video_is_decoded_no_faster_than_the_network_answers(recognizer, videos):
    """Else it would lie in memory as windows."""
    gate, waiting = Gate(recognizer), []

    def slow(clips: np.ndarray) -> np.ndarray:
        time.sleep(0.02)
        waiting.append(server.service.batcher.waiting.qsize())
        return recognizer.probabilities(clips)

    gate.probabilities = slow
    with running(gate) as server:
        assert len(server.send(videos[3], stride=3).json()["windows"]) == 58
    assert max(waiting) <= 2 * gate.batch_size


def test_who_is_still_sending_when_refused_can_send_on_and_reads_why(gate):
    """Else the connection would break under the upload, and the reason be lost."""
    with running(gate, Limits(max_bytes=1000)) as server, raw_request(server, bytes(20 << 20)) as line:
        answer = read_to_the_end(line)
    assert answer.startswith(b"HTTP/1.1 413") and b"The file is larger than" in answer


def test_when_to_come_again_follows_from_how_long_requests_take(gate):
    with running(gate, decoders=2) as server:
        for seconds, wait in ((0.01, 1), (10, 5), (1000, 60)):
            server.service.seconds_each = seconds
            assert server.service.retry_after() == wait


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_a_decoder_that_a_video_has_made_large_is_replaced(gate, videos, monkeypatch):
    gate.open.set()
    with running(gate) as server:
        [decoder] = server.service.decoders
        before = decoder.worker.process.pid
        assert server.send(videos[0]).status_code == server.send(videos[0]).status_code == 200
        assert decoder.worker.process.pid == before
        monkeypatch.setattr(decoding, "KEPT", 1 << 20)
        assert server.send(videos[0]).status_code == 200
        wait_until(lambda: decoder.worker.process is not None and decoder.worker.process.pid != before)
        assert server.send(videos[0]).status_code == 200


def test_a_killed_decoder_costs_its_own_request_only(gate, videos):
    with running(gate) as server, ThreadPoolExecutor() as pool:
        answer = pool.submit(server.send, videos[3], stride=1)  # more windows than are read ahead: it is at work
        assert gate.asked.wait(60)
        [decoder] = server.service.decoders
        before = decoder.worker.process.pid
        os.kill(before, signal.SIGKILL)
        gate.open.set()
        assert answer.result().status_code == 500
        assert answer.result().json() == {"detail": "Something went wrong in the server. Its log has the reason."}
        assert server.send(videos[3]).status_code == 200
        assert decoder.worker.process.pid != before
        assert server.client.get("/health").json()["failed"] == 1


def test_a_crash_on_a_video_is_the_videos_fault(gate, videos):
    with running(gate) as server, ThreadPoolExecutor() as pool:
        answer = pool.submit(server.send, videos[3], stride=1)
        assert gate.asked.wait(60)
        os.kill(server.service.decoders[0].worker.process.pid, signal.SIGSEGV)
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


@pytest.mark.slow
def test_work_and_uploads_that_take_too_long_are_ended(gate, videos):
    with running(gate, Limits(timeout=0.3, upload_timeout=0.3)) as server:
        answer = server.send(videos[3], stride=1)
        assert answer.status_code == 504 and "took more than 0.3 s" in answer.json()["detail"]
        with raw_request(server, b"0" * 1000, 2000) as line:
            answer = b""
            while b'"}' not in answer:
                answer += line.recv(10_000)
        assert answer.startswith(b"HTTP/1.1 408") and b"The upload took more than 0.3 s" in answer
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


@pytest.mark.slow
def test_who_never_comes_to_the_end_of_a_header_is_left(gate):
    with running(gate, Limits(upload_timeout=1)) as server, connected(server) as line:
        line.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert line.recv(12) == b"HTTP/1.1 200"
        line.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\n")
        assert b'"status":"ok"' in read_to_the_end(line)


@pytest.mark.slow
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


@pytest.mark.slow
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
        assert answer.startswith(b"HTTP/1.1 408") and b"slower than 16 KB per second" in answer
        wait_until(lambda: server.service.num_there == 0)


def test_a_network_that_fails_is_said_without_its_traceback(recognizer, videos, capfd):
    gate = Gate(recognizer)
    gate.probabilities = lambda clips: clips["no such thing"]
    with running(gate) as server:
        answer = server.send(videos[0])
        assert answer.status_code == 500
        assert answer.json() == {"detail": "Something went wrong in the server. Its log has the reason."}
    assert "Traceback" in capfd.readouterr().err


@pytest.mark.slow
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

        worker = server.service.decoders[0].worker
        arguments, worker.arguments = worker.arguments, ("no JSON",)
        server.service.decoders[0].kill()
        assert server.send(videos[2]).status_code == 500
        wait_until(lambda: server.client.get("/health").status_code == 503)
        worker.arguments = arguments
        assert server.send(videos[2]).status_code == 200
        wait_until(lambda: server.client.get("/health").status_code == 200)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs a file that nobody writes")
def test_a_decoder_ends_with_its_server(recognizer, tmp_path):
    """In the middle of what it does: a killed server cannot end it."""
    os.mkfifo(tmp_path / "without end")
    decoder = Decoder(recognizer.input_spec, Limits())
    decoder.start()
    try:
        decoder.worker.process.stdin.write(
            json.dumps({"path": str(tmp_path / "without end"), "stride": 1}).encode() + b"\n"
        )
        decoder.worker.process.stdin.close()
        decoder.worker.process.wait(30)
    finally:
        decoder.close()


def test_decoding_loads_no_torch():
    code = "import sys, engine.serving.decoder; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
