"""Recognises the action in videos: the likeliest classes, a timeline as JSON, the video with the answer drawn on it.

    python inference.py clip.mp4 --checkpoint run/r2plus1d_18-ucf101-000 --output answer.mp4
    python inference.py my/videos --checkpoint run/r2plus1d_18-ucf101-000 --csv answers.csv
    python inference.py 0 --model r3d_18 --weights kinetics400 --show
    python inference.py rtsp://camera/stream --checkpoint run/r2plus1d_18-ucf101-000 --output seen.mp4 --duration 60

From Python:

    from inference import Recognizer
    prediction = Recognizer("run/r2plus1d_18-ucf101-000").predict("clip.mp4")
    print(prediction.top(5))
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np
import torch
import torch.nn as nn

from dataloaders.transforms import to_model_input
from engine.arguments import positive
from engine.checkpoint import find_checkpoint, load_model
from engine.console import count, progress
from engine.device import pick_device, place
from engine.errors import ROOT, UsageError, UserError, run_cli, unknown_name
from engine.stopping import StopRequest
from network import InputSpec
from network.labels import read_labels
from network.weights import build_whole, known_weights, model_named_by, read_weights
from recognition.annotate import annotate, show_annotated, write_live
from recognition.explain import Explanation, HeatOverVideo, explain_clips
from recognition.files import CsvTable, check_writable, shown, write_json
from recognition.live import LiveRecognition
from recognition.precision import Answerer
from recognition.prediction import TOP, Prediction, Window, frame_time, report
from recognition.screen import check_screen
from recognition.sources import Sources, find_sources
from recognition.video_writer import FORMATS, check_codecs, video_format
from recognition.windows import Clock, batches, evenly_spaced_clips, sliding_clips

NUM_CLIPS = 10  # of a video, as in evaluate.py


def main(argv: Sequence[str]) -> int:
    args = parse_args(argv)
    sources = find_sources(args.sources)
    outputs = plan_outputs(args, sources)
    av.logging.set_level(av.logging.PANIC)  # what is wrong with a video is said in our own words
    if args.show:
        check_screen()
    recognizer = load_recognizer(args)
    if args.explain_class and args.explain_class not in recognizer.classes:
        raise UsageError(unknown_name("class", args.explain_class, recognizer.classes))

    if sources.live:
        return watch_live(args, recognizer, sources.live, outputs[0])
    if sources.from_folder and not (args.output or args.json or args.show):
        return classify_all(args, recognizer, sources)
    return recognize_each(args, recognizer, sources, outputs)


def recognize_each(
    args: argparse.Namespace, recognizer: "Recognizer", sources: Sources, outputs: list[Path | None]
) -> int:
    """Windows over every video; a report for each, and its annotated video. The rest goes on where one is unusable."""
    answers, refused = [], []
    table = CsvTable(args.csv, csv_header(args.top)) if args.csv else None
    for (video, _), output in zip(sources.videos, outputs, strict=True):
        try:
            prediction = recognizer.predict(video, show_progress=True)
            explanation = None
            if args.explain:
                explanation = recognizer.explain(video, prediction, args.explain_class, show_progress=True)
            smoothed = prediction.smoothed(args.smooth)
            print(report(prediction, args.top, args.threshold), flush=True)
            options = (args.top, True, args.threshold, explanation, recognizer.input_spec)
            if output:
                annotate(video, smoothed, output, *options)
                print(f"  -> {shown(output)}", flush=True)
            if args.show:
                show_annotated(video, smoothed, *options)
            answers.append(smoothed.to_dict(args.top, args.threshold))
            if explanation:
                answers[-1]["explained"] = explanation.to_dict()
            if table:
                table.add(csv_row(recognizer.classify(video, NUM_CLIPS), args))
        except UserError as error:  # the other sources still get their answer
            refused.append(error)
            print(error, file=sys.stderr, flush=True)
            if table:
                table.add({"video": shown(video), "problem": str(error)})

    if args.json and answers:
        write_json(args.json, answers[0] if len(sources.videos) == 1 else answers)
    if table:
        table.close()
    if len(sources.videos) > 1:
        print(summary(len(answers), refused))
    return 1 if refused else 0


def classify_all(args: argparse.Namespace, recognizer: "Recognizer", sources: Sources) -> int:
    """One answer a video, as evaluate.py gives it; a line for each on the terminal, a row in the table."""
    refused = []
    table = CsvTable(args.csv, csv_header(args.top)) if args.csv else None
    videos = [video for video, _ in sources.videos]
    for video, clips in progress(read_ahead(videos, recognizer.input_spec), len(videos), "Recognising", "videos"):
        try:
            prediction = recognizer.classify_clips(video, *clips.result())
            if table:
                table.add(csv_row(prediction, args))
            else:
                label, (_, probability) = prediction.label(args.threshold), prediction.top(1)[0]
                print(f"{shown(video)}: {label} {100 * probability:.1f} %", flush=True)
        except UserError as error:
            refused.append(error)
            if table:
                table.add({"video": shown(video), "problem": str(error)})
    if table:
        table.close()
        print(f"-> {shown(args.csv)}")
    for error in refused:
        print(error, file=sys.stderr)
    print(summary(len(videos) - len(refused), refused))
    return 1 if refused else 0


def read_ahead(videos: Sequence[Path], spec: InputSpec) -> Iterator[tuple[Path, Future]]:
    """The clips of each video, the next ones decoded by threads while the network is at work on one."""
    ahead: list[tuple[Path, Future]] = []
    with ThreadPoolExecutor(max_workers=2, thread_name_prefix="decode") as pool:
        try:
            for video in videos:
                ahead.append((video, pool.submit(evenly_spaced_clips, video, spec, NUM_CLIPS)))
                if len(ahead) > 2:
                    yield ahead.pop(0)
            yield from ahead
        finally:
            pool.shutdown(cancel_futures=True)


def watch_live(args: argparse.Namespace, recognizer: "Recognizer", name: str, output: Path | None) -> int:
    """A camera or stream, until it ends, --duration is over, or Ctrl-C; what was seen is written in any case."""
    with StopRequest() as stop:
        live = recognizer.watch(name, args.smooth, args.timeout, args.duration, stop)
        print(f"Watching {name}, {live.describe()}; Ctrl-C ends.", flush=True)
        write_live(live, output, args.top, args.threshold, args.show)
    prediction = live.prediction()
    print(report(prediction, args.top, args.threshold))
    print(f"  {count(live.num_dropped, 'picture')} and {count(live.num_skipped, 'window')} dropped to keep up")
    if output:
        print(f"  -> {shown(output)}")
    if args.json:
        write_json(args.json, prediction.to_dict(args.top, args.threshold))
    if live.lost:
        raise UserError(f"{name} went away: {live.lost}. What came before is in the answer above.")
    return 0


def csv_header(top: int) -> list[str]:
    ranks = [f"{what}_{rank}" for rank in range(2, top + 1) for what in ("label", "probability")]
    return ["video", "label", "probability", *ranks, "num_frames", "fps", "num_damaged", "problem"]


def csv_row(prediction: Prediction, args: argparse.Namespace) -> dict:
    top = prediction.top(args.top)
    row = {"video": shown(prediction.video), "label": prediction.label(args.threshold), "probability": top[0][1]}
    for rank, (label, probability) in enumerate(top[1:], 2):
        row |= {f"label_{rank}": label, f"probability_{rank}": probability}
    return row | {"num_frames": prediction.num_frames, "fps": prediction.fps, "num_damaged": prediction.num_damaged}


def summary(num_answers: int, refused: Sequence[UserError]) -> str:
    problems = f", {len(refused)} could not be used" if refused else ""
    return f"{count(num_answers, 'answer')}{problems}"


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="inference.py", description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("sources", nargs="+", metavar="SOURCE", help="video file, folder, camera number, or rtsp://, http:// address")
    network = parser.add_argument_group("network")
    add = network.add_argument
    add("--checkpoint", help="checkpoint of a training run: the file, the run's folder, or its name")
    add("--model", help="name of a network, for weights that are no checkpoint of this program")
    add("--weights", help="with --model: a file, or a name such as kinetics400")
    add("--labels", type=Path, help="with --model: text file with the name of a class on each line")
    add("--device", default="auto", help="cuda, cuda:1, mps, cpu; auto takes the best there is")
    add("--amp", default="auto", choices=("auto", "off", "bf16"), help="auto: bf16 where the device computes in it")
    add("--batch-size", type=positive, default=8, help="windows in one step (default: 8)")
    answer = parser.add_argument_group("answer")
    add = answer.add_argument
    add("--stride", type=positive, default=8, help="frames from one window to the next (default: 8)")
    add("--smooth", type=positive, default=1, metavar="N", help="mean over N neighbouring windows (default: 1)")
    add("--threshold", type=fraction, default=0.0, metavar="P", help="below probability P the label is 'uncertain'")
    add("--top", type=positive, default=TOP, help=f"how many classes are named (default: {TOP})")
    add("--explain", action="store_true", help="show where and when the network found its answer (Grad-CAM)")
    add("--explain-class", metavar="CLASS", help="the same for another class than the likeliest")
    written = parser.add_argument_group("output")
    add = written.add_argument
    add("--output", help="the annotated video (.mp4, .mov, .mkv, .gif); for several sources a folder")
    add("--json", type=Path, metavar="FILE", help="answers with their timeline and windows")
    add("--csv", type=Path, metavar="FILE", help="a row a video, its answer as evaluate.py gives it")
    add("--show", action="store_true", help="open a window (q closes it)")
    live = parser.add_argument_group("camera and stream")
    live.add_argument("--duration", type=seconds, metavar="S", help="end after so many seconds")
    live.add_argument("--timeout", type=seconds, default=10.0, metavar="S", help="lost after so many (default: 10)")
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
    args.explain = args.explain or args.explain_class is not None
    return args


def fraction(text: str) -> float:
    """A probability."""
    value = _number(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not between 0 and 1")
    return value


def seconds(text: str) -> float:
    value = _number(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of seconds greater than 0")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number") from None


def plan_outputs(args: argparse.Namespace, sources: Sources) -> list[Path | None]:
    """Where each source's annotated video goes. Refuses, before any work is done, what could not be written in the
    end and what would be written over a file that is read here. Folders that are not there yet are made.
    """
    if sources.live and (args.csv or args.explain):
        flag = "--csv" if args.csv else "--explain"
        raise UsageError(f"{flag} is for videos that have an end; {sources.live} is a camera or a stream.")
    if not sources.live and args.duration:
        raise UsageError("--duration is for cameras and streams; a file is answered to its end.")
    if args.explain and not (args.output or args.show or args.json):
        raise UsageError("--explain shows its heat on the video: give --output FILE, --json FILE or --show, too.")
    if args.output and sources.live:
        outputs = [Path(args.output).expanduser()]
        if video_format(outputs[0]) == "gif":
            raise UsageError("--output: a camera or stream is written as .mp4, .mov or .mkv.")
    else:
        outputs = output_paths(sources, args.output) if args.output else [None] * max(len(sources.videos), 1)
    written = [path for path in [*outputs, args.json, args.csv] if path]
    read = [*(video for video, _ in sources.videos), *(Path(name) for name in (args.weights, args.labels) if name)]
    if args.checkpoint:
        read.append(find_checkpoint(args.checkpoint, runs_folder()))

    identities = {(stat.st_dev, stat.st_ino) for stat in (path.stat() for path in read if path.exists())}
    for path in written:
        if path.exists() and (path.stat().st_dev, path.stat().st_ino) in identities:
            raise UsageError(f"{shown(path)} would be written over, and it is read here. Choose another name.")
    if len({path.absolute() for path in written}) < len(written):
        raise UsageError(f"--output, --json and --csv need names of their own; {shown(written[-1])} is there twice.")
    if args.output:
        check_codecs()
    for path in written:
        check_writable(path)
    return outputs


def output_paths(sources: Sources, output: str) -> list[Path]:
    """--output as one path a source. A folder gets <stem>.mp4 of each, and <stem>-2.mp4 where two share a stem; the
    videos of a folder keep their places below it.

    With one source a name is a file, unless there is a folder of that name or it ends in /; with several, a folder.
    """
    path = Path(output).expanduser()
    one = len(sources.videos) == 1 and not sources.from_folder
    if not path.is_dir() and not output.endswith(("/", os.sep)) and (one or path.suffix in FORMATS):
        video_format(path)
        if not one:
            raise UsageError(
                f"--output {output} is one file, and there are {len(sources.videos)} sources. Name a folder."
            )
        return [path]

    taken: set[str] = set()
    names = []
    for _, relative in sources.videos:
        name, number = relative.with_suffix(".mp4"), 1
        while str(name).lower() in taken:  # some file systems do not tell A from a
            number += 1
            name = relative.with_name(f"{relative.stem}-{number}.mp4")
        taken.add(str(name).lower())
        names.append(path / name)
    return names


def load_recognizer(args: argparse.Namespace) -> "Recognizer":
    options = {"device": args.device, "stride": args.stride, "batch_size": args.batch_size, "amp": args.amp}
    if args.checkpoint:
        return Recognizer(args.checkpoint, **options)
    return Recognizer.from_model(args.model, args.weights, args.labels, **options)


class Recognizer:
    """A trained network that answers on videos.

    checkpoint   file, run folder, or name of a run
    device       auto, cuda, cuda:1, mps, cpu
    stride       frames of the source from one window to the next
    batch_size   windows that go through the network together; the answer does not depend on it
    amp          auto: bf16 where the device computes in it; off: float32 as in evaluate.py; bf16

    After that: .model (on the device, in eval mode), .input_spec, .classes (names in the order of the logits), .device.
    """

    def __init__(
        self, checkpoint: str | Path, device: str = "auto", stride: int = 8, batch_size: int = 8, amp: str = "auto"
    ):
        trained = load_model(find_checkpoint(checkpoint, runs_folder()))
        self._set_up(trained.model, trained.input_spec, trained.classes, device, stride, batch_size, amp)

    @classmethod
    def from_model(
        cls,
        model_name: str,
        weights: str | Path,
        labels: str | Path | Sequence[str] | None = None,
        device: str = "auto",
        stride: int = 8,
        batch_size: int = 8,
        amp: str = "auto",
    ) -> "Recognizer":
        """A network with weights from elsewhere: a name such as kinetics400, or a file.

        labels: class names in the order of the logits, or the text file that lists them. Needed where the weights do
        not bring names; they win where the weights do. Raises UserError where there are no names, where their number
        is not that of the last layer, and where a parameter of the network is missing in the file.
        """
        recognizer = cls.__new__(cls)
        recognizer._set_up(*load_foreign(model_name, weights, labels), device, stride, batch_size, amp)
        return recognizer

    def _set_up(
        self,
        model: nn.Module,
        spec: InputSpec,
        classes: list[str],
        device: str,
        stride: int,
        batch_size: int,
        amp: str,
    ) -> None:
        if min(stride, batch_size) < 1:
            raise UsageError(f"stride ({stride}) and batch_size ({batch_size}) must be at least 1.")
        self.device = pick_device(device)
        self.model = place(model.eval(), self.device)
        self.input_spec, self.classes = spec, classes
        self.stride, self.batch_size = stride, batch_size
        self._answerer = Answerer(self.model, self.device, amp)

    def predict(self, video: str | Path, show_progress: bool = False) -> Prediction:
        """A video file -> the probabilities of its classes, softmax averaged over all windows, and each window's own.

        Windows start at every `stride`-th frame for as long as a whole clip fits; a video shorter than a clip has one,
        in which it repeats. Every frame is decoded once, and kept only while a window needs it. Where the network
        wants a frame rate of its own and the source does not say what it has, it is taken to have that one.
        Raises UserError for what cannot be used as a video.
        """
        probs, places = [], []
        with sliding_clips(Path(video), self.input_spec, self.stride, "Recognising", show_progress) as (clips, clock):
            for batch in batches(clips, self.batch_size):
                probs += list(self.probabilities(np.stack([clip for _, _, clip in batch])))
                places += [(first, last) for first, last, _ in batch]
        return self._prediction(video, clock, places, probs)

    def classify(self, video: str | Path, num_clips: int = 10) -> Prediction:
        """A video file -> the answer of evaluate.py: softmax averaged over num_clips evenly spaced clips, which are the
        prediction's windows. Raises UserError for what cannot be used as a video."""
        return self.classify_clips(video, *evenly_spaced_clips(Path(video), self.input_spec, num_clips))

    def classify_clips(
        self, video: str | Path, places: list[tuple[int, int]], clips: np.ndarray, clock: Clock
    ) -> Prediction:
        """classify() for clips that are cut already, (N, T, S, S, 3) uint8: see evenly_spaced_clips."""
        parts = np.split(clips, range(self.batch_size, len(clips), self.batch_size))
        return self._prediction(video, clock, places, [row for part in parts for row in self.probabilities(part)])

    def explain(
        self, video: str | Path, prediction: Prediction, label: str | None = None, show_progress: bool = False
    ) -> Explanation:
        """Where and when the network found the likeliest class of a prediction, or another class of its `label`."""
        if label is not None and label not in self.classes:
            raise UsageError(unknown_name("class", label, self.classes))
        label = label or prediction.label()
        heat = HeatOverVideo()
        with sliding_clips(Path(video), self.input_spec, self.stride, "Explaining", show_progress) as (clips, _):
            for batch in batches(clips, self.batch_size):
                x = self._input(np.stack([clip for _, _, clip in batch]))
                maps, moments = explain_clips(self.model, x, self.classes.index(label))
                for (first, last, _), *parts in zip(batch, maps, moments, strict=True):
                    heat.add(first, last, *parts)
        return heat.explanation(label, prediction.num_frames)

    def watch(
        self,
        source: str,
        smooth: int = 1,
        timeout: float = 10.0,
        duration: float | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> LiveRecognition:
        """A camera's number or a stream's address -> pictures with the answer of the moment, when iterated over."""
        return LiveRecognition(
            source, self.input_spec, self.classes, self.probabilities, self.stride, smooth, timeout, duration, stop
        )

    def probabilities(self, clips: np.ndarray) -> np.ndarray:
        """(B, T, S, S, 3) uint8 RGB, cut as the InputSpec says -> (B, num_classes) float32. T is InputSpec.read_len."""
        return self._answerer(self._input(clips))

    def _input(self, clips: np.ndarray) -> torch.Tensor:
        return to_model_input(torch.from_numpy(clips).to(self.device), self.input_spec)  # (B, C, T, S, S)

    def _prediction(
        self, video: str | Path, clock: Clock, places: Sequence[tuple[int, int]], probs: Sequence[np.ndarray]
    ) -> Prediction:
        fps, times = clock.reader.fps, clock.times
        windows = [
            Window(first, last, frame_time(first, fps, times), frame_time(last + 1, fps, times), p)
            for (first, last), p in zip(places, probs, strict=True)
        ]
        mean = np.mean(probs, axis=0, dtype=np.float64)
        return Prediction(
            str(video), fps, clock.num_frames, clock.reader.num_damaged, self.classes, mean, windows, times
        )


def load_foreign(
    model_name: str, weights: str | Path, labels: str | Path | Sequence[str] | None
) -> tuple[nn.Module, InputSpec, list[str]]:
    """Network, input and class names from weights that are named or lie in a file; see Recognizer.from_model."""
    from_file = isinstance(labels, str | Path)
    names = read_labels(Path(labels)) if from_file else labels and list(labels)
    whose = f"--labels {labels}" if from_file else "the list"
    model, spec, classes, _ = build_whole(model_name, read_weights(weights, model_name), names, whose)
    return model, spec, classes


def runs_folder() -> Path:
    import mypath

    return ROOT / mypath.RUNS


if __name__ == "__main__":
    run_cli(main)
