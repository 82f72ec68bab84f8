"""What the service answers, and its command line. What it refuses: test_serve_refused.py; who waits and what ends:
test_serve_places.py."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from base64 import b64decode, b64encode
from concurrent.futures import ThreadPoolExecutor

import av
import cv2
import httpx
import numpy as np
import pytest

pytest.importorskip("fastapi", reason="pip install fastapi uvicorn python-multipart")

import serve
from common.errors import UsageError, UserError
from common.files import ROOT
from dataloaders.video import decode_frames
from engine.inference.prediction import Prediction
from engine.runs.checkpoint import save_checkpoint
from engine.serving import schema, server, uploads
from engine.serving.batcher import Batcher
from engine.serving.pictures import small_jpeg
from inference import Recognizer
from tests.helpers.recognizer import CLASSES, content_of
from tests.helpers.service import LIMITS, running


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


def test_a_folder_that_was_cleared_away_is_made_again(server, videos):
    """As /tmp is on many machines, after some days."""
    server.folder.rmdir()
    assert server.send(videos[2]).status_code == 200


@pytest.mark.parametrize(("most", "step"), [(200, 1), (33, 1), (32, 2), (10, 4), (1, 64)])
def test_pictures_are_evenly_spaced_frames(server, videos, most, step):
    """For who cannot play the video: of 33 frames at most so many, and no answer has any where none are asked for."""
    answer = server.send(videos[1], pictures=most).json()
    frames = list(decode_frames(videos[1], "bgr24"))
    assert [picture["frame"] for picture in answer["pictures"]] == list(range(0, 33, step))
    assert schema.Answer.model_validate(answer).model_dump() == answer
    for picture in answer["pictures"]:
        pixels = cv2.imdecode(np.frombuffer(b64decode(picture["jpeg"]), np.uint8), cv2.IMREAD_COLOR)
        assert picture["start"] == pytest.approx(picture["frame"] / 25)
        assert np.abs(pixels.astype(int) - frames[picture["frame"]]).mean() < 5
    assert "pictures" not in server.send(videos[1]).json()


def test_pictures_are_small():
    frame = av.VideoFrame.from_ndarray(np.zeros((720, 1280, 3), np.uint8), format="rgb24")
    assert cv2.imdecode(np.frombuffer(small_jpeg(frame), np.uint8), cv2.IMREAD_COLOR).shape == (208, 370, 3)


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


def test_an_incomplete_batch_waits_for_videos_that_are_being_decoded_only():
    sizes = []
    batcher = Batcher(lambda clips: sizes.append(len(clips)) or clips[:, 0, 0, 0, :1], batch_size=2, wait=1000)
    clip = np.zeros((1, 2, 2, 3), np.uint8)
    with batcher.source():
        with batcher.source():
            futures = [batcher.submit(clip) for _ in range(3)]
            futures[1].result(20)
        futures.append(batcher.submit(clip))
        futures[3].result(20)
        futures.append(batcher.submit(clip))
    futures[4].result(20)
    batcher.close()
    assert sizes == [2, 2, 1]


def test_a_network_that_answers_too_few_windows_leaves_nobody_waiting():
    batcher = Batcher(lambda clips: clips[1:], batch_size=1)
    futures = [batcher.submit(np.zeros((1, 2, 2, 3), np.uint8)) for _ in range(2)]
    for future in futures:
        with pytest.raises(ValueError, match="shorter"):
            future.result(20)
    batcher.close()


def test_what_the_documents_say_is_what_comes(server, recognizer, videos):
    answer = server.send(videos[0]).json()
    assert schema.Answer.model_validate(answer).model_dump(exclude_unset=True) == answer
    paths = server.client.get("/openapi.json").json()["paths"]
    assert set(paths) == {"/predict", "/health", "/model"}
    assert set(paths["/predict"]["post"]["responses"]) >= {"200", "400", "408", "413", "415", "422", "503", "504"}
    assert "multipart/form-data" in paths["/predict"]["post"]["requestBody"]["content"]
    assert "url: 'openapi.json'" in server.client.get("/docs").text, "below a proxy's path, too"
    assert server.client.get("/openapi.json").json()["servers"] == [{"url": "."}]

    model = server.client.get("/model").json()
    assert (model["model"], model["classes"]) == ("r3d_10", CLASSES)
    assert model["input_spec"] == recognizer.input_spec.to_dict()
    assert model["limits"]["max_bytes"] == LIMITS.max_bytes
    health = server.client.get("/health").json()
    assert (health["status"], health["there"], health["working"], health["queue"]) == ("ok", 0, 0, 8)
    assert health["answered"] > 0


@pytest.mark.parametrize("language", ["python", "js"])
def test_the_clients_of_the_documentation_get_the_answer(server, recognizer, videos, language, tmp_path):
    [code] = re.findall(rf"```{language}\n(.*?)```", (ROOT / "docs" / "serving.md").read_text("utf-8"), re.DOTALL)
    command = {"python": sys.executable, "js": shutil.which("node")}[language]
    if not command:
        pytest.skip("node is not installed")
    client = tmp_path / f"client.{'mjs' if language == 'js' else 'py'}"
    client.write_text(code.replace("http://127.0.0.1:8000", server.address), encoding="utf-8")
    shutil.copy(videos[0], tmp_path / "clip.mp4")
    said = subprocess.run([command, client], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert said.stdout.startswith(recognizer.predict(videos[0]).label()), said.stderr


def test_the_page_runs_its_own_script_and_asks_its_own_server_only(server):
    answer = server.client.get("/")
    policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
    [script] = re.findall(r"<script>(.*?)</script>", answer.text, re.DOTALL)
    assert policy["script-src"] == f"'sha256-{b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
    assert (policy["default-src"], policy["connect-src"]) == ("'none'", "'self'")
    assert not re.findall(r"(?:https?:)?//[a-z]", re.sub(r"^\s*//.*|\s//.*", "", answer.text, flags=re.MULTILINE))


# --- the command line


def test_another_site_may_use_it_where_it_is_named(recognizer, videos):
    headers = {"origin": "https://example.org", "sec-fetch-site": "cross-site"}
    files = {"video": ("clip.mp4", videos[0].read_bytes())}
    with running(recognizer, LIMITS, origins=["https://example.org"]) as server:
        answer = server.client.post("/predict", files=files, headers=headers)
        assert answer.status_code == 200 and answer.headers["access-control-allow-origin"] == "https://example.org"
        other = server.client.post("/predict", files=files, headers=headers | {"origin": "https://example.com"})
        assert other.status_code == 403 and "access-control-allow-origin" not in other.headers
        refused = server.client.post("/predict?top=0", files=files, headers=headers)
        assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (422, "https://example.org")
        asked = headers | {"access-control-request-method": "POST", "access-control-request-headers": "content-type"}
        assert server.client.options("/predict", headers=asked).status_code == 200


def test_the_containers_health_check_asks_the_port_of_the_command(server, tmp_path):
    """Arguments of docker run come behind those of the image: the last --port counts."""
    [words] = re.findall(r"^    CMD (\[.*\])$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    command = json.loads(words)
    port = server.address.rpartition(":")[2]
    for given, status in (["--port", port], 0), ([f"--port={port}"], 0), ([], 1):
        line = ["python", "serve.py", "--host", "0.0.0.0", "--port", "9", "best.pth", *given]
        (tmp_path / "cmdline").write_text("\0".join(line) + "\0")
        code = command[2].replace("/proc/1/cmdline", str(tmp_path / "cmdline"))
        assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == status


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
        (["run", "--weights", "a.pth", "--model", "c3d"], "CHECKPOINT holds network, weights and class names"),
        (["run", "--port", "99999"], "'99999' is not a port: a whole number up to 65535"),
        (["run", "--max-size", "0"], "'0' is not a number greater than 0"),
        (["run", "--queue", "-1"], "'-1' is not a whole number of at least 0"),
    ],
)
def test_a_wrong_command_line_is_said_in_one_line(argv, says, capsys):
    with pytest.raises((UsageError, SystemExit)) as ended:
        serve.parse_args(argv)
    assert says in (str(ended.value) if isinstance(ended.value, UsageError) else capsys.readouterr().err)


def test_a_network_that_cannot_answer_is_not_served(tmp_path):
    content = content_of()
    content["model"]["fc.bias"][0] = float("nan")
    save_checkpoint(tmp_path / "best.pth", content)
    with pytest.raises(UserError, match="The network's output is not a number"):
        serve.main([str(tmp_path / "best.pth"), "--port", "0", "--device", "cpu"])


def test_the_model_is_described_without_the_place_of_its_data(tmp_path):
    save_checkpoint(tmp_path / "best.pth", content_of(config={"model": "r3d_10", "dataset": "/home/me/my videos"}))
    about = server.about(Recognizer(tmp_path / "best.pth", device="cpu"))
    assert (about["model"], about["dataset"], about["classes"]) == ("r3d_10", "my videos", CLASSES)


def test_a_port_in_use_is_said_before_the_network_is_loaded():
    with server.listen("127.0.0.1", 0) as sock:
        sock.listen()
        port = sock.getsockname()[1]
        with pytest.raises(UserError, match=f"Cannot listen on 127.0.0.1, port {port}: .* Choose another --port"):
            serve.main(["no such run", "--port", str(port)])


def test_the_second_of_two_servers_on_one_port_is_told():
    """Both may take it as long as none of them listens."""
    with server.listen("127.0.0.1", 0) as first, server.listen("127.0.0.1", first.getsockname()[1]) as second:
        server.open_to_clients(first, 1)
        with pytest.raises(UserError, match=f"Cannot listen on 127.0.0.1, port {first.getsockname()[1]}: "):
            server.open_to_clients(second, 1)


def test_a_host_that_cannot_be_is_said_in_one_line():
    with pytest.raises(UserError, match="Cannot listen on a..b, port 0: no such name. Choose another"):
        server.listen("a..b", 0)


def test_what_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(UserError, match="uvicorn, which is not installed: pip install fastapi uvicorn python-multi"):
        server.check_installed()
