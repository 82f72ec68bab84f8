"""Requests on their way from the uploaded file to the answer: waiting room, decoders, network."""

import contextlib
import json
import queue
import threading
import time
from base64 import b64encode
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from common.files import utf8
from common.worker_process import ProgramFault
from engine.inference.prediction import assemble, frame_time
from engine.serving.batcher import Batcher
from engine.serving.decoding import Decoder
from engine.serving.limits import ClientDisconnected, Limits, Refused
from network import InputSpec

FAILURES = 3  # batches one after the other that the network could not answer


class Network(Protocol):
    """The part of a Recognizer that the service uses."""

    classes: list[str]
    input_spec: InputSpec
    stride: int
    batch_size: int

    def probabilities(self, clips: np.ndarray) -> np.ndarray: ...


@dataclass(frozen=True)
class Question:
    """A client's question about its video. name: the client's, for the answer only; pictures: their largest number."""

    path: Path
    name: str
    stride: int
    top: int
    threshold: float
    pictures: int = 0


class Job:
    """A question that waits or is at work. .answer becomes the JSON text, or what went wrong."""

    def __init__(self, question: Question):
        self.question = question
        self.answer: Future[bytes] = Future()
        self.num_windows = self.num_frames = 0
        self._decoder: Decoder | None = None  # while it is at work
        self._lock = threading.Lock()

    def finish(self, answer: bytes | BaseException) -> None:
        """Nothing where it has an answer already."""
        with self._lock:
            if self.answer.done():
                return
            if isinstance(answer, BaseException):
                self.answer.set_exception(answer)
            else:
                self.answer.set_result(answer)

    def stop(self, reason: Exception) -> None:
        """Ends it at once, wherever it is; nothing where it has its answer."""
        self.finish(reason)
        with self._lock:
            if self._decoder is not None:
                self._decoder.kill()

    @contextmanager
    def at_work(self, decoder: Decoder, timeout: float) -> Iterator[None]:
        """While a decoder is its own. It is stopped after `timeout` seconds."""
        too_late = f"The prediction took more than {timeout:g} s, the limit of this server. Send a shorter video."
        timer = threading.Timer(timeout, self.stop, [Refused(504, too_late)])
        timer.daemon = True
        with self._lock:
            self._decoder = decoder
        timer.start()
        try:
            if self.answer.done():
                raise ClientDisconnected
            yield
        finally:
            timer.cancel()
            with self._lock:
                self._decoder = None


