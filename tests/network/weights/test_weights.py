import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from urllib.error import URLError

import pytest
import torch

from common.errors import UsageError, UserError
from common.files import ROOT
from network import create_model, input_spec
from network.optional import fitting_torchvision
from network.weights.known import known_weights
from network.weights.loaded import check_finite
from network.weights.read import load_into, read_file, read_weights

MODEL = "r3d_10"
CLASSES = ["Archery", "Bowling", "Diving", "Fencing"]


def write_checkpoint(path: Path, **changes) -> dict:
    """One of our checkpoints, for CLASSES; a change of None takes its key out."""
    torch.manual_seed(7)
    content = {
        "model": create_model(MODEL, len(CLASSES)).state_dict(),
        "input_spec": replace(input_spec(MODEL), clip_len=8, mean=(0.1, 0.2, 0.3)).to_dict(),
        "classes": CLASSES,
        "config": {"model": MODEL, "epochs": 3},
        "epoch": 2,
    }
    content.update(changes)
    torch.save({key: value for key, value in content.items() if value is not None}, path)
    return content


def fresh(num_classes: int = len(CLASSES)) -> torch.nn.Module:
    torch.manual_seed(100)
    return create_model(MODEL, num_classes)


def same(left: dict, right: dict, names: list[str] | None = None) -> bool:
    return all(torch.equal(left[name], right[name]) for name in (names or left))


# --- our own checkpoints


def test_a_checkpoint_brings_parameters_input_and_classes(tmp_path):
    content = write_checkpoint(tmp_path / "best.pth")
    weights = read_weights(str(tmp_path / "best.pth"), MODEL)
    assert weights.classes == CLASSES
    assert weights.input_spec == replace(input_spec(MODEL), clip_len=8, mean=(0.1, 0.2, 0.3))
    assert str(tmp_path / "best.pth") in weights.origin

    model = fresh()
    report = load_into(model, weights, CLASSES)
    assert same(model.state_dict(), content["model"])
    assert list(report.loaded) == list(content["model"])
    assert not (report.renamed or report.skipped or report.reinitialised or report.head)


def test_a_checkpoint_gives_its_moving_average_where_it_holds_one(tmp_path):
    average = {name: value + 1 for name, value in fresh().state_dict().items() if "num_batches" not in name}
    content = write_checkpoint(tmp_path / "best.pth", ema=average)
    weights = read_weights(tmp_path / "best.pth", MODEL)
    assert "moving average" in weights.origin
    assert set(weights.state) == set(content["model"])
    assert same(average, weights.state)


def test_a_checkpoint_of_another_model_is_refused_with_both_names(tmp_path):
    write_checkpoint(tmp_path / "best.pth")
    with pytest.raises(UserError, match="checkpoint of 'r3d_10', not of 'r3d_18'"):
        read_weights(tmp_path / "best.pth", "r3d_18")


def test_a_checkpoint_with_an_unreadable_input_spec_is_refused(tmp_path):
    write_checkpoint(tmp_path / "best.pth", input_spec={"colour": "grey"})
    with pytest.raises(UserError, match="input_spec"):
        read_weights(tmp_path / "best.pth", MODEL)


def test_a_checkpoint_brings_how_its_network_is_built(tmp_path):
    write_checkpoint(tmp_path / "best.pth", model_options={"bn_eps": 1e-3})
    weights = read_weights(tmp_path / "best.pth", MODEL)
    assert weights.options == {"bn_eps": 1e-3}
    model = create_model(MODEL, len(CLASSES), **weights.options)
    assert model.options == weights.options
    assert "The network is built with bn_eps = 0.001." in load_into(model, weights, CLASSES).table()

    write_checkpoint(tmp_path / "later.pth", model_options={"colour": "grey"})
    with pytest.raises(UserError, match="another version.*'colour'"):
        read_weights(tmp_path / "later.pth", MODEL)


# --- the last layer


def test_the_head_starts_anew_for_another_number_of_classes_and_the_report_says_so(tmp_path):
    content = write_checkpoint(tmp_path / "best.pth")
    model = fresh(6)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    report = load_into(model, read_weights(tmp_path / "best.pth", MODEL))

    assert same(before, model.state_dict(), ["fc.weight", "fc.bias"])
    assert same(content["model"], model.state_dict(), [name for name in before if not name.startswith("fc.")])
    assert report.reinitialised == {"fc.weight": 6 * 128, "fc.bias": 6}
    assert report.skipped == {"fc.weight": 4 * 128, "fc.bias": 4}
    assert report.head == "fc has 4 classes in the file and 6 here"
    table = report.table()
    assert "The last layer starts anew: fc has 4 classes in the file and 6 here." in table
    assert "re-initialised       2          774  fc.weight, fc.bias" in table.splitlines()


