"""A worker process that ends, hangs or is stopped, and the one that takes its place."""

import time

import pytest

from common.worker_process import ProgramFault, WorkerProcess

WORKER = """
import json, os, sys, time
print("ready", flush=True)
for line in sys.stdin:
    job = json.loads(line)
    if job["do"] == "crash":
        sys.exit("the disk is on fire")
    if job["do"] == "hang":
        time.sleep(60)
    if job["do"] == "live":
        for _ in range(8):
            time.sleep(0.1)
            print(".", flush=True)
    print(json.dumps(os.getpid()), flush=True)
"""


@pytest.fixture
def worker(tmp_path, monkeypatch):
    (tmp_path / "a_worker.py").write_text(WORKER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    worker = WorkerProcess("a_worker")
    worker.start()
    yield worker
    worker.close()


def ask(worker: WorkerProcess, deed: str) -> bytes:
    worker.send({"do": deed})
    return worker.readline()


def test_a_worker_that_ends_tells_why_and_is_replaced(worker):
    first = ask(worker, "work")
    assert first.endswith(b"\n") and ask(worker, "work") == first
    assert ask(worker, "crash") == b""
    assert worker.last_words() == "the disk is on fire"
    assert not worker.is_alive()
    worker.start()
    assert ask(worker, "work") != first


@pytest.mark.parametrize(("limits", "expired"), [((0.4, 60), "total"), ((60, 0.4), "stall")])
def test_a_worker_that_hangs_is_killed_at_its_limit(worker, limits, expired):
    with worker.time_limit(*limits):
        assert ask(worker, "hang") == b""
    assert (worker.expired, worker.last_words()) == (expired, "SIGKILL")
    worker.start()
    assert ask(worker, "work") and worker.expired == ""


@pytest.mark.slow
def test_a_sign_of_life_keeps_a_slow_worker(worker):
    with worker.time_limit(60, 0.5):
        answer = ask(worker, "live")
        while answer == b".\n":
            worker.sign_of_life()
            answer = worker.readline()
    assert answer.strip().isdigit() and worker.expired == ""
    time.sleep(0.6)  # between two jobs no limit holds
    assert worker.is_alive()


def test_a_stopped_worker_does_not_start_again(worker):
    worker.stop()
    with pytest.raises(ProgramFault, match=r"did not start \(SIGKILL\)"):
        worker.start()
