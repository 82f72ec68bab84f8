"""Uploads that no honest client sends: the server answers each with a reason, lives on, and keeps nothing of them."""

import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import pytest

pytest.importorskip("fastapi", reason="pip install fastapi uvicorn python-multipart")

from common.files import ROOT
from engine.serving.limits import Limits
from inference import Recognizer
from tests.helpers.hostile import Material
from tests.helpers.hostile_requests import ATTACKS
from tests.helpers.raw_http import Answer, Request, send, upload
from tests.helpers.service import running

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="memory and files are counted in /proc")

DECODERS = 2
CLIENTS = 10  # at once
LIMITS = Limits(max_bytes=8_000_000, max_seconds=20, max_pixels=1_000_000, timeout=8, upload_timeout=3)
FLAGS = "--max-size 8 --max-seconds 20 --max-pixels 1000000 --timeout 8 --upload-timeout 3 --queue 10".split()

# How many of each, 1,000 together. Not in it: what takes seconds each, beyond a few.
MIXTURE = {
    "truncated": 120,
    "flipped": 140,
    "great numbers": 97,
    "hole": 60,
    "shuffled": 50,
    "misnamed": 20,
    "many frames": 10,
    "nothing but damage": 3,
    "many pictures": 6,
    "claimed frames": 20,
    "huge frames": 20,
    "packed header": 8,
    "deep boxes": 10,
    "playlist": 90,
    "reference": 6,
    "noise": 20,
    "noise behind magic": 40,
    "nothing": 8,
    "text": 20,
    "picture": 14,
    "archive": 10,
    "wrong type": 18,
    "broken form": 30,
    "wrong fields": 24,
    "strange name": 24,
    "wrong length": 14,
    "short of its length": 8,
    "chunked": 14,
    "endless": 4,
    "too large": 4,
    "packed body": 4,
    "slow header": 3,
    "slow body": 3,
    "gone in the middle": 16,
    "gone before its answer": 10,
    "wrong parameter": 14,
    "wrong address": 14,
    "many headers": 10,
    "no HTTP": 10,
    "two at once": 4,
}
FEW = [
    "truncated",
    "flipped",
    "great numbers",
    "claimed frames",
    "huge frames",
    "packed header",
    "playlist",
    "reference",
]
FEW += [
    "noise behind magic",
    "nothing",
    "text",
    "picture",
    "broken form",
    "wrong fields",
    "strange name",
    "wrong length",
]
FEW += ["chunked", "gone in the middle", "gone before its answer", "wrong parameter", "many headers"]


class Server:
    """serve.py in a process of its own, with a folder for its temporary files that nobody else uses."""

    def __init__(self, checkpoint: Path, folder: Path):
        self.temporary, self.log = folder / "tmp", folder / "log"
        self.temporary.mkdir()
        command = [sys.executable, "serve.py", checkpoint, "--device", "cpu", "--amp", "off", "--port", "0", *FLAGS]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*map(str, command), "--decoders", str(DECODERS)],
                cwd=ROOT,
                env={**os.environ, "TMPDIR": str(self.temporary)},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.port = 0
        while not self.port:
            assert self.process.poll() is None, self.log.read_text()
            started = re.search(r"http://127\.0\.0\.1:(\d+)", self.log.read_text())
            self.port = int(started[1]) if started else 0
            time.sleep(0.05)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def children(self) -> list[int]:
        tasks = Path(f"/proc/{self.process.pid}/task").iterdir()
        return [int(child) for task in tasks for child in (task / "children").read_text().split()]

    def holds(self) -> dict[str, int]:
        """What may grow: MB of memory, open files, threads, processes, temporary files."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return {
            "MB": memory(self.process.pid),
            "MB of decoders": sum(memory(child) for child in self.children()),
            "files": len(list(Path(f"/proc/{self.process.pid}/fd").iterdir())),
            "threads": int(re.search(r"Threads:\s+(\d+)", status)[1]),
            "processes": len(self.children()),
            "temporary files": sum(path.is_file() for path in self.temporary.rglob("*")),
        }


def health(port: int) -> dict:
    return send(Request([b"GET /health HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n"]), port).json


def wait_until_idle(port: int) -> None:
    """Until nothing is at work any more: those who went away may have left something that goes on for a while."""
    deadline = time.monotonic() + 60
    while (now := health(port))["there"] or now["working"]:
        assert time.monotonic() < deadline, now
        time.sleep(0.1)
    time.sleep(0.5)  # closed connections go on being closed


def memory(pid: int) -> int:
    """MB in real memory; 0 where the process is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    return int(found[1]) // 1000 if found else 0


