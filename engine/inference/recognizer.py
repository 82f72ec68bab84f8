"""Recognizer: the answer of a trained network on video files, cameras and streams."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn as nn

from common.class_names import read_labels
from common.errors import UsageError, unknown_name
from common.files import ROOT
from dataloaders.clips import clip_step
from dataloaders.transforms import to_model_input
from engine.inference.grad_cam import Explanation, HeatOverVideo, explain_clips
from engine.inference.live import LiveRecognition
from engine.inference.prediction import STRIDE, TIMEOUT, Prediction, answer, assemble
from engine.inference.sources import array_frames
from engine.inference.windows import Clock, SlidingClips, batches, evenly_spaced_clips, prepare_pixels, sliding_clips
from engine.predictor import Predictor, network_predictor, open_predictor
from engine.runs.checkpoint import TrainedModel, find_checkpoint
from network.weights.read import build_whole, read_weights


class Recognizer:
    """A trained network that recognises the action in videos.

    checkpoint   file, run folder, or name of a run; or a .onnx or .pt2 file that export.py has written; or a list of
                 runs that read the same frames, whose probabilities are averaged
    device       auto, cuda, cuda:1, mps, cpu
    stride       frames of the source from one window to the next
    batch_size   windows that go through the network together; the answer does not depend on it
    amp          auto: bf16 where the device computes in it; off: float32 as in evaluate.py; bf16. An exported file
                 computes as it was exported

    Attributes: name (of the model), dataset (a name or a path; None where the weights do not say), model (in eval
    mode; None for an exported file), input_spec, classes (names in the order of the probabilities), device,
    stride, batch_size, probabilities (clips (B, T, h, w, 3) uint8 RGB -> (B, num_classes) float32; see Predictor).
    """

    def __init__(
        self,
        checkpoint: str | Path | Sequence[str | Path],
        device: str = "auto",
        stride: int = STRIDE,
        batch_size: int = 8,
        amp: str = "auto",
    ):
        several = not isinstance(checkpoint, str | Path)
        found = [find_checkpoint(one, self.runs_folder()) for one in (checkpoint if several else [checkpoint])]
        path = found if len(found) > 1 else found[0]
        self._set_up(open_predictor(path, device, amp), stride, batch_size)

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

        labels: class names in the order of the logits, or the text file that lists them. Needed where the weights hold
        no names, and preferred to theirs. Raises UserError where there are no names, where their number is not that of
        the last layer, and where a parameter of the network is missing in the file.
        """
        recognizer = cls.__new__(cls)
        predictor = network_predictor(load_foreign(model_name, weights, labels), device, amp)
        recognizer._set_up(predictor, stride, batch_size)
        return recognizer

    @staticmethod
    def runs_folder() -> Path:
        """The folder in which a run is looked up by its name."""
        return ROOT / "run"

    def _set_up(self, predictor: Predictor, stride: int, batch_size: int) -> None:
        if min(stride, batch_size) < 1:
            raise UsageError(f"stride ({stride}) and batch_size ({batch_size}) must be at least 1.")
        self.name, self.input_spec, self.classes = predictor.name, predictor.input_spec, predictor.classes
        self.dataset: str | None = predictor.checkpoint["config"].get("dataset")
        self.device, self.model = predictor.device, predictor.model
        self.probabilities = predictor.probabilities
        self.stride, self.batch_size = stride, batch_size

    def network(self) -> nn.Module:
        """The network. Raises UsageError for an exported file, whose layers are not accessible."""
        if self.model is None:
            raise UsageError("--explain needs the network's layers, which an exported file hides. Give the run.")
        return self.model

    def predict(
        self,
        video: str | Path | np.ndarray | Sequence[str | Path],
        show_progress: bool = False,
        fps: float | None = None,
    ) -> Prediction | list[Prediction]:
        """A video -> class probabilities, softmax averaged over all windows, and those of each window.

        video   a file; a folder of frames (00001.jpg, ..., in the order of their numbers); frames (T, H, W, 3) uint8
                RGB; or a list of files or folders, for a list of predictions
        fps     of frames, which do not say it

        Windows start at every `stride`-th frame for as long as a whole clip fits; a video shorter than a clip has one,
        in which it repeats. Every frame is decoded once, and kept only while a window needs it. Where the network
        wants a frame rate of its own and the source does not say what it has, it is taken to have that one.
        Raises UserError for what cannot be used as a video.
        """
        if isinstance(video, np.ndarray):
            return self._predict_array(video, fps)
        if not isinstance(video, str | Path):
            return [self.predict(one, show_progress, fps) for one in video]
        opened = sliding_clips(Path(video), self.input_spec, self.stride, "Recognising", show_progress, fps)
        with opened as (clips, clock):
            positions, probs = self._answers(clips)
        return self._prediction(video, clock, positions, probs)

    def classify(self, video: str | Path, num_clips: int = 10, fps: float | None = None) -> Prediction:
        """A video file, or a folder of frames (fps of which it does not say) -> the answer of evaluate.py: softmax
        averaged over num_clips evenly spaced clips, which are the prediction's windows. Raises UserError for what
        cannot be used as a video."""
        return self.classify_clips(video, *evenly_spaced_clips(Path(video), self.input_spec, num_clips, fps))

    def classify_clips(
        self, video: str | Path, positions: list[tuple[int, int]], clips: np.ndarray, clock: Clock
    ) -> Prediction:
        """classify() for clips that are cut already, (N, T, h, w, 3) uint8: see evenly_spaced_clips."""
        parts = np.split(clips, range(self.batch_size, len(clips), self.batch_size))
        return self._prediction(video, clock, positions, [row for part in parts for row in self.probabilities(part)])

    def explain(
        self, video: str | Path, prediction: Prediction, label: str | None = None, show_progress: bool = False
    ) -> Explanation:
        """Explains the label of each moment of a prediction, or the class `label`: the places and moments behind it.

        Where a window covers frames of two labels, it is explained for both, and each frame has the heat of its own.
        prediction.label() is the label of the whole video.
        """
        if label is not None and label not in self.classes:
            raise UsageError(unknown_name("class", label, self.classes))
        network, heat = self.network(), HeatOverVideo()
        labels = [label or answer(self.classes, prediction.at(i), 0.0) for i in range(prediction.num_frames)]
        class_ids = np.array([self.classes.index(label) for label in labels])
        opened = sliding_clips(Path(video), self.input_spec, self.stride, "Explaining", show_progress, prediction.fps)
        with opened as (clips, _):
            questions = (
                (first, class_ids[first : last + 1], clip, class_id)
                for first, last, clip in clips
                for class_id in np.unique(class_ids[first : last + 1])
            )
            for batch in batches(questions, self.batch_size):
                clips_array = np.stack([clip for *_, clip, _ in batch])
                x = to_model_input(torch.from_numpy(clips_array).to(self.device), self.input_spec)
                maps, moments = explain_clips(network, x, [class_id for *_, class_id in batch])
                for (first, ids, _, class_id), *parts in zip(batch, maps, moments, strict=True):
                    heat.add(first + np.flatnonzero(ids == class_id), clips.shown(first), *parts)
        return heat.explanation(labels)

    def watch(
        self,
        source: str,
        smooth: int = 1,
        timeout: float = TIMEOUT,
        duration: float | None = None,
        stop: Callable[[], bool] = lambda: False,
        reconnect: int = 0,
    ) -> LiveRecognition:
        """A camera's number or a stream's address -> pictures with the answer of the moment, when iterated over."""
        network = (self.input_spec, self.classes, self.probabilities)
        return LiveRecognition(source, *network, self.stride, smooth, timeout, duration, stop, reconnect)

    def _answers(self, clips: SlidingClips) -> tuple[list[tuple[int, int]], list[np.ndarray]]:
        """The (first, last) frame of each window, and its probabilities (num_classes,)."""
        probs, positions = [], []
        for batch in batches(clips, self.batch_size):
            probs += list(self.probabilities(np.stack([clip for _, _, clip in batch])))
            positions += [(first, last) for first, last, _ in batch]
        return positions, probs

    def _predict_array(self, video: np.ndarray, fps: float | None) -> Prediction:
        spec, frames = self.input_spec, array_frames(video)
        step = clip_step(spec.frame_stride, 1, spec.fps, fps)
        clips = SlidingClips(frames, lambda pixels: prepare_pixels(pixels, spec), spec.read_len, step, self.stride)
        positions, probs = self._answers(clips)
        return assemble("frames", fps, None, clips.num_frames, 0, None, self.classes, positions, probs)

    def _prediction(
        self, video: str | Path, clock: Clock, positions: Sequence[tuple[int, int]], probs: Sequence[np.ndarray]
    ) -> Prediction:
        reader = clock.reader
        facts = (reader.fps, clock.times, clock.num_frames, reader.num_damaged, reader.lost)
        return assemble(str(video), *facts, self.classes, positions, probs)


def load_recognizer(args: argparse.Namespace, checkpoints: Sequence[Path]) -> Recognizer:
    """The network that a command line names; checkpoints: the files that --checkpoint was found to be."""
    options = {"device": args.device, "stride": args.stride or STRIDE, "batch_size": args.batch_size, "amp": args.amp}
    if checkpoints:
        return Recognizer(checkpoints, **options)
    return Recognizer.from_model(args.model, args.weights, args.labels, **options)


def load_foreign(model_name: str, weights: str | Path, labels: str | Path | Sequence[str] | None) -> TrainedModel:
    """Network, input and class names from weights that are named or lie in a file; see Recognizer.from_model."""
    from_file = isinstance(labels, str | Path)
    names = read_labels(Path(labels)) if from_file else labels and list(labels)
    owner = f"--labels {labels}" if from_file else "the list"
    model, spec, classes, _ = build_whole(model_name, read_weights(weights, model_name), names, owner)
    origin = {"config": {"model": model_name, "weights": Path(weights).name}, "pretrained": True}
    return TrainedModel(model, spec, classes, model_name, origin)