def test_the_head_starts_anew_for_as_many_classes_of_other_names_or_another_order(tmp_path):
    write_checkpoint(tmp_path / "best.pth")
    weights = read_weights(tmp_path / "best.pth", MODEL)
    for classes in (["Run", "Jump", "Swim", "Ride"], ["Archery", "Diving", "Bowling", "Fencing"]):
        model = fresh()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        report = load_into(model, weights, classes)
        assert same(before, model.state_dict(), ["fc.weight", "fc.bias"])
        assert list(report.reinitialised) == ["fc.weight", "fc.bias"]
    assert report.head == "class 1 is 'Bowling' in the file and 'Diving' here"


def test_the_head_is_loaded_where_one_side_does_not_know_its_classes(tmp_path):
    write_checkpoint(tmp_path / "best.pth", classes=None)
    report = load_into(fresh(), read_weights(tmp_path / "best.pth", MODEL), ["Run", "Jump", "Swim", "Ride"])
    assert "fc.weight" in report.loaded
    assert report.head == ""


def test_a_file_without_a_head_leaves_the_fresh_one(tmp_path):
    state = {name: value for name, value in fresh().state_dict().items() if not name.startswith("fc.")}
    torch.save(state, tmp_path / "trunk.pth")
    report = load_into(fresh(), read_weights(tmp_path / "trunk.pth", MODEL))
    assert list(report.reinitialised) == ["fc.weight", "fc.bias"]
    assert "no fc." in report.head


# --- plain state dicts


@pytest.mark.parametrize("wrap", [lambda state: state, lambda state: {"model_state": state, "epoch": 3}])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module.", "model.", "net.backbone."])
def test_a_state_dict_is_found_under_its_wrappers(tmp_path, wrap, prefix):
    state = fresh().state_dict()
    torch.save(wrap({prefix + name: value for name, value in state.items()}), tmp_path / "model.pth")
    torch.manual_seed(8)
    model = create_model(MODEL, len(CLASSES))
    weights = read_weights(tmp_path / "model.pth", MODEL)
    report = load_into(model, weights, CLASSES)

    assert same(state, model.state_dict())
    assert weights.input_spec is None
    assert weights.classes is None
    assert report.renamed == ({prefix + name: name for name in state} if prefix else {})


def test_names_that_find_no_place_are_reported(tmp_path):
    """Trap 24: unknown names skipped without a word."""
    state = fresh().state_dict()
    del state["layer1.0.conv1.1.bias"]
    state["extra.weight"] = torch.zeros(3, 5)
    torch.save(state, tmp_path / "model.pth")
    report = load_into(fresh(), read_weights(tmp_path / "model.pth", MODEL))
    assert report.skipped == {"extra.weight": 15}
    assert report.reinitialised == {"layer1.0.conv1.1.bias": fresh().layer1[0].conv1[1].bias.numel()}
    assert "extra.weight" in report.table()
    assert "layer1.0.conv1.1.bias" in report.table()


def test_weights_of_which_less_than_nine_tenths_fit_are_refused_and_change_nothing(tmp_path):
    other, model = create_model("r2plus1d_10", len(CLASSES)), fresh()
    torch.save(other.state_dict(), tmp_path / "other.pth")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(UserError) as raised:
        load_into(model, read_weights(tmp_path / "other.pth", MODEL))
    message = str(raised.value)
    assert f"stem.0.weight ({other.stem[0].out_channels}x3x1x7x7)" in message  # the file's
    assert f"stem.0.weight ({model.stem[0].out_channels}x3x3x7x7)" in message  # the model's
    assert "\n" not in message
    assert same(before, model.state_dict())


def test_the_limit_is_nine_tenths_of_the_trunks_values(tmp_path):
    state = fresh().state_dict()
    trunk = sum(value.numel() for name, value in state.items() if not name.startswith("fc."))
    assert state["layer3.0.conv2.0.weight"].numel() > 0.1 * trunk
    assert state["layer3.0.conv1.0.weight"].numel() < 0.1 * trunk

    for missing, refused in (("layer3.0.conv2.0.weight", True), ("layer3.0.conv1.0.weight", False)):
        torch.save({name: value for name, value in state.items() if name != missing}, tmp_path / "part.pth")
        weights = read_weights(tmp_path / "part.pth", MODEL)
        if refused:
            with pytest.raises(UserError, match="does not fit"):
                load_into(fresh(), weights)
        else:
            assert missing in load_into(fresh(), weights).reinitialised


