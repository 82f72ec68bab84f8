"""The whole way once: generated videos -> frames -> training -> test accuracy -> an annotated video. `make demo`"""

import time
from collections.abc import Sequence

import evaluate
import inference
import train
from common.cli import Parser, run_cli
from common.console import duration
from common.files import ROOT, relative_to_cwd
from dataloaders.frame_set import open_frames
from dataloaders.sources.find import find_source
from engine.training.config import TrainConfig
from network import input_spec

MODEL = "r3d_10"


def main(argv: Sequence[str]) -> None:
    parser = Parser(prog="python demo.py", description=__doc__.split("\n")[0])
    parser.add_argument("--epochs", type=int, help="of training (default: what the model brings)")
    epochs = parser.parse_args(argv).epochs
    start = time.monotonic()

    print("1. Train\n")
    run_dir = train.main(TrainConfig(dataset="demo", model=MODEL, epochs=epochs))
    print("\n2. Test, on recordings that were never trained on\n")
    evaluations = evaluate.main([str(run_dir), "--temporal"])
    print("\n3. Write the answer on a test video\n")
    import mypath

    source = find_source("demo", mypath.DATASETS, ROOT)
    video = source.videos / open_frames(source, input_spec(MODEL)).part("test")[0].video
    annotated = run_dir / f"{video.stem}.mp4"
    inference.main([str(video), "--checkpoint", str(run_dir / "best.pth"), "--output", str(annotated)])

    print(f"\nDone in {duration(time.monotonic() - start)}.")
    print(f"Test accuracy    {evaluations[0]['normal'].top1:.2f} % of the videos")
    print(f"Annotated video  {relative_to_cwd(annotated)}")
    print(f"Run              {relative_to_cwd(run_dir)}")
    print(
        f"TensorBoard      tensorboard --logdir {relative_to_cwd(run_dir.parent)}   (with .venv: .venv/bin/tensorboard)"
    )


if __name__ == "__main__":
    run_cli(main)
