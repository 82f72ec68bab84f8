"""Recognises the action in videos: the likeliest classes, a timeline as JSON, the video with the answer drawn on it.

    python inference.py clip.mp4 --checkpoint run/r2plus1d_18-ucf101-000 --output answer.mp4
    python inference.py a.avi b.avi --model r3d_18 --weights kinetics400 --output answers --json answers.json

From Python:

    from inference import Recognizer
    prediction = Recognizer("run/r2plus1d_18-ucf101-000").predict("clip.mp4")
    print(prediction.top(5))
"""

import argparse
import json
import os
import re
import sys
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import cv2
import numpy as np
import torch
import torch.nn as nn
from av.video.reformatter import ColorRange, Colorspace

from dataloaders.clips import clip_indices, clip_span, clip_step
from dataloaders.transforms import crop_offsets, to_model_input
from dataloaders.video import NO_VIDEO_SUFFIXES, VideoError, VideoReader, to_array
from engine.arguments import positive
from engine.checkpoint import find_checkpoint, load_model
from engine.console import count, progress
from engine.device import pick_device, place
from engine.errors import ROOT, UsageError, UserError, run_cli
from engine.overlay import draw_answer, enlarge, readable_factor
from network import InputSpec
from network.weights import build_whole, known_weights, model_named_by, read_weights

FORMATS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska"}
UNKNOWN_RATE = Fraction(25)  # of the annotated video, where the source does not say its own
MAX_RATE = Fraction(1000)  # Matroska counts in milliseconds, and no screen shows more
TOP = 5


def main(argv: Sequence[str]) -> int:
    args = parse_args(argv)
    outputs = plan_outputs(args)
    av.logging.set_level(av.logging.PANIC)  # what is wrong with a video is said in our own words
    recognizer = load_recognizer(args)

    answers = []
    for source, output in zip(args.sources, outputs, strict=True):
        try:
            prediction = recognizer.predict(source, show_progress=True)
            print(report(prediction, args.top), flush=True)
            if output:
                annotate(source, prediction, output, args.top, show_progress=True)
                print(f"  -> {shown(output)}", flush=True)
            answers.append(prediction.to_dict(args.top))
        except UserError as error:  # the other sources still get their answer
            print(error, file=sys.stderr, flush=True)

    if args.json and answers:
        write_json(args.json, answers[0] if len(args.sources) == 1 else answers)
    return 0 if len(answers) == len(args.sources) else 1


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="inference.py", description=__doc__.split("\n")[0])
    parser.add_argument("sources", nargs="+", metavar="SOURCE", type=Path, help="video file")
    parser.add_argument("--checkpoint", help="checkpoint of a training run: the file, the run's folder, or its name")
    parser.add_argument("--model", help="name of a network, for weights that are no checkpoint of this program")
    parser.add_argument("--weights", help="with --model: a file, or a name such as kinetics400")
    parser.add_argument("--labels", type=Path, help="with --model: text file with the name of a class on each line")
    parser.add_argument("--output", help="the annotated video (.mp4, .mov, .mkv); for several sources a folder")
    parser.add_argument("--json", type=Path, metavar="FILE", help="the answers and their timeline")
    parser.add_argument("--stride", type=positive, default=8, help="frames from one window to the next (default: 8)")
    parser.add_argument("--top", type=positive, default=TOP, help=f"how many classes are named (default: {TOP})")
    parser.add_argument("--device", default="auto", help="cuda, cuda:1, mps, cpu; auto takes the best there is")
    parser.add_argument("--batch-size", type=positive, default=8, help="windows in one step (default: 8)")
    args = parser.parse_args(argv)

    if args.weights and not args.model:
        args.model = model_named_by(args.weights)
    if not args.checkpoint and not args.model:
        raise UsageError("Which network? Give --checkpoint FILE, or --model NAME with --weights NAME or FILE.")
    if args.checkpoint and (args.model or args.weights or args.labels):
        flag = "--model" if args.model else "--weights" if args.weights else "--labels"
        raise UsageError(f"--checkpoint brings network, weights and class names. Leave {flag} out, or --checkpoint.")
    if args.model and not args.weights:
        raise UsageError(f"--model {args.model} needs --weights {' or '.join([*known_weights(args.model), 'FILE'])}.")
    return args


