"""The command line of inference.py: its flags, which of them go together, and where answers are written."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from common.cli import Parser, above_zero, positive
from common.errors import UsageError
from common.files import check_writable, identity, printable
from engine.inference.prediction import TOP
from engine.inference.sources import Sources
from engine.inference.video_writer import FORMATS, check_codecs, video_format
from network.weights.read import known_weights, model_named_by

STRIDE, TIMEOUT = 8, 10.0  # frames; seconds
CHECKPOINT_HELP = "a training run's file, folder or name; a .onnx or .pt2 file of export.py"


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser(prog="inference.py", description="Recognises the action in videos.")
    add = parser.add_argument
    add("sources", nargs="+", metavar="SOURCE", help="video file, folder, camera number, or rtsp://, http:// address")
    network = parser.add_argument_group("network")
    add = network.add_argument
    add("--checkpoint", help=CHECKPOINT_HELP)
    add_network(network)
    add("--batch-size", type=positive, default=8, help="windows in one step (default: 8)")
    answer = parser.add_argument_group("answer")
    add = answer.add_argument
    add("--stride", type=positive, help=f"frames from one window to the next (default: {STRIDE})")
    add("--smooth", type=positive, metavar="N", help="mean over N neighbouring windows (default: 1)")
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
    live.add_argument("--duration", type=above_zero, metavar="S", help="end after so many seconds")
    live.add_argument("--timeout", type=above_zero, metavar="S", help=f"lost after so many (default: {TIMEOUT:g})")
    args = parser.parse_args(argv)

    check_network(args)
    args.explain = args.explain or args.explain_class is not None
    return args


def add_network(group: argparse._ArgumentGroup) -> None:
    """The network beside a checkpoint, and what it runs on and in."""
    add = group.add_argument
    add("--model", help="name of a network, for weights that are no checkpoint of this program")
    add("--weights", help="with --model: a file, or a name such as kinetics400")
    add("--labels", type=Path, help="with --model: text file with the name of a class on each line")
    add("--device", default="auto", help="cuda, cuda:1, mps, cpu; auto takes the best there is")
    add("--amp", default="auto", choices=("auto", "off", "bf16"), help="auto: bf16 where the device computes in it")


def check_network(args: argparse.Namespace, checkpoint: str = "--checkpoint FILE") -> None:
    """Raises UsageError where it is not clear which network is meant. A name of weights may bring its network's."""
    if args.weights and not args.model:
        args.model = model_named_by(args.weights)
    if not args.checkpoint and not args.model:
        raise UsageError(f"Which network? Give {checkpoint}, or --model NAME with --weights NAME or FILE.")
    if args.checkpoint and (args.model or args.weights or args.labels):
        given = checkpoint.split()[0]
        flag = "--model" if args.model else "--weights" if args.weights else "--labels"
        raise UsageError(f"{given} brings network, weights and class names. Leave {flag} out, or {given}.")
    if args.model and not args.weights:
        raise UsageError(f"--model {args.model} needs --weights {' or '.join([*known_weights(args.model), 'FILE'])}.")


def fraction(text: str) -> float:
    """A probability."""
    value = _number(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not between 0 and 1")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number") from None


def only_classifies(args: argparse.Namespace, sources: Sources) -> bool:
    """Whether one answer a video is wanted, and nothing over time."""
    return sources.from_folder and not (args.output or args.json or args.show)


def check_options(args: argparse.Namespace, sources: Sources) -> None:
    """Raises UsageError for flags that would do nothing, given these sources and the other flags."""
    if sources.live and (args.csv or args.explain):
        flag = "--csv" if args.csv else "--explain"
        raise UsageError(f"{flag} is for videos that have an end; {sources.live} is a camera or a stream.")
    if not sources.live and (args.duration or args.timeout):
        flag = "--duration" if args.duration else "--timeout"
        raise UsageError(f"{flag} is for cameras and streams; a file is answered to its end.")
    if args.explain and not (args.output or args.show or args.json):
        raise UsageError("--explain shows its heat on the video: give --output FILE, --json FILE or --show, too.")
    shows_time = sources.live or args.output or args.json or args.show
    if args.smooth and not shows_time:
        raise UsageError("--smooth is about the label over time: give --output, --json or --show, too.")
    if args.stride and only_classifies(args, sources):
        raise UsageError(
            "--stride is about windows over time, and a folder's answers are of evenly spaced clips: give --output, "
            "--json or --show, too."
        )


def plan_outputs(args: argparse.Namespace, sources: Sources, checkpoint: Path | None) -> list[Path | None]:
    """Where each source's annotated video goes. Refuses, before any work is done, what could not be written in the
    end and what would be written over a file that is read here (checkpoint: the one that is named). Folders that are
    not there yet are made.
    """
    check_options(args, sources)
    if args.output and sources.live:
        outputs = [Path(args.output).expanduser()]
        if video_format(outputs[0]) == "gif":
            raise UsageError("--output: a camera or stream is written as .mp4, .mov or .mkv.")
    else:
        outputs = output_paths(sources, args.output) if args.output else [None] * max(len(sources.videos), 1)
    written = [path for path in [*outputs, args.json, args.csv] if path]
    read = [*(video for video, _ in sources.videos), *(Path(name) for name in (args.weights, args.labels) if name)]
    if checkpoint:
        read.append(checkpoint)

    identities = {identity(path) for path in read} - {None}
    for path in written:
        if identity(path) in identities:
            raise UsageError(f"{printable(path)} would be written over, and it is read here. Choose another name.")
    if len({path.absolute() for path in written}) < len(written):
        raise UsageError(
            f"--output, --json and --csv need names of their own; {printable(written[-1])} is there twice."
        )
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
