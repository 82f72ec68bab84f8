"""Runs the demo: generates videos, trains, evaluates and annotates a video."""

import time
from collections.abc import Sequence

from common.cli import Parser, run_cli
from common.console import duration
from common.files import relative_to_cwd

MODEL = "r3d_10"


def main(argv: Sequence[str]) -> None:
    parser = Parser(prog="python demo.py", description=__doc__.split("\n")[0])
    parser.add_argument("--epochs", type=int, help="epochs of training (default: the model's)")
    epochs = parser.parse_args(argv).epochs

    # PyTorch takes two seconds, which --help and a misspelt flag do not need
    import evaluate
    import inference
    import mypath
    import train
    from dataloaders import open_dataset
    from engine.training.config import TrainConfig
    from network import input_spec

    start = time.monotonic()
    print("1. Train\n")
    run_dir = train.main(TrainConfig(dataset="demo", model=MODEL, epochs=epochs))
    print("\n2. Evaluate on the test recordings\n")
    evaluations = evaluate.main([str(run_dir), "--temporal"])
    print("\n3. Annotate a test video\n")
    frame_set = open_dataset("demo", input_spec(MODEL), datasets=mypath.DATASETS)
    video = frame_set.source.videos / frame_set.part("test")[0].video
    annotated = run_dir / f"{video.stem}.mp4"
    inference.main([str(video), "--checkpoint", str(run_dir / "best.pth"), "--output", str(annotated)])

    runs = relative_to_cwd(run_dir.parent)
    print(f"\nDone in {duration(time.monotonic() - start)}.")
    print(f"Test accuracy    {evaluations[0]['normal'].top1:.2f} % of the videos")
    print(f"Annotated video  {relative_to_cwd(annotated)}")
    print(f"Run              {relative_to_cwd(run_dir)}")
    print(f"TensorBoard      tensorboard --logdir {runs}   (with .venv: .venv/bin/tensorboard)")


if __name__ == "__main__":
    run_cli(main)
