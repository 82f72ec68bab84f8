"""What comes from torchvision: its video networks under our contract, its weights by name, and life without it."""

import os
import subprocess
import sys
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
import torch.nn as nn

from common.errors import UsageError, UserError
from common.files import ROOT
from network import create_model, input_spec, list_models
from network.weights.known import IMAGENET, KINETICS400, known_weights
from network.weights.read import build_whole, load_into, read_weights
from network.weights.torchvision import kinetics400_input

ZOO = ["s3d", "mvit_v1_b", "mvit_v2_s", "swin3d_t", "swin3d_s", "swin3d_b"]
FROM_TORCHVISION = [*ZOO, *IMAGENET]


def torchvisions(name: str, num_classes: int = 400) -> nn.Module:
    from torchvision.models import video

    return getattr(video, name)(weights=None, num_classes=num_classes)


def with_random_statistics(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model.eval()


# --- networks


@pytest.mark.parametrize("name", ZOO)
def test_parameters_have_torchvisions_names_shapes_and_order(name):
    with torch.device("meta"):
        theirs, ours = torchvisions(name), create_model(name, 400)
    assert [(key, value.shape) for key, value in ours.state_dict().items()] == [
        (key, value.shape) for key, value in theirs.state_dict().items()
    ]
    ours.load_state_dict(theirs.state_dict(), strict=True, assign=True)
    theirs.load_state_dict(ours.state_dict(), strict=True, assign=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, shape",
    [
        ("s3d", (1, 3, 14, 224, 224)),
        ("swin3d_t", (2, 3, 5, 70, 61)),
        ("swin3d_t", (1, 3, 18, 64, 64)),
        *[pytest.param(name, (1, 3, 16, 224, 224), marks=pytest.mark.slow) for name in ZOO],
    ],
)
@torch.no_grad()
def test_networks_give_torchvisions_logits_under_the_same_weights(name, shape):
    torch.manual_seed(2)
    theirs, ours = with_random_statistics(torchvisions(name, 7)), create_model(name, 7).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.randn(shape)
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ZOO)
def test_the_input_is_that_of_torchvisions_transforms(name):
    from torchvision.models import video

    weights = KINETICS400[name]
    published = getattr(video, weights.enum).KINETICS400_V1
    spec, known = input_spec(name), kinetics400_input(published, weights.clip_len, weights.fps)
    assert (spec.resize, spec.crop_size, spec.mean, spec.std) == (known.resize, known.crop_size, known.mean, known.std)
    assert (spec.clip_len, spec.crop_size) == (16, 224)
    assert 30 / spec.frame_stride == known.fps


@pytest.mark.parametrize("weights", KINETICS400.values(), ids=KINETICS400)
def test_the_accuracy_of_known_weights_is_the_published_one(weights):
    from torchvision.models import video

    published = getattr(video, weights.enum).KINETICS400_V1
    assert published.meta["_metrics"]["Kinetics-400"]["acc@1"] == weights.top1


@pytest.mark.parametrize(
    "name, shape",
    [
        ("mvit_v1_b", (2, 3, 32, 224, 224)),
        ("mvit_v2_s", (2, 3, 16, 112, 112)),
        ("mvit_v2_s", (3, 16, 224, 224)),
        ("s3d", (2, 3, 8, 224, 224)),
        ("s3d", (2, 3, 16, 112, 112)),
    ],
)
def test_a_clip_of_a_size_that_cannot_be_is_answered_with_the_flags(name, shape):
    with torch.device("meta"), pytest.raises(UserError) as raised:
        create_model(name, 2)(torch.empty(shape))
    assert str(shape) in str(raised.value)
    assert "--clip-len 16" in str(raised.value)
    assert "--crop-size 224" in str(raised.value)
    assert "\n" not in str(raised.value)


# --- weights by name


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Path:
    """torch's folder of weights, empty, and no network."""

    def refuse(*args, **kwargs):
        raise URLError("Name or service not known")

    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr("torch.hub.urlopen", refuse)
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    return tmp_path / "hub" / "checkpoints"


def saved_trunk(path: Path) -> dict[str, torch.Tensor]:
    """A ResNet-18 of random values where torch keeps the real one."""
    from torchvision.models import resnet18

    torch.manual_seed(5)
    state = resnet18(weights=None).state_dict()
    torch.save(state, path)
    return state


def test_models_know_which_weights_they_have():
    assert [known_weights(name) for name in ZOO] == [["kinetics400"]] * 6
    assert [known_weights(name) for name in IMAGENET] == [["imagenet"]] * 8
    with pytest.raises(UsageError, match="no 'imagenet' weights for swin3d_t, only for cnn_lstm, cnn_lstm_50"):
        read_weights("imagenet", "swin3d_t")


