"""A trained network -> one file that needs nothing of this project: ONNX, or a torch.export program.

    python export.py run/r3d_18-ucf101-000 --output r3d_18.onnx
    python export.py run/r3d_18-ucf101-000 --output r3d_18.pt2 --video clip.avi
    python export.py --model r3d_18 --weights kinetics400 --output kinetics.onnx

Raw frames go in, probabilities come out: docs/export.md has the contract. What is written is read by its own runtime
and compared with the network before it gets its name; what does not agree is deleted, and the exit status is 1.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from uuid import uuid4

import numpy as np
import torch

from common.cli import Parser, run_cli
from common.errors import UsageError, UserError
from common.files import atomic_write, check_writable, identity, printable
from common.input_spec import WholeFrameSpec
from dataloaders import open_dataset
from dataloaders.dataset import EvalDataset
from engine.export.check import TOLERANCES, Comparison, compare
from engine.export.runtimes import FORMATS, is_exported, open_program
from engine.export.write import build_program, half_of, write_program
from engine.inference.options import check_network
from engine.inference.windows import evenly_spaced_clips
from engine.runs.checkpoint import TrainedModel, find_checkpoint, load_model
from inference import load_foreign, runs_folder

NUM_CLIPS = 3  # of each real video
NUM_VIDEOS = 2  # of a data set


def main(argv: Sequence[str]) -> None:
    args = parse_args(argv)
    checkpoint = find_checkpoint(args.checkpoint, runs_folder()) if args.checkpoint else None
    check_output(args, checkpoint)
    trained = load_model(checkpoint) if checkpoint else load_foreign(args.model, args.weights, args.labels)
    real, where = real_clips(trained, args.video)
    dtype = half_of(args.output.suffix) if args.half else torch.float32
    comparison = export(trained, args.output, dtype, real)
    kind, size = str(dtype).removeprefix("torch."), f"{args.output.stat().st_size / 1e6:.1f} MB"
    print(f"{printable(args.output)}: {trained.name}, {len(trained.classes)} classes, {kind}, {size}")
    print(f"  {comparison}\n  {where}")


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser(prog="python export.py", description=__doc__.split("\n")[0])
    add = parser.add_argument
    add(
        "checkpoint", nargs="?", metavar="CHECKPOINT", help="of a training run: the file, the run's folder, or its name"
    )
    add("--model", help="name of a network, for weights that are no checkpoint of this program")
    add("--weights", help="with --model: a file, or a name such as kinetics400")
    add("--labels", type=Path, help="with --model: text file with the name of a class on each line")
    add("--output", type=Path, required=True, metavar="FILE", help="what is written: .onnx, or .pt2 for torch.export")
    add("--half", action="store_true", help="half the size: float16 in a .onnx, bfloat16 in a .pt2; see docs/export.md")
    add("--video", type=Path, nargs="+", metavar="FILE", help="compare on these (default: the run's validation videos)")
    args = parser.parse_args(argv)
    check_network(args, "CHECKPOINT")
    return args


def check_output(args: argparse.Namespace, checkpoint: Path | None) -> None:
    """Before any work is done: raises UsageError for what cannot be written, or not be exported."""
    if args.output.suffix not in FORMATS:
        raise UsageError(f"--output {args.output} must end in .onnx (ONNX) or .pt2 (torch.export).")
    if checkpoint and is_exported(checkpoint):
        raise UsageError(f"{checkpoint} is exported already. Give the run or the checkpoint that it was made from.")
    read = [path for path in (checkpoint, args.weights, args.labels, *(args.video or [])) if path]
    if identity(args.output) and identity(args.output) in [identity(Path(path)) for path in read]:
        raise UsageError(f"{printable(args.output)} would be written over, and it is read here. Choose another name.")
    check_writable(args.output)


def real_clips(trained: TrainedModel, videos: Sequence[Path] | None) -> tuple[list[np.ndarray], str]:
    """(T, H, W, 3) uint8 clips of the stored size from videos, or from frames that the run validates on; and a sentence
    that says from where. None where the frames are not here: nothing is extracted for a comparison."""
    spec = WholeFrameSpec.from_dict(trained.input_spec.to_dict())
    if videos:
        clips = [clip for video in videos for clip in evenly_spaced_clips(video, spec, NUM_CLIPS)[1]]
        return clips, f"Real clips: {', '.join(printable(video) for video in videos)}"
    try:
        clips = clips_of_run(trained, spec)
        return clips, f"Real clips: {len(clips)} of the run's validation videos"
    except UserError as error:
        return [], f"Compared on random clips only; --video FILE compares on yours, too. {error}"


def clips_of_run(trained: TrainedModel, spec: WholeFrameSpec) -> list[np.ndarray]:
    """Raises UserError where the frames are not there."""
    import mypath

    config = trained.checkpoint["config"]
    if not config.get("dataset"):
        raise UserError("These weights do not say which data set they learnt from.")
    frame_set = open_dataset(
        config["dataset"],
        spec,
        config.get("split"),
        config.get("val", "auto"),
        datasets=mypath.DATASETS,
        frames=config.get("frames"),
        extract=False,
    )
    dataset = EvalDataset(frame_set, spec, "val", NUM_CLIPS)
    clips = np.empty((min(NUM_VIDEOS, len(dataset)), *dataset.clip_shape), dtype=np.uint8)
    for place, position in enumerate(np.linspace(0, len(dataset) - 1, len(clips)).astype(int)):
        dataset.load(0, int(position), clips[place])
    if not len(clips):
        raise UserError("The run has no videos for validation.")
    return list(clips.reshape(-1, *clips.shape[2:]))


def export(
    trained: TrainedModel, output: Path, dtype: torch.dtype = torch.float32, real: Sequence[np.ndarray] = ()
) -> Comparison:
    """Writes the file and compares it; raises UserError where it does not answer as the network does. Then, as when it
    is interrupted, what was there before is there still."""
    temporary = output.with_name(f".{output.stem}.{uuid4().hex[:8]}{output.suffix}")  # another export may be at work
    with atomic_write(output, temporary):
        write_program(build_program(trained, dtype), trained, temporary)
        program = open_program(temporary, "cpu")
        try:
            comparison = compare(program, trained.model, trained.input_spec, real, TOLERANCES[dtype])
        except NotImplementedError as error:  # an operation that torch does not have in half precision
            raise UserError(f"--half: {trained.name} cannot be run in it here ({error}). Leave --half out.") from error
        if not comparison.holds:
            raise UserError(
                f"{printable(output)} is not written: read again, it does not answer as the network does, {comparison}."
            )
    return comparison


if __name__ == "__main__":
    run_cli(main)
