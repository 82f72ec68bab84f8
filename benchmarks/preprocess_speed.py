"""How fast videos become frames, against the plain way, in one run and by turns.

    python benchmarks/preprocess_speed.py
    python benchmarks/preprocess_speed.py --videos my/videos --most 40

The plain way is what people write: cv2.VideoCapture with its default threads, every frame read, those that are kept
resized and written with imwrite at quality 95. Ours is the worker process of dataloaders.preprocess. Every JPEG is
compared byte for byte. A turn goes through the videos several times, as a data set has thousands: at its end all
processes but one have nothing more to do, which would otherwise be a good part of it. Without --videos it makes clips
like UCF101's (MPEG-4 with B-frames in AVI, noise of a camera).
"""

import argparse
import multiprocessing
import os
import queue
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from statistics import median

import av
import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.machine import processor
from common.console import plural
from common.worker_process import num_processors
from dataloaders.preprocess.worker import Extractor, Job, work_off
from dataloaders.video import is_video_name

SIZE, QUALITY = (171, 128), 95


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--videos", type=Path, help="a folder, searched with all below it (default: made here)")
    parser.add_argument("--most", type=int, default=24, help="videos that are used, spread over all (default: 24)")
    parser.add_argument("--rounds", type=int, default=5, help="the median of so many is shown (default: 5)")
    parser.add_argument("--times", type=int, default=6, help="how often a turn goes through the videos (default: 6)")
    args = parser.parse_args()

    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None  # so that the disk is not what is measured
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        videos = find_videos(args.videos, args.most) if args.videos else make_videos(Path(folder) / "videos")
        print(f"{processor()}, {plural(num_processors(), 'core')}; OpenCV {cv2.__version__}, PyAV {av.__version__}")
        print(
            f"{plural(len(videos), 'video')}: {args.videos or 'MPEG-4 with B-frames, made here'}; "
            f"{plural(args.rounds, 'round')} of {args.times} times all of them"
        )
        print(f"\n{'seconds for a round':36s}{'plain':>8s}{'ours':>8s}{'ratio':>8s}{'CPU':>8s}   JPEGs that are equal")
        for cores in sorted({1, num_processors()}):
            for every in (1, 4):
                compare(videos * args.times, Path(folder) / f"{cores}-{every}", every, cores, args.rounds)
        print(
            "\nplain: one process on one core. ratio: plain time / our time, median over rounds; CPU: of processor time"
        )


