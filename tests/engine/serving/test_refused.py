"""Requests that the service refuses: by which status, with which reason, and what is left of them (nothing)."""

import json
import socket
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

pytest.importorskip("fastapi", reason="pip install fastapi uvicorn python-multipart")

from engine.serving.limits import Limits
from tests.helpers.quicktime import packed_pictures
from tests.helpers.service import LIMITS, running, wait_until
from tests.helpers.toy import naming_video, write_naming_video, write_video


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
        ("", form(b"a text, and long enough\n" * 50), 415, "it cannot be opened as a video."),
        ("", form(PLAYLIST), 415, "it cannot be opened as a video."),
        (
            "",
            {**form(b""), "headers": {"content-type": f"multipart/form-data; {';' * 5000}"}},
            400,
            "more than 4,096 bytes",
        ),
        ("", {**form(b""), "headers": {**RAW, "sec-fetch-site": "cross-site"}}, 403, "web page of another site"),
        ("", {"content": b"", "headers": {**RAW, "content-encoding": "gzip"}}, 415, "without Content-Encoding"),
        ("", {"content": b"0" * 400_000, "headers": RAW}, 413, "The file is larger than 0.3 MB, the limit of this"),
        ("", {"content": iter([b"0" * 200_000] * 2), "headers": RAW}, 413, "The file is larger than 0.3 MB"),
        ("", {"files": {"video": b"0" * 310_000}}, 413, "The file is larger than 0.3 MB"),
        ("", {**form(b""), "content": form(b"")["content"] + b"\n" * 70_000}, 413, "more than 64 KB beside its file"),
        ("?top=0", form(b""), 422, "top: Input should be greater than or equal to 1, but is '0'."),
        ("?threshold=2", form(b""), 422, "threshold: Input should be less than or equal to 1, but is '2'."),
        ("?stride=x", form(b""), 422, "stride: Input should be a valid integer"),
        ("?pictures=201", form(b""), 422, "pictures: Input should be less than or equal to 200, but is '201'."),
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
    answer = server.client.get("/predict")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert answer.json()["detail"].startswith("GET is not for '/predict'. A video goes to POST /predict: curl -F")
    answer = server.client.post("/no{0}thing%0A", content=b"x" * 1000)
    assert answer.status_code == 404
    assert answer.json()["detail"].startswith("'/no{0}thing\ufffd' does not exist. The service has POST")


def test_no_address_leads_to_another_one(server):
    """A redirect would leave out the path below which a proxy serves all of it."""
    for path in ("/predict/", "/model/", "/docs/", "/health/"):
        assert server.client.get(path).status_code == 404


def test_a_name_may_be_given_in_utf_8_alone(server, videos, capsys):
    content = videos[0].read_bytes()
    for header, name in (
        ("filename*=UTF-8''%c3%9cbung%201.mp4", "Übung 1.mp4"),
        ('filename="plain.mp4"; filename*=UTF-8%c3%9c.mp4', "plain.mp4"),
    ):
        sent = form(content)
        sent["content"] = sent["content"].replace(b'filename="clip.mp4"', header.encode())
        answer = server.client.post("/predict", **sent)
        assert answer.status_code == 200 and answer.json()["video"] == name


def test_a_client_that_closes_its_side_is_told(gate, videos):
    with running(gate, LIMITS) as server:
        host, port = server.address.removeprefix("http://").split(":")
        content = videos[0].read_bytes()
        head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: video/mp4\r\nContent-Length: {len(content)}\r\n\r\n"
        for body in (content, content[:1000]):
            with socket.create_connection((host, int(port)), timeout=30) as line:
                line.sendall(head.encode() + body)
                wait_until(lambda: server.service.num_there == 1)
                line.shutdown(socket.SHUT_WR)
                answer = b"".join(iter(lambda line=line: line.recv(4096), b""))
            assert answer.startswith(b"HTTP/1.1 400 ") and answer.count(b"HTTP/1.1") == 1
            assert "must stay open until then" in json.loads(answer.partition(b"\r\n\r\n")[2])["detail"]
            wait_until(lambda: server.service.num_there == 0)
        gate.open.set()


def test_a_file_that_breaks_off_is_answered_or_refused(server, videos):
    content = videos[1].read_bytes()
    assert server.send(content[: len(content) // 2]).json()["num_damaged"] >= 0
    assert server.send(videos[0].read_bytes()[:600]).status_code == 415


def test_a_picture_is_refused_by_its_header(server, tmp_path):
    """A few bytes may claim to be a picture of any size."""
    write_video(tmp_path / "large.mp4", naming_video(3, size=(400, 300)))
    answer = server.send(tmp_path / "large.mp4")
    assert answer.status_code == 422
    assert "its frames are 400x300, and this server takes at most 30,000 pixels per frame" in answer.json()["detail"]


def test_a_picture_is_refused_where_the_header_is_not_believed(server, tmp_path):
    """The stream changes to a larger picture behind its first frames, which a header cannot tell."""
    small = write_video(tmp_path / "small.h264", naming_video(3), "libx264")
    large = write_video(tmp_path / "large.h264", naming_video(3, size=(400, 300)), "libx264")
    answer = server.send(small.read_bytes() + large.read_bytes())
    assert answer.status_code == 422 and "400x300" in answer.json()["detail"]


@pytest.mark.slow
def test_pictures_that_fill_the_memory_are_refused(gate):
    """12 KB that become 300 MB."""
    gate.open.set()
    content = packed_pictures(10_000, 1)
    with running(gate, Limits(max_pixels=10**9, memory=300 << 20)) as server:
        answer = server.send(content)
        assert answer.status_code == 422
        assert "decoding needs more memory than this server allows for a video" in answer.json()["detail"]
    with running(gate, Limits(max_pixels=10**9)) as server:
        assert server.send(content).status_code == 200


def test_a_rate_that_a_header_only_claims_buys_no_more_frames():
    limits = Limits(max_seconds=10)
    assert [limits.max_frames(fps) for fps in (25.0, 120.0, 90_000.0, None)] == [250, 1200, 1200, 300]


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
    assert "more than 1,000 probabilities, 6 for each window. Use a larger stride" in answer.json()["detail"]


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