def plan_outputs(args: argparse.Namespace) -> list[Path | None]:
    """Where each source's annotated video goes. Refuses, before any work is done, what could not be written in the
    end and what would be written over a file that is read here. Folders that are not there yet are made.
    """
    outputs = output_paths(args.sources, args.output) if args.output else [None] * len(args.sources)
    written = [path for path in [*outputs, args.json] if path]
    read = [*args.sources, *(Path(name) for name in (args.weights, args.labels) if name)]
    if args.checkpoint:
        read.append(find_checkpoint(args.checkpoint, runs_folder()))

    for path in written:
        if any(same_file(path, other) for other in read):
            raise UsageError(f"{shown(path)} would be written over, and it is read here. Choose another name.")
    if args.json and any(args.json.absolute() == output.absolute() for output in written[:-1]):
        raise UsageError(f"--output and --json both name {shown(args.json)}.")
    if args.output and "libx264" not in av.codecs_available:
        raise UserError("This PyAV was built without libx264, so it writes no H.264. Do: pip install --upgrade av")
    for path in written:
        check_writable(path)
    return outputs


def output_paths(sources: Sequence[Path], output: str) -> list[Path]:
    """--output as one path a source. A folder gets <stem>.mp4 of each, and <stem>-2.mp4 where two share a stem.

    With one source a name is a file, unless there is a folder of that name or it ends in /; with several, a folder.
    """
    path = Path(output).expanduser()
    if not path.is_dir() and not output.endswith(("/", os.sep)) and (len(sources) == 1 or path.suffix in FORMATS):
        video_format(path)
        if len(sources) > 1:
            raise UsageError(f"--output {output} is one file, and there are {len(sources)} sources. Name a folder.")
        return [path]

    stems: list[str] = []
    for source in sources:
        stem, number = source.stem, 1
        while stem.lower() in (taken.lower() for taken in stems):  # some file systems do not tell A from a
            number += 1
            stem = f"{source.stem}-{number}"
        stems.append(stem)
    return [path / f"{stem}.mp4" for stem in stems]


def video_format(path: Path) -> str:
    """FFmpeg's name for the container that a file's ending asks for."""
    if path.suffix.lower() not in FORMATS:
        raise UsageError(
            f"--output {shown(path)}: the name of a video ends in {', '.join(FORMATS)} here (that of a folder in /)."
        )
    return FORMATS[path.suffix.lower()]


def same_file(left: Path, right: Path) -> bool:
    return left.exists() and right.exists() and left.samefile(right)


