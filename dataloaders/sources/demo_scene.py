"""The pictures of the generated demo data set: a place, a textured shape, and the shape painted where it is.

Pixels come from integers, IEEE additions and multiplications and from NumPy's seeded generator, not from a library's
warp, so that every machine draws the same ones. Whatever changes them raises VERSION in demo.py.
"""

import colorsys
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

WIDTH, HEIGHT = 160, 120
CANVAS = 256  # width and height of the object's own picture
RADIUS = 120  # of the object in it; the rest stays empty, so that samples beside the picture find nothing
SAMPLES = 4  # a pixel is the mean of 4x4 samples


@dataclass(frozen=True)
class Scene:
    """The look of a clip, the same in all classes.

    ground   (120, 160, 3) uint8
    texture  (CANVAS, CANVAS) uint64: the object's picture, four uint16 (R, G, B, 255; or all 0 outside) in each
    corners  (V, 2) float64: the outline, in radii from the centre
    """

    ground: np.ndarray
    texture: np.ndarray
    corners: np.ndarray


@lru_cache(maxsize=4)  # a scene's eight classes follow each other
def draw_scene(group: int, clip: int, seed: int = 0) -> Scene:
    """The place and its colours are the group's, the object the clip's."""
    by_group = np.random.default_rng([seed, group, 0, 1])
    by_clip = np.random.default_rng([seed, group, clip, 1])

    palette = _draw_palette(by_group)
    ground = _draw_ground(by_group, by_clip, palette)
    return Scene(ground, *_draw_object(by_clip, palette))


def bounding_boxes(corners: np.ndarray, states: np.ndarray) -> np.ndarray:
    """(V, 2) outline, (T, 4) states -> (T, 4) x0, y0, x1, y1 in pixels, not cut off."""
    boxes = np.empty((len(states), 4))
    for box, (x, y, log_size, angle) in zip(boxes, states, strict=True):
        cos, sin, radius = math.cos(angle), math.sin(angle), math.exp(log_size)
        across = x + radius * (cos * corners[:, 0] - sin * corners[:, 1])  # y points down: this turns clockwise
        down = y + radius * (sin * corners[:, 0] + cos * corners[:, 1])
        box[:] = across.min(), down.min(), across.max(), down.max()
    return boxes


