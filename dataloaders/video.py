"""The only reader of video files."""

import errno
import threading
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.stream import Disposition
from av.video.reformatter import VideoReformatter

from common.errors import UserError

# What people keep beside their videos. Everything else is tried as a video, and refused aloud when it is none.
NO_VIDEO_SUFFIXES = frozenset(
    ".txt .md .csv .tsv .json .xml .html .pdf .doc .docx .xls .xlsx .srt .vtt .ass .py .sh .ini .cfg .conf .log .db "
    ".jpg .jpeg .png .bmp .tif .tiff .webp .svg .npy .npz .pkl .pth .mat .mp3 .wav .flac .aac .m4a .zip .rar .7z .tar "
    ".gz .bz2 .xz .md5 .sha256 .part .tmp .ds_store".split()
)

# Pictures or packets one after the other, without a container around.
WITHOUT_RATE = frozenset("mpjpeg mjpeg jpeg_pipe png_pipe image2pipe h261 h263 h264 hevc vvc m4v mpegvideo".split())
SHORTEST = 0.9  # of the length in a header that a whole video has

# What FFmpeg may open a file as. It would also take playlists, which make it open other files and addresses, texts,
# which it shows as a film of their letters, and single pictures.
CONTAINERS = (
    "amv,apng,asf,av1,avi,avs2,avs3,bink,cavsvideo,dhav,dirac,dnxhd,dv,evc,film_cpk,flic,flv,gif,gxf,h261,h263,h264,hevc,"
    "ivf,kux,m4v,matroska,mjpeg,mov,mpeg,mpegts,mpegvideo,mpjpeg,mtv,mxf,nsv,nut,nuv,obu,ogg,pmp,rm,roq,smk,swf,thp,vc1,"
    "vc1test,vivo,vvc,wtv,xmv,yuv4mpegpipe"
)

# Refusals are tried again after a change of it. The number grows when this program can use videos that it refused.
DECODER = f"PyAV {av.__version__} / FFmpeg {av.ffmpeg_version_info} / decoding 1"


class VideoError(UserError):
    """This file cannot be used as a video. The message is the reason, without the file's name."""


class TooLarge(VideoError):
    """A video's frames take more memory than this process may have."""


def is_video_name(path: Path) -> bool:
    """False for hidden files (macOS writes `._clip.avi` beside clip.avi) and for endings that no video has."""
    return not path.name.startswith(".") and path.suffix.lower() not in NO_VIDEO_SUFFIXES


class VideoReader:
    """An open video: its frames in the order in which they are shown, turned as a player turns them.

    Frames come as the decoder puts them out. Time stamps are not looked at (in AVI files with B-frames they are not
    in order) and the header's frame count is not believed (it is often too high): iterate to the end to know.

    rate, fps       frames a second, as the container states it, exactly and as a float; None where it does not
    width, height   of the frames as shown (rotation applied)
    num_damaged     places so far where the file is damaged: a packet whose frame is missing from what came out, or a
                    frame that came out spoilt

    lost            at the end: "it breaks off after 3 of 10 s", where less is there than the header states; else None

    Raises VideoError: not a video, no video stream, nothing but damage. An unreadable file (missing, no permission)
    is its OSError.
    """

    def __init__(self, path: Path | str, threads: str = "NONE"):
        self.path = Path(path)
        self.num_damaged = 0
        self._num_packets, self._end = 0, 0.0  # seconds at which the last one so far is over
        try:
            self.container = open_input(
                str(self.path.absolute()),  # FFmpeg would read the name 12:30.mp4 as an address
                container_options={"format_whitelist": CONTAINERS, "protocol_whitelist": "file"},
            )
        except av.error.FFmpegError as error:
            if error.errno == errno.EIO:  # the disk, or a Matroska header that breaks off
                _read_whole(self.path)
            elif error.errno in (errno.ENOENT, errno.EACCES, errno.EISDIR, errno.ENOMEM):
                raise
            raise VideoError(_why_not_opened(self.path)) from error

        self.stream = video_stream(self.container)
        if self.stream is None:
            has_cover = bool(self.container.streams.video)
            self.container.close()
            raise VideoError(f"it has no video stream{', only a cover picture' if has_cover else ''}")

        if self.stream.codec_context is None:
            self.container.close()
            raise VideoError("its video codec is unknown")
        self.stream.thread_type = threads
        self.rate = stated_rate(self.container, self.stream)
        self.fps = float(self.rate) if self.rate else None
        self.width, self.height = self.stream.codec_context.width, self.stream.codec_context.height
        self._length = length_of(self.container, self.stream)

    @property
    def expected_frames(self) -> int:
        """The number of frames, for a progress bar; 0 where the header does not tell."""
        return self.stream.frames or int((self.container.duration or 0) / 1e6 * (self.fps or 0))

    @property
    def shown_rate(self) -> Fraction | None:
        """Frames a second at which a player shows it: a guess of FFmpeg's where the file states none."""
        return self.stream.average_rate or self.stream.guessed_rate

    @property
    def pixel_aspect(self) -> Fraction | None:
        """Width of a pixel by its height, before any rotation; None where the file does not say."""
        return self.stream.sample_aspect_ratio

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.container.close()

    def __iter__(self) -> Iterator[av.VideoFrame]:
        """Yields decoded frames; to_array(frame) gives the pixels, so that unused frames cost no conversion."""
        num_frames, too_large = 0, False
        for packet in self.packets():
            try:
                frames = packet.decode()
            except av.error.FFmpegError as error:
                too_large = error.errno == errno.ENOMEM
                self.num_damaged += 1
                continue
            for frame in frames:
                if num_frames == 0:
                    self.width, self.height = shown_size(frame)
                num_frames += 1
                self.num_damaged += frame.is_corrupt
                yield frame

        if num_frames == 0 and too_large:
            raise TooLarge("there is not enough memory for its frames")
        if num_frames == 0:
            raise VideoError("no frame of it can be decoded")

    def packets(self) -> Iterator[av.Packet]:
        """The compressed frames as they are stored, the last one empty; it makes the decoder give what it holds."""
        begin, unit = self.stream.start_time or 0, self.stream.time_base
        try:
            for packet in self.container.demux(self.stream):
                stamp = packet.dts if packet.pts is None else packet.pts
                if packet.size and stamp is not None:
                    self._end = max(self._end, float((stamp - begin + (packet.duration or 0)) * unit))
                self._num_packets += packet.size > 0
                yield packet
        except av.error.FFmpegError:  # the file breaks off in the middle of a packet
            self.num_damaged += 1

    @property
    def lost(self) -> str | None:
        end = max(self._end, self._num_packets / self.fps if self.fps else 0.0)
        return breaks_off(end, self._length)


