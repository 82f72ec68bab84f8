"""The server's side of a decoding process: start, windows, kill, replace."""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from common.worker_process import ProgramFault, WorkerProcess
from engine.serving.decoder import FRAME, HEADER, PLACE
from engine.serving.limits import Limits, Refused
from network import InputSpec

KEPT = 256 << 20  # bytes that a process may keep from one video to the next; 4K leaves less
CRASHES = ("SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL")  # as a damaged video may make a decoder end


@dataclass(frozen=True)
class Facts:
    """Properties of a video that are known at its end; see Prediction. pictures: {frame: JPEG}"""

    fps: float | None
    num_frames: int
    num_damaged: int
    lost: str | None
    times: np.ndarray | None
    pictures: dict[int, bytes]


class Decoder:
    """Decodes one video after the other in a worker process. One thread calls the methods; kill() may come from any."""

    def __init__(self, spec: InputSpec, limits: Limits):
        width, height = spec.cut_size
        self.shape = (spec.read_len, height, width, 3)
        derived = {"read_len": spec.read_len, "cut_size": spec.cut_size}
        settings = json.dumps({"spec": spec.to_dict() | derived, "limits": asdict(limits)})
        self.worker = WorkerProcess("engine.serving.decoder", settings)
        self.facts: Facts | None = None  # of the video whose windows came last

    def start(self) -> None:
        """Starts the process where none runs. Raises ProgramFault where that fails."""
        if not self.worker.is_alive():
            self.worker.start()

    def windows(self, path: Path, stride: int, pictures: int = 0) -> Iterator[tuple[int, int, np.ndarray]]:
        """Yields (first_frame, last_frame, clip (T, h, w, 3) uint8) of each window; .facts are set after the last.

        Raises Refused for what is wrong with the video, ProgramFault where the process was killed or has a bug. Left
        before its end, it kills the process: what is still in the pipe belongs to nobody.
        """
        self.start()
        self.facts = None
        kind, jpegs = b"W", {}
        job = {"path": str(path), "stride": stride, "pictures": pictures}
        try:
            self.worker.send(job)
            while True:
                kind, content = self._read()
                if kind != b"W":
                    break
                clip = np.frombuffer(content, np.uint8, offset=PLACE.size).reshape(self.shape)
                yield *PLACE.unpack_from(content), clip
        finally:
            if kind == b"W":
                self.kill()
        while kind == b"P":
            jpegs[FRAME.unpack_from(content)[0]] = bytes(content[FRAME.size :])
            kind, content = self._read()
        if kind == b"":
            raise self._death()
        content = json.loads(content)
        if kind == b"X":
            if content["unfit"]:
                raise Refused(422, f"This video cannot be taken: {content['reason']}.")
            raise Refused(415, f"This cannot be used as a video: {content['reason']}.")
        times = content.pop("times")
        self.facts = Facts(**content, times=None if times is None else np.array(times), pictures=jpegs)

    def kill(self) -> None:
        self.worker.kill()

    def restart_if_large(self) -> None:
        """Ends a process that has become large: an index of millions of entries leaves a gigabyte in small pieces,
        which never goes back to the system. (Linux)"""
        if self.worker.process is not None and resident(self.worker.process.pid) > KEPT:
            self.kill()

    def close(self) -> None:
        self.worker.close()

    def _read(self) -> tuple[bytes, bytearray]:
        """The next message; kind b"" where the process is dead."""
        header = self.worker.process.stdout.read(HEADER.size)
        if len(header) < HEADER.size:
            return b"", bytearray()
        kind, length = HEADER.unpack(header)
        content = bytearray(length)
        if self.worker.process.stdout.readinto(content) < length:
            return b"", bytearray()
        return kind, content

    def _death(self) -> Exception:
        last_words = self.worker.last_words()
        if last_words in CRASHES:
            return Refused(415, f"This cannot be used as a video: the decoder crashed on it ({last_words}).")
        return ProgramFault(f"The decoding process ended unexpectedly ({last_words}).")


def resident(pid: int) -> int:
    """Bytes of real memory that a process has; 0 where the system does not say."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0
