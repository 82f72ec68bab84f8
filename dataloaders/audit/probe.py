"""Probes video files (packets, first frame) in child processes, because a damaged file may crash the decoder."""

import queue
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import av
import numpy as np

from common.console import duration
from common.worker_process import CrashStreak, WorkerProcess, serve_jobs
from dataloaders.preprocess.worker import Limits
from dataloaders.video import VideoError, VideoReader

PROBE_SECONDS = 60  # for one file; a valid one takes some milliseconds
DECODE_SECONDS = 1800  # with decode, which takes as long as the video is
MEMORY = Limits().memory  # as in preprocessing
STILL_FRAMES = 500  # so many frames without change are enough to call a video frozen
THUMBNAIL = (64, 48)
STILL_LEVELS = 4  # of 255: what a thumbnail's pixel may change by in a frozen video (noise of the codec)
BLACK_LEVEL = 20  # of 255: a thumbnail without a brighter pixel is black


@dataclass(frozen=True)
class VideoInfo:
    """One video file.

    unreadable     why it cannot be used, else ""; nothing else but num_bytes is known then
    num_frames     what it holds, and how that was counted: "packets" (a claim of the file: some may show no frame),
                   "decoded", or "manifest" (what preprocessing decoded)
    header_frames  what the container's header claims; 0 where it says nothing
    fps            as the container states it; 0 where it does not
    uneven         share, 0 to 1, of the steps in time from frame to frame that are half off the usual step, or more
    still          "black" or "frozen" where no frame differs from the first, else ""
    damaged        places found damaged: packets cut short; with "decoded", whatever did not decode whole
    """

    num_bytes: int = 0
    unreadable: str = ""
    num_frames: int = 0
    counted: str = "packets"
    header_frames: int = 0
    fps: float = 0.0
    width: int = 0
    height: int = 0
    uneven: float = 0.0
    still: str = ""
    damaged: int = 0

    @property
    def seconds(self) -> float:
        """0 where the rate is not known."""
        return self.num_frames / self.fps if self.fps else 0.0


class Crash(VideoInfo):
    """A video at which the worker process crashed; the machine or the program may be to blame instead."""


def probe_videos(paths: Sequence[Path], decode: bool = False, workers: int = 1) -> Iterator[VideoInfo]:
    """Properties of each file, in the order of the paths. decode: of every frame, not the first alone."""
    processes = [ProbeProcess() for _ in range(max(min(workers, len(paths)), 1))]
    free: queue.SimpleQueue[ProbeProcess] = queue.SimpleQueue()
    for process in processes:
        free.put(process)
    streak, alone = CrashStreak(), threading.Lock()

    def probe_one(path: Path) -> VideoInfo:
        process = free.get()
        try:
            info = process.probe(path, decode)
        finally:
            free.put(process)
        if isinstance(info, Crash) or not info.unreadable:
            streak.add(str(path), info.unreadable)
        if not isinstance(info, Crash):
            return info
        with alone:
            taken = [free.get() for _ in processes]  # so that nothing else is at work
            try:
                return taken[0].probe(path, decode)
            finally:
                for process in taken:
                    free.put(process)

    pool = ThreadPoolExecutor(len(processes))
    try:
        yield from pool.map(probe_one, paths)
    finally:
        for process in processes:
            process.worker.stop()
        pool.shutdown(cancel_futures=True)
        for process in processes:
            process.close()


class ProbeProcess:
    """Probes one file after the other in a worker process, which is replaced when a file kills it."""

    def __init__(self) -> None:
        self.worker = WorkerProcess("dataloaders.audit.probe")

    def probe(self, path: Path, decode: bool) -> VideoInfo:
        """probe_video in the worker; a file at which it crashes or takes too long is unreadable."""
        if not self.worker.is_alive():
            self.worker.start()
        limit = DECODE_SECONDS if decode else PROBE_SECONDS
        with self.worker.time_limit(limit):
            self.worker.send({"path": path, "decode": decode})
            answer = self.worker.readline()
        answer = self.worker.parse(answer, path)
        if "crash" not in answer:
            return VideoInfo(**answer)
        if self.worker.expired:
            return VideoInfo(_size_of(path), f"decoding took more than {duration(limit)}")
        return Crash(_size_of(path), f"the decoder crashed on it ({answer['crash']})")

    def close(self) -> None:
        self.worker.close()


