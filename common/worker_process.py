"""Child processes that may crash, hang, be killed and be replaced, since a damaged video may do all of that to a
decoder: extraction, probing and the service's decoder."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from common.files import ROOT, printable

READY = "ready"  # the first line that a worker writes
# glibc gives the memory of a frame back to the system when the frame is done, and takes it again for the next one, page
# by page; a fifth of the time went there.
KEEP_MEMORY = {"MALLOC_TRIM_THRESHOLD_": str(256 << 20), "MALLOC_MMAP_THRESHOLD_": str(32 << 20)}

PROGRAM_ERRORS = (TypeError, AttributeError, NameError, ImportError, AssertionError)  # whatever the data
ADVICE = (
    "The fault is in the program, a library or the machine, so no video is refused: check the libraries (pip install "
    "-r requirements.txt) and the free memory, and repeat the command."
)


def num_processors() -> int:
    """Processors that this process may use (fewer than the machine has, in a container or under a scheduler)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class ProgramFault(RuntimeError):
    """The program, a library or the machine failed, and the data of the job is not to blame."""


class WorkerProcess:
    """Runs `python -m module arguments`, which writes the line "ready", then reads jobs from standard input, a JSON
    object a line, and writes answers to standard output.

    One thread calls the methods; kill() and stop() may come from any. A process that died is replaced by start().

    expired   "stall" or "total" where time_limit() killed the process, else ""
    """

    def __init__(self, module: str, *arguments: str):
        self.module, self.arguments = module, arguments
        self.process: subprocess.Popen | None = None
        self.killed = self.stopped = False
        self.expired = ""
        self._limit: tuple[float, float] | None = None  # seconds in all, and without a sign of life
        self._lock = threading.Lock()  # so that it is not the next job whose process is killed

    def is_alive(self) -> bool:
        return self.process is not None and self.process.poll() is None and not self.killed

    def start(self) -> None:
        """Starts the process, in the place of an earlier one. Raises ProgramFault where it does not start."""
        self.close()
        self.killed, self.expired = False, ""
        self._errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 (lives as long as the process)
        self.process = subprocess.Popen(
            [sys.executable, "-m", self.module, *self.arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            cwd=ROOT,
            env={**os.environ, **KEEP_MEMORY},
            start_new_session=True,  # Ctrl-C reaches the parent alone, which then ends its workers
        )
        self._watcher, self._ended = None, threading.Event()
        if self.stopped:
            self.process.kill()
        if self.readline() != f"{READY}\n".encode():
            raise ProgramFault(f"The decoding process did not start ({self.last_words()}). {ADVICE}")

    def send(self, job: dict) -> None:
        """Gives the process a job. That it is dead shows when its answer is read."""
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(job, default=str).encode() + b"\n")
            self.process.stdin.flush()

    def readline(self) -> bytes:
        """A line of its answer; without a line end where the process died."""
        return self.process.stdout.readline()

    def parse(self, line: bytes, video: Path) -> dict:
        """The worker's JSON, or {"crash": ...} where it died. Raises ProgramFault for an error that is no video's."""
        answer = json.loads(line) if line.endswith(b"\n") else {"crash": self.last_words()}
        if answer.get("certain"):
            raise ProgramFault(f"Stopped at {printable(video)}: {answer['crash']}. {ADVICE}")
        return answer

    def kill(self) -> None:
        """Ends the process at once; start() replaces it."""
        self.killed = True
        if self.process is not None:
            self.process.kill()

    def stop(self) -> None:
        """Ends the process at once and for good, from any thread: one that is starting now ends too."""
        self.stopped = True
        self.kill()

    def close(self) -> None:
        """Ends the process and closes its pipes."""
        if self.process is None:
            return
        self.process.kill()
        self.process.wait()
        self._ended.set()
        if self._watcher is not None:
            self._watcher.join()
        with contextlib.suppress(BrokenPipeError):  # a job that it never read
            self.process.stdin.close()
        self.process.stdout.close()
        self._errors.close()
        self.process = None

    def last_words(self) -> str:
        """Waits for the process and returns how it ended: SIGSEGV, or the last line of its traceback."""
        status = self.process.wait()
        if status < 0:
            return signal.Signals(-status).name
        self._errors.seek(0)
        return self._errors.read().strip().rpartition("\n")[2] or f"status {status}"

    @contextlib.contextmanager
    def time_limit(self, total: float, stall: float = float("inf")) -> Iterator[None]:
        """Kills the process where the work inside takes more than `total` seconds, or more than `stall` seconds pass
        without sign_of_life()."""
        if self._watcher is None:  # one thread for all jobs: starting one for each would keep the process waiting
            self._watcher = threading.Thread(target=self._watch, args=(min(1.0, total / 4, stall / 4),), daemon=True)
            self._watcher.start()
        with self._lock:
            self._begun = self._last = time.monotonic()
            self._limit = total, stall
        try:
            yield
        finally:
            with self._lock:
                self._limit = None

    def sign_of_life(self) -> None:
        self._last = time.monotonic()

    def _watch(self, interval: float) -> None:
        while not self._ended.wait(interval):
            with self._lock:
                if self._limit is None:
                    continue
                now, (total, stall) = time.monotonic(), self._limit
                self.expired = "stall" if now - self._last > stall else "total" if now - self._begun > total else ""
                if self.expired:
                    self.process.kill()
                    self.process.wait()  # so that no other job is given to it
                    return


def serve_jobs(work: Callable[[dict], dict], memory: int) -> None:
    """The worker's side: answers each job with work(job), and an error that it does not foresee with {"crash": ...}.
    memory: bytes that the process may have."""
    limit_memory(memory)
    print(READY, flush=True)
    for line in sys.stdin:
        try:
            answer = work(json.loads(line))
        except Exception as error:
            message = " ".join(f"{type(error).__name__}: {error}".split())  # OpenCV's have line breaks
            place = traceback.extract_tb(error.__traceback__)[-1]
            crash = f"{message} ({Path(place.filename).name}, line {place.lineno})"
            answer = {"crash": crash, "certain": isinstance(error, PROGRAM_ERRORS)}
        print(json.dumps(answer, default=str), flush=True)


class CrashStreak:
    """Videos in a row that crashed a worker alike: for the same reason up to its first colon."""

    def __init__(self) -> None:
        self.videos, self.kind = [], ""

    def add(self, video: str, reason: str) -> None:
        """reason: "" where the video can be used. Raises ProgramFault at the third crash."""
        kind = reason.partition(":")[0]
        self.videos = [*(self.videos if kind == self.kind else []), printable(video)] if reason else []
        self.kind = kind
        if len(self.videos) >= 3:
            names = ", ".join(self.videos)
            raise ProgramFault(f"Stopped: {names} failed in a row with the same error: {reason}. {ADVICE}")


def memory_limit() -> float:
    """Bytes of memory that this process may have; infinite where it is not limited."""
    try:
        import resource
    except ImportError:  # Windows
        return float("inf")
    limit = resource.getrlimit(resource.RLIMIT_DATA)[0]
    return float("inf") if limit == resource.RLIM_INFINITY else float(limit)


def limit_memory(num_bytes: int) -> None:
    """Limits the memory of this process, so that a video that asks for more raises a MemoryError. (Linux only)"""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        resource.setrlimit(resource.RLIMIT_DATA, (num_bytes, hard))
