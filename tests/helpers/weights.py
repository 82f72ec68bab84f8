"""Writers of foreign weight files, byte by byte or key by key, independent of the readers in network/weights."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from network import create_model
from network.weights.caffe import c3d_shapes

NUM_CLASSES = 10


NAMES = [f"class {i}" for i in range(NUM_CLASSES)]


OUR_LAYERS = ["conv1", "conv2", "conv3a", "conv3b", "conv4a", "conv4b", "conv5a", "conv5b", "fc6", "fc7", "fc8"]


def hollow_c3d(num_classes: int, values: dict[str, float] | None = None, fill: float = 0.01) -> dict[str, torch.Tensor]:
    """C3D's names and shapes in a file of some kilobytes: one number stands for a whole tensor."""
    return {
        name: torch.full((1,), (values or {}).get(name, fill)).expand(
            (num_classes, *shape) if name.startswith("fc8.") else shape
        )
        for name, shape in c3d_shapes().items()
    }


def with_bgr_turned(state: dict) -> dict:
    return {**state, "conv1.weight": state["conv1.weight"].flip(1)}


def assert_same(left: dict, right: dict) -> None:
    assert set(left) == set(right)
    for name in left:
        assert torch.equal(left[name], right[name]), name


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value % 128 + 128)
        value //= 128
    return bytes([*out, value])


def tagged(number: int, payload: bytes) -> bytes:
    return varint(number * 8 + 2) + varint(len(payload)) + payload


def numbered(number: int, value: int) -> bytes:
    return varint(number * 8) + varint(value)


def blob(values: np.ndarray) -> bytes:
    """num, channels, length, height, width in fields 1 to 5, data packed in field 6; ones in front."""
    shape = (1,) * (5 - values.ndim) + values.shape
    sizes = b"".join(numbered(number, size) for number, size in enumerate(shape, 1))
    return sizes + tagged(6, values.astype("<f4").tobytes())


def net(layers: list[tuple[str, int, list[np.ndarray]]]) -> Iterator[bytes]:
    yield tagged(1, b"DeepNet-A")
    for name, kind, arrays in layers:
        parts = [tagged(2, b"below"), tagged(3, name.encode()), tagged(4, name.encode()), numbered(5, kind)]
        parts += [tagged(6, blob(array)) for array in arrays]
        parts += [varint(7 * 8 + 5) + np.float32(1).tobytes()]  # blobs_lr, a float by itself
        yield tagged(2, b"".join(parts))


CAFFE_NAMES = [
    "conv1a",
    "conv2a",
    "conv3a",
    "conv3b",
    "conv4a",
    "conv4b",
    "conv5a",
    "conv5b",
    "fc6-1",
    "fc7-1",
    "fc8-1",
]


def caffe_layers(state: dict) -> list[tuple[str, int, list[np.ndarray]]]:
    layers = [("data", 33, [])]
    for theirs, ours in zip(CAFFE_NAMES, OUR_LAYERS, strict=True):
        arrays = [state[f"{ours}.weight"].numpy(), state[f"{ours}.bias"].numpy()]
        layers += [(theirs, 30 if ours.startswith("conv") else 14, arrays), (f"relu{ours[-2:]}", 18, [])]
    return layers


def small_caffe(path: Path) -> Path:
    layers = [("conv1a", 30, [np.ones((2, 3, 3, 3, 3)), np.zeros(2)]), ("fc6", 14, [np.ones((4, 5)), np.zeros(4)])]
    path.write_bytes(b"".join(net(layers)))
    return path


def write_keras(path: Path, arrays: dict, place: str = "{layer}/{layer}/{part}:0", hollow: bool = False) -> Path:
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [name.encode() for name in arrays]
        file.attrs["backend"] = b"tensorflow"
        file.attrs["keras_version"] = b"2.2.4"
        for number, (layer, pair) in enumerate(arrays.items()):
            for part, array in zip(("kernel", "bias"), pair, strict=True):
                name = place.format(layer=layer, part=part, number=number, index=int(part == "bias"))
                if hollow:  # promised, and never written: HDF5 gives zeros
                    file.create_dataset(name, array.shape, "<f4")
                else:
                    file[name] = array
    return path


SEQUENTIAL = [f"features.{i}" for i in (0, 3, 6, 8, 11, 13, 16, 18)] + [f"classifier.{i}" for i in (0, 3, 6)]


