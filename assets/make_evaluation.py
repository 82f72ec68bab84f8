"""Writes assets/evaluation.jpg: the confusion matrix of an evaluated run beside the first of its surest mistakes.

python train.py --dataset demo --model r3d_10 --epochs 8 --name short      # stopped early, so that there are mistakes
python evaluate.py short
python assets/make_evaluation.py run/short
"""

import sys
from pathlib import Path

import cv2

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from common.drawing import canvas, save_picture
from engine.evaluation.worst_videos import COLUMNS, FRAME_HEIGHT, HEAD, MARGIN, TITLE

MAX_BYTES = 150_000


def main(run_dir: Path) -> None:
    left, right = (
        cv2.cvtColor(cv2.imread(str(run_dir / "test" / name)), cv2.COLOR_BGR2RGB)
        for name in ("confusion.png", "worst.jpg")
    )
    row = HEAD + FRAME_HEIGHT + MARGIN
    rows = (len(left) - 24) // row
    right = right[TITLE : TITLE + rows * row - MARGIN, : (right.shape[1] + MARGIN) // COLUMNS]  # its left column
    both = canvas(len(left), left.shape[1] + right.shape[1])
    both[:, : left.shape[1]] = left
    both[24 : 24 + len(right), left.shape[1] :] = right
    path = ROOT / "assets" / "evaluation.jpg"
    save_picture(path, cv2.resize(both, None, fx=0.75, fy=0.75, interpolation=cv2.INTER_AREA))
    print(f"{path.name}: {path.stat().st_size:,} bytes")
    if path.stat().st_size > MAX_BYTES:
        sys.exit(f"more than {MAX_BYTES:,}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