def check_writable(path: Path) -> None:
    """Makes the folder and tries to create a file in it."""
    if path.is_dir():
        raise UsageError(f"{shown(path)} is a folder, and a file is to be written there. Choose another name.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_name(path)
        temporary.touch()
        temporary.unlink()
    except OSError as error:
        raise UserError(f"{shown(path)} cannot be written: {error.strerror}. Choose another folder.") from error


def load_recognizer(args: argparse.Namespace) -> "Recognizer":
    options = {"device": args.device, "stride": args.stride, "batch_size": args.batch_size}
    if args.checkpoint:
        return Recognizer(args.checkpoint, **options)
    return Recognizer.from_model(args.model, args.weights, args.labels, **options)


class Recognizer:
    """A trained network that answers on videos.

    checkpoint   file, run folder, or name of a run
    device       auto, cuda, cuda:1, mps, cpu
    stride       frames of the source from one window to the next
    batch_size   windows that go through the network together; the answer does not depend on it

    After that: .model (on the device, in eval mode), .input_spec, .classes (names in the order of the logits), .device.
    """

    def __init__(self, checkpoint: str | Path, device: str = "auto", stride: int = 8, batch_size: int = 8):
        trained = load_model(find_checkpoint(checkpoint, runs_folder()))
        self._set_up(trained.model, trained.input_spec, trained.classes, device, stride, batch_size)

    @classmethod
    def from_model(
        cls,
        model_name: str,
        weights: str | Path,
        labels: str | Path | Sequence[str] | None = None,
        device: str = "auto",
        stride: int = 8,
        batch_size: int = 8,
    ) -> "Recognizer":
        """A network with weights from elsewhere: a name such as kinetics400, or a file.

        labels: class names in the order of the logits, or the text file that lists them. Needed where the weights do
        not bring names; they win where the weights do. Raises UserError where there are no names, where their number
        is not that of the last layer, and where a parameter of the network is missing in the file.
        """
        recognizer = cls.__new__(cls)
        recognizer._set_up(*load_foreign(model_name, weights, labels), device, stride, batch_size)
        return recognizer

    def _set_up(
        self, model: nn.Module, spec: InputSpec, classes: list[str], device: str, stride: int, batch_size: int
    ) -> None:
        if min(stride, batch_size) < 1:
            raise UsageError(f"stride ({stride}) and batch_size ({batch_size}) must be at least 1.")
        self.device = pick_device(device)
        self.model = place(model.eval(), self.device)
        self.input_spec, self.classes = spec, classes
        self.stride, self.batch_size = stride, batch_size

    def predict(self, video: str | Path, show_progress: bool = False) -> "Prediction":
        """A video file -> the probabilities of its classes, softmax averaged over all windows, and each window's own.

        Windows start at every `stride`-th frame for as long as a whole clip fits; a video shorter than a clip has one,
        in which it repeats. Every frame is decoded once, and kept only while a window needs it. Where the network
        wants a frame rate of its own and the source does not say what it has, it is taken to have that one.
        Raises UserError for what cannot be used as a video.
        """
        spec, windows = self.input_spec, []
        with open_video(Path(video)) as reader:
            fps = reader.fps
            frames = watch(reader, expected_frames(reader), f"Recognising {reader.path.name}", show_progress)
            step = clip_step(spec.frame_stride, 1, spec.fps, fps)
            clips = SlidingClips(frames, lambda frame: prepare_frame(frame, spec), spec.read_len, step, self.stride)
            for batch in batches(clips, self.batch_size):
                probs = self._probabilities(np.stack([clip for _, _, clip in batch]))
                windows += [Window.of(first, last, fps, p) for (first, last, _), p in zip(batch, probs, strict=True)]

        mean = np.mean([window.probabilities for window in windows], axis=0, dtype=np.float64)
        return Prediction(str(video), fps, clips.num_frames, reader.num_damaged, self.classes, mean, windows)

    @torch.inference_mode()
    def _probabilities(self, clips: np.ndarray) -> np.ndarray:
        """(B, T, S, S, 3) uint8 -> (B, num_classes) float32"""
        x = to_model_input(torch.from_numpy(clips).to(self.device), self.input_spec)  # (B, 3, T, S, S)
        probs = self.model(x).softmax(dim=1).cpu().numpy()
        if not np.isfinite(probs).all():
            raise UserError("The network's answer is not a number (NaN): its weights are damaged, or diverged.")
        return probs


@dataclass(frozen=True)
class Window:
    """What one clip of a video shows.

    first_frame, last_frame   of the source, counted from 0, both included
    start, end                the same in seconds: from when the first is shown until the last is gone; None where the
                              source does not say its frame rate
    probabilities             (num_classes,) float32
    """

    first_frame: int
    last_frame: int
    start: float | None
    end: float | None
    probabilities: np.ndarray

    @classmethod
    def of(cls, first: int, last: int, fps: float | None, probabilities: np.ndarray) -> "Window":
        return cls(first, last, first / fps if fps else None, (last + 1) / fps if fps else None, probabilities)


@dataclass(frozen=True)
class Prediction:
    """The answer on one video.

    fps             of the source; None where it does not say
    num_frames      that could be decoded
    num_damaged     packets that could not; their frames are missing
    classes         names in the order of the probabilities
    probabilities   (num_classes,) float64, the mean over the windows
    """

    video: str
    fps: float | None
    num_frames: int
    num_damaged: int
    classes: list[str]
    probabilities: np.ndarray
    windows: list[Window]

    def top(self, number: int = TOP) -> list[tuple[str, float]]:
        """The likeliest classes of the video with their probabilities, at most `number`."""
        return likeliest(self.classes, self.probabilities, number)

    def at(self, frame: int) -> np.ndarray:
        """(num_classes,) probabilities at a frame: the mean of the windows that cover it, else those of the nearest."""
        before = bisect_left(self.windows, frame, key=lambda window: window.last_frame)  # so many end before it
        begun = bisect_right(self.windows, frame, key=lambda window: window.first_frame)
        if before < begun:
            return np.mean([window.probabilities for window in self.windows[before:begun]], axis=0, dtype=np.float64)
        around = self.windows[max(before - 1, 0) : before + 1]
        nearest = min(around, key=lambda window: max(window.first_frame - frame, frame - window.last_frame))
        return nearest.probabilities

    def to_dict(self, top: int = TOP) -> dict:
        """What --json writes."""
        return {
            "video": shown(self.video),
            "fps": self.fps,
            "num_frames": self.num_frames,
            "classes": self.classes,
            "top": named(self.top(top)),
            "windows": [self._window_to_dict(window, top) for window in self.windows],
        }

    def _window_to_dict(self, window: Window, top: int) -> dict:
        likely = named(likeliest(self.classes, window.probabilities, top))
        return {
            "start": window.start,
            "end": window.end,
            "first_frame": window.first_frame,
            "last_frame": window.last_frame,
            **likely[0],
            "top": likely,
        }


class SlidingClips:
    """Iterating gives (first_frame, last_frame, clip (T, H, W, 3) uint8) of each window; num_frames counts the frames.

        clip_len=4, step=2, stride=3, 12 frames     f.f.f.f.....    span 7
                                                    ...f.f.f.f..

    Frames are prepared once, those that no window shows not at all, and held until the last window that shows them: of
    a long video never more than `span` at a time.
    """

    def __init__(
        self, frames: Iterable, prepare: Callable[[object], np.ndarray], clip_len: int, step: float, stride: int
    ):
        self.frames, self.prepare = frames, prepare
        self.clip_len, self.step, self.stride = clip_len, step, stride
        self.num_frames = 0

    def __iter__(self) -> Iterator[tuple[int, int, np.ndarray]]:
        span = clip_span(self.clip_len, self.step)
        offsets = clip_indices(0, self.clip_len, self.step, span)
        shown_places = {int(offset) % self.stride for offset in offsets}  # windows start at multiples of the stride

        held: dict[int, np.ndarray] = {}
        start = 0
        for index, frame in enumerate(self.frames):
            self.num_frames = index + 1
            # A video that ends before the first window does is repeated, and then each of its frames may be shown.
            if index >= start and (index < span or index % self.stride in shown_places):
                held[index] = self.prepare(frame)
            if index == start + span - 1:
                yield start, index, np.stack([held[i] for i in start + offsets])
                start += self.stride
                held = {i: pixels for i, pixels in held.items() if i >= start}

        if start == 0:
            indices = clip_indices(0, self.clip_len, self.step, self.num_frames)
            yield 0, self.num_frames - 1, np.stack([held[i] for i in indices])


def prepare_frame(frame: av.VideoFrame, spec: InputSpec) -> np.ndarray:
    """A decoded frame -> (S, S, 3) uint8 RGB, resized as preprocessing does it and cropped as evaluation does it."""
    pixels = cv2.resize(to_array(frame, "bgr24"), spec.resize, interpolation=cv2.INTER_LINEAR)
    [(top, left)] = crop_offsets(*spec.resize, spec.crop_size)
    crop = pixels[top : top + spec.crop_size, left : left + spec.crop_size]
    return cv2.cvtColor(crop, cv2.COLOR_BGR2RGB)


def batches(items: Iterable, size: int) -> Iterator[list]:
    """Lists of `size` items, the last one with what is left."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def likeliest(classes: Sequence[str], probabilities: np.ndarray, number: int) -> list[tuple[str, float]]:
    order = np.argsort(-probabilities, kind="stable")[:number]
    return [(classes[i], float(probabilities[i])) for i in order]


def named(top: Iterable[tuple[str, float]]) -> list[dict]:
    return [{"label": label, "probability": probability} for label, probability in top]


def runs_folder() -> Path:
    import mypath

    return ROOT / mypath.RUNS


def load_foreign(
    model_name: str, weights: str | Path, labels: str | Path | Sequence[str] | None
) -> tuple[nn.Module, InputSpec, list[str]]:
    """Network, input and class names from weights that are named or lie in a file; see Recognizer.from_model."""
    from_file = isinstance(labels, str | Path)
    names = read_labels(Path(labels)) if from_file else labels and list(labels)
    whose = f"--labels {labels}" if from_file else "the list"
    model, spec, classes, _ = build_whole(model_name, read_weights(weights, model_name), names, whose)
    return model, spec, classes


def read_labels(path: Path) -> list[str]:
    """Names of classes, one a line. If all are numbered, as in UCF101's classInd.txt, the numbers are dropped."""
    try:
        text = path.expanduser().read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"--labels {path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"--labels {path} is no UTF-8 text. It is a text file with a class name on each line."
        ) from error

    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise UserError(f"--labels {path} is empty. It is a text file with a class name on each line.")
    numbered = [re.fullmatch(r"(\d+)[\s,:]+(.+)", line) for line in lines]
    if all(numbered) and int(numbered[0][1]) in (0, 1):
        numbers = [int(match[1]) for match in numbered]
        if numbers == list(range(numbers[0], numbers[0] + len(numbers))):
            return [match[2] for match in numbered]
    return lines