MMACTION = [f"{name}.conv" for name in CAFFE_NAMES[:8]] + ["fc6", "fc7", "cls_head.fc_cls"]


def called(state: dict, layers: list[str], prefix: str = "") -> dict:
    """The state under another program's names of the eleven layers."""
    theirs = dict(zip(OUR_LAYERS, layers, strict=True))
    renamed = {}
    for name, value in state.items():
        layer, part = name.split(".")
        in_front = "" if theirs[layer].startswith("cls_head") else prefix
        renamed[f"{in_front}{theirs[layer]}.{part}"] = value
    return renamed


def random_blobs(blocks: tuple[int, ...], widths: tuple[int, ...], factored: bool, num_classes: int) -> dict:
    """Blobs as VMZ's program names and shapes them, of random values."""
    rng, blobs = np.random.default_rng(12), {}

    def conv(name: str, out_channels: int, in_channels: int, *kernel: int) -> None:
        std = (2 / (in_channels * np.prod(kernel))) ** 0.5
        blobs[f"{name}_w"] = rng.normal(0, std, (out_channels, in_channels, *kernel)).astype(np.float32)

    def norm(name: str, channels: int) -> None:
        for ending, low, high in (("s", 0.8, 1.2), ("b", -0.1, 0.1), ("rm", -0.1, 0.1), ("riv", 0.5, 1.5)):
            blobs[f"{name}_{ending}"] = rng.uniform(low, high, channels).astype(np.float32)

    def either(name: str, norm_name: str, out_channels: int, in_channels: int) -> None:
        if factored:
            middle = int(3 * in_channels * out_channels * 9 / (in_channels * 9 + 3 * out_channels))
            conv(f"{name}_middle", middle, in_channels, 1, 3, 3)
            norm(f"{norm_name}_middle", middle)
            conv(name, out_channels, middle, 3, 1, 1)
        else:
            conv(name, out_channels, in_channels, 3, 3, 3)
        norm(norm_name, out_channels)

    width = widths[0]
    if factored:
        conv("conv1_middle", 45, 3, 1, 7, 7)
        norm("conv1_middle_spatbn_relu", 45)
        conv("conv1", width, 45, 3, 1, 1)
    else:
        conv("conv1", width, 3, 3, 7, 7)
    norm("conv1_spatbn_relu", width)

    i, channels = 0, width
    for stage, (count, width) in enumerate(zip(blocks, widths, strict=True)):
        for block in range(count):
            either(f"comp_{i}_conv_1", f"comp_{i}_spatbn_1", width, channels)
            either(f"comp_{i}_conv_2", f"comp_{i}_spatbn_2", width, width)
            if stage and not block:
                conv(f"shortcut_projection_{i}", width, channels, 1, 1, 1)
                norm(f"shortcut_projection_{i}_spatbn", width)
            i, channels = i + 1, width
    blobs[f"last_out_L{num_classes}_w"] = rng.normal(0, 0.05, (num_classes, channels)).astype(np.float32)
    blobs[f"last_out_L{num_classes}_b"] = rng.normal(0, 0.05, num_classes).astype(np.float32)
    return blobs