# --- files that are none


def test_a_missing_file_is_an_error_with_its_path(tmp_path):
    """Trap 23: a message, and on with random weights."""
    with pytest.raises(UserError, match="no weights file .*nowhere.pth"):
        read_weights(tmp_path / "nowhere.pth", MODEL)


def test_a_folder_is_no_weights_file(tmp_path):
    with pytest.raises(UserError, match="is a folder"):
        read_weights(tmp_path, MODEL)


@pytest.mark.parametrize(
    "content", [b"", b"hello, I am a text\n" * 20, bytes(range(256)) * 8, b"PK\x03\x04" + b"0" * 99]
)
def test_a_file_that_is_no_checkpoint_is_refused_in_one_line(tmp_path, content):
    (tmp_path / "model.pth").write_bytes(content)
    with pytest.raises(UserError, match="model.pth .*no PyTorch checkpoint") as raised:
        read_weights(tmp_path / "model.pth", MODEL)
    assert "\n" not in str(raised.value)


def test_a_checkpoint_cut_short_is_refused_in_one_line(tmp_path):
    write_checkpoint(tmp_path / "best.pth")
    whole = (tmp_path / "best.pth").read_bytes()
    (tmp_path / "best.pth").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="damaged") as raised:
        read_weights(tmp_path / "best.pth", MODEL)
    assert "\n" not in str(raised.value)


def test_a_torchscript_file_is_called_that(tmp_path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "model.pt"))
    with pytest.raises(UserError, match="model.pt is a TorchScript program, .*state_dict") as raised:
        read_weights(tmp_path / "model.pt", MODEL)
    assert "\n" not in str(raised.value)


class Touch:
    """A pickle of this makes a file when it is loaded with its code."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize(
    "save", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content, protocol=2))]
)
def test_code_in_a_file_is_refused_and_never_runs(tmp_path, save):
    save({"state_dict": Touch(tmp_path / "ran")}, tmp_path / "evil.pth")
    with pytest.raises(UserError) as raised:
        read_weights(tmp_path / "evil.pth", MODEL)
    assert not (tmp_path / "ran").exists()
    assert "\n" not in str(raised.value)


def test_a_file_that_asks_for_code_says_which(tmp_path):
    torch.save({"state_dict": Touch(tmp_path / "ran")}, tmp_path / "evil.pth")
    with pytest.raises(UserError, match="asks for .*mkdir"):
        read_file(tmp_path / "evil.pth")


@pytest.mark.parametrize("content", [[torch.zeros(3)], torch.zeros(3), {}, {"epoch": 3, "loss": 0.5}])
def test_a_file_without_parameters_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "model.pth")
    with pytest.raises(UserError, match="holds"):
        read_weights(tmp_path / "model.pth", MODEL)


@pytest.mark.parametrize(
    "content", [b"\x89HDF\r\n\x1a\n" + b"0" * 99, b"\x80\x04" + b"x" * 99, b"\n\x03net\x12\x7f0123456789"]
)
def test_what_a_file_is_its_first_bytes_say_and_not_its_name(tmp_path, content):
    (tmp_path / "model.pth").write_bytes(content)
    with pytest.raises(UserError, match="model.pth .*(is a damaged (HDF5 file|pickle|Caffe model)|h5py)") as raised:
        read_weights(tmp_path / "model.pth", "c3d")
    assert "\n" not in str(raised.value)


# --- names


def test_an_unknown_model_is_said_before_any_file_is_read():
    with pytest.raises(UsageError, match="Unknown model 'r3d_17'. Did you mean 'r3d_18'"):
        read_weights("nowhere.pth", "r3d_17")


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(UsageError, match="'kinetics40'. Did you mean 'kinetics400'"):
        read_weights("kinetics40", "r3d_18")


def test_a_name_that_the_model_has_no_weights_for_lists_those_that_have():
    with pytest.raises(UsageError, match="no 'kinetics400' weights for c3d, only for r3d_18, mc3_18, r2plus1d_18"):
        read_weights("kinetics400", "c3d")
    assert known_weights("c3d") == []
    assert known_weights("mc3_18") == ["kinetics400"]


# --- torchvision's Kinetics-400 weights


@pytest.fixture
def hub_dir(tmp_path):
    """torch.hub's folder, empty."""
    before = torch.hub.get_dir()
    torch.hub.set_dir(str(tmp_path / "hub"))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    yield tmp_path / "hub"
    torch.hub.set_dir(before)


