"""The video with the answer drawn on it: written, or shown."""

from collections.abc import Iterator
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from common.errors import UsageError, UserError
from common.files import atomic_output, printable, same_file
from dataloaders.crops import crop_offsets
from dataloaders.video import VideoReader, to_array
from engine.inference.grad_cam import Explanation
from engine.inference.live import LiveRecognition
from engine.inference.overlay import draw_answer, draw_curve, draw_heat, draw_note, enlarge, readable_factor
from engine.inference.prediction import TOP, Prediction, answer, likeliest
from engine.inference.preview_window import Screen
from engine.inference.sources import FrameFolder, open_video, watch
from engine.inference.video_writer import GIF_SECONDS, UNKNOWN_RATE, GifWriter, SoundTrack, VideoWriter, video_format
from engine.inference.windows import resized
from network import InputSpec

WRITE_ERRORS = (OSError, av.error.FFmpegError)  # of the disk, and of an encoder


def annotate(
    video: str | Path,
    prediction: Prediction,
    output: str | Path,
    top: int = TOP,
    show_progress: bool = False,
    threshold: float = 0.0,
    explanation: Explanation | None = None,
    spec: InputSpec | None = None,
) -> None:
    """Writes the video with the answer of each moment drawn on its frames: H.264 with the source's sound, or a GIF.

    Frames have the source's size, turned upright, and its frame rate; a folder of frames has the rate with which it was
    predicted. What is smaller than 320 pixels is enlarged by a whole number, so that the text can be read; where the
    size is odd, the last row or column is there twice (yuv420p has even sizes). The label of a frame is that of
    prediction.at(frame), or "uncertain" below the threshold. With an explanation (and the spec of the network that it
    is of) its heat lies on the picture, and its curve below. `output` appears whole or not at all.
    """
    video, output = Path(video), Path(output)
    container_format = video_format(output)
    if same_file(video, output):
        raise UsageError(f"{printable(output)} is also an input and would be overwritten. Choose another name.")
    if container_format == "gif":
        check_short(prediction, output)

    with (
        open_video(video, prediction.fps) as reader,
        atomic_output(output, WRITE_ERRORS) as temporary,
        ExitStack() as stack,
    ):
        frames = watch(reader, prediction.num_frames, f"Drawing {output.name}", show_progress)
        writer = None
        for picture, index, turned in annotated(frames, prediction, top, threshold, explanation, spec):
            if writer is None:
                size = picture.shape[1::-1]
                writer = open_writer(stack, temporary, container_format, reader, prediction, size, turned)
            writer.write(picture, prediction.seconds(index))


def show_annotated(
    video: str | Path,
    prediction: Prediction,
    top: int = TOP,
    show_progress: bool = False,
    threshold: float = 0.0,
    explanation: Explanation | None = None,
    spec: InputSpec | None = None,
) -> None:
    """Shows the annotated video in a window at its own pace, until its end or until the user closes it."""
    video = Path(video)
    with open_video(video, prediction.fps) as reader, Screen(printable(video.name), paced=True) as screen:
        frames = watch(reader, prediction.num_frames, f"Showing {video.name}", show_progress)
        for picture, index, _ in annotated(frames, prediction, top, threshold, explanation, spec):
            seconds = prediction.seconds(index)
            screen.write(picture, index / float(UNKNOWN_RATE) if seconds is None else seconds)
            if screen.is_closed:
                break


def annotated(
    frames: Iterator,
    prediction: Prediction,
    top: int,
    threshold: float,
    explanation: Explanation | None,
    spec: InputSpec | None,
) -> Iterator[tuple[np.ndarray, int, bool]]:
    """Decoded frames -> (picture (H, W, 3) uint8 BGR of even size, index, whether the source lies on its side)."""
    size = None
    for index, frame in enumerate(frames):
        pixels = to_array(frame, "bgr24")  # (H, W, 3)
        size = size or pixels.shape[1::-1]
        if pixels.shape[1::-1] != size:  # streams may change their size on the way
            pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
        if explanation and index < len(explanation.heat):
            pixels = with_heat(pixels, explanation.heat[index], spec)
        picture = draw_on(pixels, likeliest(prediction.classes, prediction.at(index), top), threshold)
        if explanation:
            draw_curve(picture, explanation.moments, index, explanation.labels[index])
        yield picture, index, frame.rotation % 180 != 0


