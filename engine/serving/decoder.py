"""One upload after the other -> windows, in a process of its own that may crash or be killed.

`python -m engine.serving.decoder` gets its settings as JSON in its argument, reads jobs from standard input, one JSON
object a line, and writes messages to standard output: a byte that says what it is, the length, the content.

    W   a window: first and last frame, (T, h, w, 3) uint8
    P   a picture: its frame, JPEG
    X   the video is refused: the reason
    E   the video is through: facts

The reader may be slow: writing waits for it, so there are never more windows than a pipe holds. No torch
is loaded here.
"""

import contextlib
import json
import os
import select
import struct
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import BinaryIO

import av
import cv2

from common.console import duration
from common.worker_process import READY, limit_memory
from dataloaders.video import TooLarge, VideoError, VideoReader
from engine.inference.windows import slide_over
from engine.serving.limits import Limits
from engine.serving.pictures import Pictures

HEADER = struct.Struct("<cI")
PLACE = struct.Struct("<II")
FRAME = struct.Struct("<I")


class Unfit(VideoError):
    """A video, but not one that this server takes."""


def main() -> None:
    known = json.loads(sys.argv[1])
    limits, spec = Limits(**known["limits"]), SimpleNamespace(**known["spec"])
    spec.resize, spec.cut_size = tuple(spec.resize), tuple(spec.cut_size)
    limit_memory(limits.memory)
    threading.Thread(target=end_with_the_server, daemon=True).start()
    av.logging.set_level(av.logging.PANIC)
    cv2.setNumThreads(1)
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints does not get between the messages
    out.write(f"{READY}\n".encode())
    out.flush()
    for line in sys.stdin.buffer:
        answer(out, json.loads(line), spec, limits)


def end_with_the_server() -> None:
    """A killed server cannot end its decoders, and one that is at a video without a single frame would not see it."""
    if hasattr(select, "poll"):  # not on Windows
        waiting = select.poll()
        waiting.register(sys.stdin.fileno(), 0)  # told when the other side is gone only
        waiting.poll()
        os._exit(1)


def answer(out: BinaryIO, job: dict, spec: SimpleNamespace, limits: Limits) -> None:
    try:
        with VideoReader(Path(job["path"])) as reader:
            check_header(reader, limits)
            pictures = Pictures(job["pictures"])
            clips, clock = slide_over(reader, pictures.of(limited(reader, limits)), spec, job["stride"])
            for first, last, clip in clips:
                send(out, b"W", PLACE.pack(first, last), clip.data)
            for frame, jpeg in pictures.kept.items():
                send(out, b"P", FRAME.pack(frame), jpeg)
            times = None if clock.times is None else clock.times.tolist()
            facts = {"fps": reader.fps, "num_frames": clock.num_frames, "num_damaged": reader.num_damaged}
            facts |= {"lost": reader.lost, "times": times}
        send(out, b"E", json.dumps(facts).encode())
    except (MemoryError, TooLarge):
        refuse(out, "decoding needs more memory than this server allows for a video", unfit=True)
    except VideoError as error:
        refuse(out, str(error), unfit=isinstance(error, Unfit))
    except (av.error.FFmpegError, cv2.error) as error:
        refuse(out, f"it cannot be decoded ({getattr(error, 'strerror', None) or 'its frames have no usable size'})")


def check_header(reader: VideoReader, limits: Limits) -> None:
    """Before any picture is decoded: a few bytes may claim to be a picture that fills the memory."""
    check_size(reader.width, reader.height, limits)
    stream, seconds = reader.stream, 0.0
    if stream.duration and stream.time_base:
        seconds = float(stream.duration * stream.time_base)
    elif reader.container.duration:
        seconds = reader.container.duration / av.time_base
    if seconds > limits.max_seconds + 1:  # a header may round up
        raise Unfit(f"it lasts {duration(seconds)}, and this server takes at most {limits.max_seconds:g} s")


def limited(reader: VideoReader, limits: Limits) -> Iterator[av.VideoFrame]:
    """Yields frames as long as they keep to the limits, whatever the header claims."""
    most = limits.max_frames(reader.fps)
    for index, frame in enumerate(reader):
        check_size(frame.width, frame.height, limits)
        if index >= most:
            rate = f"{reader.fps:g} a second" if reader.fps else "a rate that it does not say"
            raise Unfit(
                f"it has more than {most:,} frames, at {rate}, and this server takes at most {limits.max_seconds:g} s"
            )
        yield frame


def check_size(width: int, height: int, limits: Limits) -> None:
    if width * height > limits.max_pixels:
        raise Unfit(
            f"its frames are {width}x{height}, and this server takes at most {limits.max_pixels:,} pixels per frame"
        )


def refuse(out: BinaryIO, reason: str, unfit: bool = False) -> None:
    send(out, b"X", json.dumps({"reason": reason, "unfit": unfit}).encode())


def send(out: BinaryIO, kind: bytes, *parts: bytes | memoryview) -> None:
    out.write(HEADER.pack(kind, sum(memoryview(part).nbytes for part in parts)))
    for part in parts:
        out.write(part)
    out.flush()


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):  # the server is gone
        main()
