"""C3D under the names of other PyTorch programs."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from common.errors import UserError
from dataloaders.transforms import to_model_input
from network import create_model
from network.weights.caffe import MEAN_BGR, c3d_shapes
from network.weights.read import build_whole, load_into, read_weights
from tests.helpers.weights import (
    MMACTION,
    NAMES,
    OUR_LAYERS,
    SEQUENTIAL,
    assert_same,
    called,
    hollow_c3d,
    with_bgr_turned,
)


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


@pytest.mark.slow
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
    with pytest.raises(UserError, match="fc7.bias that are not numbers"):
        read_weights(tmp_path / "nan.pth", "c3d")
