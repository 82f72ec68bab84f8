"""Exports a trained network as an ONNX or torch.export file, which runs without this project's code, or its weights.

    python export.py run/r3d_18-ucf101-000 --output r3d_18.onnx
    python export.py run/r3d_18-ucf101-000 --output r3d_18.pt2 --video clip.avi
    python export.py --model r3d_18 --weights kinetics400 --output kinetics.onnx
    python export.py run/r3d_18-ucf101-000 --output r3d_18.safetensors

Raw frames go in, probabilities come out: docs/export.md has the contract. The file is read by its own runtime and
compared with the network before it gets its name; where the two disagree it is deleted, and the exit status is 1. A
.safetensors file holds the weights alone, which every command here takes like a checkpoint.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common.cli import Parser, run_cli
from common.errors import UsageError, UserError
from common.files import ROOT, check_writable, identity, printable
from network.flags import add_network_flags, check_network_flags

if TYPE_CHECKING:
    import numpy as np

    from common.input_spec import WholeFrameSpec
    from engine.runs.checkpoint import TrainedModel

WEIGHTS = ".safetensors"  # of weights without a program
NUM_CLIPS = 3  # of each real video
NUM_VIDEOS = 2  # of a data set


def main(argv: Sequence[str]) -> None:
    args = parse_args(argv)

    # PyTorch takes two seconds, which --help and a misspelt flag do not need
    import torch

    import mypath
    from engine.export.write import export_model, export_weights, half_of
    from engine.fusion import load_fused
    from engine.inference.recognizer import load_foreign
    from engine.runs.checkpoint import find_checkpoint, load_model

    checkpoints = [find_checkpoint(run, ROOT / mypath.RUNS) for run in args.checkpoint]
    check_output(args, checkpoints)
    if len(checkpoints) > 1:
        trained = load_fused(checkpoints)
    else:
        trained = load_model(checkpoints[0]) if checkpoints else load_foreign(args.model, args.weights, args.labels)
    dtype = half_of(args.output.suffix) if args.half else torch.float32
    if args.output.suffix == WEIGHTS:
        lines = [export_weights(trained, args.output)]
    else:
        real, origin = real_clips(trained, args.video)
        lines = [str(export_model(trained, args.output, dtype, real)), origin]
    kind, size = str(dtype).removeprefix("torch."), f"{args.output.stat().st_size / 1e6:.1f} MB"
    print(f"{printable(args.output)}: {trained.name}, {len(trained.classes)} classes, {kind}, {size}")
    print("\n".join(f"  {line}" for line in lines))


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser(prog="python export.py", description=__doc__.split("\n")[0])
    add = parser.add_argument
    add(
        "checkpoint", nargs="*", metavar="CHECKPOINT", help="a run, or a checkpoint; of several, their mean is exported"
    )
    add("--checkpoint", dest="named", action="append", default=[], help=argparse.SUPPRESS)  # as inference.py has it
    add_network_flags(parser, device=False)
    add("--output", type=Path, required=True, metavar="FILE", help="file to write: .onnx, .pt2 or .safetensors")
    add("--half", action="store_true", help="half the size: float16 in a .onnx, bfloat16 in a .pt2")
    add("--video", type=Path, nargs="+", metavar="FILE", help="videos for a comparison (default: the run's validation)")
    args = parser.parse_args(argv)
    args.checkpoint += args.named
    check_network_flags(args, "CHECKPOINT")
    return args


def check_output(args: argparse.Namespace, checkpoints: Sequence[Path]) -> None:
    """Raises UsageError for an output that cannot be written, and for a file that is exported already."""
    from engine.export.runtimes import FORMATS, is_exported

    if args.output.suffix not in (*FORMATS, WEIGHTS):
        raise UsageError(
            f"--output {args.output} must end in .onnx (ONNX), .pt2 (torch.export) or .safetensors (weights alone)."
        )
    if args.output.suffix == WEIGHTS and (args.half or args.video):
        flag = "--half" if args.half else "--video"
        raise UsageError(f"{flag} is for .onnx and .pt2; a .safetensors file holds the weights as they are.")
    if args.output.suffix == WEIGHTS and len(checkpoints) > 1:
        raise UsageError(f"--output {args.output}: several runs are exported as .onnx or .pt2.")
    if exported := next((path for path in checkpoints if is_exported(path)), None):
        raise UsageError(f"{exported} is an exported file. Give its run or checkpoint.")
    read = [path for path in (*checkpoints, args.weights, args.labels, *(args.video or [])) if path]
    if identity(args.output) and identity(args.output) in [identity(Path(path)) for path in read]:
        raise UsageError(f"{printable(args.output)} is also an input and would be overwritten. Choose another name.")
    check_writable(args.output)


def real_clips(trained: "TrainedModel", videos: Sequence[Path] | None) -> "tuple[list[np.ndarray], str]":
    """(T, H, W, 3) uint8 clips of the stored size from videos, or from the run's validation frames, and a line that
    names their origin. No clips where the frames are missing: nothing is extracted for a comparison."""
    from common.input_spec import WholeFrameSpec
    from engine.inference.windows import evenly_spaced_clips

    spec = WholeFrameSpec.from_dict(trained.input_spec.to_dict())
    if videos:
        clips = [clip for video in videos for clip in evenly_spaced_clips(video, spec, NUM_CLIPS)[1]]
        return clips, f"Real clips: {', '.join(printable(video) for video in videos)}"
    try:
        clips = clips_of_run(trained, spec)
        return clips, f"Real clips: {len(clips)} of the run's validation videos"
    except UserError as error:
        return [], f"Compared on random clips only; --video FILE adds your own clips. {error}"


def clips_of_run(trained: "TrainedModel", spec: "WholeFrameSpec") -> "list[np.ndarray]":
    """Clips of a run's validation videos. Raises UserError where their frames are missing."""
    import numpy as np

    import mypath
    from dataloaders import open_dataset
    from dataloaders.dataset import EvalDataset
    from engine.runs.checkpoint import drawing_of

    config = trained.checkpoint["config"]
    if not config.get("dataset"):
        raise UserError("These weights do not name their data set.")
    frame_set = open_dataset(
        config["dataset"],
        spec,
        config.get("split"),
        config.get("val", "auto"),
        datasets=mypath.DATASETS,
        frames=config.get("frames"),
        extract=False,
        drawing=drawing_of(trained.checkpoint),
    )
    dataset = EvalDataset(frame_set, spec, "val", NUM_CLIPS)
    clips = np.empty((min(NUM_VIDEOS, len(dataset)), *dataset.clip_shape), dtype=np.uint8)
    for number, position in enumerate(np.linspace(0, len(dataset) - 1, len(clips)).astype(int)):
        dataset.load(0, int(position), clips[number])
    if not len(clips):
        raise UserError("The run has no videos for validation.")
    return list(clips.reshape(-1, *clips.shape[2:]))


if __name__ == "__main__":
    run_cli(main)
