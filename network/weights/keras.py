"""C3D from Keras: an .h5 file with TensorFlow's order of axes. h5py is imported when such a file is read.

Files such as sports1M_weights_tf.h5 and C3D_Sport1M_weights_keras_2.2.4.h5 are the Caffe model in Keras' order:

    convolution  (time, row, column, in, out) -> (out, in, time, row, column)
    fc7, fc8     (in, out) -> (out, in)
    fc6          its 8192 inputs stand in the order (time, row, column, channel) = (1, 4, 4, 512), because Keras
                 flattens with channels last; ours in the order (channel, time, row, column) = (512, 1, 4, 4). A matrix
                 that is only transposed loads without an error and answers nonsense.

The path of a dataset depends on the version of Keras: conv1/conv1/kernel:0 and conv1/conv1/bias:0 in Keras 2, the
same under model_weights/ in a whole model, conv1/conv1_W and layer_0/param_0 in the earliest, layers/conv3d/vars/0 in
Keras 3. A layer is therefore recognised by its name anywhere in the path, and its kernel and bias by their numbers of
axes; without any name of C3D's, eight convolutions and three matrices are taken in their order.

In Theano's order of axes, (out, in, time, row, column), kernels are stored mirrored on three axes, and public files of
that kind have fc6 in TensorFlow's order. The meaning of a file is ambiguous, so such files are refused.
"""

import mmap
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from common.errors import UserError
from network.weights.caffe import LAYERS, from_bgr
from network.weights.loaded import LoadedWeights, check_is_c3d, refusing

SIGNATURE = b"\x89HDF\r\n\x1a\n"

OUR_LAYERS = tuple(LAYERS.values())
LAYER_NAME = re.compile(rf"({'|'.join([*LAYERS, 'conv1', 'conv2'])})(_\d+)?")  # Keras numbers a name used before


def recognises(head: bytes) -> bool:
    return head[:8] == SIGNATURE or head[512:520] == SIGNATURE  # a user block of 512 bytes may come first


def read(path: Path, model_name: str) -> LoadedWeights:
    h5py = import_h5py(path)
    # a damaged file makes HDF5 raise anything, from KeyError to RuntimeError
    with refusing(path, "HDF5 file", Exception), h5py.File(path, "r") as file:
        if names_theano(path):
            refuse_theano(path)
        layers = layers_of(path, find_arrays(h5py, path, file))
        arrays = {name: (read_array(path, kernel), read_array(path, bias)) for name, (kernel, bias) in layers.items()}
        renamed = {
            dataset.name.lstrip("/"): f"{name}.{part}"
            for name, pair in layers.items()
            for part, dataset in zip(("weight", "bias"), pair, strict=True)
        }

    state = {}
    for name, (kernel, bias) in arrays.items():
        state[f"{name}.weight"] = to_pytorch(path, name, torch.from_numpy(kernel))
        state[f"{name}.bias"] = torch.from_numpy(bias)
    check_is_c3d(path, model_name)
    weights = from_bgr(path, state, renamed, f"{path} (Keras)", {"pool5": "ceil"})
    if not any(LAYER_NAME.fullmatch(part) for name in renamed for part in name.split("/")):
        weights.notes.append("The file's layers do not have C3D's names and are used in their order.")
    return weights


def to_pytorch(path: Path, name: str, kernel: Tensor) -> Tensor:
    """Converts a kernel from Keras' order of axes to PyTorch's, and the inputs of fc6 to ours."""
    if kernel.ndim == 5:
        if kernel.shape[:3] != (3, 3, 3) == kernel.shape[2:]:
            refuse_theano(path)
        return kernel.permute(4, 3, 0, 1, 2).contiguous()
    if name == "fc6" and kernel.shape[0] == 8192:
        return kernel.view(1, 4, 4, 512, -1).permute(4, 3, 0, 1, 2).reshape(-1, 8192)
    return kernel.T.contiguous()


def names_theano(path: Path) -> bool:
    """Whether the file contains "theano", the value of the attribute `backend`. The bytes are searched, because HDF5
    hangs on the string attributes of some damaged files.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(b"theano") >= 0


def refuse_theano(path: Path) -> None:
    raise UserError(
        f"{path} was made with Theano or has its order of axes. Its kernels are mirrored, and the order of fc6's "
        "inputs in such files is not known for certain. Take the file made with TensorFlow (..._tf.h5)."
    )


def find_arrays(h5py: ModuleType, path: Path, file) -> list:
    """All datasets of parameters, in the file's order. Raises UserError for one stored in another file."""
    found = []

    def visit(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset) and not name.startswith("optimizer"):
            if item.external or item.is_virtual:
                raise UserError(f"{path} keeps {name} in another file. Save the weights into one.")
            if item.ndim in (1, 2, 5) and item.dtype.kind == "f":
                found.append(item)

    file.visititems(visit)
    return found


def layers_of(path: Path, arrays: list) -> dict[str, tuple]:
    """Our layer -> its (kernel, bias)."""
    groups: dict[str, list] = {}
    for item in arrays:
        parts = item.name.split("/")
        known = next((match[1] for part in parts if (match := LAYER_NAME.fullmatch(part))), None)
        groups.setdefault(LAYERS.get(known, known) if known else item.parent.name, []).append(item)

    if not any(name in OUR_LAYERS for name in groups):
        pairs = {name: items for name, items in groups.items() if any(item.ndim > 1 for item in items)}
        in_order = sorted(pairs, key=natural)
        if len(in_order) != len(OUR_LAYERS):
            raise UserError(f"{path} has {len(in_order)} layers with parameters and none has a name of C3D.")
        groups = {ours: pairs[theirs] for ours, theirs in zip(OUR_LAYERS, in_order, strict=True)}

    layers = {}
    for name, items in groups.items():
        kernels = [item for item in items if item.ndim > 1]
        biases = [item for item in items if item.ndim == 1]
        if len(kernels) != 1 or len(biases) != 1:
            raise UserError(
                f"{path} has {len(kernels)} kernels and {len(biases)} biases for {name}, and C3D has one of each."
            )
        layers[name] = (kernels[0], biases[0])
    return layers


def natural(name: str) -> list[str | int]:
    """Sort key that places dense_10 after dense_9."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def read_array(path: Path, item) -> np.ndarray:
    """A dataset as float32. Its size is checked first, because a small damaged file can declare a huge array."""
    if item.size > 40_000_000:  # fc6 has 33.6 million
        raise UserError(f"{path} has {item.size:,} values in {item.name}, more than any layer of C3D.")
    return np.asarray(item[()], dtype=np.float32)


def import_h5py(path: Path) -> ModuleType:
    try:
        import h5py
    except ImportError:
        raise UserError(f'{path} is an HDF5 file, which needs h5py. Do: pip install "h5py>=3.11"') from None
    return h5py
