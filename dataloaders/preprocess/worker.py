"""Worker processes that extract videos, within limits of time and memory, and the queue that feeds them."""

import contextlib
import queue
import shutil
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.console import duration, gigabytes
from common.files import identity
from common.worker_process import CrashStreak, WorkerProcess, num_processors
from dataloaders.preprocess.extract import Extracted


@dataclass(frozen=True)
class Limits:
    """Limits of one video. A valid one stays far below, on a slow and busy machine too.

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
    """Extracts one video after the other in a worker process."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.worker = WorkerProcess("dataloaders.preprocess.extract", str(self.limits.memory))
        self.given: dict | None = None  # the job that the worker has beside the one it is working on

    def extract(
        self, video: Path, folder: Path, known: Path | None = None, following: dict | None = None, **settings
    ) -> Extracted:
        """extract_video in the worker. Raises the worker's OSError and ProgramFault; a video that passes the limits is
        refused, and doubtful where the worker dies at it.

        following    arguments of the next call: the worker begins with it while this answer is still on its way
        """
        job = {"video": video, "folder": folder, "known": known, **settings}
        if not self.worker.is_alive():  # it may have died while it was idle
            if self.given is not None:
                shutil.rmtree(folder, ignore_errors=True)  # it may have begun
            self.given = None
            self.worker.start()
        num_bytes = video.stat().st_size if identity(video) else 0
        with self.worker.time_limit(self.limits.seconds_for(num_bytes), self.limits.stall):
            if self.given is None:
                self.worker.send(job)
            assert self.given in (None, job), "another job than the one that was announced"
            self.given = following
            if following is not None:
                self.worker.send(following)
            while (answer := self.worker.readline()) == b".\n":
                self.worker.sign_of_life()
        answer = self.worker.parse(answer, video)
        if "crash" in answer:
            return self._refused(answer["crash"], num_bytes)
        if "errno" in answer:
            raise OSError(answer["errno"], answer["strerror"], answer["filename"])
        return Extracted(**answer)

    def close(self) -> None:
        self.worker.close()

    def _refused(self, crash: str, num_bytes: int) -> Extracted:
        if self.worker.expired == "stall":
            return Extracted(refused=f"the decoder yielded no frame for {duration(self.limits.stall)}")
        if self.worker.expired:
            return Extracted(
                refused=f"decoding took more than {duration(self.limits.seconds_for(num_bytes))}, the limit "
                f"for a video of {gigabytes(num_bytes)}"
            )
        return Extracted(refused=f"the decoder crashed on it ({crash})", doubtful=True)


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
    """Yields each job with the folder of its new frames and its result, as they become ready, the doubtful ones last,
    when they have been tried again alone. OSError and ProgramFault end all."""
    waiting: queue.SimpleQueue = queue.SimpleQueue()
    results: queue.SimpleQueue = queue.SimpleQueue()
    ending = threading.Event()
    for number, job in enumerate(jobs):
        waiting.put((job, {"video": videos / job.video, "folder": temporary / str(number), "known": job.known}))

    def work(extractor: Extractor) -> None:
        try:
            for job, arguments, result in work_off(extractor, waiting, settings, len(extractors)):
                results.put((job, arguments, result))
                if ending.is_set():
                    return
        except BaseException as error:  # passed to the main thread, which ends the run
            results.put((None, None, error))
        finally:
            extractor.close()

    streak, doubtful = CrashStreak(), []
    extractors = [Extractor(limits) for _ in range(min(workers or num_processors(), len(jobs)))]
    threads = [threading.Thread(target=work, args=(extractor,), daemon=True) for extractor in extractors]
    for thread in threads:
        thread.start()
    try:
        for _ in jobs:
            job, arguments, result = results.get()
            if job is None:
                raise result
            if result.doubtful or not result.refused:
                streak.add(job.video, result.refused)
            if result.doubtful:
                doubtful.append((job, arguments))
            else:
                yield job, arguments["folder"], result
        for thread in threads:
            thread.join()
        for job, arguments in doubtful:
            shutil.rmtree(arguments["folder"], ignore_errors=True)
            yield job, arguments["folder"], extractors[0].extract(**arguments)
    finally:
        ending.set()
        for extractor in extractors:
            extractor.worker.stop()
        for thread in threads:
            thread.join()
        for extractor in extractors:
            extractor.close()


def work_off(
    extractor: Extractor, waiting: queue.SimpleQueue, settings: dict, num_workers: int
) -> Iterator[tuple[Job, dict, Extracted]]:
    """(job, arguments of extract()) from the queue, until it is empty -> those with the result.

    A worker is given a job ahead, so that it never waits for its owner; but not at the end of the queue, where another
    worker would have nothing to do meanwhile.
    """

    def take(num_left: int = 0) -> tuple[Job, dict] | None:
        with contextlib.suppress(queue.Empty):
            if waiting.qsize() >= num_left:
                job, arguments = waiting.get_nowait()
                return job, {**arguments, **settings}
        return None

    current = take()
    while current is not None:
        job, arguments = current
        following = take(num_workers)
        result = extractor.extract(**arguments, following=following and following[1])
        yield job, arguments, result
        current = following or take()
