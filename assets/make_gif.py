"""Puts annotated videos side by side into the GIF of the README.

python assets/make_gif.py out1.mp4 out2.mp4 --output assets/demo.gif
"""

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dataloaders.video import decode_frames


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("videos", nargs="+", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--height", type=int, default=240)
    parser.add_argument("--every", type=int, default=2, help="keep each k-th frame")
    args = parser.parse_args()

    columns = [[resize(frame, args.height) for frame in decode_frames(video)][:: args.every] for video in args.videos]
    length = max(map(len, columns))
    rows = [np.concatenate([column[index % len(column)] for column in columns], axis=1) for index in range(length)]
    images = [Image.fromarray(row).quantize(128, dither=Image.Dither.NONE) for row in rows]
    images[0].save(
        args.output, save_all=True, append_images=images[1:], duration=40 * args.every, loop=0, optimize=True
    )
    height, width = rows[0].shape[:2]
    print(f"{args.output}: {length} frames of {width}x{height}, {args.output.stat().st_size // 1024} KB")


def resize(frame: np.ndarray, height: int) -> np.ndarray:
    return cv2.resize(frame, (round(frame.shape[1] * height / frame.shape[0]), height), interpolation=cv2.INTER_AREA)


if __name__ == "__main__":
    main()