def vmz_forward(blobs: dict, x: torch.Tensor, blocks: tuple[int, ...], factored: bool) -> torch.Tensor:
    """The network as VMZ computes it, from its blobs alone: no module of ours."""
    blobs = {name: torch.from_numpy(value) for name, value in blobs.items()}

    def conv(x: torch.Tensor, name: str, stride: tuple[int, int, int]) -> torch.Tensor:
        weight = blobs[f"{name}_w"]
        return F.conv3d(x, weight, stride=stride, padding=tuple(size // 2 for size in weight.shape[2:]))

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        scale, shift, mean, variance = (blobs[f"{name}_{ending}"].view(-1, 1, 1, 1) for ending in "s b rm riv".split())
        return (x - mean) / (variance + 0.001).sqrt() * scale + shift

    def either(x: torch.Tensor, name: str, norm_name: str, stride: int) -> torch.Tensor:
        if factored:
            x = F.relu(norm(conv(x, f"{name}_middle", (1, stride, stride)), f"{norm_name}_middle"))
            return norm(conv(x, name, (stride, 1, 1)), norm_name)
        return norm(conv(x, name, (stride, stride, stride)), norm_name)

    if factored:
        x = F.relu(norm(conv(x, "conv1_middle", (1, 2, 2)), "conv1_middle_spatbn_relu"))
        x = F.relu(norm(conv(x, "conv1", (1, 1, 1)), "conv1_spatbn_relu"))
    else:
        x = F.relu(norm(conv(x, "conv1", (1, 2, 2)), "conv1_spatbn_relu"))
    i = 0
    for stage, count in enumerate(blocks):
        for block in range(count):
            stride = 2 if stage and not block else 1
            y = F.relu(either(x, f"comp_{i}_conv_1", f"comp_{i}_spatbn_1", stride))
            y = either(y, f"comp_{i}_conv_2", f"comp_{i}_spatbn_2", 1)
            if stride == 2:
                x = norm(conv(x, f"shortcut_projection_{i}", (2, 2, 2)), f"shortcut_projection_{i}_spatbn")
            x, i = F.relu(x + y), i + 1
    weight = next(name for name in blobs if name.startswith("last_out") and name.endswith("_w"))
    return F.linear(x.mean(dim=(2, 3, 4)), blobs[weight], blobs[weight[:-1] + "b"])


def small_widths() -> tuple[int, ...]:
    """r3d_10's, whatever they are."""
    with torch.device("meta"):
        model = create_model("r3d_10", 1)
    return tuple(model.get_submodule(f"layer{stage}.0.conv1.1").num_features for stage in (1, 2, 3, 4))


class Touch:
    """A pickle of this makes a folder when it is loaded with its code."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


class Call:
    def __init__(self, function: Callable, *arguments: object):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


class Encoder(torch.nn.Module):
    """Its modules by their names in its checkpoints, around a ResNet-18."""

    def __init__(self, latent: int):
        from torchvision.models import resnet18

        super().__init__()
        self.feature_extractor = torch.nn.Sequential(*list(resnet18(weights=None).children())[:-1])
        self.final = torch.nn.Sequential(torch.nn.Linear(512, latent), torch.nn.BatchNorm1d(latent))


class ConvLstm(torch.nn.Module):
    """per_frame: as it was before it had attention, with an answer for each frame."""

    def __init__(self, per_frame: bool, num_classes: int = 4, latent: int = 12, hidden: int = 6, layers: int = 1):
        super().__init__()
        self.encoder = Encoder(latent)
        self.lstm = torch.nn.Module()
        self.lstm.lstm = torch.nn.LSTM(latent, hidden, layers, batch_first=True, bidirectional=True)
        answer = torch.nn.Sequential(
            torch.nn.Linear(2 * hidden, hidden),
            torch.nn.BatchNorm1d(hidden),
            torch.nn.ReLU(),
            torch.nn.Linear(hidden, num_classes),
            torch.nn.Softmax(dim=-1),
        )
        self.per_frame = per_frame
        if per_frame:
            self.lstm.output_layers = answer
        else:
            self.output_layers = answer
            self.attention_layer = torch.nn.Linear(2 * hidden, 1)
        for module in self.modules():
            if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
                torch.nn.init.uniform_(module.running_mean, -0.2, 0.2)
                torch.nn.init.uniform_(module.running_var, 0.5, 1.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, T, 3, H, W) -> probabilities (B, classes), or (B, T, classes) per frame."""
        rows = [self.encoder.final(self.encoder.feature_extractor(clip).flatten(1)) for clip in x]
        states = self.lstm.lstm(torch.stack(rows))[0]
        if self.per_frame:
            return torch.stack([self.lstm.output_layers(states[:, t]) for t in range(states.shape[1])], dim=1)
        weights = self.attention_layer(states).softmax(dim=1)
        return self.output_layers((weights * states).sum(dim=1))


def hollow_convlstm(**options) -> dict[str, torch.Tensor]:
    """A ConvLSTM's names and shapes in a file of some kilobytes."""
    with torch.device("meta"):
        state = ConvLstm(per_frame=False, **options).state_dict()
    return {name: torch.full((), 0.01).expand(value.shape) for name, value in state.items()}


def labels_file(path: Path, number: int) -> Path:
    path.write_text("".join(f"class {i}\n" for i in range(number)), encoding="utf-8")
    return path
