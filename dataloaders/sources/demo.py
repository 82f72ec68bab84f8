"""The generated demo data set: real .avi files in UCF101's layout, eight classes that differ in motion only.

One textured shape on a textured ground moves, zooms or turns. A scene (the look, where the shape is, how fast each of
its four properties could change) is drawn from (seed, group, clip) alone; the class only says which property runs along
its path and in which direction, while the other three stand at the value that their own paths have at one drawn moment:

    x          ----.----       the path of each property over the video, its middle and rate drawn per scene
    y          ----.----
    log size   ----.----       ZoomIn plays this one forwards, ZoomOut backwards; x, y and angle stay at `.`
    angle      ----.----
                   moment

So every class has the same distribution of frames, each scene has a frame that all eight classes share, and a video
played backwards is, pixel by pixel, the same scene of the opposite class. Only the order of frames tells the two apart.
"""

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
from tqdm import tqdm

from common.errors import UserError, unknown_name
from common.files import atomic_write, held, write_atomically
from dataloaders.sources.demo_scene import HEIGHT, WIDTH, bounding_boxes, draw_scene, paint_object

VERSION = 1  # of the pixels; a folder made by another one is made anew
FPS = 25
MARKER = "demo.json"

X, Y, LOG_SIZE, ANGLE = range(4)
MOTIONS = {  # class -> the property that changes, and whether its path is played forwards or backwards
    "MoveLeft": (X, -1),
    "MoveRight": (X, 1),
    "MoveUp": (Y, -1),
    "MoveDown": (Y, 1),
    "ZoomIn": (LOG_SIZE, 1),
    "ZoomOut": (LOG_SIZE, -1),
    "TurnClockwise": (ANGLE, 1),
    "TurnCounterclockwise": (ANGLE, -1),
}
CLASSES = tuple(MOTIONS)
OPPOSITE = {
    name: next(other for other, motion in MOTIONS.items() if motion == (axis, -direction))
    for name, (axis, direction) in MOTIONS.items()
}

# x and y in pixels, size as the natural logarithm of the radius in pixels, angle in radians, clockwise.
# Where a property is in the middle of the video: the range, and how far it goes in one video of 40 frames. A property
# that runs is at one side of its range first, so the range is wide against the way: whoever knows these numbers and
# sees x, y and size in the first frame is right in 28 % of cases at best, where 12.5 % is chance.
MIDDLE = ((42.0, 118.0), (30.0, 90.0), (math.log(18), math.log(40)), (0.0, 2 * math.pi))
TRAVEL = ((28.0, 42.0), (24.0, 36.0), (0.36, 0.54), (1.4, 2.4))


