"""Recognises the action in videos: prints the most probable classes, writes them as JSON, CSV or onto the video.

    python inference.py clip.mp4 --checkpoint run/r2plus1d_18-ucf101-000 --output answer.mp4
    python inference.py my/videos --checkpoint run/r2plus1d_18-ucf101-000 --csv answers.csv
    python inference.py clip/frames --fps 25 --checkpoint run/r2plus1d_18-ucf101-000   a folder of frames
    python inference.py clip.mp4 --checkpoint r2plus1d.onnx                            an exported file
    python inference.py 0 --model r3d_18 --weights kinetics400 --show
    python inference.py rtsp://camera/stream --checkpoint run/r2plus1d_18-ucf101-000 --output seen.mp4 --duration 60

From Python:

    from inference import Recognizer
    prediction = Recognizer("run/r2plus1d_18-ucf101-000").predict("clip.mp4")
    print(prediction.top(5))
"""

import argparse
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

for _name in ("common", "dataloaders", "engine", "network"):
    _found = importlib.util.find_spec(_name)
    _origin = Path(_found.origin).resolve() if _found and _found.origin else None
    if _origin != Path(__file__).resolve().with_name(_name) / "__init__.py":
        raise ImportError(
            f"'{_name}' is {_origin}, which hides the package of that name beside {__file__}. Run this program in a "
            "process of its own: docs/inference.md, From Python"
        )

from common.cli import Parser, above_zero, number, positive, run_cli
from common.errors import UsageError, unknown_name
from common.files import ROOT
from engine.inference.prediction import STRIDE, TIMEOUT, TOP
from network.flags import CHECKPOINT_HELP, add_network_flags, check_network_flags

if TYPE_CHECKING:
    from engine.inference.recognizer import Recognizer


def main(argv: Sequence[str]) -> int:
    args = parse_args(argv)

    # PyTorch takes two seconds, which --help and a misspelt flag do not need
    import cv2  # noqa: F401  # isort: skip  before av: the X libraries that PyAV brings, loaded first, make a window of OpenCV hang
    import av

    import mypath
    from engine.inference.grad_cam import check_explainable
    from engine.inference.job import classify_all, only_classifies, plan_outputs, recognize_each, watch_live
    from engine.inference.preview_window import check_screen
    from engine.inference.recognizer import load_recognizer
    from engine.inference.sources import find_sources
    from engine.runs.checkpoint import find_checkpoint
    from engine.training.stop_request import StopRequest

    sources = find_sources(args.sources)
    checkpoints = [find_checkpoint(run, ROOT / mypath.RUNS) for run in args.checkpoint or []]
    outputs = plan_outputs(args, sources, checkpoints)
    av.logging.set_level(av.logging.PANIC)  # our own messages say what is wrong with a video
    if args.show:
        check_screen()
    recognizer = load_recognizer(args, checkpoints)
    if args.explain:
        check_explainable(recognizer.network())
    if args.explain_class and args.explain_class not in recognizer.classes:
        raise UsageError(unknown_name("class", args.explain_class, recognizer.classes))

    if sources.live:
        return watch_live(args, recognizer, sources.live, outputs[0], StopRequest())
    if only_classifies(args, sources):
        return classify_all(args, recognizer, sources)
    return recognize_each(args, recognizer, sources, outputs)


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser(prog="python inference.py", description="Recognises the action in videos.")
    add = parser.add_argument
    add(
        "sources",
        nargs="+",
        metavar="SOURCE",
        help="video file, folder of videos or of frames, camera number, or rtsp:// or http:// address",
    )
    network = parser.add_argument_group("network")
    add = network.add_argument
    add("--checkpoint", action="append", help=f"{CHECKPOINT_HELP}; given twice: the mean of both predictions")
    add_network_flags(network)
    add("--batch-size", type=positive, default=8, help="windows per batch (default: 8)")
    answer = parser.add_argument_group("prediction")
    add = answer.add_argument
    add("--fps", type=above_zero, metavar="F", help="frames a second of a folder of frames, which does not say it")
    add("--stride", type=positive, help=f"source frames between windows (default: {STRIDE})")
    add("--smooth", type=positive, metavar="N", help="average N neighbouring windows (default: 1)")
    add(
        "--threshold",
        type=number("between 0 and 1", lambda value: 0 <= value <= 1),
        default=0.0,
        metavar="P",
        help="label 'uncertain' below probability P",
    )
    add("--top", type=positive, default=TOP, help=f"most probable classes to list (default: {TOP})")
    add("--explain", action="store_true", help="draw a heat map of the evidence for each moment's label (Grad-CAM)")
    add("--explain-whole", action="store_true", help="explain the most probable class of the whole video")
    add("--explain-class", metavar="CLASS", help="explain this class")
    written = parser.add_argument_group("output")
    add = written.add_argument
    add("--output", help="annotated video (.mp4, .mov, .mkv, .gif); a folder for several sources")
    add("--json", type=Path, metavar="FILE", help="write predictions, timeline and windows")
    add("--csv", type=Path, metavar="FILE", help="write one row per video, predicted as in evaluate.py")
    add("--show", action="store_true", help="open a window (q closes it)")
    live = parser.add_argument_group("camera and stream")
    live.add_argument("--duration", type=above_zero, metavar="S", help="stop after S seconds")
    live.add_argument(
        "--timeout", type=above_zero, metavar="S", help=f"give up after S seconds without frames (default: {TIMEOUT:g})"
    )
    live.add_argument(
        "--reconnect", type=positive, metavar="N", help="open a lost source again, up to N times in a row (default: 0)"
    )
    args = parser.parse_args(argv)

    check_network_flags(args)
    if args.explain_whole and args.explain_class:
        raise UsageError("--explain-whole and --explain-class exclude each other: leave one out.")
    args.explain = args.explain or args.explain_whole or args.explain_class is not None
    return args


def __getattr__(name: str) -> "type[Recognizer]":
    """`from inference import Recognizer`, which imports PyTorch only then. Runs are found by name as in mypath.py."""
    if name != "Recognizer":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from engine.inference import recognizer

    class Recognizer(recognizer.Recognizer):
        __doc__ = recognizer.Recognizer.__doc__

        @staticmethod
        def runs_folder() -> Path:
            import mypath

            return ROOT / mypath.RUNS

    globals()[name] = Recognizer
    return Recognizer


if __name__ == "__main__":
    run_cli(main)