class Canary:
    """An address that nobody is to ask."""

    def __enter__(self) -> "Canary":
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.socket.getsockname()[1]}"
        self.visits = 0
        threading.Thread(target=self._count, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def _count(self) -> None:
        while True:
            try:
                self.socket.accept()[0].close()
            except OSError:
                return
            self.visits += 1


@pytest.fixture(scope="module")
def canary() -> Iterator[Canary]:
    with Canary() as canary:
        yield canary


@pytest.fixture(scope="module")
def material(tmp_path_factory, canary) -> Material:
    return Material.made_in(tmp_path_factory.mktemp("material"), canary.address)


def attack_all(port: int, material: Material, kinds: Sequence[str], seed: int) -> Counter:
    """Several at a time; every answer is looked at -> how often each kind was answered how."""
    wrong: queue.SimpleQueue[str] = queue.SimpleQueue()
    answered: Counter = Counter()

    def one(number: int) -> None:
        attack = ATTACKS[kinds[number]](Random(f"{seed} {number}"), material)
        where = f"{kinds[number]}, number {number} of seed {seed}"
        try:
            answer = send_again(attack.request, port)
        except TimeoutError:
            wrong.put(f"{where}: no answer")
            return
        problem = None if attack.request.leaves else what_is_wrong(answer, attack.allowed, attack.is_http)
        if problem:
            wrong.put(f"{where}: {problem}")
        answered[kinds[number], answer.status] += 1

    with ThreadPoolExecutor(CLIENTS) as clients:
        list(clients.map(one, range(len(kinds))))
    assert wrong.empty(), "\n".join(wrong.get() for _ in range(wrong.qsize()))
    return answered


def send_again(request: Request, port: int) -> Answer:
    """As often as the server says that it is busy; a client that is not hostile would do the same, more slowly."""
    for _ in range(100):
        answer = send(request, port)
        if answer.status != 503:
            return answer
        assert 1 <= int(answer.headers["retry-after"]) <= 60
        time.sleep(0.2)
    raise TimeoutError


def what_is_wrong(answer: Answer, allowed: frozenset[int], is_http: bool) -> str | None:
    if answer.status == 0 or not answer.headers.get("content-type", "").startswith("application/json"):
        fine = not is_http and answer.status in {0, *allowed}
        return None if fine else f"{answer.status} {answer.content[:200]}"
    if answer.status not in allowed:
        return f"{answer.status} {answer.content[:300]}"
    if answer.status == 200:
        whole = answer.json.keys() >= {"classes", "label", "top", "timeline", "windows"}
        return None if whole else f"an answer without its parts: {answer.content[:300]}"
    detail = answer.json.get("detail")
    return None if isinstance(detail, str) and detail else f"{answer.status} without a reason: {answer.content[:300]}"


def right_answer(port: int, material: Material) -> dict:
    """On a good video; the same each time."""
    answer = send_again(Request(upload(dict(material.videos)["clip.mp4"])), port)
    assert answer.status == 200, answer
    assert answer.json["num_frames"] == 20 and len(answer.json["windows"]) == 2
    return answer.json


def same(first: dict, second: dict) -> bool:
    """Equal but for rounding: how many windows go through the network together is not the same each time."""
    answers = [[window["top"] for window in answer["windows"]] for answer in (first, second)]
    pairs = [(a, b) for tops in zip(*answers, strict=True) for a, b in zip(*tops, strict=True)]
    return all(a["label"] == b["label"] and abs(a["probability"] - b["probability"]) < 1e-5 for a, b in pairs)


def test_hostile_uploads_are_refused_with_a_reason(checkpoint, material, canary):
    recognizer = Recognizer(checkpoint, device="cpu", amp="off")
    with running(recognizer, LIMITS, decoders=DECODERS, waiting=10) as server:
        port = int(server.address.rpartition(":")[2])
        before = right_answer(port, material)
        attack_all(port, material, FEW, seed=1)
        wait_until_idle(port)

        assert same(right_answer(port, material), before)
        assert health(port)["failed"] == 0
        assert canary.visits == 0
        assert list(server.folder.iterdir()) == []


@pytest.mark.slow
def test_a_thousand_hostile_uploads_leave_nothing_behind(checkpoint, material, canary, tmp_path):
    assert sum(MIXTURE.values()) == 1000 and MIXTURE.keys() == ATTACKS.keys()
    kinds = [kind for kind, number in MIXTURE.items() for _ in range(number)]
    Random(0).shuffle(kinds)
    server = Server(checkpoint, tmp_path)
    try:
        before = right_answer(server.port, material)
        attack_all(server.port, material, kinds[:200], seed=2)  # what is loaded and kept once is kept now
        wait_until_idle(server.port)
        warm = server.holds()
        answered = attack_all(server.port, material, kinds[200:], seed=3)
        wait_until_idle(server.port)
        held = server.holds()

        print(f"{warm} -> {held}", *sorted(answered.items()), sep="\n")
        assert server.process.poll() is None
        assert same(right_answer(server.port, material), before)
        assert health(server.port)["failed"] == 0
        assert canary.visits == 0
        assert held["MB"] < warm["MB"] + 40
        assert held["MB of decoders"] < DECODERS * 400
        assert held["files"] <= warm["files"] + 2
        assert held["threads"] <= warm["threads"] + 2
        assert held["processes"] <= DECODERS  # one that was killed is replaced when there is something to decode
        assert held["temporary files"] == 0
    finally:
        status = server.stop()
    assert status == 143
    assert list(server.temporary.iterdir()) == []
    assert "Traceback" not in server.log.read_text()
