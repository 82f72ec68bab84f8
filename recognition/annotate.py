"""The video with the answer drawn on it, as H.264."""

from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from av.video.reformatter import ColorRange, Colorspace

from dataloaders.video import VideoReader, to_array
from engine.errors import UsageError
from recognition.files import same_file, shown, written_whole
from recognition.overlay import draw_answer, enlarge, readable_factor
from recognition.prediction import TOP, Prediction, likeliest
from recognition.sources import open_video, watch

FORMATS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska"}
UNKNOWN_RATE = Fraction(25)  # of the annotated video, where the source does not say its own
MAX_RATE = Fraction(1000)  # Matroska counts in milliseconds, and no screen shows more


def annotate(
    video: str | Path, prediction: Prediction, output: str | Path, top: int = TOP, show_progress: bool = False
) -> None:
    """Writes the video with the answer of each moment drawn on its frames, as H.264; without sound.

    Frames have the source's size, turned upright, and its frame rate. What is smaller than 320 pixels is enlarged by a
    whole number, so that the text can be read; where the size is odd, the last row or column is there twice (yuv420p
    has even sizes). The label of a frame is that of prediction.at(frame). `output` appears whole or not at all.
    """
    video, output = Path(video), Path(output)
    container_format = video_format(output)
    if same_file(video, output):
        raise UsageError(f"{shown(output)} would be written over, and it is read here. Choose another name.")
    options = {} if container_format == "matroska" else {"movflags": "faststart"}  # the index first, for streaming

    with open_video(video) as reader, written_whole(output) as temporary:
        frames = watch(reader, prediction.num_frames, f"Drawing {output.name}", show_progress)
        with av.open(str(temporary.absolute()), "w", format=container_format, options=options) as container:
            stream = None
            for index, frame in enumerate(frames):
                pixels = to_array(frame, "bgr24")  # (H, W, 3)
                if stream is None:
                    size = pixels.shape[1::-1]
                    stream = add_h264_stream(container, reader, frame, size)
                if pixels.shape[1::-1] != size:  # streams may change their size on the way
                    pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
                answer = likeliest(prediction.classes, prediction.at(index), top)
                picture = draw_on(pixels, answer)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="bgr24")))
            container.mux(stream.encode(None))


def draw_on(pixels: np.ndarray, answer: list[tuple[str, float]]) -> np.ndarray:
    """-> a copy with the answer on it, enlarged where that is needed to read it, of even width and height."""
    height, width = pixels.shape[:2]
    picture = enlarge(pixels, readable_factor(width, height))
    height, width = picture.shape[:2]
    picture = cv2.copyMakeBorder(picture, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)  # copies in any case
    draw_answer(picture, answer)
    return picture


def add_h264_stream(
    container: av.container.OutputContainer, reader: VideoReader, frame: av.VideoFrame, size: tuple[int, int]
) -> av.VideoStream:
    """An H.264 stream for pictures that draw_on makes of upright frames of `size` (width, height)."""
    rate = reader.stream.average_rate or reader.stream.guessed_rate or UNKNOWN_RATE
    factor = readable_factor(*size)
    stream = container.add_stream("libx264", rate=min(rate, MAX_RATE), options={"crf": "20", "preset": "fast"})
    stream.width, stream.height = (-(-side * factor // 2) * 2 for side in size)
    stream.pix_fmt = "yuv420p"
    # FFmpeg converts BGR by BT.601. Said so, players show the source's colours; else they guess BT.709 for HD.
    stream.codec_context.colorspace, stream.codec_context.color_range = Colorspace.ITU601, ColorRange.MPEG

    aspect = reader.stream.sample_aspect_ratio  # of a pixel, where pixels are not square
    if aspect:
        stream.codec_context.sample_aspect_ratio = 1 / aspect if frame.rotation % 180 else aspect
    return stream


def video_format(path: Path) -> str:
    """FFmpeg's name for the container that a file's ending asks for."""
    if path.suffix.lower() not in FORMATS:
        raise UsageError(
            f"--output {shown(path)}: the name of a video ends in {', '.join(FORMATS)} here (that of a folder in /)."
        )
    return FORMATS[path.suffix.lower()]
