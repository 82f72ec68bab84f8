"""Mean files of C3D, as protobuf and as NumPy arrays."""

import numpy as np
import pytest
import torch

from common.errors import UsageError, UserError
from network import create_model
from network.weights.caffe import MEAN_BGR
from network.weights.mean import read_mean
from network.weights.read import read_weights
from tests.helpers.weights import Touch, blob, hollow_c3d


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


@pytest.mark.slow
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
