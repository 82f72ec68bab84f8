"""Writing videos: H.264 with the source's sound, and GIF."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from av.video.reformatter import ColorRange, Colorspace

from common.errors import UsageError, UserError
from common.files import printable
from dataloaders.video import open_input, video_stream

FORMATS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska", ".gif": "gif"}
UNKNOWN_RATE = Fraction(25)  # of a written video, where the source does not say its own
MAX_RATE = Fraction(1000)  # Matroska counts in milliseconds, and no screen shows more
TICKS = 90_000  # a second, for frames that do not come evenly: MPEG's own clock
SOUND_OF_MP4 = {"aac", "ac3", "eac3", "opus", "alac", "flac"}  # players find these in MP4; others become AAC

GIF_SECONDS, GIF_WIDTH, GIF_RATE = 30, 480, 12.5  # a GIF of more is tens of megabytes


def video_format(path: Path) -> str:
    """FFmpeg's name for the container that a file's ending asks for."""
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"--output {printable(path)}: the name must end in {', '.join(FORMATS)} (a folder: in /).")
    return FORMATS[path.suffix.lower()]


def check_codecs() -> None:
    if "libx264" not in av.codecs_available:
        raise UserError("This PyAV was built without libx264, so it writes no H.264. Do: pip install --upgrade av")


class VideoWriter:
    """H.264, yuv420p, which browsers play. Frames are upright BGR of even size.

    size    (width, height)
    rate    frames a second
    timed   frames come with their own times instead of evenly
    aspect  of a pixel, width to height
    sound   the source's audio, an open SoundTrack; its packets go between the frames
    """

    def __init__(
        self,
        path: Path,
        container_format: str,
        size: tuple[int, int],
        rate: Fraction | None,
        timed: bool = False,
        aspect: Fraction | None = None,
        sound: "SoundTrack | None" = None,
    ):
        options = {} if container_format == "matroska" else {"movflags": "faststart"}  # the index first, for streaming
        self.container = av.open(str(path.absolute()), "w", format=container_format, options=options)
        self.rate, self.timed, self.sound = min(rate or UNKNOWN_RATE, MAX_RATE), timed, sound
        self.num_frames = 0
        self.last = -1  # ticks

        stream = self.container.add_stream("libx264", rate=self.rate, options={"crf": "20", "preset": "fast"})
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        # FFmpeg converts BGR by BT.601. Said so, players show the source's colours; else they guess BT.709 for HD.
        stream.codec_context.colorspace, stream.codec_context.color_range = Colorspace.ITU601, ColorRange.MPEG
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        if timed:
            stream.codec_context.time_base = Fraction(1, TICKS)
        self.stream = stream
        if sound:
            sound.attach(self.container, container_format)

    def write(self, picture: np.ndarray, seconds: float | None = None) -> None:
        """One frame, (H, W, 3) uint8 BGR. seconds: when it is shown, for a writer that is timed."""
        frame = av.VideoFrame.from_ndarray(picture, format="bgr24")
        if self.timed:
            self.last = max(round(seconds * TICKS), self.last + 1)
            frame.pts, frame.time_base = self.last, Fraction(1, TICKS)
            now = self.last / TICKS
        else:
            now = float(self.num_frames / self.rate)
        if self.sound:
            for packet in self.sound.until(now):
                self.container.mux(packet)
        self.container.mux(self.stream.encode(frame))
        self.num_frames += 1

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        if kind is None:
            if self.sound:
                for packet in self.sound.until(float("inf")):
                    self.container.mux(packet)
            self.container.mux(self.stream.encode(None))
        self.container.close()


class SoundTrack:
    """The first audio stream of a file, as packets for another container: copied where that one can hold
    them, else as AAC. Times are counted from the first frame of the video.

    Open it for a file that may be without sound: `found` says.
    """

    def __init__(self, path: Path):
        self.input = open_input(str(path.absolute()))
        self.found = bool(self.input.streams.audio)
        self.packets: Iterator[av.Packet] = iter(())
        self.waiting: av.Packet | None = None

    def attach(self, container: av.container.OutputContainer, container_format: str) -> None:
        source, video = self.input.streams.audio[0], video_stream(self.input)
        shift = float((video.start_time or 0) * (video.time_base or 0))
        # the tags that AVI, FLV and others give their sound mean nothing to these two
        known = any(name in self.input.format.name for name in ("mp4", "matroska"))
        if known and (container_format == "matroska" or source.codec_context.name in SOUND_OF_MP4):
            self.packets = self._copied(source, container.add_stream_from_template(source), shift)
        else:
            self.packets = self._converted(source, container, shift)

    def until(self, seconds: float) -> Iterator[av.Packet]:
        """The next packets, those that begin before a time."""
        while True:
            packet = self.waiting or next(self.packets, None)
            self.waiting = None
            if packet is None:
                return
            if packet.dts is not None and float(packet.dts * packet.time_base) >= seconds:
                self.waiting = packet
                return
            yield packet

    def _copied(self, source: av.AudioStream, target: av.AudioStream, shift: float) -> Iterator[av.Packet]:
        for packet in self._read(source):
            ticks = round(shift / packet.time_base)
            packet.pts, packet.dts = packet.pts - ticks, packet.dts - ticks
            packet.stream = target
            yield packet

    def _converted(
        self, source: av.AudioStream, container: av.container.OutputContainer, shift: float
    ) -> Iterator[av.Packet]:
        rate = source.rate if source.rate in (8000, 16000, 22050, 32000, 44100, 48000) else 48000
        layout = "mono" if source.codec_context.layout.nb_channels == 1 else "stereo"
        target = container.add_stream("aac", rate=rate, layout=layout)
        resampler = av.AudioResampler(format="fltp", layout=layout, rate=rate)

        def packets() -> Iterator[av.Packet]:
            written = None  # samples; stamps of the source are often coarse, its samples are counted instead
            for packet in self._read(source):
                try:
                    frames = packet.decode()
                except av.error.FFmpegError:  # a spoilt place in the sound
                    continue
                for frame in frames:
                    if written is None:
                        written = round(((frame.time or 0.0) - shift) * rate)
                    for piece in resampler.resample(frame):
                        piece.pts, piece.time_base = written, Fraction(1, rate)
                        written += piece.samples
                        yield from target.encode(piece)
            if written is not None:
                yield from target.encode(None)

        return packets()

    def _read(self, source: av.AudioStream) -> Iterator[av.Packet]:
        try:
            for packet in self.input.demux(source):
                if packet.dts is not None:
                    yield packet
        except av.error.FFmpegError:  # the file breaks off
            return

    def __enter__(self) -> "SoundTrack":
        return self

    def __exit__(self, *_: object) -> None:
        self.input.close()


class GifWriter:
    """An animated GIF in 256 colours chosen for the whole, at most 480 wide and 12.5 frames a second."""

    def __init__(self, path: Path, size: tuple[int, int], rate: Fraction | None):
        width, height = size
        factor = min(1.0, GIF_WIDTH / width)
        self.size = (max(round(width * factor), 1), max(round(height * factor), 1))
        rate = float(rate or UNKNOWN_RATE)
        self.every = max(round(rate / GIF_RATE), 1)
        self.rate = Fraction(rate / self.every).limit_denominator(1000)
        self.path, self.num_frames, self.graph, self.count = path, 0, None, 0

    def write(self, picture: np.ndarray, seconds: float | None = None) -> None:
        """One frame, (H, W, 3) uint8 BGR."""
        number, self.count = self.count, self.count + 1
        if number % self.every:
            return
        frame = av.VideoFrame.from_ndarray(cv2.resize(picture, self.size, interpolation=cv2.INTER_AREA), format="bgr24")
        frame.pts, frame.time_base = self.num_frames, 1 / self.rate
        if self.graph is None:
            self.graph = _palette_graph(frame, self.rate)
        self.graph.push(frame)
        self.num_frames += 1

    def __enter__(self) -> "GifWriter":
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        if kind is not None or self.graph is None:
            return
        self.graph.push(None)
        with av.open(str(self.path.absolute()), "w", format="gif") as container:
            stream = container.add_stream("gif", rate=self.rate)
            stream.width, stream.height = self.size
            stream.pix_fmt = "pal8"
            for number in range(self.num_frames):
                frame = self.graph.pull()
                frame.pts, frame.time_base = number, 1 / self.rate
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))


def _palette_graph(frame: av.VideoFrame, rate: Fraction) -> av.filter.Graph:
    """frames -> a palette of all of them -> the frames in it. It holds every frame until the last has come."""
    graph = av.filter.Graph()
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base, name="in"
    )
    split, palette = graph.add("split"), graph.add("palettegen", "stats_mode=diff")
    use, sink = graph.add("paletteuse", "dither=bayer:bayer_scale=4:diff_mode=rectangle"), graph.add("buffersink")
    source.link_to(split)
    split.link_to(use, 0, 0)
    split.link_to(palette, 1, 0)
    palette.link_to(use, 0, 1)
    use.link_to(sink)
    graph.configure()
    return graph
