"""Each format of known weights, written here byte by byte or key by key, and read back."""

import os
import pickle
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from common.errors import UsageError, UserError
from common.files import ROOT
from dataloaders.transforms import to_model_input
from engine.runs.checkpoint import load_model
from network import create_model
from network.__main__ import main
from network.weights import vmz
from network.weights.caffe import MEAN_BGR, c3d_shapes, read_layers
from network.weights.mean import read_mean
from network.weights.read import LoadedWeights, build_whole, load_into, read_weights

NUM_CLASSES = 10
NAMES = [f"class {i}" for i in range(NUM_CLASSES)]
OUR_LAYERS = ["conv1", "conv2", "conv3a", "conv3b", "conv4a", "conv4b", "conv5a", "conv5b", "fc6", "fc7", "fc8"]


@pytest.fixture(scope="module")
def c3d_state() -> dict[str, torch.Tensor]:
    """A whole C3D of random values, conv1 for B, G, R; about the sizes at which a signal keeps its own."""
    generator, state = torch.Generator().manual_seed(11), {}
    for name, shape in c3d_shapes().items():
        shape = (NUM_CLASSES, *shape) if name.startswith("fc8.") else shape
        fan_in = int(np.prod(shape[1:])) or 1
        # a pattern of 65,521 numbers, repeated: a prime, so that no two rows of a matrix are alike
        some = torch.randn(65_521, generator=generator) * (2 / fan_in) ** 0.5
        count = int(np.prod(shape))
        state[name] = some.repeat(count // len(some) + 1)[:count].view(shape)
    return state


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


# --- Caffe: a writer of the wire format, independent of the reader


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


@pytest.fixture(scope="module")
def caffe_file(c3d_state, tmp_path_factory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("caffe") / "conv3d_deepnetA_iter_1900000"
    with path.open("wb") as file:
        file.writelines(net(caffe_layers(c3d_state)))
    yield path
    path.unlink()


@pytest.fixture(scope="module")
def from_caffe(caffe_file) -> LoadedWeights:
    return read_weights(caffe_file, "c3d")


def test_a_caffe_model_is_copied_as_it_is_with_conv1_turned_to_rgb(from_caffe, c3d_state):
    assert_same(from_caffe.state, with_bgr_turned(c3d_state))
    assert from_caffe.options == {"pool5": "ceil"}
    assert from_caffe.classes is None
    assert from_caffe.renamed["conv1a.weight"] == "conv1.weight"
    assert from_caffe.renamed["fc8-1.bias"] == "fc8.bias"
    assert "conv3a.weight" not in from_caffe.renamed


def test_the_network_sees_the_numbers_that_caffe_saw(from_caffe, c3d_state):
    """Caffe's conv1 of 255-scale B, G, R less the mean, computed by hand, against ours of RGB bytes."""
    spec = from_caffe.input_spec
    assert (spec.clip_len, spec.frame_stride, spec.fps, spec.resize, spec.crop_size) == (16, 1, None, (171, 128), 112)
    clips = torch.randint(0, 256, (1, 4, 9, 8, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    bgr = clips[..., [2, 1, 0]].permute(0, 4, 1, 2, 3).double() - torch.tensor(MEAN_BGR).double().view(3, 1, 1, 1)
    expected = F.conv3d(bgr, c3d_state["conv1.weight"].double(), c3d_state["conv1.bias"].double(), padding=1)

    ours = F.conv3d(
        to_model_input(clips, spec), from_caffe.state["conv1.weight"], from_caffe.state["conv1.bias"], padding=1
    )
    torch.testing.assert_close(ours.double(), expected, atol=1e-3, rtol=1e-5)


def test_a_caffe_model_makes_a_whole_network_and_the_report_says_what_was_done(from_caffe):
    model, spec, classes, report = build_whole("c3d", from_caffe, NAMES)
    assert model.options == {"pool5": "ceil"}
    assert (spec, classes) == (from_caffe.input_spec, NAMES)
    table = report.table()
    assert "  renamed           10   45,320,010" not in table  # conv3a to conv5b keep their names
    assert len(report.loaded) == 22
    assert len(report.renamed) == 10
    assert "conv1's input channels are reversed" in table
    assert "R, G, B = 101.41, 97.66, 90.25" in table
    assert "The network is built with pool5 = ceil." in table


@pytest.mark.filterwarnings("ignore:for .* copying from a non-meta parameter")
def test_the_head_of_a_caffe_model_starts_anew_for_other_classes(from_caffe):
    with torch.device("meta"):
        model = create_model("c3d", 3)
    report = load_into(model, from_caffe)
    assert report.head == "fc8 has 10 classes in the file and 3 here"
    assert list(report.skipped) == ["fc8.weight", "fc8.bias"]


def test_a_later_caffes_model_is_refused_with_the_reason(tmp_path):
    shape = tagged(7, tagged(1, varint(3)))  # BVLC's BlobShape, and its data in field 5
    layer = tagged(1, b"conv1a") + tagged(7, shape + tagged(5, np.ones(3, "<f4").tobytes()))
    (tmp_path / "later").write_bytes(tagged(1, b"net") + tagged(100, layer))
    with pytest.raises(UserError, match="later Caffe"):
        read_weights(tmp_path / "later", "c3d")

    old = b"".join(numbered(number, 1) for number in range(1, 5)) + tagged(5, np.ones(1, "<f4").tobytes())
    (tmp_path / "other").write_bytes(tagged(1, b"net") + tagged(2, tagged(4, b"conv1a") + tagged(6, old)))
    with pytest.raises(UserError, match="another Caffe than C3D's"):
        read_weights(tmp_path / "other", "c3d")


def small_caffe(path: Path) -> Path:
    layers = [("conv1a", 30, [np.ones((2, 3, 3, 3, 3)), np.zeros(2)]), ("fc6", 14, [np.ones((4, 5)), np.zeros(4)])]
    path.write_bytes(b"".join(net(layers)))
    return path


def test_another_network_of_caffe_is_refused_with_the_first_shape_that_differs(tmp_path):
    path = small_caffe(tmp_path / "small")
    assert [name for name, _ in read_layers(path, memoryview(path.read_bytes()))] == ["conv1a", "fc6"]
    with pytest.raises(UserError, match="conv1.weight as 2x3x3x3x3, and C3D's is 64x3x3x3x3"):
        read_weights(path, "c3d")


# --- mean files


@pytest.fixture(scope="module")
def volume() -> np.ndarray:
    """(3, 16, 4, 5): B, G, R around 80, 90 and 100."""
    return np.random.default_rng(4).uniform(-5, 5, (3, 16, 4, 5)) + np.array([80, 90, 100]).reshape(3, 1, 1, 1)


@pytest.mark.parametrize(
    "write",
    [
        lambda path, volume: path.write_bytes(blob(volume)),
        lambda path, volume: np.save(path.open("wb"), volume),
        lambda path, volume: np.save(path.open("wb"), volume[None].astype(np.float32)),
        lambda path, volume: np.save(path.open("wb"), volume.transpose(1, 2, 3, 0)),
    ],
    ids=["binaryproto", "npy", "npy with 1 in front", "npy channels last"],
)
def test_a_mean_file_is_reduced_to_its_channel_means(tmp_path, volume, write):
    write(tmp_path / "mean", volume)
    means, shape = read_mean(tmp_path / "mean")
    np.testing.assert_allclose(means, volume.mean(axis=(1, 2, 3)), rtol=1e-5)
    assert "16x4x5" in shape


def test_model_plus_mean_takes_the_files_mean_and_says_so(tmp_path, volume):
    torch.save(hollow_c3d(487), tmp_path / "c3d.pickle")
    (tmp_path / "mean.binaryproto").write_bytes(blob(volume))
    weights = read_weights(f"{tmp_path}/c3d.pickle+{tmp_path}/mean.binaryproto", "c3d")
    red, green, blue = volume[2].mean(), volume[1].mean(), volume[0].mean()
    np.testing.assert_allclose(weights.input_spec.mean, [red / 255, green / 255, blue / 255], rtol=1e-5)
    assert sum("reduced to R, G, B" in note for note in weights.notes) == 1
    assert not any("its mean is taken" in note for note in weights.notes)


def test_a_plus_in_a_files_own_name_is_no_mean_file(tmp_path):
    torch.save(hollow_c3d(487), tmp_path / "a+b.pth")
    assert read_weights(tmp_path / "a+b.pth", "c3d").input_spec.mean[0] == MEAN_BGR[2] / 255


def test_a_mean_file_that_is_missing_or_none_is_refused(tmp_path):
    torch.save(hollow_c3d(487), tmp_path / "c3d.pth")
    np.save(tmp_path / "grey.npy", np.ones((16, 128, 171)))
    (tmp_path / "text").write_text("B 90 G 97 R 101")
    np.save(tmp_path / "code.npy", np.array([Touch(tmp_path / "ran")], dtype=object), allow_pickle=True)
    np.save(tmp_path / "large.npy", np.full((3, 1, 1, 1), 300.0))
    for name in ("nowhere.npy", "grey.npy", "text", "code.npy", "large.npy"):
        with pytest.raises(UserError, match=name) as raised:
            read_weights(f"{tmp_path / 'c3d.pth'}+{tmp_path / name}", "c3d")
        assert "\n" not in str(raised.value)
    assert not (tmp_path / "ran").exists()


def test_a_mean_file_does_not_go_with_weights_of_another_scale(tmp_path, volume):
    torch.save(create_model("r3d_10", 4).state_dict(), tmp_path / "r3d.pth")
    (tmp_path / "mean").write_bytes(blob(volume))
    with pytest.raises(UsageError, match="0 to 255"):
        read_weights(f"{tmp_path / 'r3d.pth'}+{tmp_path / 'mean'}", "r3d_10")


# --- Keras


def keras_arrays(state: dict) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Keras' kernel and bias of each layer, its rows of fc6 put one by one where Keras' Flatten looks for them."""
    arrays = {}
    for name in OUR_LAYERS:
        weight, bias = state[f"{name}.weight"].numpy(), state[f"{name}.bias"].numpy()
        kernel = weight.transpose(2, 3, 4, 1, 0) if weight.ndim == 5 else weight.T
        if name == "fc6":
            # Keras flattens (1, 4, 4, 512): row (y, x, c) of its kernel weighs what (c, y, x) weighs here
            rows = [c * 16 + y * 4 + x for y in range(4) for x in range(4) for c in range(512)]
            kernel = weight.T[rows]
        arrays[name] = (kernel, bias)
    return arrays


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


def hollow_arrays() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The shapes of Keras' arrays without their memory."""
    arrays = {}
    for name in OUR_LAYERS:
        shape = c3d_shapes()[f"{name}.weight"]
        shape = (NUM_CLASSES, *shape) if name == "fc8" else shape
        shape = (*shape[2:], shape[1], shape[0])
        arrays[name] = (np.broadcast_to(np.float32(0), shape), np.broadcast_to(np.float32(0), shape[-1:]))
    return arrays


@pytest.fixture(scope="module")
def from_keras(c3d_state, tmp_path_factory) -> LoadedWeights:
    path = write_keras(tmp_path_factory.mktemp("keras") / "weights_without_a_telling_name", keras_arrays(c3d_state))
    weights = read_weights(path, "c3d")
    path.unlink()
    return weights


def test_keras_kernels_come_in_our_order_of_axes(from_keras, c3d_state):
    names = [name for name in c3d_state if not name.startswith("fc6")]
    assert_same({name: from_keras.state[name] for name in names}, {n: with_bgr_turned(c3d_state)[n] for n in names})
    assert from_keras.renamed["conv1/conv1/kernel:0"] == "conv1.weight"
    assert from_keras.options == {"pool5": "ceil"}


def test_keras_fc6_is_reordered_from_channels_last(from_keras, c3d_state):
    """Trap 25: transposed only, it loads without an error and answers nonsense."""
    assert torch.equal(from_keras.state["fc6.weight"], c3d_state["fc6.weight"])
    pooled = torch.randn(2, 512, 1, 4, 4, generator=torch.Generator().manual_seed(3))
    kernel = keras_arrays({name: value for name, value in c3d_state.items()})["fc6"][0]
    flat = pooled.permute(0, 2, 3, 4, 1).flatten(1).numpy()  # as Keras flattens
    ours = F.linear(pooled.flatten(1), from_keras.state["fc6.weight"]).numpy()
    np.testing.assert_allclose(ours, flat @ kernel, atol=1e-4)
    assert not np.allclose(pooled.flatten(1).numpy() @ kernel, ours, atol=0.1)


def test_keras_and_caffe_files_of_the_same_network_see_the_same(from_keras, from_caffe):
    assert from_keras.input_spec == from_caffe.input_spec


@pytest.mark.parametrize(
    "place",
    [
        "model_weights/{layer}/{layer}/{part}:0",
        "model_weights/{layer}/sequential/{layer}/{part}",
        "{layer}/{layer}_{part}",
        "layer_{number}/param_{index}",
        "layers/{number}/vars/{index}",
    ],
)
def test_keras_files_of_other_ages_are_read_too(tmp_path, place):
    weights = read_weights(write_keras(tmp_path / "c3d.h5", hollow_arrays(), place, hollow=True), "c3d")
    assert list(weights.state)[:4] == ["conv1.weight", "conv1.bias", "conv2.weight", "conv2.bias"]
    assert len(weights.state) == 22
    assert any("taken in their order" in note for note in weights.notes) == ("{layer}" not in place)


def test_theanos_order_of_axes_is_refused_with_the_reason(tmp_path):
    arrays = hollow_arrays()
    arrays = {name: (k.transpose(4, 3, 0, 1, 2) if k.ndim == 5 else k, bias) for name, (k, bias) in arrays.items()}
    write_keras(tmp_path / "th.h5", arrays, hollow=True)
    with pytest.raises(UserError, match="Theano or has its order of axes.*mirrored"):
        read_weights(tmp_path / "th.h5", "c3d")


def test_tensorflows_order_of_axes_written_by_theano_is_refused(tmp_path):
    """The axes are TensorFlow's, and the kernels are mirrored all the same."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(write_keras(tmp_path / "c3d.h5", hollow_arrays(), hollow=True), "r+") as file:
        file.attrs["backend"] = b"theano"
    with pytest.raises(UserError, match="made with Theano"):
        read_weights(tmp_path / "c3d.h5", "c3d")


def test_a_keras_file_of_another_network_is_refused(tmp_path):
    arrays = hollow_arrays()
    write_keras(tmp_path / "two.h5", {name: arrays[name] for name in ("conv1", "conv2")}, "block{number}/{part}")
    with pytest.raises(UserError, match="2 layers with parameters"):
        read_weights(tmp_path / "two.h5", "c3d")
    write_keras(tmp_path / "wide.h5", {**arrays, "fc7": (np.ones((4096, 5)), np.ones(5))}, hollow=True)
    with pytest.raises(UserError, match="fc7.weight as 5x4096"):
        read_weights(tmp_path / "wide.h5", "c3d")


def test_an_array_in_another_file_is_not_fetched(tmp_path):
    h5py = pytest.importorskip("h5py")
    (tmp_path / "secret").write_bytes(bytes(4 * 3 * 27 * 64))
    with h5py.File(tmp_path / "c3d.h5", "w") as file:
        file.create_dataset("conv1/kernel", (3, 3, 3, 3, 64), "<f4", external=[(str(tmp_path / "secret"), 0, 20736)])
    with pytest.raises(UserError, match="in another file"):
        read_weights(tmp_path / "c3d.h5", "c3d")


def test_without_h5py_the_error_says_what_to_install(tmp_path, monkeypatch):
    write_keras(tmp_path / "c3d.h5", hollow_arrays(), hollow=True)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(UserError, match="pip install"):
        read_weights(tmp_path / "c3d.h5", "c3d")


@pytest.mark.slow
@pytest.mark.parametrize("library", ["keras", "tf_keras"])
def test_c3d_of_keras_gives_the_same_logits_here(tmp_path, library):
    """The whole network, built in Keras from the published table. keras is Keras 3, tf_keras is Keras 2."""
    python = os.environ.get("KERAS_PYTHON", sys.executable)
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    known = subprocess.run([python, "-c", f"import {library}"], capture_output=True, env=environment, check=False)
    if known.returncode:
        pytest.skip(f"{library} is not installed: pip install '.[keras]', or KERAS_PYTHON=a Python that has it")
    subprocess.run(
        [python, str(ROOT / "tests" / "helpers" / "keras_oracle.py"), library, str(tmp_path), str(NUM_CLASSES)],
        check=True,
        env=environment,
    )
    clips, theirs = (torch.from_numpy(np.load(tmp_path / f"{name}.npy")) for name in ("clips", "logits"))
    assert theirs.std() > 0.3

    for path in sorted(tmp_path.glob("*.h5")):
        model = build_whole("c3d", read_weights(path, "c3d"), NAMES)[0].eval()
        with torch.inference_mode():
            ours = model(clips.flip(-1).permute(0, 4, 1, 2, 3))  # Keras' C3D saw B, G, R
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


# --- other PyTorch programs

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


def without_head(state: dict) -> dict:
    return {name: value for name, value in state.items() if not name.startswith("fc8.")}


@pytest.fixture(scope="module")
def jfzhang_file(c3d_state, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("jfzhang") / "C3D-ucf101_epoch-99.pth.tar"
    torch.save({"epoch": 100, "state_dict": c3d_state, "opt_dict": {"state": {}, "param_groups": []}}, path)
    return path


def test_a_checkpoint_of_pytorch_video_recognition_keeps_its_symmetric_pool5(jfzhang_file, c3d_state):
    weights = read_weights(jfzhang_file, "c3d")
    assert_same(weights.state, with_bgr_turned(c3d_state))
    assert weights.options == {"pool5": "symmetric"}
    np.testing.assert_allclose(np.array(weights.input_spec.mean) * 255, [102, 98, 90])
    assert weights.input_spec.std == (1 / 255,) * 3


def test_its_logits_are_those_of_its_own_network(jfzhang_file, c3d_state):
    """The network as its program computes it: B, G, R less the mean, zeros around conv5b before pooling."""
    model, spec, _, _ = build_whole("c3d", read_weights(jfzhang_file, "c3d"), NAMES)
    clip = torch.randint(0, 256, (1, 16, 112, 112, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(8))
    x = clip.flip(-1).float().permute(0, 4, 1, 2, 3) - torch.tensor([90.0, 98.0, 102.0]).view(3, 1, 1, 1)
    with torch.inference_mode():
        ours = model.eval()(to_model_input(clip, spec))
        for name in OUR_LAYERS[:8]:
            x = F.relu(F.conv3d(x, c3d_state[f"{name}.weight"], c3d_state[f"{name}.bias"], padding=1))
            if name == "conv5b":
                x = F.pad(x, (1, 1, 1, 1))
            if name in ("conv1", "conv2", "conv3b", "conv4b", "conv5b"):
                x = F.max_pool3d(x, (1, 2, 2) if name == "conv1" else 2)
        x = x.reshape(1, 8192)
        for name in ("fc6", "fc7", "fc8"):
            x = F.linear(F.relu(x) if name != "fc6" else x, c3d_state[f"{name}.weight"], c3d_state[f"{name}.bias"])
    torch.testing.assert_close(ours, x, atol=1e-3 * float(x.abs().max()), rtol=0)


@pytest.mark.filterwarnings("ignore:for .* copying from a non-meta parameter")
def test_c3d_pretrained_is_renamed_and_pools_as_caffe(tmp_path):
    torch.save(called(hollow_c3d(487), SEQUENTIAL), tmp_path / "c3d-pretrained.pth")
    weights = read_weights(tmp_path / "c3d-pretrained.pth", "c3d")
    assert set(weights.state) == set(c3d_shapes())
    assert weights.options == {"pool5": "ceil"}
    assert weights.renamed["features.18.bias"] == "conv5b.bias"
    np.testing.assert_allclose(np.array(weights.input_spec.mean) * 255, [102, 98, 90])
    with torch.device("meta"):
        report = load_into(create_model("c3d", 101, **weights.options), weights)
    assert len(report.renamed) == 20
    assert report.head == "fc8 has 487 classes in the file and 101 here"


def test_487_classes_under_our_names_are_caffes_sports1m(tmp_path):
    state = hollow_c3d(487)
    state["conv1.weight"] = torch.arange(3.0).view(1, 3, 1, 1, 1).expand(64, 3, 3, 3, 3)
    torch.save(state, tmp_path / "c3d.pickle", _use_new_zipfile_serialization=False)
    weights = read_weights(tmp_path / "c3d.pickle", "c3d")
    assert weights.options == {"pool5": "ceil"}
    assert weights.state["conv1.weight"][0, :, 0, 0, 0].tolist() == [2, 1, 0]
    assert weights.input_spec.mean == tuple(mean / 255 for mean in MEAN_BGR[::-1])


def test_our_own_state_dict_of_c3d_is_left_as_it_is(tmp_path):
    state = hollow_c3d(101)
    torch.save(state, tmp_path / "ours.pth")
    weights = read_weights(tmp_path / "ours.pth", "c3d")
    assert weights.options == {}
    assert weights.input_spec is None


@pytest.mark.parametrize(
    "wrap, prefix, head, pool5",
    [
        (lambda state: state, "", False, "ceil"),
        (lambda state: {"state_dict": state, "meta": {}}, "backbone.", True, "symmetric"),
        (lambda state: {"state_dict": state}, "", False, "ceil"),
    ],
    ids=["pretrained backbone", "whole checkpoint", "backbone under state_dict"],
)
def test_mmactions_c3d_sees_rgb_less_its_means(tmp_path, wrap, prefix, head, pool5):
    state = hollow_c3d(101)
    state["conv1.weight"] = torch.arange(3.0).view(1, 3, 1, 1, 1).expand(64, 3, 3, 3, 3)
    state = called(state if head else without_head(state), MMACTION, prefix)
    torch.save(wrap(state), tmp_path / "c3d.pth")
    weights = read_weights(tmp_path / "c3d.pth", "c3d")
    assert weights.options == {"pool5": pool5}
    assert set(weights.state) == {name for name in c3d_shapes() if head or not name.startswith("fc8.")}
    assert weights.state["conv1.weight"][0, :, 0, 0, 0].tolist() == [0, 1, 2]
    np.testing.assert_allclose(np.array(weights.input_spec.mean) * 255, [104, 117, 128])
    assert weights.renamed[f"{prefix}conv1a.conv.weight"] == "conv1.weight"


@pytest.mark.parametrize("prefix, network", [("res3d.", "R3D"), ("res2plus1d.", "R2Plus1D")])
def test_the_ancestors_residual_networks_are_refused_with_the_reason(tmp_path, prefix, network):
    state = {f"{prefix}conv1.temporal_spatial_conv.weight": torch.ones(3), "linear.weight": torch.ones(3, 3)}
    torch.save({"epoch": 1, "state_dict": state, "opt_dict": {}}, tmp_path / "model.pth.tar")
    with pytest.raises(UserError, match=f"an {network} of pytorch-video-recognition.*second time"):
        read_weights(tmp_path / "model.pth.tar", "r3d_18")


def test_a_c3d_for_another_network_is_refused_before_anything_is_built(tmp_path):
    torch.save(called(hollow_c3d(487), SEQUENTIAL), tmp_path / "c3d-pretrained.pth")
    with pytest.raises(UserError, match="holds the weights of a C3D, and r3d_18 is another network"):
        read_weights(tmp_path / "c3d-pretrained.pth", "r3d_18")


def test_values_that_are_no_numbers_are_refused(tmp_path):
    torch.save(called(hollow_c3d(487, {"fc7.bias": float("nan")}), SEQUENTIAL), tmp_path / "nan.pth")
    with pytest.raises(UserError, match="fc7.bias that are no numbers"):
        read_weights(tmp_path / "nan.pth", "c3d")


# --- VMZ


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


@pytest.mark.parametrize(
    "model_name, blocks, widths, factored, protocol",
    [
        ("r2plus1d_18_paper", (2, 2, 2, 2), (64, 128, 256, 512), True, 2),
        ("r3d_10", (1, 1, 1, 1), small_widths(), False, 0),
    ],
    ids=["r2plus1d_18_paper", "r3d_10"],
)
def test_vmz_weights_give_the_logits_of_vmzs_network(tmp_path, model_name, blocks, widths, factored, protocol):
    blobs = random_blobs(blocks, widths, factored, num_classes=7)
    extra = {"gpu_0/conv1_w_momentum": np.zeros(3, np.float32), "lr": np.zeros(1, np.float32)}
    (tmp_path / "model").write_bytes(pickle.dumps({"blobs": {**blobs, **extra}}, protocol=protocol))
    weights = read_weights(tmp_path / "model", model_name)
    assert weights.options == {"bn_eps": 1e-3}
    assert set(weights.renamed) == set(blobs)

    model, spec, _, report = build_whole(model_name, weights, NAMES[:7])
    clips = torch.randn(2, 3, 8, 40, 32, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        theirs = vmz_forward(blobs, clips, blocks, factored)
        torch.testing.assert_close(model.eval()(clips), theirs, atol=1e-4, rtol=1e-4)
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm3d):
                assert module.eps == 1e-3
                module.eps = 1e-5
        assert (model(clips) - theirs).abs().max() > 1e-3  # the norms' constant is no detail
    assert (spec.frame_stride, spec.fps, spec.mean[0]) == (1, None, 0.43216)
    assert [name for name in report.reinitialised if not name.endswith("num_batches_tracked")] == []


@pytest.fixture(scope="module")
def small_blobs() -> dict:
    return random_blobs((1, 1, 1, 1), small_widths(), factored=False, num_classes=4)


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda blobs: blobs.pop("comp_2_spatbn_1_riv"), "it has no comp_2_spatbn_1_riv"),
        (lambda blobs: blobs.update(pred_w=np.ones(3, np.float32)), "pred_w has no place"),
        (lambda blobs: blobs.update(conv1_w=np.ones((3, 3), np.float32)), r"conv1_w is 3x3 and not \d+x3x3x7x7"),
        (lambda blobs: blobs["comp_1_conv_2_w"].fill(np.nan), "layer2.0.conv2.0.weight that are no numbers"),
        (lambda blobs: blobs.pop("last_out_L4_w"), "0 last layers"),
        (lambda blobs: blobs.update(conv1_w="text"), "conv1_w is no array"),
        (lambda blobs: blobs.update(last_out_L4_w=np.ones((5, 8), np.float32)), "last_out_L4_w for 5 classes"),
    ],
)
def test_vmz_blobs_are_used_once_and_all(tmp_path, small_blobs, change, says):
    blobs = {name: value.copy() for name, value in small_blobs.items()}
    change(blobs)
    (tmp_path / "model.pkl").write_bytes(pickle.dumps({"blobs": blobs}))
    with pytest.raises(UserError, match=says):
        read_weights(tmp_path / "model.pkl", "r3d_10")


def test_vmz_weights_of_another_model_name_the_one_that_fits(tmp_path, small_blobs):
    (tmp_path / "model.pkl").write_bytes(pickle.dumps({"blobs": small_blobs}))
    for name in ("r3d_18", "c3d", "r2plus1d_18"):
        with pytest.raises(UserError, match="Choose --model r3d_10"):
            read_weights(tmp_path / "model.pkl", name)


def test_an_array_of_object_pointers_in_a_pickle_is_refused_and_never_built(tmp_path):
    """NumPy's own __setstate__ would take the eight bytes of A for an address, and crash when the array goes away."""
    path = tmp_path / "vmz.pkl"
    path.write_bytes(
        b"\x80\x02}X\x05\x00\x00\x00blobs}X\x01\x00\x00\x00acnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n"
        b"K\x00\x85C\x01b\x87R(K\x01K\x01\x85cnumpy\ndtype\nX\x02\x00\x00\x00O8\x89\x88\x87R(K\x03X\x01\x00\x00\x00|NNN"
        b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x01tb\x89C\x08AAAAAAAAtbss."
    )
    command = [sys.executable, "-m", "network", "convert", str(path), str(tmp_path / "out.pth"), "--model", "r3d_18"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "numbers of an unknown kind" in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_a_pickle_of_python_2_is_read(tmp_path):
    """Byte for byte what Python 2's default protocol writes: strings without encoding."""
    content = (
        b"(dS'blobs'\n(dS'a'\ncnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I2\ntcnumpy\n"
        b"dtype\n(S'f4'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntbI00\nS'\\x00\\x00\\x80\\xbf\\x00\\x00\\x00@'\ntbss."
    )
    (tmp_path / "old.pkl").write_bytes(content)
    assert vmz.recognises(content)
    assert vmz.load_arrays(tmp_path / "old.pkl")["blobs"]["a"].tolist() == [-1.0, 2.0]


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_arrays_of_every_pickle_protocol_are_read(tmp_path, protocol):
    content = {"blobs": {"x": np.arange(6, dtype=np.float32).reshape(2, 3), "lr": np.float32(0.5)}}
    (tmp_path / "arrays.pkl").write_bytes(pickle.dumps(content, protocol))
    blobs = vmz.load_arrays(tmp_path / "arrays.pkl")["blobs"]
    assert np.array_equal(blobs["x"], content["blobs"]["x"])
    assert blobs["lr"] == 0.5


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


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_code_in_a_pickle_never_runs(tmp_path, protocol):
    target = tmp_path / "ran"
    evils = [
        Touch(target),
        Call(eval, f"__import__('os').mkdir({str(target)!r})"),
        Call(np.load, str(target)),
        Call(np.memmap, str(target), "f4", "w+", 0, (3,)),
        {1: OrderedDict(a=Touch(target))},
        np.array([Touch(target)], dtype=object),
    ]
    for number, evil in enumerate(evils):
        path = tmp_path / f"evil{number}.pkl"
        path.write_bytes(pickle.dumps({"blobs": {"conv1_w": evil}}, protocol))
        with pytest.raises(UserError, match=f"evil{number}.pkl") as raised:
            read_weights(path, "r3d_10")
        assert "\n" not in str(raised.value)
        assert not target.exists()


# --- eriklindernoren/Action-Recognition


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


@pytest.mark.parametrize("per_frame, layers, wrapper", [(False, 1, ""), (False, 2, "module."), (True, 1, "")])
@torch.no_grad()
def test_a_convlstm_gives_the_answers_of_its_own_program(tmp_path, per_frame, layers, wrapper):
    torch.manual_seed(6)
    theirs = ConvLstm(per_frame, layers=layers).eval()
    state = theirs.state_dict()
    torch.save({wrapper + name: value for name, value in state.items()}, tmp_path / "ConvLSTM_95.pth")

    weights = read_weights(tmp_path / "ConvLSTM_95.pth", "cnn_lstm_18")
    assert weights.options == {
        "latent": 12,
        "hidden": 6,
        "layers": layers,
        "pool": "mean" if per_frame else "attention",
    }
    assert weights.renamed[f"{wrapper}encoder.feature_extractor.4.0.conv1.weight"] == "trunk.layer1.0.conv1.weight"
    assert weights.renamed[f"{wrapper}lstm.lstm.weight_ih_l0_reverse"] == "lstm.weight_ih_l0_reverse"

    model, spec, classes, report = build_whole("cnn_lstm_18", weights, NAMES[:4])
    assert report.reinitialised == report.skipped == {}
    assert (spec.clip_len, spec.resize, spec.crop_size, spec.mean[0]) == (40, (224, 224), 224, 0.485)
    clips = torch.randn(2, 5, 3, 64, 64)
    logits, probs = model.eval()(clips.transpose(1, 2)), theirs(clips)
    if per_frame:  # the mean of the logits; a softmax hides no more of them than a shift for each frame
        expected = probs.log().mean(dim=1)
        torch.testing.assert_close(logits.log_softmax(1), expected.log_softmax(1), atol=1e-5, rtol=1e-4)
    else:
        torch.testing.assert_close(logits.softmax(1), probs, atol=1e-6, rtol=1e-4)
    assert probs.std() > 1e-3


def hollow_convlstm(**options) -> dict[str, torch.Tensor]:
    """A ConvLSTM's names and shapes in a file of some kilobytes."""
    with torch.device("meta"):
        state = ConvLstm(per_frame=False, **options).state_dict()
    return {name: torch.full((), 0.01).expand(value.shape) for name, value in state.items()}


@pytest.mark.parametrize(
    "model_name, change, says",
    [
        ("cnn_lstm", lambda state: state, "weights of a cnn_lstm_18, and cnn_lstm is another.*--model cnn_lstm_18"),
        ("c3d", lambda state: state, "Choose --model cnn_lstm_18"),
        ("cnn_mean_18", lambda state: state, "Choose --model cnn_lstm_18"),
        (
            "cnn_lstm_18",
            lambda state: {name: value for name, value in state.items() if "_reverse" not in name},
            "of one direction",
        ),
        (
            "cnn_lstm_18",
            lambda state: {name: value for name, value in state.items() if "extractor.6.1" not in name},
            "1 blocks in its third stage",
        ),
        (
            "cnn_lstm_18",
            lambda state: {name: value for name, value in state.items() if "output_layers.3" not in name},
            "without an LSTM or a last layer",
        ),
        (
            "cnn_lstm_18",
            lambda state: {**state, "attention_layer.bias": torch.full((1,), float("nan"))},
            "attention.bias that are no numbers",
        ),
        (
            "cnn_mean_18",
            lambda state: {name.removeprefix("encoder."): value for name, value in state.items()},
            "ConvClassifier",
        ),
    ],
)
def test_a_convlstm_that_does_not_fit_is_refused_with_the_reason(tmp_path, model_name, change, says):
    torch.save(change(hollow_convlstm()), tmp_path / "ConvLSTM_95.pth")
    with pytest.raises(UserError, match=says) as raised:
        read_weights(tmp_path / "ConvLSTM_95.pth", model_name)
    assert "\n" not in str(raised.value)


def test_convert_keeps_a_convlstms_sizes(tmp_path):
    torch.save(hollow_convlstm(), tmp_path / "ConvLSTM_95.pth")
    labels = labels_file(tmp_path / "labels.txt", 4)
    out = tmp_path / "ours.pth"
    main(["convert", f"{tmp_path}/ConvLSTM_95.pth", str(out), "--model", "cnn_lstm_18", "--labels", str(labels)])
    model = load_model(out).model
    assert model.options == {"latent": 12, "hidden": 6, "layers": 1, "pool": "attention"}


# --- damaged files


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


DAMAGED = {
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


# --- python -m network convert, check, show


def labels_file(path: Path, number: int) -> Path:
    path.write_text("".join(f"class {i}\n" for i in range(number)), encoding="utf-8")
    return path


def test_convert_writes_a_checkpoint_that_rebuilds_the_same_network(tmp_path, capsys, small_blobs):
    (tmp_path / "model.pkl").write_bytes(pickle.dumps({"blobs": small_blobs}))
    labels = labels_file(tmp_path / "labels.txt", 4)
    out = tmp_path / "ours.pth"
    assert main(["convert", str(tmp_path / "model.pkl"), str(out), "--model", "r3d_10", "--labels", str(labels)]) == 0
    assert "The network is built with bn_eps = 0.001." in capsys.readouterr().out

    trained = load_model(out)
    clips = torch.randn(1, 3, 8, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        theirs = vmz_forward(small_blobs, clips, (1, 1, 1, 1), factored=False)
        torch.testing.assert_close(trained.model(clips), theirs, atol=1e-4, rtol=1e-4)
    assert trained.classes == ["class 0", "class 1", "class 2", "class 3"]
    assert trained.input_spec.frame_stride == 1

    again = read_weights(out, "r3d_10")  # and as --weights of a new run
    assert again.options == {"bn_eps": 1e-3}
    assert again.input_spec == trained.input_spec


def test_a_run_that_begins_with_vmz_weights_records_how_its_network_is_built(
    tmp_path, toy_project, small_blobs, capsys
):
    import train
    from engine.training.config import TrainConfig

    (tmp_path / "model.pkl").write_bytes(pickle.dumps({"blobs": small_blobs}))
    settings = {"dataset": "toy", "model": "r3d_10", "device": "cpu", "batch_size": 6, "workers": 0, "val_clips": 1}
    run_dir = train.main(TrainConfig(**settings, epochs=1, clip_len=4, weights=str(tmp_path / "model.pkl")))
    assert "The network is built with bn_eps = 0.001." in capsys.readouterr().out
    for name in ("last.pth", "best.pth"):
        model = load_model(run_dir / name).model
        assert model.options == {"bn_eps": 1e-3}
        assert model.stem[1].eps == 1e-3
    train.main(TrainConfig(resume=str(run_dir), epochs=2))
    assert load_model(run_dir / "last.pth").model.stem[1].eps == 1e-3


def test_convert_keeps_pool5_and_the_recognizer_takes_it(tmp_path):
    from inference import Recognizer

    torch.save({"state_dict": hollow_c3d(3), "opt_dict": {}}, tmp_path / "C3D.pth.tar")
    labels = labels_file(tmp_path / "labels.txt", 3)
    out = tmp_path / "ours.pth"
    main(["convert", str(tmp_path / "C3D.pth.tar"), str(out), "--model", "c3d", "--labels", str(labels)])
    recognizer = Recognizer(out, device="cpu")
    assert not recognizer.model.pool5.ceil_mode
    np.testing.assert_allclose(np.array(recognizer.input_spec.mean) * 255, [102, 98, 90])
    assert recognizer.classes == ["class 0", "class 1", "class 2"]


def test_convert_of_487_unnamed_classes_asks_for_labels(tmp_path):
    torch.save(hollow_c3d(487), tmp_path / "c3d.pickle")
    with pytest.raises(UserError, match="does not name its 487 classes. Give --labels"):
        main(["convert", str(tmp_path / "c3d.pickle"), str(tmp_path / "out.pth"), "--model", "c3d"])
    labels = labels_file(tmp_path / "labels.txt", 400)
    with pytest.raises(UserError, match="487 classes, and --labels .* has 400 names"):
        main(["convert", f"{tmp_path}/c3d.pickle", f"{tmp_path}/out.pth", "--model", "c3d", "--labels", str(labels)])
    assert not (tmp_path / "out.pth").exists()


@pytest.mark.parametrize("top, status", [(184, 0), (7, 1)])
def test_check_knows_the_answer_to_zeros(tmp_path, capsys, top, status):
    state = hollow_c3d(487, fill=0.0)
    state["fc8.bias"] = torch.zeros(487)
    state["fc8.bias"][top] = 5
    torch.save(state, tmp_path / "c3d.pickle")
    assert main(["check", str(tmp_path / "c3d.pickle"), "--model", "c3d"]) == status
    last = capsys.readouterr().out.splitlines()[-1]
    assert f"class {top} of 487 is the top one" in last
    assert ("are right" in last) == (status == 0)


def test_check_has_nothing_to_say_of_other_networks_and_classes(tmp_path):
    torch.save({"state_dict": hollow_c3d(5), "opt_dict": {}}, tmp_path / "C3D.pth.tar")
    with pytest.raises(UserError, match="has 5 classes"):
        main(["check", str(tmp_path / "C3D.pth.tar"), "--model", "c3d"])
    with pytest.raises(UsageError, match="of c3d only"):
        main(["check", str(tmp_path / "C3D.pth.tar"), "--model", "r3d_18"])


def test_show_lists_c3ds_layers_as_the_paper_does(capsys):
    main(["show", "c3d"])
    header, *lines, total = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: line.split()[1:] for line in lines}
    assert header.split() == ["layer", "output", "parameters"]
    assert rows["conv1"][:2] == ["64x16x112x112", "5,248"]
    assert rows["conv4b"][:2] == ["512x2x14x14".replace("x2x", "x4x"), "7,078,400"]
    assert rows["pool5"][0] == "512x1x4x4"
    assert rows["fc6"][:2] == ["4096", "33,558,528"]
    assert total.split()[:4] == ["total", "78,409,573", "38.55", "GMACs"]
    assert sum(int(row[1].replace(",", "")) for row in rows.values() if row[1][0].isdigit()) == 78_409_573


def test_show_of_an_unknown_model_names_the_nearest():
    with pytest.raises(UsageError, match="Did you mean 'r3d_18'"):
        main(["show", "r3d18"])