def test_kinetics400_goes_into_a_network_of_the_zoo_and_its_head_starts_anew(hub):
    torch.manual_seed(4)
    theirs = torchvisions("s3d").state_dict()
    torch.save(theirs, hub / "s3d-d76dad2f.pth")
    weights = read_weights("kinetics400", "s3d")
    spec = weights.input_spec
    assert (spec.clip_len, spec.fps, spec.resize, spec.crop_size) == (64, 15.0, (256, 256), 224)
    assert weights.classes[0] == "abseiling"

    model = create_model("s3d", 101)
    report = load_into(model, weights, [f"class {i}" for i in range(101)])
    assert report.head == "classifier.1 has 400 classes in the file and 101 here"
    assert set(report.reinitialised) == {"classifier.1.weight", "classifier.1.bias"}
    for name, value in model.state_dict().items():
        assert name.startswith("classifier.1.") or torch.equal(value, theirs[name]), name

    whole, spec_again, classes, _ = build_whole("s3d", weights)
    assert (spec_again, len(classes)) == (spec, 400)
    assert torch.equal(whole.classifier[1].weight, theirs["classifier.1.weight"])


@pytest.mark.parametrize("name", ["cnn_lstm_18", "cnn_mean_18"])
def test_imagenet_goes_into_the_trunk_alone(hub, name):
    theirs = saved_trunk(hub / "resnet18-f37072fd.pth")
    weights = read_weights("imagenet", name)
    assert weights.input_spec is None
    assert input_spec(name).mean == (0.485, 0.456, 0.406)

    model = create_model(name, 3)
    report = load_into(model, weights, ["a", "b", "c"])
    trunk = model.trunk.state_dict()
    assert set(trunk) == {key for key in theirs if not key.startswith("fc.")}
    for key, value in trunk.items():
        assert torch.equal(value, theirs[key]), key
    assert {key.split(".")[0] for key in report.reinitialised} == (
        {"latent", "lstm", "attention", "hidden", "fc"} if "lstm" in name else {"fc"}
    )
    assert "The last layer starts anew" in report.table()


def test_of_a_trunk_nine_tenths_must_fit_as_of_a_network(hub):
    theirs = saved_trunk(hub / "resnet18-f37072fd.pth")
    torch.save({key: value for key, value in theirs.items() if "layer4" not in key}, hub / "resnet18-f37072fd.pth")
    weights = read_weights("imagenet", "cnn_lstm_18")
    with pytest.raises(UserError, match="does not fit this model: 2[0-9] % .*trunk.layer4"):
        load_into(create_model("cnn_lstm_18", 3), weights)


def test_imagenet_cannot_name_an_action(hub):
    saved_trunk(hub / "resnet18-f37072fd.pth")
    with pytest.raises(UserError, match="has no last layer"):
        build_whole("cnn_mean_18", read_weights("imagenet", "cnn_mean_18"), ["a"])


@pytest.mark.parametrize("source, name", [("kinetics400", name) for name in ZOO] + [("imagenet", n) for n in IMAGENET])
def test_offline_the_error_names_the_file_and_its_place(hub, source, name):
    with pytest.raises(UserError) as raised:
        read_weights(source, name)
    message = str(raised.value)
    assert f"{source} weights of {name}" in message
    assert ".pth" in message
    assert f"into {hub}" in message
    assert "\n" not in message


def test_a_trunk_is_built_without_weights_and_without_the_net(hub):
    create_model("cnn_mean_18", 3)
    assert list(hub.iterdir()) == []


# --- without torchvision


@pytest.fixture(scope="module")
def broken_torchvision(tmp_path_factory) -> dict[str, str]:
    """An environment with a torchvision that was built for another torch."""
    folder = tmp_path_factory.mktemp("broken")
    (folder / "torchvision").mkdir()
    (folder / "torchvision" / "__init__.py").write_text(
        'raise RuntimeError("operator torchvision::nms does not exist")\n'
    )
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}


@pytest.mark.slow
def test_a_broken_torchvision_stops_its_own_networks_alone(broken_torchvision):
    script = (
        "import network, torch\n"
        "from common.errors import UserError\n"
        "for name in network.list_models():\n"
        "    try:\n"
        "        with torch.device('meta'):\n"
        "            network.create_model(name, 3)\n"
        "    except UserError as error:\n"
        "        assert 'torchvision::nms' in str(error), error\n"
        "        print(name)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env=broken_torchvision, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    assert done.stdout.split() == sorted(FROM_TORCHVISION)


@pytest.mark.slow
def test_the_table_says_which_networks_cannot_be_built_and_why(broken_torchvision):
    done = subprocess.run(
        [sys.executable, "-m", "network"], env=broken_torchvision, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    table, footer = done.stdout.split("\n\n")
    (_, *rows), reason = table.splitlines(), footer.splitlines()[-1]
    assert [row.split()[0] for row in rows] == list_models()
    broken = {row.split()[0] for row in rows if row.endswith("cannot be built, see below")}
    assert broken == set(FROM_TORCHVISION)
    assert "operator torchvision::nms does not exist" in reason
    assert "pip install" in reason
