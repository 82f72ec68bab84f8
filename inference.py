"""Recognises the action in videos: the likeliest classes, a timeline as JSON, the video with the answer drawn on it.

    python inference.py clip.mp4 --checkpoint run/r2plus1d_18-ucf101-000 --output answer.mp4
    python inference.py a.avi b.avi --model r3d_18 --weights kinetics400 --output answers --json answers.json

From Python:

    from inference import Recognizer
    prediction = Recognizer("run/r2plus1d_18-ucf101-000").predict("clip.mp4")
    print(prediction.top(5))
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
import torch
import torch.nn as nn

from dataloaders.clips import clip_step
from dataloaders.transforms import to_model_input
from engine.arguments import positive
from engine.checkpoint import find_checkpoint, load_model
from engine.device import pick_device, place
from engine.errors import ROOT, UsageError, UserError, run_cli
from network import InputSpec
from network.labels import read_labels
from network.weights import build_whole, known_weights, model_named_by, read_weights
from recognition.annotate import FORMATS, annotate, video_format
from recognition.files import check_writable, same_file, shown, write_json
from recognition.prediction import TOP, Prediction, Window, report
from recognition.sources import expected_frames, open_video, watch
from recognition.windows import SlidingClips, batches, prepare_frame


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