def find_videos(folder: Path, most: int) -> list[Path]:
    found = sorted(path for path in folder.rglob("*") if path.is_file() and is_video_name(path))
    if not found:
        sys.exit(f"There are no videos in {folder}.")
    return found[:: max(len(found) // most, 1)][:most]


def make_videos(folder: Path, num_videos: int = 12, num_frames: int = 200) -> list[Path]:
    """Clips like UCF101's: 320x240, 25 frames a second, two B-frames between P-frames, about 400 kbit/s."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    paths = []
    for number in range(num_videos):
        scene = cv2.GaussianBlur(rng.integers(0, 255, (480, 640, 3), np.uint8), (0, 0), 6)
        scene = cv2.normalize(scene, None, 0, 255, cv2.NORM_MINMAX)
        path = folder / f"{number:02d}.avi"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("mpeg4", rate=25)
            stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
            stream.bit_rate = 400_000
            stream.codec_context.max_b_frames = 2
            for index in range(num_frames):
                left, top = int(100 + 90 * np.sin(index / 17)), int(60 + 50 * np.cos(index / 23))
                pixels = np.ascontiguousarray(scene[top : top + 240, left : left + 320])
                pixels = cv2.add(pixels, rng.integers(0, 12, pixels.shape, np.uint8))  # noise, as cameras have it
                cv2.circle(pixels, (160 + int(100 * np.sin(index / 9)), 120), 30, (40, 200, 90), -1)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="bgr24")))
            container.mux(stream.encode())
        paths.append(path)
    return paths


def compare(videos: Sequence[Path], folder: Path, every: int, cores: int, rounds: int) -> None:
    """Ours on so many cores against the plain way on one, by turns. Each turn has folders of its own, and nothing is
    deleted between two: that would make files dearer for whoever comes next."""
    allowed = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, allowed[:1])
    plain = Plain()
    os.sched_setaffinity(0, allowed[:cores])
    ours = Ours(cores)
    ratios, cpu_ratios, seconds = [], [], {"plain": [], "ours": []}
    try:
        for turn in range(rounds + 1):  # the first one warms up, and is compared
            spent, cpu = {}, {}
            for name, way in (("plain", plain), ("ours", ours))[:: 1 if turn % 2 else -1]:
                cpu_start, start = way.cpu_seconds(), time.perf_counter()
                way.extract(videos, folder / f"{turn}-{name}", every)
                spent[name], cpu[name] = time.perf_counter() - start, way.cpu_seconds() - cpu_start
            if turn == 0:
                equal = compare_frames(len(videos), folder / "0-plain", folder / "0-ours")
                continue
            for name, value in spent.items():
                seconds[name].append(value)
            ratios.append(spent["plain"] / spent["ours"])
            cpu_ratios.append(cpu["plain"] / cpu["ours"])
    finally:
        plain.close()
        ours.close()
        os.sched_setaffinity(0, allowed)
        shutil.rmtree(folder)
    what = f"{'every frame' if every == 1 else f'every {every}th frame'}, {plural(cores, 'core')}"
    print(
        f"{what:36s}{median(seconds['plain']):8.2f}{median(seconds['ours']):8.2f}{median(ratios):8.2f}"
        f"{median(cpu_ratios):8.2f}   {equal}",
        flush=True,
    )


def compare_frames(num_videos: int, plain: Path, ours: Path) -> str:
    num_equal = num_frames = 0
    for number in range(num_videos):
        wanted, got = (sorted((folder / str(number)).glob("*.jpg")) for folder in (plain, ours))
        num_frames += max(len(wanted), len(got))
        num_equal += sum(a.read_bytes() == b.read_bytes() for a, b in zip(wanted, got, strict=False))
    return f"{num_equal:,} of {num_frames:,}"


class Plain:
    """A process that does what people write."""

    def __init__(self) -> None:
        self.pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        self.pid = self.pool.submit(os.getpid).result()

    def extract(self, videos: Sequence[Path], folder: Path, every: int) -> None:
        self.pool.submit(extract_plainly, videos, folder, every).result()

    def cpu_seconds(self) -> float:
        return cpu_seconds_of(self.pid)

    def close(self) -> None:
        self.pool.shutdown()


def extract_plainly(videos: Sequence[Path], folder: Path, every: int) -> None:
    for number, video in enumerate(videos):
        (folder / str(number)).mkdir(parents=True)
        capture = cv2.VideoCapture(str(video))
        index = 0
        while True:
            there, frame = capture.read()
            if not there:
                break
            if index % every == 0:
                name = folder / str(number) / f"{index // every + 1:05d}.jpg"
                cv2.imwrite(str(name), cv2.resize(frame, SIZE), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
            index += 1
        capture.release()


class Ours:
    """The processes of dataloaders.preprocess, started already, as they are in all but a run's first second."""

    def __init__(self, cores: int):
        self.extractors = [Extractor() for _ in range(cores)]
        for extractor in self.extractors:
            extractor.worker.start()
        self.threads = ThreadPoolExecutor(cores)

    def extract(self, videos: Sequence[Path], folder: Path, every: int) -> None:
        waiting = queue.SimpleQueue()
        for number, video in enumerate(videos):
            waiting.put((Job(str(video)), {"video": video, "folder": folder / str(number), "known": None}))
        settings = {"size": SIZE, "every": every, "quality": QUALITY, "fps": None}

        def work(extractor: Extractor) -> None:
            for _, _, result in work_off(extractor, waiting, settings, len(self.extractors)):
                assert not result.refused, result.refused

        list(self.threads.map(work, self.extractors))

    def cpu_seconds(self) -> float:
        return sum(cpu_seconds_of(extractor.process.pid) for extractor in self.extractors) + time.process_time()

    def close(self) -> None:
        self.threads.shutdown()
        for extractor in self.extractors:
            extractor.close()


def cpu_seconds_of(pid: int) -> float:
    """Of a process and its threads, so far (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
