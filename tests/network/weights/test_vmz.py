"""VMZ's pickles of R3D and R(2+1)D, and pickles that ask for code."""

import pickle
import subprocess
import sys
from collections import OrderedDict

import numpy as np
import pytest
import torch

from common.errors import UserError
from common.files import ROOT
from network.weights import vmz
from network.weights.read import build_whole, read_weights
from tests.helpers.weights import NAMES, Call, Touch, random_blobs, small_widths, vmz_forward


@pytest.mark.parametrize(
    "model_name, blocks, widths, factored, protocol",
    [
        pytest.param("r2plus1d_18_paper", (2, 2, 2, 2), (64, 128, 256, 512), True, 2, marks=pytest.mark.slow),
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
        (lambda blobs: blobs["comp_1_conv_2_w"].fill(np.nan), "layer2.0.conv2.0.weight that are not numbers"),
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
