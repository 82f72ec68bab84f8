"""Processes that extract videos, and what keeps a bad video from harming the run: limits of time and memory."""

import contextlib
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from common.console import duration, gigabytes
from common.files import ROOT
from common.worker_process import num_processors
from dataloaders.preprocess.extract import Extracted

# glibc gives the memory of a frame back to the system when the frame is done, and takes it again for the next one, page
# by page; a fifth of the time went there.
KEEP_MEMORY = {"MALLOC_TRIM_THRESHOLD_": str(256 << 20), "MALLOC_MMAP_THRESHOLD_": str(32 << 20)}


@dataclass(frozen=True)
class Limits:
    """What one video may take. A whole one stays far below, on a slow and busy machine too.

    stall     seconds without a frame
    seconds, seconds_per_mb   in all, by the size of the file
    memory    bytes of its process (Linux)
    """

    stall: float = 120.0
    seconds: float = 1200.0
    seconds_per_mb: float = 120.0
    memory: int = 4 << 30

    def seconds_for(self, num_bytes: int) -> float:
        return self.seconds + self.seconds_per_mb * num_bytes / 1e6


class Extractor:
    """A worker process. One thread calls extract() and close(); kill() may come from any."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.process: subprocess.Popen | None = None
        self.watch: Watch | None = None  # over the process, as long as it lives
        self.killed = False
        self.given: dict | None = None  # the job that the worker has, beside the one that it is at

    def extract(
        self, video: Path, folder: Path, known: Path | None = None, following: dict | None = None, **settings
    ) -> Extracted:
        """extract_video in the worker. Raises the worker's OSError; a worker that dies, or that takes more than the
        limits allow and is killed, means a refused video.

        following    arguments of the next call: the worker then begins with it while this answer is still on its way
        """
        job = {"video": video, "folder": folder, "known": known, **settings}
        if self.process is None or self.process.poll() is not None:  # it may have died while it was idle
            self.close()
            if self.given is not None:
                shutil.rmtree(folder, ignore_errors=True)  # it may have begun
            self.given = None
            self.start()
        with self.watch.over(video):
            if self.given is None:
                self._give(job)
            assert self.given in (None, job), "another job than the one that was announced"
            self.given = following
            if following is not None:
                self._give(following)
            while (answer := self.process.stdout.readline()) == ".\n":
                self.watch.alive()
        if not answer.endswith("\n"):
            last_words = self._last_words()  # waits until it is dead, so that no other job is given to it
            return Extracted(refused=self.watch.reason or f"the decoder crashed on it ({last_words})")
        answer = json.loads(answer)
        if "errno" in answer:
            raise OSError(answer["errno"], answer["strerror"], answer["filename"])
        return Extracted(**answer)

    def _give(self, job: dict) -> None:
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(job, default=str) + "\n")
            self.process.stdin.flush()

    def kill(self) -> None:
        """Ends the worker at once, whatever it does, and for good; extract() sees it die."""
        self.killed = True
        if self.process is not None:
            self.process.kill()

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.watch.end()
            with contextlib.suppress(BrokenPipeError):  # a job that it never read
                self.process.stdin.close()
            self.process.stdout.close()
            self.errors.close()

    def start(self) -> None:
        """Starts the process; extract() does it where that was not done."""
        self.errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 (lives as long as the process)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "dataloaders.preprocess.extract", str(self.limits.memory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            cwd=ROOT,
            env={**os.environ, **KEEP_MEMORY},
            start_new_session=True,  # Ctrl-C reaches the parent alone, which then ends its workers
        )
        self.watch = Watch(self.process, self.limits)
        if self.killed:
            self.process.kill()
        if self.process.stdout.readline() != "ready\n":
            raise RuntimeError(f"The decoding process does not start ({self._last_words()}).")

    def _last_words(self) -> str:
        return last_words(self.process, self.errors)


def last_words(process: subprocess.Popen, errors: IO[str]) -> str:
    """How a process ended: SIGSEGV, or the last line of a traceback among what it wrote to `errors`."""
    status = process.wait()
    if status < 0:
        return signal.Signals(-status).name
    errors.seek(0)
    return errors.read().strip().rpartition("\n")[2] or f"status {status}"


class Watch:
    """Kills a worker when the video that it is at passes a limit, and has the reason. One thread for all its videos:
    starting one for each would keep the worker waiting."""

    def __init__(self, process: subprocess.Popen, limits: Limits):
        self.process, self.limits = process, limits
        self.reason = ""
        self.is_over = False  # a video
        self.lock = threading.Lock()  # so that it is not the next video which is cut off
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()

    @contextlib.contextmanager
    def over(self, video: Path) -> Iterator[None]:
        """While this video is extracted."""
        with self.lock:
            self.num_bytes = video.stat().st_size if video.exists() else 0
            self.start = self.last = time.monotonic()
            self.is_over = True
        try:
            yield
        finally:
            with self.lock:
                self.is_over = False

    def alive(self) -> None:
        self.last = time.monotonic()

    def end(self) -> None:
        self.ended.set()
        self.thread.join()

    def _watch(self) -> None:
        while not self.ended.wait(min(1.0, self.limits.stall / 4, self.limits.seconds / 4)):
            with self.lock:
                self.reason = self._limit_passed() if self.is_over else ""
                if self.reason:
                    self.process.kill()
                    self.process.wait()  # so that no other job is given to it
                    return

    def _limit_passed(self) -> str:
        now, longest = time.monotonic(), self.limits.seconds_for(self.num_bytes)
        if now - self.last > self.limits.stall:
            return f"the decoder was stuck on it: no frame came for {duration(self.limits.stall)}"
        if now - self.start > longest:
            return (
                f"it was not done after {duration(longest)}, which is more than any whole video of "
                f"{gigabytes(self.num_bytes)} takes"
            )
        return ""


@dataclass(frozen=True)
class Job:
    """A video to extract: its path below the videos folder, and the folder of frames that may be its own already."""

    video: str
    known: Path | None = None


def extract_all(
    videos: Path,
    jobs: Sequence[Job],
    temporary: Path,
    settings: dict,
    workers: int | None,
    limits: Limits | None = None,
) -> Iterator[tuple[Job, Path, Extracted]]:
    """Jobs with the folder of their new frames and what came of them, as they become ready. An OSError ends all."""
    waiting: queue.SimpleQueue = queue.SimpleQueue()
    results: queue.SimpleQueue = queue.SimpleQueue()
    ending = threading.Event()
    for number, job in enumerate(jobs):
        waiting.put((job, {"video": videos / job.video, "folder": temporary / str(number), "known": job.known}))

    def work(extractor: Extractor) -> None:
        try:
            for job, how, result in work_off(extractor, waiting, settings, len(extractors)):
                results.put((job, how["folder"], result))
                if ending.is_set():
                    return
        except BaseException as error:  # passed to the main thread, which ends the run
            results.put((None, None, error))
        finally:
            extractor.close()

    extractors = [Extractor(limits) for _ in range(min(workers or num_processors(), len(jobs)))]
    threads = [threading.Thread(target=work, args=(extractor,), daemon=True) for extractor in extractors]
    for thread in threads:
        thread.start()
    try:
        for _ in jobs:
            job, folder, result = results.get()
            if job is None:
                raise result
            yield job, folder, result
    finally:
        ending.set()
        for extractor in extractors:
            extractor.kill()
        for thread in threads:
            thread.join()


def work_off(
    extractor: Extractor, waiting: queue.SimpleQueue, settings: dict, num_workers: int
) -> Iterator[tuple[Job, dict, Extracted]]:
    """(job, how to extract it) from the queue, until it is empty -> those with the result.

    A worker is given a job ahead, so that it never waits for its owner; but not at the end of the queue, where another
    worker would have nothing to do meanwhile.
    """

    def take(num_left: int = 0) -> tuple[Job, dict] | None:
        with contextlib.suppress(queue.Empty):
            if waiting.qsize() >= num_left:
                job, how = waiting.get_nowait()
                return job, {**how, **settings}
        return None

    current = take()
    while current is not None:
        job, how = current
        following = take(num_workers)
        result = extractor.extract(**how, following=following and following[1])
        yield job, how, result
        current = following or take()