def main() -> None:
    """The worker: probes the files that it is given on standard input."""
    av.logging.set_level(av.logging.PANIC)
    serve_jobs(lambda job: asdict(probe_video(Path(job["path"]), job["decode"])), MEMORY)


def probe_video(path: Path, decode: bool = False) -> VideoInfo:
    """Reads all packets of a file and decodes its first frame; with decode, and where the packets are as small as those
    of a picture that stands still, its other frames too."""
    try:
        num_bytes = path.stat().st_size
        times, sizes, damaged, header_frames = _read_packets(path)
        with VideoReader(path) as reader:
            frames = iter(reader)
            first = next(frames)
            width, height = reader.width, reader.height
            still, num_decoded = "", 1
            if decode or _may_be_still(sizes, width * height):
                rest = frames if decode else islice(frames, STILL_FRAMES - 1)
                still, num_decoded = _watch(first, rest, to_the_end=decode)
            fps = reader.fps or 0.0
            damaged = reader.num_damaged if decode else damaged
    except VideoError as error:
        return VideoInfo(_size_of(path), str(error))
    except FileNotFoundError:
        return VideoInfo(0, "it is a broken link" if path.is_symlink() else "it is gone")
    except OSError as error:
        return VideoInfo(_size_of(path), f"{error.strerror}".lower() or "it cannot be read")

    num_frames, counted = (num_decoded, "decoded") if decode else (len(sizes), "packets")
    if num_frames == 1:
        return VideoInfo(num_bytes, "it has only 1 frame, and a single picture shows no action")
    uneven = _uneven_share(times)
    return VideoInfo(num_bytes, "", num_frames, counted, header_frames, fps, width, height, uneven, still, damaged)


def _size_of(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _read_packets(path: Path) -> tuple[list[int], list[int], int, int]:
    """Returns the time stamps of the packets, as far as they have any, their sizes in bytes, the number of damaged
    places, and the number of frames in the header."""
    times, sizes, damaged = [], [], 0
    with VideoReader(path) as reader:
        for packet in reader.packets():
            if packet.size:
                damaged += packet.is_corrupt  # cut short
                sizes.append(packet.size)
                time = packet.dts if packet.pts is None else packet.pts
                if time is not None:
                    times.append(time)
        damaged += reader.num_damaged
        return times, sizes, damaged, _header_frames(reader)


def _header_frames(reader: VideoReader) -> int:
    """Number of frames that the header claims. Matroska and WebM state a duration instead, which is the video's own
    where it has no sound."""
    container = reader.container
    if reader.stream.frames > 0 or "matroska" not in container.format.name or len(container.streams) > 1:
        return max(reader.stream.frames, 0)
    return round((container.duration or 0) / av.time_base * (reader.fps or 0))


def _uneven_share(times: list[int]) -> float:
    steps = np.diff(np.sort(np.asarray(times)))  # sorted: packets come in the order of decoding
    usual = np.median(steps) if len(steps) else 0
    return float(np.mean(np.abs(steps - usual) >= usual / 2)) if usual else 0.0


def _may_be_still(sizes: list[int], num_pixels: int) -> bool:
    """Frames that say "as before" take some bytes, whatever the picture shows; where all are stored by themselves
    (MJPEG), equal pictures take equally many."""
    later = sizes[1:]
    return bool(later) and (np.median(later) < 64 + num_pixels / 1000 or len(set(sizes)) == 1)


def _watch(first: av.VideoFrame, rest: Iterable[av.VideoFrame], to_the_end: bool) -> tuple[str, int]:
    """Returns ("black", "frozen" or "", number of frames seen). Ends at the first movement, unless to_the_end."""
    reference = _thumbnail(first)
    black, moving, num_frames = reference.max() <= BLACK_LEVEL, False, 1
    for frame in rest:
        num_frames += 1
        if not moving:
            picture = _thumbnail(frame)
            black = black and picture.max() <= BLACK_LEVEL
            moving = not black and np.abs(picture - reference).max() > STILL_LEVELS
        if moving and not to_the_end:
            break
    return "" if moving else "black" if black else "frozen", num_frames


def _thumbnail(frame: av.VideoFrame) -> np.ndarray:
    """Returns (48, 64) int16, 0 to 255: each pixel is the mean brightness of a patch, so that a small movement
    shows."""
    return frame.reformat(*THUMBNAIL, format="gray").to_ndarray().astype(np.int16)


if __name__ == "__main__":
    main()
