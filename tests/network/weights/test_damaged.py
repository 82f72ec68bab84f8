"""A damaged file of any format ends in one line."""

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from common.errors import UserError
from network.weights.read import read_weights
from tests.helpers.weights import (
    MMACTION,
    OUR_LAYERS,
    SEQUENTIAL,
    called,
    hollow_c3d,
    hollow_convlstm,
    random_blobs,
    small_caffe,
    small_widths,
    write_keras,
)


def damaged(content: bytes) -> dict[str, tuple[bytes, bool]]:
    """20 damages of a file -> its bytes then, and whether it must be refused; a flipped bit may lie in a value."""
    rng, size = np.random.default_rng(9), len(content)
    out = {f"cut to {part}": (content[:part], True) for part in (0, 1, 7, 40, 200, size // 3, size // 2, size - 1)}
    out["zeros"] = (bytes(size), True)
    out["text"] = (b"<html><body>404 Not Found</body></html>\n" * 20, True)
    out["noise"] = (rng.bytes(5000), True)
    out["beginning only, then text"] = (content[:16] + b"hello " * 500, True)
    for number in range(8):
        changed = bytearray(content)
        limit = min(size, 2000) if number % 2 else size  # the beginning holds the structure
        for at in rng.integers(0, limit, 1 + number):
            changed[at] ^= 1 << int(rng.integers(8))
        out[f"flipped bits {number}"] = (bytes(changed), False)
    assert len(out) == 20
    return out


def small_keras(path: Path) -> Path:
    arrays = {name: (np.ones((3, 3, 3, 2, 2)), np.ones(2)) for name in OUR_LAYERS}
    return write_keras(path, arrays)


def small_vmz(path: Path) -> Path:
    blobs = random_blobs((1, 1, 1, 1), small_widths(), factored=False, num_classes=4)
    path.write_bytes(pickle.dumps({"blobs": blobs}, protocol=2))
    return path


def saved(content: dict, **options) -> Callable[[Path], Path]:
    def save(path: Path) -> Path:
        torch.save(content, path, **options)
        return path

    return save


def small_safetensors(path: Path) -> Path:
    state = {name: value.contiguous() for name, value in hollow_convlstm().items()}
    path.write_bytes(pytest.importorskip("safetensors.torch").save(state))
    return path


DAMAGED = {
    "safetensors": (small_safetensors, "cnn_lstm_18"),
    "caffe": (small_caffe, "c3d"),
    "keras": (small_keras, "c3d"),
    "vmz": (small_vmz, "r3d_10"),
    "c3d-pretrained": (saved(called(hollow_c3d(487), SEQUENTIAL)), "c3d"),
    "davidea": (saved(hollow_c3d(487), _use_new_zipfile_serialization=False), "c3d"),
    "jfzhang": (saved({"state_dict": hollow_c3d(101), "opt_dict": {}}), "c3d"),
    "mmaction2": (saved({"state_dict": called(hollow_c3d(101), MMACTION, "backbone.")}), "c3d"),
    "convlstm": (lambda path: saved(hollow_convlstm())(path), "cnn_lstm_18"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_file_ends_in_one_line(tmp_path, kind):
    make, model_name = DAMAGED[kind]
    content = make(tmp_path / "whole").read_bytes()
    for damage, (changed, hopeless) in damaged(content).items():
        path = tmp_path / "model.bin"
        path.write_bytes(changed)
        try:
            weights = read_weights(path, model_name)
        except UserError as error:
            assert "\n" not in str(error), damage
            assert "model.bin" in str(error), damage
        else:
            assert not hopeless, damage
            assert weights.state, damage