@pytest.fixture
def offline(monkeypatch):
    def refuse(*args, **kwargs):
        raise URLError("Name or service not known")

    monkeypatch.setattr("torch.hub.urlopen", refuse)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, file",
    [("r3d_18", "r3d_18-b3b3357e"), ("mc3_18", "mc3_18-a90a0ba3"), ("r2plus1d_18", "r2plus1d_18-91a641e6")],
)
def test_kinetics400_brings_weights_names_and_input_of_torchvision(hub_dir, offline, name, file):
    from torchvision.models import video

    theirs = getattr(video, name)(weights=None)  # random, under the name of the real ones
    torch.save(theirs.state_dict(), hub_dir / "checkpoints" / f"{file}.pth")

    weights = read_weights("kinetics400", name)
    spec = weights.input_spec
    assert (spec.clip_len, spec.frame_stride, spec.fps) == (16, 1, 15.0)
    assert (spec.resize, spec.crop_size) == ((171, 128), 112)
    assert spec.mean == (0.43216, 0.394666, 0.37645)
    assert spec.std == (0.22803, 0.22145, 0.216989)
    assert len(weights.classes) == 400
    assert (weights.classes[0], weights.classes[-1]) == ("abseiling", "zumba")

    model = create_model(name, 101)
    report = load_into(model, weights, [f"class {i}" for i in range(101)])
    state = theirs.state_dict()
    assert same(state, model.state_dict(), [key for key in state if not key.startswith("fc.")])
    assert report.reinitialised == {"fc.weight": 101 * 512, "fc.bias": 101}
    assert report.head == "fc has 400 classes in the file and 101 here"


def test_offline_the_error_names_the_file_and_its_place(hub_dir, offline):
    with pytest.raises(UserError) as raised:
        read_weights("kinetics400", "mc3_18")
    message = str(raised.value)
    assert "mc3_18-a90a0ba3.pth" in message
    assert str(hub_dir / "checkpoints") in message
    assert "Name or service not known" in message
    assert "\n" not in message


def test_a_damaged_file_in_torchs_folder_is_named(hub_dir, offline):
    (hub_dir / "checkpoints" / "mc3_18-a90a0ba3.pth").write_bytes(b"<html>not found</html>")
    with pytest.raises(UserError, match="mc3_18-a90a0ba3.pth is damaged. Delete it") as raised:
        read_weights("kinetics400", "mc3_18")
    assert "\n" not in str(raised.value)


def test_code_in_torchs_folder_never_runs(hub_dir, offline, tmp_path):
    torch.save({"fc.weight": Touch(tmp_path / "ran")}, hub_dir / "checkpoints" / "mc3_18-a90a0ba3.pth")
    with pytest.raises(UserError):
        read_weights("kinetics400", "mc3_18")
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow
def test_a_torchvision_for_another_torch_stops_its_weights_alone(tmp_path):
    """Trap 32: a torchvision built for another torch fails to import."""
    broken = tmp_path / "torchvision"
    broken.mkdir()
    (broken / "__init__.py").write_text('raise RuntimeError("operator torchvision::nms does not exist\\nmore")\n')
    script = (
        "import sys, network, network.weights.read\n"
        "from common.cli import run_cli\n"
        "network.create_model('r3d_10', 3)\n"
        "print('built')\n"
        "run_cli(lambda argv: network.weights.read.read_weights('kinetics400', 'r3d_18'))\n"
    )
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "built\n"
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "operator torchvision::nms does not exist" in done.stderr
    assert f"pip install {fitting_torchvision()}" in done.stderr


def test_large_values_pass_though_their_sum_overflows_and_infinite_ones_do_not_though_they_cancel():
    check_finite("a.pth", {"w": torch.full((4,), 60_000.0, dtype=torch.float16), "n": torch.tensor(1)})
    for values in ([1.0, float("inf"), float("-inf")], [float("nan"), 1.0], [float("inf"), 1.0]):
        with pytest.raises(UserError, match=r"a\.pth holds values in w that are not numbers"):
            check_finite("a.pth", {"w": torch.tensor(values)})