def paint_object(frame: np.ndarray, texture: np.ndarray, state: np.ndarray, box: np.ndarray) -> None:
    """Paints the object into frame, (120, 160, 3) uint8, in place. state: centre x, centre y, log radius, angle"""
    x0, y0 = max(0, math.floor(box[0])), max(0, math.floor(box[1]))
    x1, y1 = min(WIDTH, math.ceil(box[2])), min(HEIGHT, math.ceil(box[3]))
    x, y, log_size, angle = state

    # The map from samples of the frame to the object's picture, in 1/65536: rounded once, whole numbers from here on.
    unit = RADIUS * 65536 / math.exp(log_size)
    cos, sin = unit * math.cos(angle), unit * math.sin(angle)
    start_x, start_y = x0 - x + 0.5 / SAMPLES, y0 - y + 0.5 / SAMPLES
    u = _ramp(cos * start_x + sin * start_y, cos, x1 - x0) + _ramp(0, sin, y1 - y0)[:, None]
    v = _ramp(cos * start_y - sin * start_x, -sin, x1 - x0) + _ramp(0, cos, y1 - y0)[:, None]
    column = np.clip((u >> 16) + CANVAS // 2, 0, CANVAS - 1)
    row = np.clip((v >> 16) + CANVAS // 2, 0, CANVAS - 1)

    samples = texture.ravel().take((row << 8) + column)  # CANVAS is 2 ** 8
    # Four uint16 in a uint64 add up side by side: 16 samples of at most 255 do not overflow.
    samples = samples.reshape(-1, SAMPLES, samples.shape[1])
    rows = samples[:, 0] + samples[:, 1] + samples[:, 2] + samples[:, 3]
    total = rows[:, 0::4] + rows[:, 1::4] + rows[:, 2::4] + rows[:, 3::4]
    total = total.view(np.uint16).reshape(y1 - y0, x1 - x0, 4).astype(np.int32)

    covered = total[..., 3:] // 255  # samples that the object covers, of 16
    part = frame[y0:y1, x0:x1]
    part[:] = (total[..., :3] + part * (16 - covered) + 8) >> 4


def _ramp(start: float, step: float, pixels: int) -> np.ndarray:
    """(pixels * SAMPLES,) int32: start, and a step further each pixel, both in 1/65536 of the object's picture."""
    return (round(start) + np.arange(pixels * SAMPLES) * round(step / SAMPLES)).astype(np.int32)


def _draw_object(rng: np.random.Generator, palette: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A shape with an edge, a pattern and an off-centre eye, by which any turn shows -> Scene's texture and corners."""
    corners = np.round(SHAPES[rng.integers(len(SHAPES))] * RADIUS)
    inside = _fill(corners)
    inner = _fill(np.round(corners * 0.86))

    y, x = np.mgrid[:CANVAS, :CANVAS] - CANVAS // 2
    # broad enough that a turn from one frame of a clip to the next stays below half a period of the pattern
    pattern = PATTERNS[rng.integers(len(PATTERNS))](x, y, int(rng.integers(40, 64)), rng)
    light, dark, eye, edge = palette[2:]
    if rng.random() < 0.5:
        light, dark = dark, light
    picture = np.where((pattern & inner)[..., None], light, dark)
    picture[inside & ~inner] = edge

    # (0, -1) is where every shape is broad enough for the eye
    from_eye = x**2 + (y + 58) ** 2
    picture[(from_eye < 30**2) & inner] = edge
    picture[(from_eye < 22**2) & inner] = eye

    texture = np.zeros((CANVAS, CANVAS, 4), np.uint16)
    texture[..., :3] = picture
    texture[..., 3] = 255
    texture[~inside] = 0
    return texture.view(np.uint64)[..., 0], corners / RADIUS


def _draw_ground(by_group: np.random.Generator, by_clip: np.random.Generator, palette: np.ndarray) -> np.ndarray:
    """The place: a quiet pattern of two near colours and soft light, which the clip shows at its own spot."""
    pattern = PATTERNS[by_group.integers(len(PATTERNS))]
    width = int(by_group.integers(36, 80))
    lights = by_group.random((8, 9))

    # twice the size, then 2x2 means; the clip looks at another part of the same place
    y, x = np.mgrid[: 2 * HEIGHT, : 2 * WIDTH]
    x, y = x + int(by_clip.integers(-400, 400)), y + int(by_clip.integers(-400, 400))
    spots = pattern(x, y, width, by_group)
    picture = np.where(spots[..., None], palette[0], palette[1])
    picture = picture.reshape(HEIGHT, 2, WIDTH, 2, 3).sum((1, 3))  # whole numbers, four times the colour

    brightness = 0.8 + 0.35 * _smooth(lights)[..., None]
    return np.clip(picture * brightness / 4, 0, 255).astype(np.uint8)


def _smooth(values: np.ndarray) -> np.ndarray:
    """(8, 9) values on a coarse net -> (120, 160), interpolated between them."""
    for size in (HEIGHT, WIDTH):
        at = np.arange(size) * ((len(values) - 1) / size)
        below = at.astype(int)
        weight = (at - below)[:, None]
        weight = weight * weight * (3 - 2 * weight)  # without creases at the net's lines
        values = (values[below] * (1 - weight) + values[below + 1] * weight).T
    return values


def _draw_palette(rng: np.random.Generator) -> np.ndarray:
    """(6, 3) uint8 RGB: two for the ground, near each other and pale or dark; pattern 1 and 2, eye and edge."""
    hue = rng.random()
    value = (0.3 if rng.random() < 0.4 else 0.72) + 0.12 * rng.random()
    saturation = 0.12 + 0.25 * rng.random()
    first = (hue + 0.25 + 0.5 * rng.random()) % 1  # away from the ground's hue
    second = (first + (0.25 if rng.random() < 0.5 else 0.5)) % 1
    bright = rng.random() < 0.5
    colours = [
        (hue, saturation, value),
        (hue, saturation + 0.06, value - 0.1),
        (first, 0.75, 0.95),
        (second, 0.8, 0.5),
        (first, 0.15, 1.0),
        (hue, 0.2, 0.97 if bright and value < 0.5 else 0.1),
    ]
    return np.array([[round(255 * part) for part in colorsys.hsv_to_rgb(*colour)] for colour in colours], np.uint8)


# Patterns: whole numbers x, y and a width -> where the first of two colours goes.


def _stripes(x: np.ndarray, y: np.ndarray, width: int, rng: np.random.Generator) -> np.ndarray:
    a, b = DIRECTIONS[rng.integers(len(DIRECTIONS))]  # of length 5, or near it
    return (a * x + b * y) // (5 * width) % 2 == 0


def _checks(x: np.ndarray, y: np.ndarray, width: int, rng: np.random.Generator) -> np.ndarray:
    return (x // width + y // width) % 2 == 0


def _dots(x: np.ndarray, y: np.ndarray, width: int, rng: np.random.Generator) -> np.ndarray:
    shifted = x + (y // (2 * width)) % 2 * width  # every second row by half a step
    return (shifted % (2 * width) - width) ** 2 + (y % (2 * width) - width) ** 2 < (width * 5 // 8) ** 2


def _zigzag(x: np.ndarray, y: np.ndarray, width: int, rng: np.random.Generator) -> np.ndarray:
    return (y + abs(x % (2 * width) - width)) // width % 2 == 0


def _bricks(x: np.ndarray, y: np.ndarray, width: int, rng: np.random.Generator) -> np.ndarray:
    shifted = x + y // width % 2 * width
    joint = max(3, width // 6)
    return (shifted % (2 * width) >= joint) & (y % width >= joint)


def _diamonds(x: np.ndarray, y: np.ndarray, width: int, rng: np.random.Generator) -> np.ndarray:
    return abs(x % (2 * width) - width) + abs(y % (2 * width) - width) < width


DIRECTIONS = ((5, 0), (4, 3), (3, 4), (0, 5), (-3, 4), (-4, 3))
PATTERNS: tuple[Callable, ...] = (_stripes, _checks, _dots, _zigzag, _bricks, _diamonds)


def _fill(corners: np.ndarray) -> np.ndarray:
    """(V, 2) corners, in texels from the centre -> (CANVAS, CANVAS) bool: the texels whose centre is inside."""
    crossings = np.zeros((CANVAS, CANVAS + 1), np.int64)
    y = np.arange(CANVAS) - CANVAS // 2 + 0.5  # never at a corner: those are whole
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        rows = np.flatnonzero((y0 < y) != (y1 < y))
        if len(rows):
            x = x0 + (y[rows] - y0) * (x1 - x0) / (y1 - y0)
            crossings[rows, np.ceil(x - 0.5).astype(int) + CANVAS // 2] += 1
    return crossings.cumsum(axis=1)[:, :CANVAS] % 2 == 1


def _polygon(radii: Sequence[float]) -> np.ndarray:
    """Corners at equal angles, clockwise from the top, at the given distances from the centre."""
    angles = [2 * math.pi * i / len(radii) for i in range(len(radii))]
    return np.array([(r * math.sin(a), -r * math.cos(a)) for r, a in zip(radii, angles, strict=True)])


SHAPES = (
    _polygon([1] * 48),  # disc
    _polygon([1] * 3),
    _polygon([1] * 4),
    _polygon([1] * 5),
    _polygon([1] * 6),
    _polygon([1, 0.55] * 5),  # star
    _polygon([1, 1, 0.82, 0.82] * 7),  # gear
    _polygon([1 - 0.03 * abs(i - 24) + 0.0006 * (i - 24) ** 2 for i in range(49)][24:] + [0.62] * 20),  # shell
    np.array(
        [(-0.33, -0.94), (0.33, -0.94), (0.33, -0.33), (0.94, -0.33), (0.94, 0.33), (0.33, 0.33)]
        + [(0.33, 0.94), (-0.33, 0.94), (-0.33, 0.33), (-0.94, 0.33), (-0.94, -0.33), (-0.33, -0.33)]
    ),  # cross
    np.array([(0, -1), (0.8, -0.3), (0.55, -0.3), (0.55, 0.8), (-0.55, 0.8), (-0.55, -0.3), (-0.8, -0.3)]),  # house
)