class Service:
    """A network, the processes that decode for it, and how many requests may be there at a time.

    decoders   videos that are decoded at the same time
    waiting    requests beyond those that may be there, on their way up or in the queue
    """

    def __init__(self, network: Network, limits: Limits, decoders: int = 2, waiting: int = 32):
        self.network, self.limits = network, limits
        self.num_decoders, self.max_waiting = decoders, waiting
        self.num_there = self.num_answered = self.num_refused = self.num_failed = 0
        self.seconds_each = 1.0  # of a decoder, for a request, as of late
        self.jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self.working: set[Decoder] = set()
        self.down: set[Decoder] = set()  # those that could not be started again
        self.batcher = Batcher(network.probabilities, network.batch_size)
        self.decoders = [Decoder(network.input_spec, limits) for _ in range(decoders)]
        self.threads = [
            threading.Thread(target=self._work, args=(d,), name="decoder", daemon=True) for d in self.decoders
        ]
        try:
            with ThreadPoolExecutor(decoders) as pool:
                list(pool.map(Decoder.start, self.decoders))
        except BaseException:
            for decoder in self.decoders:
                decoder.close()
            raise
        for thread in self.threads:
            thread.start()

    @property
    def is_failing(self) -> bool:
        """Whether any request is likely to fail, so that only a restart can help."""
        return self.batcher.failed_in_a_row >= FAILURES or len(self.down) == self.num_decoders

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place for one request, from before its upload until its answer. Raises Refused (503) where all are taken.

        Taken on the event loop only."""
        if self.num_there >= self.num_decoders + self.max_waiting:
            wait = self.retry_after()
            raise Refused(
                503,
                f"{self.num_there} requests are waiting or running, the limit of this server. Try again in {wait} s.",
                retry_after=wait,
            )
        self.num_there += 1
        try:
            yield
        finally:
            self.num_there -= 1

    def retry_after(self) -> int:
        """Seconds until a place is likely to be free."""
        return int(min(max(1.0, self.seconds_each / self.num_decoders), 60.0) + 0.5)

    def submit(self, question: Question) -> Job:
        job = Job(question)
        self.jobs.put(job)
        return job

    def close(self) -> None:
        """Ends threads and processes; who still waits for an answer is told so."""
        with contextlib.suppress(queue.Empty):
            while True:
                self.jobs.get_nowait().stop(ClientDisconnected())
        for _ in self.threads:
            self.jobs.put(None)
        for decoder in self.decoders:
            decoder.kill()
        for thread in self.threads:
            thread.join()
        self.batcher.close()

    def _work(self, decoder: Decoder) -> None:
        """A thread with a decoder of its own: one job after the other."""
        try:
            while (job := self.jobs.get()) is not None:
                if job.answer.done():  # stopped while it waited
                    continue
                start = time.monotonic()
                self.working.add(decoder)
                try:
                    job.finish(self._answer(job, decoder))
                except BaseException as error:  # raised again in the handler of the request
                    job.finish(error)
                self.working.discard(decoder)
                try:
                    decoder.restart_if_large()
                    decoder.start()
                    self.down.discard(decoder)
                except (ProgramFault, OSError):  # said to the next request, if it still fails then
                    self.down.add(decoder)
                self.seconds_each += 0.2 * (time.monotonic() - start - self.seconds_each)
        finally:
            decoder.close()

    def _answer(self, job: Job, decoder: Decoder) -> bytes:
        question = job.question
        with job.at_work(decoder, self.limits.timeout):
            places, probs = self._through_the_network(job, decoder)
        facts = decoder.facts
        job.num_windows, job.num_frames = len(places), facts.num_frames
        prediction = assemble(
            question.name,
            facts.fps,
            facts.times,
            facts.num_frames,
            facts.num_damaged,
            facts.lost,
            self.network.classes,
            places,
            probs,
        )
        content = prediction.to_dict(question.top, question.threshold)
        if question.pictures:
            content["pictures"] = [
                {"frame": frame, "start": frame_time(frame, facts.fps, facts.times), "jpeg": b64encode(jpeg).decode()}
                for frame, jpeg in facts.pictures.items()
            ]
        return utf8(json.dumps(content, ensure_ascii=False, allow_nan=False))

    def _through_the_network(self, job: Job, decoder: Decoder) -> tuple[list[tuple[int, int]], list[np.ndarray]]:
        """Windows go to the network as they come, a bounded number ahead of its answers: a long video does not take
        more memory than a short one, and several requests take turns."""
        named = min(job.question.top, len(self.network.classes))
        ahead: deque[Future] = deque()
        places, probs = [], []
        try:
            windows = decoder.windows(job.question.path, job.question.stride, job.question.pictures)
            with closing(windows), self.batcher.source():
                for first, last, clip in windows:
                    if (len(places) + 1) * named > self.limits.max_named:
                        raise Refused(422, _too_much(self.limits.max_named, named))
                    ahead.append(self.batcher.submit(clip))
                    places.append((first, last))
                    if len(ahead) >= 2 * self.network.batch_size:
                        probs.append(ahead.popleft().result())
                    if job.answer.done():
                        raise ClientDisconnected
            probs += [future.result() for future in ahead]
        finally:
            for future in ahead:
                future.cancel()
        return places, probs


def _too_much(most: int, named: int) -> str:
    return (
        f"The response would have more than {most:,} probabilities, {named} for each window. Use a larger stride or "
        "a smaller top."
    )
