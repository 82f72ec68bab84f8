"""C3D as its authors published it: a binary NetParameter of their own Caffe.

Tran et al., ICCV 2015; conv3d_deepnetA_sport1m_iter_1900000 and models fine-tuned from it. In their caffe.proto a blob
has a length (frames) as field 3, which moves height, width and data by one number, so the protobuf classes of other
Caffes misread these files. The few fields needed are read here without a protobuf library:

    NetParameter     name = 1, layers = 2
    LayerParameter   name = 4, blobs = 6
    BlobProto        num = 1, channels = 2, length = 3, height = 4, width = 5, data = 6

Kernels and matrices have PyTorch's order, and Caffe's convolution is PyTorch's: everything is copied unchanged except
conv1. Caffe's input was B, G, R, as OpenCV decodes; conv1's input channels are reversed here for an input of R, G, B.

The authors subtracted a mean volume, a value for each channel, frame and pixel. An InputSpec has a value a channel, so
the volume is reduced to its channel means. Without a mean file, B, G, R = 90.25, 97.66, 101.41: the means of the volume
that most ports pass on (c3d_mean.npy). The authors' sport1m_train16_128_mean.binaryproto is no longer published;
with that file, or another one, use --weights MODEL+MEAN.
"""

from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.errors import UserError
from common.input_spec import InputSpec
from network.c3d import C3D
from network.weights.loaded import LoadedWeights, check_finite, check_is_c3d, refusing

MEAN_BGR = (90.25, 97.66, 101.41)

# Caffe's layers -> ours. Names in files may be longer: fc6-1, fc8_ucf.
LAYERS = {
    "conv1a": "conv1",
    "conv2a": "conv2",
    "conv3a": "conv3a",
    "conv3b": "conv3b",
    "conv4a": "conv4a",
    "conv4b": "conv4b",
    "conv5a": "conv5a",
    "conv5b": "conv5b",
    "fc6": "fc6",
    "fc7": "fc7",
    "fc8": "fc8",
}

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types


def recognises(head: bytes) -> bool:
    """Whether the bytes begin a NetParameter: with its name and a known next field, or with a layer."""
    if head[:1] == b"\x12":
        return len(head) > 8
    if head[:1] != b"\n":
        return False
    try:
        length, start = read_varint(memoryview(head), 1)
    except ValueError:
        return False
    name, after = head[start : start + length], head[start + length : start + length + 2]
    follows = after[:1] in (b"\x12", b"\x1a", b"\x20") or after == b"\xa2\x06"  # layers, input, input_dim; later: layer
    return follows and name.isascii() and name.decode("ascii").isprintable()


def read(path: Path, model_name: str) -> LoadedWeights:
    with refusing(path, "Caffe model", ValueError):
        layers = read_layers(path, memoryview(path.read_bytes()))
    if not layers:
        raise UserError(f"{path} is a Caffe network description without parameters. Give the trained model.")

    state, renamed = {}, {}
    taken = Counter(our_layer(name) for name, blobs in layers if blobs)
    for name, blobs in layers:
        layer = our_layer(name)
        if layer and taken[layer] > 1:
            raise UserError(f"{path} has {taken[layer]} layers that could be {layer}, one of them '{name}'.")
        for number, blob in enumerate(blobs):
            part = ("weight", "bias")[number] if number < 2 else str(number)
            ours = f"{layer or name}.{part}"
            if part == "bias":
                blob = blob.flatten()  # (1, 1, 1, 1, out)
            elif ours.startswith("fc"):
                blob = blob.flatten(0, 3)  # (1, 1, 1, out, in)
            state[ours] = blob
            if layer and layer != name:
                renamed[f"{name}.{part}"] = ours

    check_is_c3d(path, model_name)
    return from_bgr(path, state, renamed, f"{path} (Caffe)", {"pool5": "ceil"})


def our_layer(name: str) -> str | None:
    return next((ours for theirs, ours in LAYERS.items() if name.startswith(theirs)), None)


def from_bgr(
    path: Path,
    state: dict[str, Tensor],
    renamed: dict[str, str],
    origin: str,
    options: dict[str, str],
    mean_bgr: tuple[float, float, float] = MEAN_BGR,
) -> LoadedWeights:
    """Converts a C3D for B, G, R from 0 to 255 less `mean_bgr` into one for R, G, B. Checks shapes and values."""
    check_shapes(path, state)
    check_finite(path, state)
    state = {**state, "conv1.weight": state["conv1.weight"].flip(1)}
    notes = [
        "conv1's input channels are reversed: the file's network expects B, G, R.",
        f"From each colour, 0 to 255, its mean is taken: R, G, B = {', '.join(f'{m:g}' for m in mean_bgr[::-1])}.",
    ]
    return LoadedWeights(state, c3d_input(mean_bgr[::-1]), None, origin, renamed, options, notes)