def write_live(live: LiveRecognition, output: Path | None, top: int, threshold: float, show: bool) -> None:
    """Runs a live source: a line on the terminal when the label changes, the annotated video where `output` names one,
    a window where it is to be shown."""
    label = None
    with ExitStack() as stack:
        writer = None
        screen = stack.enter_context(Screen(live.name, paced=False)) if show else None
        temporary = stack.enter_context(atomic_output(output, WRITE_ERRORS)) if output else None
        for moment in live:
            if moment.probabilities is not None:
                new = answer(live.classes, moment.probabilities, threshold)
                if new != label:
                    label = new
                    print(
                        live_line(moment.seconds, label, float(moment.probabilities.max()), moment.latency), flush=True
                    )
            if not (output or screen):
                continue
            picture = draw_live(moment.pixels, live.classes, moment.probabilities, moment.latency, top, threshold)
            if output and writer is None:
                size, rate = picture.shape[1::-1], Fraction(live.fps or UNKNOWN_RATE).limit_denominator(1001)
                writer = stack.enter_context(VideoWriter(temporary, video_format(output), size, rate, timed=True))
            if writer:
                if picture.shape[1::-1] != size:
                    picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
                writer.write(picture, moment.seconds)
            if screen:
                screen.write(picture, None)
                if screen.is_closed:
                    break
        if output and writer is None:
            live.prediction()  # says that no frame came


def live_line(seconds: float, label: str, probability: float, latency: float | None) -> str:
    """12.4 s  Biking 93.1 %  180 ms behind"""
    behind = "" if latency is None else f"  {1000 * latency:.0f} ms behind"
    return f"{seconds:7.1f} s  {label} {100 * probability:.1f} %{behind}"


def draw_live(
    pixels: np.ndarray,
    classes: list[str],
    probabilities: np.ndarray | None,
    latency: float | None,
    top: int,
    threshold: float,
) -> np.ndarray:
    if probabilities is None:
        picture = draw_on(pixels, [], threshold)
        draw_note(picture, "waiting for the first clip")
        return picture
    picture = draw_on(pixels, likeliest(classes, probabilities, top), threshold)
    if latency is not None:
        draw_note(picture, f"{1000 * latency:.0f} ms behind")
    return picture


def check_short(prediction: Prediction, output: Path) -> None:
    seconds = prediction.seconds(prediction.num_frames) or prediction.num_frames / float(UNKNOWN_RATE)
    if seconds > GIF_SECONDS:
        raise UserError(
            f"{printable(output)}: a GIF of {seconds:.0f} s would be huge; {GIF_SECONDS} s is the limit. Write an .mp4."
        )


def open_writer(
    stack: ExitStack,
    path: Path,
    container_format: str,
    reader: VideoReader | FrameFolder,
    prediction: Prediction,
    size: tuple[int, int],
    turned: bool,
) -> VideoWriter | GifWriter:
    """A writer for pictures of `size` (width, height), closed with the stack."""
    if container_format == "gif":
        return stack.enter_context(GifWriter(path, size, reader.shown_rate))
    aspect = reader.pixel_aspect
    if aspect and turned:
        aspect = 1 / aspect
    sound = stack.enter_context(SoundTrack(reader.path)) if isinstance(reader, VideoReader) else None
    timed = prediction.times is not None
    writer = VideoWriter(
        path, container_format, size, reader.shown_rate, timed, aspect, sound if sound and sound.found else None
    )
    return stack.enter_context(writer)


def draw_on(pixels: np.ndarray, top: list[tuple[str, float]], threshold: float = 0.0) -> np.ndarray:
    """Returns a copy with the answer drawn on it, enlarged where the text needs it, of even width and height."""
    height, width = pixels.shape[:2]
    picture = enlarge(pixels, readable_factor(width, height))
    height, width = picture.shape[:2]
    picture = cv2.copyMakeBorder(picture, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)  # copies in any case
    if top:
        draw_answer(picture, top, threshold)
    return picture


def with_heat(pixels: np.ndarray, heat: np.ndarray, spec: InputSpec) -> np.ndarray:
    """(H, W, 3) uint8 BGR and the heat (s, s) over the square that the network sees of it -> a copy."""
    height, width = pixels.shape[:2]
    size = resized(spec, width, height)
    across, down = width / size[0], height / size[1]
    [(top, left)] = crop_offsets(*size, spec.crop_size)
    right, bottom = left + spec.crop_size, top + spec.crop_size
    return draw_heat(
        pixels, heat, (round(left * across), round(top * down)), (round(right * across), round(bottom * down))
    )