def generate_demo(
    folder: Path, classes: Sequence[str] = CLASSES, num_groups: int = 25, clips_per_group: int = 4, seed: int = 0
) -> None:
    """Writes <folder>/<Class>/v_<Class>_gNN_cNN.avi (MPEG-4, 160x120, 25 frames/s) for the videos not there yet.

    Files appear whole or not at all, so a stopped run goes on where it ended; a second process waits for the first.
    demo.json records the seed and the generator's version: videos of other ones are removed and made anew.

    UserError: an unknown class, numbers that the names cannot hold, or a folder that holds something else.
    """
    folder = Path(folder)
    for name in classes:
        _check_video(name, num_groups, clips_per_group, seed)
    videos = [
        (name, group, clip)
        # the classes of one scene follow each other: they share its drawing
        for group in range(1, num_groups + 1)
        for clip in range(1, clips_per_group + 1)
        for name in classes
    ]
    marker = {"generator": "demo", "version": VERSION, "seed": seed}
    if _read_marker(folder) == marker and all((folder / video_path(*video)).exists() for video in videos):
        return

    _refuse_foreign(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with held(folder / ".lock", patience=600):
        if _read_marker(folder) != marker:
            for path in folder.glob("*/v_*_g??_c??.avi"):
                path.unlink()
            write_atomically(folder / MARKER, json.dumps(marker) + "\n")

        missing = [video for video in videos if not (folder / video_path(*video)).exists()]
        for name in classes:
            (folder / name).mkdir(exist_ok=True)
        _write_videos(folder, missing, seed)


def video_path(class_name: str, group: int, clip: int) -> Path:
    """Path of a video in the data set's folder, named as in UCF101: MoveUp/v_MoveUp_g01_c02.avi"""
    return Path(class_name) / f"v_{class_name}_g{group:02d}_c{clip:02d}.avi"


def render_video(class_name: str, group: int, clip: int, seed: int = 0) -> np.ndarray:
    """The frames of one video before encoding: (T, 120, 160, 3) uint8 RGB."""
    _check_video(class_name, group, clip, seed)
    scene = draw_scene(group, clip, seed)
    states = object_states(class_name, group, clip, seed)
    boxes = bounding_boxes(scene.corners, states)

    video = np.repeat(scene.ground[None], len(states), axis=0)  # (T, H, W, 3)
    for frame, state, box in zip(video, states, boxes, strict=True):
        paint_object(frame, scene.texture, state, box)
    return video


def object_states(class_name: str, group: int, clip: int, seed: int = 0) -> np.ndarray:
    """State of the object in each frame: (T, 4) float64 of centre x, centre y, log radius, angle (see MIDDLE)."""
    _check_video(class_name, group, clip, seed)
    paths, moment = draw_paths(group, clip, seed)
    axis, direction = MOTIONS[class_name]

    states = np.repeat(paths[moment][None], len(paths), axis=0)  # (T, 4)
    states[:, axis] = paths[::direction, axis]
    return states


def object_boxes(class_name: str, group: int, clip: int, seed: int = 0) -> np.ndarray:
    """The object's bounding box in each frame: (T, 4) float64 of x0, y0, x1, y1 in pixels, cut off at the frame.

    Pixel i covers [i, i + 1], so the right and lower edge of the picture are 160 and 120.
    """
    boxes = bounding_boxes(draw_scene(group, clip, seed).corners, object_states(class_name, group, clip, seed))
    return np.clip(boxes, 0, (WIDTH, HEIGHT, WIDTH, HEIGHT))


def draw_paths(group: int, clip: int, seed: int = 0) -> tuple[np.ndarray, int]:
    """What a scene's properties do, were all to move, and the moment at which those that do not are taken from it.

    (T, 4) float64 of x, y, log radius, angle; a frame's number. Length and speed are the group's, the rest the clip's.
    """
    by_group = np.random.default_rng([seed, group, 0, 0])
    by_clip = np.random.default_rng([seed, group, clip, 0])

    num_frames = int(by_group.integers(36, 45))
    speed = by_group.random()
    steps = np.arange(num_frames) - (num_frames - 1) / 2
    paths = np.empty((num_frames, 4))
    for axis, ((low, high), (least, most)) in enumerate(zip(MIDDLE, TRAVEL, strict=True)):
        middle = low + (high - low) * by_clip.random()
        # one third of the speed is the clip's, two thirds are the group's
        travel = least + (most - least) * (2 * speed + by_clip.random()) / 3
        paths[:, axis] = middle + travel / 40 * steps
    return paths, int(by_clip.integers(num_frames))


def _write_videos(folder: Path, videos: list[tuple[str, int, int]], seed: int) -> None:
    """One after the other: 800 videos take 9 s of one core, and threads would stand in each other's way."""
    at_terminal = sys.stderr.isatty()
    if not at_terminal:
        print(f"Generating {len(videos)} demo videos in {folder}", file=sys.stderr)
    for video in tqdm(videos, desc="demo videos", unit="video", disable=not at_terminal):
        frames = render_video(*video, seed)
        path = folder / video_path(*video)
        with atomic_write(path, path.with_name(f".{path.name}.part")) as temporary:
            _encode(temporary, frames)


def _encode(path: Path, frames: np.ndarray) -> None:
    """(T, H, W, 3) uint8 RGB -> an MPEG-4 .avi file, the same bytes for the same frames."""
    with av.open(path, "w", format="avi", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("mpeg4", rate=FPS, options={"flags": "+bitexact+qscale", "global_quality": "354"})
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        stream.codec_context.thread_count = 1  # frames this small are not worth sharing out
        stream.codec_context.codec_tag = "XVID"  # as UCF101's files: every player knows it
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def _read_marker(folder: Path) -> dict | None:
    try:
        return json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UserError(f"{folder / MARKER} is damaged ({error}). Remove {folder} to generate the demo anew.") from None


def _refuse_foreign(folder: Path) -> None:
    """A UserError where files lie that are not the generator's: it removes old videos, and only its own."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"The demo data set goes into a folder, but {folder} is a file.")
    if folder.exists() and _read_marker(folder) is None:
        found = [path.name for path in folder.iterdir() if path.name not in (".lock", f".{MARKER}.part")]
        if found:
            raise UserError(
                f"{folder} holds other files ({min(found)}), so the demo data set is not generated there. "
                f"Choose an empty folder."
            )


def _check_video(class_name: str, group: int, clip: int, seed: int) -> None:
    if class_name not in MOTIONS:
        raise UserError(unknown_name("demo class", class_name, CLASSES))
    for kind, number in (("group", group), ("clip", clip)):
        if not 1 <= number <= 99:
            raise UserError(f"The demo data set has {kind}s 1 to 99, not {number}: the file names hold two digits.")
    if seed < 0:
        raise UserError(f"The demo data set's seed must not be negative, but is {seed}.")