@contextmanager
def open_video(path: Path) -> Iterator[VideoReader]:
    """An open video. What is wrong with it, found now or while it is read, becomes a UserError with its name."""
    if not path.exists():
        raise UserError(f"There is no file {path}.")
    if not path.is_file():
        raise UserError(f"{path} is {'a folder' if path.is_dir() else 'no regular file'}. SOURCE is a video file.")
    if path.suffix.lower() in NO_VIDEO_SUFFIXES:  # FFmpeg would show a text as a film of its letters
        raise UserError(f"{path} is no video: that is not how the name of one ends.")

    try:
        # absolute: FFmpeg would read the name 12:30.mp4 as an address
        with VideoReader(path.absolute()) as reader:
            yield reader
    except VideoError as error:
        raise UserError(f"{path} cannot be used as a video: {error}.") from error
    except av.error.FFmpegError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error


def expected_frames(reader: VideoReader) -> int:
    """Roughly, for the progress bar; 0 where the header says nothing."""
    return reader.stream.frames or int((reader.container.duration or 0) / 1e6 * (reader.fps or 0))


def watch(frames: Iterable[av.VideoFrame], total: int, what: str, show_progress: bool) -> Iterable[av.VideoFrame]:
    return progress(frames, total, what, "frames") if show_progress else frames