def video_stream(container: av.container.InputContainer) -> av.VideoStream | None:
    """The first stream of moving pictures. Cover pictures are streams of one frame, and in front in some files."""
    cover = Disposition.attached_pic
    return next((stream for stream in container.streams.video if not stream.disposition & cover), None)


def stated_rate(container: av.container.InputContainer, stream: av.VideoStream) -> Fraction | None:
    """Frames a second, as the container or, where it is none, the stream states them; None where FFmpeg would say 25
    for want of anything."""
    if container.format.name in WITHOUT_RATE:
        return (stream.codec_context and stream.codec_context.framerate) or None
    return stream.average_rate or stream.guessed_rate or None


def length_of(container: av.container.InputContainer, stream: av.VideoStream) -> float:
    """Seconds that the header states, of the video stream where it does; 0 where it states none. (FFmpeg corrects the
    duration of an AVI file that breaks off, but not its number of frames.)"""
    rate = stated_rate(container, stream)
    counted = float(stream.frames / rate) if rate else 0.0
    if stream.duration is not None and stream.time_base:
        return max(counted, float(stream.duration * stream.time_base))
    return max(counted, (container.duration or 0) / av.time_base)


def breaks_off(end: float, length: float) -> str | None:
    """Words on a video that ends before 90 % of its length, and more than a second early. (Of 1,685 files of UCF101,
    HMDB51 and elsewhere, those of a second and more have at least 97 %, but for one without any frame.)"""
    if end < SHORTEST * length and end < length - 1:
        return f"it breaks off after {end:.0f} of {length:.0f} s"
    return None


def open_input(address: str, **options: object) -> av.container.InputContainer:
    """Opens a file or an address for reading, with any metadata: a title that is not UTF-8 spoils no picture."""
    if int(av.__version__.partition(".")[0]) < 19:  # PyAV 19 reads any metadata, and has no such argument
        options["metadata_errors"] = "replace"
    return av.open(address, **options)


def to_array(frame: av.VideoFrame, pixel_format: str = "rgb24") -> np.ndarray:
    """Returns the pixels, (H, W, 3) uint8, turned as the file's rotation asks."""
    pixels = _reformatter().reformat(frame, format=pixel_format, threads=1).to_ndarray()
    turns = _quarter_turns(frame)
    return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels


_OF_THREAD = threading.local()


def _reformatter() -> VideoReformatter:
    """One a thread, kept: frame.to_ndarray(format=...) would set up the conversion anew for each frame."""
    if not hasattr(_OF_THREAD, "reformatter"):
        _OF_THREAD.reformatter = VideoReformatter()
    return _OF_THREAD.reformatter


def shown_size(frame: av.VideoFrame) -> tuple[int, int]:
    """(width, height) of what to_array gives."""
    turned = _quarter_turns(frame) % 2 == 1
    return (frame.height, frame.width) if turned else (frame.width, frame.height)


def decode_frames(path: Path | str, pixel_format: str = "rgb24", threads: str = "NONE") -> Iterator[np.ndarray]:
    """Yields every frame of a video as (H, W, 3) uint8 in the order shown; see VideoReader for what it raises."""
    with VideoReader(path, threads) as reader:
        for frame in reader:
            yield to_array(frame, pixel_format)


def _quarter_turns(frame: av.VideoFrame) -> int:
    """Counter-clockwise quarter turns that show the frame upright; odd angles and nonsense count as none."""
    rotation = frame.rotation
    return (rotation // 90) % 4 if rotation % 90 == 0 and -360 <= rotation <= 360 else 0


def _read_whole(path: Path) -> None:
    """Raises OSError where the disk does not give the file."""
    with path.open("rb") as file:
        while file.read(1 << 20):
            pass


def _why_not_opened(path: Path) -> str:
    return "the file is empty (0 bytes)" if path.stat().st_size == 0 else "it cannot be opened as a video"
