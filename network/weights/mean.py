"""Mean files of C3D: a BlobProto of its Caffe (.binaryproto) or a NumPy array (.npy), channels in the order B, G, R."""

from pathlib import Path

import numpy as np

from common.errors import UserError
from network.weights.caffe import read_blob
from network.weights.loaded import refusing

NPY = b"\x93NUMPY"


def read_mean(path: Path) -> tuple[tuple[float, float, float], str]:
    """Channel means (B, G, R) from 0 to 255, and the shape of the file's array for messages, such as "3x16x128x171".

    A blob is (1, 3, T, H, W): channel, frame, row, column, in this order. An array may be that, without the 1 too,
    channels last as (T, H, W, 3), or three numbers. Raises UserError for anything else.
    """
    if not path.is_file():
        raise UserError(f"There is no mean file {path}.")
    data = path.read_bytes()
    with refusing(path, "mean file", ValueError, EOFError, OSError):
        volume = np.load(path, allow_pickle=False) if data[: len(NPY)] == NPY else read_blob(memoryview(data)).numpy()

    shape = "x".join(map(str, volume.shape))
    if volume.ndim == 5 and volume.shape[0] == 1:
        volume = volume[0]
    if volume.dtype.kind != "f" or volume.ndim not in (1, 4) or 3 not in (volume.shape[0], volume.shape[-1]):
        raise UserError(f"{path} holds {shape} values of type {volume.dtype}. A mean file has 3xTxHxW, B, G, R.")

    by_channel = volume.reshape(3, -1) if volume.shape[0] == 3 else volume.reshape(-1, 3).T
    means = tuple(float(mean) for mean in by_channel.mean(axis=1, dtype=np.float64))
    if not all(0 <= mean <= 255 for mean in means):
        raise UserError(f"{path} has the channel means {means}, and a mean of colours is between 0 and 255.")
    return means, shape
