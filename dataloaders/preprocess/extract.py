"""One video -> a folder of JPEGs, in a process of its own.

While it works, the process writes a dot a second, by which its owner (worker.py) sees that it has not got stuck. A
decoder that crashes takes this process with it, not the run; and no torch is loaded here, whoever asked.
"""

import errno
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from common.console import gigabytes, plural
from common.files import is_forbidden
from common.worker_process import memory_limit, serve_jobs
from dataloaders.frames.manifest import NO_PERMISSION
from dataloaders.frames.settings import FrameSize, stored_size
from dataloaders.preprocess.resample import Irregular, copies, has_constant_rate, resampled
from dataloaders.preprocess.skip_b_frames import may_skip, wanted_frames
from dataloaders.video import TooLarge, VideoError, VideoReader, shown_size, to_array

BINARY = getattr(os, "O_BINARY", 0)  # Windows
END_OF_JPEG = b"\xff\xd9"


@dataclass(frozen=True)
class Extracted:
    """The result of a video. refused: the reason why it cannot be used, else ""; doubtful: the machine or the program
    may be the reason instead; note: damage that did not prevent its use."""

    num_frames: int = 0
    num_bytes: int = 0
    fps: float = 0.0  # of the source
    width: int = 0  # of the source
    height: int = 0
    stored_width: int = 0
    stored_height: int = 0
    refused: str = ""
    doubtful: bool = False
    note: str = ""
    confirmed: bool = False  # the folder that was there already holds what would have been made


def extract_video(
    video: Path,
    folder: Path,
    size: FrameSize,
    every: int = 1,
    quality: int = 95,
    fps: float | None = None,
    limit: int | None = None,
    known: Path | None = None,
    alive: Callable[[], None] = lambda: None,
) -> Extracted:
    """Decodes a video into folder/00001.jpg ... as Settings has it, `limit` frames at the most.

    known    a folder that may have been made from this video: where that is so, nothing is written
    alive    called at each frame that is decoded

    OSError (disk full, no permission to write) is passed on; what is wrong with the video itself is in the answer.
    """
    how = {"size": size, "every": every, "quality": quality, "fps": fps, "limit": limit, "alive": alive}
    if known is not None:
        there = KnownFolder(known)
        result = _decode_into(there, video, **how)
        if result.refused:
            return result
        if there.is_whole(result.num_frames):
            return replace(result, confirmed=True)
    return _decode_into(NewFolder(folder), video, **how)


class NewFolder:
    """Frames are written."""

    def __init__(self, folder: Path):
        self.folder = str(folder)
        folder.mkdir(parents=True)

    def add(self, number: int, pixels: np.ndarray, parameters: list[int]) -> int:
        """(H, W, 3) uint8 BGR -> <folder>/<number>.jpg; returns its bytes."""
        jpeg = cv2.imencode(".jpg", pixels, parameters)[1]
        # a Path and a file object would take as long again as the writing itself
        file = os.open(f"{self.folder}/{number:05d}.jpg", os.O_WRONLY | os.O_CREAT | os.O_EXCL | BINARY, 0o666)
        try:
            written = os.write(file, jpeg)
        finally:
            os.close(file)
        if written != jpeg.size:  # the disk became full in the middle
            raise OSError(errno.ENOSPC, "No space left on device", self.folder)
        return written

    def clear(self) -> None:
        shutil.rmtree(self.folder)
        Path(self.folder).mkdir()