def report(prediction: Prediction, top: int) -> str:
    """clip.avi: 164 frames, 6.6 s at 25 fps, 19 windows, and a line for each of the likeliest classes."""
    facts = [count(prediction.num_frames, "frame")]
    if prediction.fps:
        facts.append(f"{prediction.num_frames / prediction.fps:.1f} s at {prediction.fps:.4g} fps")
    facts.append(count(len(prediction.windows), "window"))
    if prediction.num_damaged:
        facts.append(f"{count(prediction.num_damaged, 'damaged place')}")
    likely = prediction.top(top)
    lines = [f"  {100 * probability:5.1f} %  {label}" for label, probability in likely]
    return "\n".join([f"{shown(prediction.video)}: {', '.join(facts)}", *lines])


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


def write_json(path: Path, content: dict | list[dict]) -> None:
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`: renamed in the end, removed if anything goes wrong. Raises UserError."""
    temporary = temporary_name(path)
    try:
        yield temporary
        temporary.replace(path)
    except (OSError, av.error.FFmpegError) as error:
        raise UserError(f"{shown(path)} cannot be written: {error.strerror}.") from error
    finally:
        temporary.unlink(missing_ok=True)


def temporary_name(path: Path) -> Path:
    return path.with_name(path.name + ".tmp")


def shown(path: str | Path) -> str:
    """A path as text that can be printed, whatever bytes its name has."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


if __name__ == "__main__":
    run_cli(main)
