"""Square crops of frames: integers in, integers out."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # what only decodes loads no torch
    from common.input_spec import InputSpec


def crop_offsets(width: int, height: int, size: int, crops: int = 1) -> list[tuple[int, int]]:
    """(top, left) of the centre crop, or of three crops spread over the longer side.

    The centre of 171x128 for 112 is (8, 29), rounded down as in Caffe's C3D.
    """
    top, left = (height - size) // 2, (width - size) // 2
    if crops == 1:
        return [(top, left)]
    if width >= height:
        return [(top, 0), (top, left), (top, width - size)]
    return [(0, left), (top, left), (height - size, left)]


def cut_offsets(width: int, height: int, spec: "InputSpec", crops: int = 1) -> list[tuple[int, int]]:
    """(top, left) of what is cut out of a frame for a network, spec.cut_size: around its centre crop, or each of three.

    An exported file takes the middle square of what it gets, and that is the very square that is meant here.
    """
    (cut_width, cut_height), size = spec.cut_size, spec.crop_size
    [(inner_top, inner_left)] = crop_offsets(cut_width, cut_height, size)
    return [(top - inner_top, left - inner_left) for top, left in crop_offsets(width, height, size, crops)]


def random_crop_offset(width: int, height: int, size: int, rng: np.random.Generator) -> tuple[int, int]:
    """(top, left), each drawn evenly from all that fit."""
    return int(rng.integers(0, height - size + 1)), int(rng.integers(0, width - size + 1))