class KnownFolder:
    """Compares frames with those in a folder: the first two byte by byte, which shows whether size, rate and quality
    are the same; of the others, that the files exist and are complete."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.same = True

    def add(self, number: int, pixels: np.ndarray, parameters: list[int]) -> int:
        if self.same and number <= 2:
            jpeg = cv2.imencode(".jpg", pixels, parameters)[1].tobytes()
            path = self.folder / f"{number:05d}.jpg"
            self.same = path.is_file() and path.read_bytes() == jpeg
        return 0

    def clear(self) -> None:
        self.same = True

    def is_whole(self, num_frames: int) -> bool:
        names = {f"{number:05d}.jpg" for number in range(1, num_frames + 1)}
        return (
            self.same
            and {path.name for path in self.folder.iterdir()} == names
            and all(_has_end(self.folder / name) for name in names)
        )


def _has_end(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - len(END_OF_JPEG), 0))
        return file.read() == END_OF_JPEG


def _decode_into(
    folder: NewFolder | KnownFolder,
    video: Path,
    size: FrameSize,
    every: int,
    quality: int,
    fps: float | None,
    limit: int | None,
    alive: Callable[[], None],
) -> Extracted:
    jump = ""
    try:
        for decode in _ways(video, every, fps):
            try:
                extracted = _write_frames(folder, video, decode, size, quality, limit, alive)
                break
            except Irregular as error:
                jump = jump or str(error)
                folder.clear()
    except (VideoError, MemoryError, FileNotFoundError, cv2.error) as error:
        return Extracted(refused=refusal(error, video), doubtful=isinstance(error, MemoryError | TooLarge | cv2.error))
    if extracted.num_frames > 1 or limit == 1:
        return replace(extracted, note="; ".join(filter(None, (extracted.note, jump))))
    reason = "it has only 1 frame"
    if every != 1 or fps:
        reason = f"only 1 frame of it is kept with {f'--fps {fps:g}' if fps else f'--every {every}'}"
    return Extracted(refused=f"{reason}, and a single picture shows no action")


def _write_frames(
    folder: NewFolder | KnownFolder,
    video: Path,
    decode: "Way",
    size: FrameSize,
    quality: int,
    limit: int | None,
    alive: Callable[[], None],
) -> Extracted:
    """Decodes a video and writes its frames, `limit` at most. Raises Irregular where `decode` is unsuitable."""
    parameters = [cv2.IMWRITE_JPEG_QUALITY, quality]
    num_frames = num_bytes = 0
    stored = last = pixels = None
    with VideoReader(video) as reader:
        for frame in decode(reader, alive):
            if stored is None:
                reader.width, reader.height = shown_size(frame)
                stored = stored_size(size, reader.width, reader.height)
            if frame is not last:
                # BGR, as cv2 encodes it; the resize that Caffe's C3D used
                pixels = cv2.resize(to_array(frame, "bgr24"), stored, dst=pixels, interpolation=cv2.INTER_LINEAR)
                last = frame
            num_frames += 1
            num_bytes += folder.add(num_frames, pixels, parameters)
            if num_frames == limit:
                break
    damage = f"damaged in {plural(reader.num_damaged, 'place')}: frames there are missing or corrupted"
    notes = [damage if reader.num_damaged else "", "" if num_frames == limit else reader.lost]
    note = "; ".join(filter(None, notes))
    return Extracted(num_frames, num_bytes, reader.fps or 0.0, reader.width, reader.height, *stored, note=note)


def refusal(error: Exception, video: Path) -> str:
    """The reason why a video is refused. Errors that are not the video's fault are raised again."""
    if isinstance(error, VideoError) and not isinstance(error, TooLarge):
        return str(error)
    if isinstance(error, FileNotFoundError):
        if video.exists():  # then it is the folder that is gone
            raise error
        return "it is a broken link" if video.is_symlink() else "it is gone"
    if isinstance(error, cv2.error) and error.code != cv2.Error.STS_NO_MEM:
        raise error
    return f"decoding needs more than {gigabytes(memory_limit())} of memory, the limit for a video"


Way = Callable[[VideoReader, Callable[[], None]], Iterator[av.VideoFrame]]


def _ways(video: Path, every: int, fps: float | None) -> list[Way]:
    """Ways to decode the frames that are stored, the best first. One that raises Irregular gives way to the next; the
    last never raises it. All give the same frames, except that only time stamps tell a changing frame rate."""
    rate = Fraction(1, every)
    ways: list[Way] = []
    if fps:
        with VideoReader(video) as reader:
            if not reader.rate:
                raise VideoError("its frame rate is unknown, and --fps needs it")
            rate = Fraction(str(fps)) / reader.rate
        if not has_constant_rate(video, reader.rate):
            ways.append(lambda reader, alive: _by_time(reader, alive, Fraction(str(fps))))
    if rate < 1:
        ways.append(lambda reader, alive: _without_unwanted(reader, alive, rate))
    return [*ways, lambda reader, alive: _all_decoded(reader, alive, rate)]


def _by_time(reader: VideoReader, alive: Callable[[], None], fps: Fraction) -> Iterator[av.VideoFrame]:
    def timed() -> Iterator[tuple[Fraction, av.VideoFrame]]:
        for frame in reader:
            alive()
            if frame.pts is None:
                raise Irregular
            yield frame.pts * frame.time_base, frame

    yield from resampled(timed(), fps, 1 / reader.rate)


def _without_unwanted(reader: VideoReader, alive: Callable[[], None], rate: Fraction) -> Iterator[av.VideoFrame]:
    if not may_skip(reader):
        yield from _all_decoded(reader, alive, rate)
        return
    for index, frame in wanted_frames(reader, lambda index: copies(index, rate) > 0):
        alive()
        if copies(index, rate):
            yield frame


def _all_decoded(reader: VideoReader, alive: Callable[[], None], rate: Fraction) -> Iterator[av.VideoFrame]:
    for index, frame in enumerate(reader):
        alive()
        for _ in range(1 if rate == 1 else copies(index, rate)):
            yield frame


def main() -> None:
    av.logging.set_level(av.logging.PANIC)
    cv2.setNumThreads(1)
    serve_jobs(_answer, int(sys.argv[1]))


def _answer(job: dict) -> dict:
    for name in ("video", "folder", "known"):
        job[name] = Path(job[name]) if job[name] is not None else None
    job["size"] = job["size"] if isinstance(job["size"], int) else tuple(job["size"])
    try:
        return asdict(extract_video(**job, alive=Pulse()))
    except OSError as error:
        shutil.rmtree(job["folder"], ignore_errors=True)
        if is_forbidden(error) and error.filename == str(job["video"]):
            return asdict(Extracted(refused=NO_PERMISSION))
        return {"errno": error.errno, "strerror": error.strerror, "filename": error.filename}


class Pulse:
    """Writes a dot where the last one is a second old."""

    def __init__(self) -> None:
        self.last = time.monotonic()

    def __call__(self) -> None:
        now = time.monotonic()
        if now - self.last > 1:
            self.last = now
            print(".", flush=True)


if __name__ == "__main__":
    main()