def c3d_input(mean_rgb: tuple[float, float, float]) -> InputSpec:
    """16 consecutive frames of 171x128 and their centre, values from 0 to 255 less a mean, not divided."""
    return InputSpec(
        clip_len=16,
        frame_stride=1,
        fps=None,
        resize=(171, 128),
        crop_size=112,
        mean=tuple(value / 255 for value in mean_rgb),
        std=(1 / 255, 1 / 255, 1 / 255),
    )


@lru_cache
def c3d_shapes() -> dict[str, tuple[int, ...]]:
    """Parameter name -> shape, of fc8 without the number of classes."""
    with torch.device("meta"):
        state = C3D(1).state_dict()
    return {name: tuple(value.shape[1:] if name.startswith("fc8.") else value.shape) for name, value in state.items()}


def check_shapes(path: Path, state: dict[str, Tensor]) -> None:
    """Raises UserError with the first parameter that is missing or has another shape than in the paper's C3D."""
    for name, shape in c3d_shapes().items():
        if name not in state:
            if name.startswith("fc8."):
                continue  # load_into reports the new head
            raise UserError(f"{path} has no {name}: it is not a whole C3D.")
        there = tuple(state[name].shape)
        if (there[1:] if name.startswith("fc8.") else there) != shape:
            needed = ("classes", *shape) if name.startswith("fc8.") else shape
            raise UserError(
                f"{path} has {name} as {_size(there)}, and C3D's is {_size(needed)}: it is another network, or damaged."
            )


def _size(shape: tuple) -> str:
    return "x".join(map(str, shape)) or "a number"


# --- protobuf


def read_layers(path: Path, data: memoryview) -> list[tuple[str, list[Tensor]]]:
    """(name, blobs) of each layer that has any. Raises ValueError where the bytes are no NetParameter."""
    layers, others = [], 0
    for number, wire, value in read_fields(data):
        if number == 2 and wire == BYTES:
            name, blobs = "", []
            for inner, inner_wire, part in read_fields(value):
                if inner == 4 and inner_wire == BYTES:
                    name = bytes(part).decode("utf-8")
                elif inner == 6 and inner_wire == BYTES:
                    blobs.append(read_blob(part))
            if blobs:
                layers.append((name, blobs))
        others += number == 100
    if others and not layers:
        raise UserError(f"{path} is a model of a later Caffe. C3D's own Caffe keeps its layers in another field.")
    return layers


def read_blob(data: memoryview) -> Tensor:
    """A BlobProto -> (num, channels, length, height, width) float32. Raises ValueError."""
    shape, chunks = [1, 1, 1, 1, 1], []
    for number, wire, value in read_fields(data):
        if 1 <= number <= 5:
            if wire != VARINT:
                raise ValueError("a blob of another Caffe than C3D's: its field 5 holds data")
            shape[number - 1] = value
        elif number == 6 and wire in (BYTES, FIXED32):  # packed, or one by one
            chunks.append(value)

    values = np.frombuffer(b"".join(chunks) if len(chunks) != 1 else chunks[0], "<f4")
    count = 1
    for size in shape:
        count *= size
    if count != values.size or not count:
        raise ValueError(f"a blob of {_size(tuple(shape))} with {values.size:,} values")
    return torch.from_numpy(values.astype(np.float32)).view(shape)  # a copy of its own


def read_fields(data: memoryview) -> Iterator[tuple[int, int, int | memoryview]]:
    """Protobuf's wire format -> (field number, wire type, value): an int, or the bytes. Raises ValueError."""
    at, end = 0, len(data)
    while at < end:
        tag, at = read_varint(data, at)
        number, wire = tag >> 3, tag & 7
        if not number:
            raise ValueError("a field with the number 0")
        if wire == VARINT:
            value, at = read_varint(data, at)
        else:
            if wire == BYTES:
                size, at = read_varint(data, at)
            elif wire in (FIXED32, FIXED64):
                size = 4 if wire == FIXED32 else 8
            else:
                raise ValueError(f"a field of the unknown wire type {wire}")
            if at + size > end:
                raise ValueError("it ends inside a field")
            value, at = data[at : at + size], at + size
        yield number, wire, value


def read_varint(data: memoryview, at: int) -> tuple[int, int]:
    """(value, position behind it). Seven bits a byte, the lowest first; the top bit says that more follow."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise ValueError("it ends inside a number")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number of more than 64 bits")
