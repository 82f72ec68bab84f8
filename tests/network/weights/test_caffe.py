"""C3D as its own Caffe wrote it, written here in the wire format and read back."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from common.errors import UserError
from dataloaders.transforms import to_model_input
from network import create_model
from network.weights.caffe import MEAN_BGR, c3d_input, read_layers
from network.weights.read import LoadedWeights, build_whole, load_into, read_weights
from tests.helpers.weights import (
    NAMES,
    assert_same,
    caffe_layers,
    net,
    numbered,
    small_caffe,
    tagged,
    varint,
    with_bgr_turned,
)


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
    assert spec == c3d_input(MEAN_BGR[::-1])
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


def test_another_network_of_caffe_is_refused_with_the_first_shape_that_differs(tmp_path):
    path = small_caffe(tmp_path / "small")
    assert [name for name, _ in read_layers(path, memoryview(path.read_bytes()))] == ["conv1a", "fc6"]
    with pytest.raises(UserError, match="conv1.weight as 2x3x3x3x3, and C3D's is 64x3x3x3x3"):
        read_weights(path, "c3d")
