"""One video -> a folder of JPEGs, in a process of its own.

`python -m dataloaders.extract` reads jobs from standard input and answers on standard output, one JSON object a line.
A decoder that crashes takes this process with it, not the run; and no torch is loaded here, whoever asked.
"""

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import av
import cv2

from dataloaders.video import VideoError, VideoReader, to_array
from engine.console import count
from engine.errors import ROOT


@dataclass(frozen=True)
class Extracted:
    """What came of a video. refused: why it cannot be used, else ""; note: damage that it was usable in spite of."""

    num_frames: int = 0
    num_bytes: int = 0
    fps: float = 0.0
    width: int = 0
    height: int = 0
    refused: str = ""
    note: str = ""


def extract_video(
    video: Path, folder: Path, size: tuple[int, int], every: int = 1, quality: int = 95, limit: int | None = None
) -> Extracted:
    """Decodes a video into folder/00001.jpg ... at size (width, height), each `every`-th frame, `limit` at the most.

    OSError (disk full, no permission) is passed on; whatever is wrong with the video itself is in the answer.
    """
    folder.mkdir(parents=True)
    parameters = [cv2.IMWRITE_JPEG_QUALITY, quality]
    num_frames = num_bytes = 0
    try:
        with VideoReader(video) as reader:
            for index, frame in enumerate(reader):
                if index % every:
                    continue
                # BGR, as cv2 encodes it; the resize that Caffe's C3D used, without keeping the aspect.
                pixels = cv2.resize(to_array(frame, "bgr24"), size, interpolation=cv2.INTER_LINEAR)
                jpeg = cv2.imencode(".jpg", pixels, parameters)[1]
                num_frames += 1
                num_bytes += jpeg.size
                (folder / f"{num_frames:05d}.jpg").write_bytes(jpeg)
                if num_frames == limit:
                    break
    except VideoError as error:
        return Extracted(refused=str(error))
    except FileNotFoundError:
        if video.exists():  # then it is the folder that is gone
            raise
        return Extracted(refused="there is no such file, only a link to it" if video.is_symlink() else "it is gone")

    if num_frames == 1 and limit != 1:
        what = "it has only 1 frame" if every == 1 else f"only 1 frame of it is kept with --every {every}"
        return Extracted(refused=f"{what}, and a single picture shows no action")
    damage = f"damaged in {count(reader.num_damaged, 'place')}: frames there are missing or spoilt"
    note = damage if reader.num_damaged else ""
    return Extracted(num_frames, num_bytes, reader.fps or 0.0, reader.width, reader.height, note=note)


class Extractor:
    """A worker process. One thread calls extract() and close(); kill() may come from any."""

    def __init__(self) -> None:
        self.process: subprocess.Popen | None = None
        self.killed = False

    def extract(self, **job) -> Extracted:
        """extract_video in the worker. Raises the worker's OSError; a worker that dies means a refused video."""
        if self.process is None or self.process.poll() is not None:  # it may have died while it was idle
            self.close()
            self._start()
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(job, default=str) + "\n")
            self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer.endswith("\n"):
            return Extracted(refused=f"the decoder crashed on it ({self._last_words()})")
        answer = json.loads(answer)
        if "errno" in answer:
            raise OSError(answer["errno"], answer["strerror"], answer["filename"])
        return Extracted(**answer)

    def kill(self) -> None:
        """Ends the worker at once, whatever it does, and for good; extract() sees it die."""
        self.killed = True
        if self.process is not None:
            self.process.kill()

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            with contextlib.suppress(BrokenPipeError):  # a job that it never read
                self.process.stdin.close()
            self.process.stdout.close()
            self.errors.close()

    def _start(self) -> None:
        self.errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 (lives as long as the process)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "dataloaders.extract"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            cwd=ROOT,
            start_new_session=True,  # Ctrl-C reaches the parent alone, which then ends its workers
        )
        if self.killed:
            self.process.kill()
        if self.process.stdout.readline() != "ready\n":
            raise RuntimeError(f"The decoding process does not start ({self._last_words()}).")

    def _last_words(self) -> str:
        """How the process ended: SIGSEGV, or the last line of a traceback."""
        status = self.process.wait()
        if status < 0:
            return signal.Signals(-status).name
        self.errors.seek(0)
        return self.errors.read().strip().rpartition("\n")[2] or f"status {status}"


def main() -> None:
    av.logging.set_level(av.logging.PANIC)
    cv2.setNumThreads(1)
    print("ready", flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        folder = Path(job.pop("folder"))
        try:
            answer = asdict(extract_video(Path(job.pop("video")), folder, tuple(job.pop("size")), **job))
        except OSError as error:
            shutil.rmtree(folder, ignore_errors=True)
            answer = {"errno": error.errno, "strerror": error.strerror, "filename": error.filename}
        print(json.dumps(answer, default=str), flush=True)


if __name__ == "__main__":
    main()
