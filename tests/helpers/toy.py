"""Toy videos whose pixels name their frame, class, side and channel, so that a wrong order, flip or colour shows.

    red     16 flat levels      the frame number, low digit
    blue    4 levels + a ramp   its high digit; brighter towards the bottom
    green   3 levels + a ramp   the class; brighter towards the right

All of it can be read back from any crop of at least a third of the picture, at any size, after MPEG-4 and JPEG.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

NUM_NAMES = 64  # frame 64 looks like frame 0

CLASSES = ("Biking", "Hammering", "HammerThrow")  # UCF101's own order, which plain sorting would change
GROUPS = (1, 8, 9, 23)  # by the rule of UCF101's split 1: test, train, train, validation


def frame_naming(index: int, label: int = 0, size: tuple[int, int] = (160, 120)) -> np.ndarray:
    """-> (H, W, 3) uint8 RGB, the picture of frame `index` of a video of class number `label` (0, 1 or 2)."""
    width, height = size
    high, low = divmod(index % NUM_NAMES, 16)
    picture = np.empty((height, width, 3))
    picture[..., 0] = 16 + 14 * low
    picture[..., 1] = 20 + 55 * label + 80 * np.linspace(0, 1, width)
    picture[..., 2] = 20 + 50 * high + 30 * np.linspace(0, 1, height)[:, None]
    return picture.round().astype(np.uint8)


@dataclass(frozen=True)
class Named:
    """What a picture says of itself."""

    frame: int
    label: int
    mirrored: bool
    upside_down: bool


def read_naming(picture: np.ndarray) -> Named:
    """(H, W, 3) uint8 RGB, cropped or not -> what frame_naming put into it. Raises ValueError where red and blue are
    exchanged, or where it is no such picture."""
    red, green, blue = picture.mean((0, 1))
    _, right, _ = _slopes(picture.mean(0))
    red_down, _, down = _slopes(picture.mean(1))
    if abs(red_down) > 2 or abs(right) < 6 or abs(down) < 3:
        raise ValueError(f"no naming picture, or its channels are exchanged: {right=:.1f} {down=:.1f} {red_down=:.1f}")
    low, high, label = round((red - 16) / 14), round((blue - 35) / 50), round((green - 60) / 55)
    return Named(16 * high + low, label, bool(right < 0), bool(down < 0))


def _slopes(line: np.ndarray) -> np.ndarray:
    """(length, 3) -> (3,) slope of each channel, by least squares, from -1 at one end to 1 at the other."""
    position = np.linspace(-1, 1, len(line))[:, None]
    return (position * line).sum(0) / (position**2).sum()


def frames_of(pictures: Iterable[np.ndarray]) -> list[int]:
    """The frame numbers that pictures name."""
    return [read_naming(picture).frame for picture in pictures]


def naming_video(num_frames: int, label: int = 0, size: tuple[int, int] = (160, 120)) -> Iterable[np.ndarray]:
    return (frame_naming(index, label, size) for index in range(num_frames))


def write_video(
    path: Path,
    frames: Iterable[np.ndarray],
    codec: str = "mpeg4",
    fps: int = 25,
    pix_fmt: str = "yuv420p",
    b_frames: int = 0,
    rotation: int = 0,
    metadata: dict[str, str] | None = None,
    options: dict[str, str] | None = None,
) -> Path:
    """Encodes (H, W, 3) uint8 RGB frames; the container follows from the path's ending. Makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    quality = {"mpeg4": {"qmin": "1", "qmax": "2"}, "libx264": {"crf": "6", "preset": "ultrafast"}}.get(codec, {})
    with av.open(str(path), "w") as container:
        container.metadata.update(metadata or {})
        stream = None
        for pixels in frames:
            if stream is None:
                stream = container.add_stream(codec, rate=fps, options={**quality, **(options or {})})
                stream.height, stream.width = pixels.shape[:2]
                stream.pix_fmt = pix_fmt
                stream.codec_context.bit_rate = 8_000_000
                stream.codec_context.max_b_frames = b_frames
                if rotation:
                    stream.set_display_rotation(rotation)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        if stream is not None:
            container.mux(stream.encode())
    return path


def write_naming_video(path: Path, num_frames: int, label: int = 0, size: tuple[int, int] = (160, 120), **how) -> Path:
    return write_video(path, naming_video(num_frames, label, size), **how)


def make_toy_videos(
    folder: Path,
    classes: Sequence[str] = CLASSES,
    groups: Sequence[int] = GROUPS,
    clips: int = 2,
    num_frames: int = 20,
    naming: str = "ucf101",
    size: tuple[int, int] = (160, 120),
) -> Path:
    """<folder>/<class>/<video>.avi: `clips` videos of each group of each class, told apart by their green.

    naming   "ucf101": v_Biking_g01_c02.avi      "folder": g01_c02.avi (what groups=r"^(g\\d+)" takes together)
    """
    for label, name in enumerate(classes):
        for group in groups:
            for clip in range(1, clips + 1):
                stem = f"g{group:02d}_c{clip:02d}"
                stem = f"v_{name}_{stem}" if naming == "ucf101" else stem
                write_naming_video(folder / name / f"{stem}.avi", num_frames, label, size)
    return folder


TOY_SIZE = (80, 60)


def make_files(folder: Path, *names: str) -> Path:
    """Files of one byte: a source looks at names only."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return folder


UCF_CLASSES = ("Biking", "HandstandPushups", "YoYo")
