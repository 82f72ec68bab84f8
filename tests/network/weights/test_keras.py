"""C3D from Keras files of every age."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from common.errors import UserError
from network.weights.caffe import MEAN_BGR, c3d_input, c3d_shapes
from network.weights.read import LoadedWeights, build_whole, read_weights
from tests.helpers.weights import NAMES, NUM_CLASSES, OUR_LAYERS, assert_same, with_bgr_turned, write_keras


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


def test_keras_and_caffe_files_of_the_same_network_see_the_same(from_keras):
    assert from_keras.input_spec == c3d_input(MEAN_BGR[::-1])


@pytest.mark.slow
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
    assert any("used in their order" in note for note in weights.notes) == ("{layer}" not in place)


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
        [python, str(Path(__file__).with_name("keras_oracle.py")), library, str(tmp_path), str(NUM_CLASSES)],
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
