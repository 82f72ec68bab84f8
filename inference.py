"""Recognises the action in videos: the likeliest classes, a timeline as JSON, the video with the answer drawn on it.

    python inference.py clip.mp4 --checkpoint run/r2plus1d_18-ucf101-000 --output answer.mp4
    python inference.py my/videos --checkpoint run/r2plus1d_18-ucf101-000 --csv answers.csv
    python inference.py clip.mp4 --checkpoint r2plus1d.onnx                            what export.py has written
    python inference.py 0 --model r3d_18 --weights kinetics400 --show
    python inference.py rtsp://camera/stream --checkpoint run/r2plus1d_18-ucf101-000 --output seen.mp4 --duration 60

From Python:

    from inference import Recognizer
    prediction = Recognizer("run/r2plus1d_18-ucf101-000").predict("clip.mp4")
    print(prediction.top(5))
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2  # noqa: F401  # isort: skip  before av: the X libraries that PyAV brings, loaded first, make a window of OpenCV hang
import av
import numpy as np
import torch
import torch.nn as nn

from common.class_names import read_labels
from common.cli import run_cli
from common.console import plural, progress
from common.errors import UsageError, UserError, unknown_name
from common.files import ROOT, printable, write_json
from dataloaders.transforms import to_model_input
from engine.export.runtimes import Program, is_exported, open_program
from engine.hardware.device import pick_device, to_device
from engine.hardware.low_precision import Answerer, check_probabilities
from engine.inference.annotate import annotate, show_annotated, write_live
from engine.inference.csv_table import AnswerTable
from engine.inference.grad_cam import Explanation, HeatOverVideo, check_explainable, explain_clips
from engine.inference.live import LiveRecognition
from engine.inference.options import STRIDE, TIMEOUT, only_classifies, parse_args, plan_outputs
from engine.inference.prediction import Prediction, assemble, report
from engine.inference.preview_window import check_screen
from engine.inference.read_ahead import read_ahead
from engine.inference.sources import Sources, find_sources
from engine.inference.windows import Clock, batches, evenly_spaced_clips, sliding_clips
from engine.runs.checkpoint import TrainedModel, find_checkpoint, load_model
from engine.training.stop_request import StopRequest
from network import InputSpec
from network.weights.read import build_whole, read_weights

NUM_CLIPS = 10  # of a video, as in evaluate.py


def main(argv: Sequence[str]) -> int:
    args = parse_args(argv)
    sources = find_sources(args.sources)
    checkpoint = find_checkpoint(args.checkpoint, runs_folder()) if args.checkpoint else None
    outputs = plan_outputs(args, sources, checkpoint)
    av.logging.set_level(av.logging.PANIC)  # what is wrong with a video is said in our own words
    if args.show:
        check_screen()
    recognizer = load_recognizer(args)
    if args.explain:
        check_explainable(recognizer.network())
    if args.explain_class and args.explain_class not in recognizer.classes:
        raise UsageError(unknown_name("class", args.explain_class, recognizer.classes))

    if sources.live:
        return watch_live(args, recognizer, sources.live, outputs[0])
    if only_classifies(args, sources):
        return classify_all(args, recognizer, sources)
    return recognize_each(args, recognizer, sources, outputs)


def recognize_each(
    args: argparse.Namespace, recognizer: "Recognizer", sources: Sources, outputs: list[Path | None]
) -> int:
    """Windows over every video; a report for each, and its annotated video. The rest goes on where one is unusable."""
    answers, refused = [], []
    table = AnswerTable(args.csv, args.top, args.threshold) if args.csv else None
    for (video, _), output in zip(sources.videos, outputs, strict=True):
        try:
            answers.append(recognize(args, recognizer, video, output))
            if table:
                table.add(recognizer.classify(video, NUM_CLIPS))
        except UserError as error:  # the other sources still get their answer
            refused.append(error)
            print(error, file=sys.stderr, flush=True)
            if table:
                table.refuse(video, error)

    if table:
        table.close()
    if args.json and answers:
        write_json(args.json, answers[0] if len(sources.videos) == 1 else answers)
    if len(sources.videos) > 1:
        print(summary(len(sources.videos), refused))
    return 1 if refused else 0


def recognize(args: argparse.Namespace, recognizer: "Recognizer", video: Path, output: Path | None) -> dict:
    """One video as the command line asks for it -> what --json holds of it."""
    prediction = recognizer.predict(video, show_progress=True)
    explanation = None
    if args.explain:
        explanation = recognizer.explain(video, prediction, args.explain_class, show_progress=True)
    print(report(prediction, args.top, args.threshold), flush=True)
    prediction = prediction.smoothed(args.smooth or 1)
    options = (args.top, True, args.threshold, explanation, recognizer.input_spec)
    if output:
        annotate(video, prediction, output, *options)
        print(f"  -> {printable(output)}", flush=True)
    if args.show:
        show_annotated(video, prediction, *options)
    explained = {"explained": explanation.to_dict()} if explanation else {}
    return prediction.to_dict(args.top, args.threshold) | explained


def classify_all(args: argparse.Namespace, recognizer: "Recognizer", sources: Sources) -> int:
    """One answer a video, as evaluate.py gives it; a line for each on the terminal, a row in the table."""
    refused = []
    table = AnswerTable(args.csv, args.top, args.threshold) if args.csv else None
    videos = [video for video, _ in sources.videos]

    def read(video: Path) -> Iterator[tuple]:
        yield evenly_spaced_clips(video, recognizer.input_spec, NUM_CLIPS)

    with read_ahead(videos, read, threads=2, waiting=1) as reading:
        for video, found in progress(reading, len(videos), "Recognising", "videos"):
            try:
                [clips] = found
                prediction = recognizer.classify_clips(video, *clips)
            except UserError as error:
                refused.append(error)
                if table:
                    table.refuse(video, error)
                continue
            if table:
                table.add(prediction)
            else:
                label, (_, probability) = prediction.label(args.threshold), prediction.top(1)[0]
                print(f"{printable(video)}: {label} {100 * probability:.1f} %", flush=True)
    if table:
        table.close()
        print(f"-> {printable(args.csv)}")
    for error in refused:
        print(error, file=sys.stderr)
    print(summary(len(videos), refused))
    return 1 if refused else 0


def summary(num_videos: int, refused: Sequence[UserError]) -> str:
    problems = f", {len(refused)} could not be used" if refused else ""
    return f"{plural(num_videos - len(refused), 'answer')}{problems}"


def watch_live(args: argparse.Namespace, recognizer: "Recognizer", name: str, output: Path | None) -> int:
    """A camera or stream, until it ends, --duration is over, or Ctrl-C; what was seen is written in any case."""
    with StopRequest() as stop:
        live = recognizer.watch(name, args.smooth or 1, args.timeout or TIMEOUT, args.duration, stop)
        print(f"Watching {name}, {live.describe()}; Ctrl-C ends.", flush=True)
        write_live(live, output, args.top, args.threshold, args.show)
    prediction = live.prediction().smoothed(args.smooth or 1)
    print(report(prediction, args.top, args.threshold))
    print(f"  {plural(live.num_dropped, 'picture')} and {plural(live.num_skipped, 'window')} dropped to keep up")
    if output:
        print(f"  -> {printable(output)}")
    if args.json:
        write_json(args.json, prediction.to_dict(args.top, args.threshold))
    if live.lost:
        raise UserError(f"{name} went away: {live.lost}. What came before is in the answer above.")
    return 0


def load_recognizer(args: argparse.Namespace) -> "Recognizer":
    options = {"device": args.device, "stride": args.stride or STRIDE, "batch_size": args.batch_size, "amp": args.amp}
    if args.checkpoint:
        return Recognizer(args.checkpoint, **options)
    return Recognizer.from_model(args.model, args.weights, args.labels, **options)


class Recognizer:
    """A trained network that answers on videos.

    checkpoint   file, run folder, or name of a run; or a .onnx or .pt2 file that export.py has written
    device       auto, cuda, cuda:1, mps, cpu
    stride       frames of the source from one window to the next
    batch_size   windows that go through the network together; the answer does not depend on it
    amp          auto: bf16 where the device computes in it; off: float32 as in evaluate.py; bf16. An exported file
                 computes as it was exported

    After that: .name (of the model), .dataset (a name or a path; None where the weights do not say), .model (on the
    device, in eval mode; None where it is in an exported file), .input_spec, .classes (names in the order of the
    probabilities), .device.
    """

    def __init__(
        self, checkpoint: str | Path, device: str = "auto", stride: int = STRIDE, batch_size: int = 8, amp: str = "auto"
    ):
        path = find_checkpoint(checkpoint, runs_folder())
        if is_exported(path):
            self._set_up_program(open_program(path, device), stride, batch_size, amp)
        else:
            self._set_up(load_model(path), device, stride, batch_size, amp)

    @classmethod
    def from_model(
        cls,
        model_name: str,
        weights: str | Path,
        labels: str | Path | Sequence[str] | None = None,
        device: str = "auto",
        stride: int = STRIDE,
        batch_size: int = 8,
        amp: str = "auto",
    ) -> "Recognizer":
        """A network with weights from elsewhere: a name such as kinetics400, or a file.

        labels: class names in the order of the logits, or the text file that lists them. Needed where the weights do
        not bring names; they win where the weights do. Raises UserError where there are no names, where their number
        is not that of the last layer, and where a parameter of the network is missing in the file.
        """
        recognizer = cls.__new__(cls)
        recognizer._set_up(load_foreign(model_name, weights, labels), device, stride, batch_size, amp)
        return recognizer

    def _set_up(self, trained: TrainedModel, device: str, stride: int, batch_size: int, amp: str) -> None:
        self._describe(trained.name, trained.input_spec, trained.classes, stride, batch_size)
        self.dataset: str | None = trained.checkpoint["config"].get("dataset")
        self.device = pick_device(device)
        self.model: nn.Module | None = to_device(trained.model.eval(), self.device)
        self._answerer = Answerer(self.model, self.device, amp)
        self._answer: Callable[[np.ndarray], np.ndarray] = lambda clips: self._answerer(self._input(clips))

    def _set_up_program(self, program: Program, stride: int, batch_size: int, amp: str) -> None:
        metadata = program.metadata
        if amp not in ("auto", {"float32": "off", "bfloat16": "bf16"}.get(metadata.arithmetic)):
            raise UsageError(f"--amp {amp}: the file computes in {metadata.arithmetic}, as exported. Leave --amp out.")
        self._describe(metadata.model, metadata.spec, metadata.classes, stride, batch_size)
        self.dataset = metadata.config.get("dataset")
        self.device, self.model = program.device, None
        self._answer = lambda clips: check_probabilities(program(clips))

    def _describe(self, name: str, spec: InputSpec, classes: list[str], stride: int, batch_size: int) -> None:
        if min(stride, batch_size) < 1:
            raise UsageError(f"stride ({stride}) and batch_size ({batch_size}) must be at least 1.")
        self.name, self.input_spec, self.classes = name, spec, classes
        self.stride, self.batch_size = stride, batch_size

    def network(self) -> nn.Module:
        """.model where there is one. Raises UsageError for an exported file, into whose layers nobody can look."""
        if self.model is None:
            raise UsageError("--explain looks into the network, which an exported file does not show. Give the run.")
        return self.model

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
        """classify() for clips that are cut already, (N, T, h, w, 3) uint8: see evenly_spaced_clips."""
        parts = np.split(clips, range(self.batch_size, len(clips), self.batch_size))
        return self._prediction(video, clock, places, [row for part in parts for row in self.probabilities(part)])

    def explain(
        self, video: str | Path, prediction: Prediction, label: str | None = None, show_progress: bool = False
    ) -> Explanation:
        """Where and when the network found the likeliest class of a prediction, or another class of its `label`."""
        if label is not None and label not in self.classes:
            raise UsageError(unknown_name("class", label, self.classes))
        network, label = self.network(), label or prediction.label()
        heat = HeatOverVideo()
        with sliding_clips(Path(video), self.input_spec, self.stride, "Explaining", show_progress) as (clips, _):
            for batch in batches(clips, self.batch_size):
                x = self._input(np.stack([clip for _, _, clip in batch]))
                maps, moments = explain_clips(network, x, self.classes.index(label))
                for (first, last, _), *parts in zip(batch, maps, moments, strict=True):
                    heat.add(first, last, clips.shown(first), *parts)
        return heat.explanation(label, prediction.num_frames)

    def watch(
        self,
        source: str,
        smooth: int = 1,
        timeout: float = TIMEOUT,
        duration: float | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> LiveRecognition:
        """A camera's number or a stream's address -> pictures with the answer of the moment, when iterated over."""
        return LiveRecognition(
            source, self.input_spec, self.classes, self.probabilities, self.stride, smooth, timeout, duration, stop
        )

    def probabilities(self, clips: np.ndarray) -> np.ndarray:
        """(B, T, h, w, 3) uint8 RGB -> (B, num_classes) float32. T is InputSpec.read_len, and (w, h) its cut_size: the
        square that the network sees, or the whole frame for an exported file, which cuts for itself."""
        return self._answer(clips)

    def _input(self, clips: np.ndarray) -> torch.Tensor:
        return to_model_input(torch.from_numpy(clips).to(self.device), self.input_spec)  # (B, C, T, S, S)

    def _prediction(
        self, video: str | Path, clock: Clock, places: Sequence[tuple[int, int]], probs: Sequence[np.ndarray]
    ) -> Prediction:
        reader = clock.reader
        return assemble(
            str(video), reader.fps, clock.times, clock.num_frames, reader.num_damaged, self.classes, places, probs
        )


def load_foreign(model_name: str, weights: str | Path, labels: str | Path | Sequence[str] | None) -> TrainedModel:
    """Network, input and class names from weights that are named or lie in a file; see Recognizer.from_model."""
    from_file = isinstance(labels, str | Path)
    names = read_labels(Path(labels)) if from_file else labels and list(labels)
    whose = f"--labels {labels}" if from_file else "the list"
    model, spec, classes, _ = build_whole(model_name, read_weights(weights, model_name), names, whose)
    origin = {"config": {"model": model_name, "weights": Path(weights).name}, "pretrained": True}
    return TrainedModel(model, spec, classes, model_name, origin)


def runs_folder() -> Path:
    import mypath

    return ROOT / mypath.RUNS


if __name__ == "__main__":
    run_cli(main)
