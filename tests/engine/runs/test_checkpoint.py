from pathlib import Path

import numpy as np
import pytest
import torch

from common.errors import UserError
from common.files import ROOT, temporary_name
from engine.runs.checkpoint import find_checkpoint, load_checkpoint, load_model, save_checkpoint
from network import create_model, input_spec


def content(model_name: str = "r3d_10", classes: tuple[str, ...] = ("A", "B", "C")) -> dict:
    model = create_model(model_name, len(classes))
    return {
        "model": model.state_dict(),
        "ema": None,
        "config": {"model": model_name},
        "input_spec": input_spec(model_name).to_dict(),
        "classes": list(classes),
    }


def test_a_checkpoint_alone_rebuilds_the_model(tmp_path):
    saved = content()
    save_checkpoint(tmp_path / "best.pth", saved)
    trained = load_model(tmp_path / "best.pth")
    assert (trained.name, trained.classes, trained.input_spec) == ("r3d_10", ["A", "B", "C"], input_spec("r3d_10"))
    assert not trained.model.training
    for name, value in trained.model.state_dict().items():
        assert torch.equal(value, saved["model"][name]), name


def test_checkpoints_load_with_weights_only(tmp_path):
    save_checkpoint(tmp_path / "best.pth", content())
    assert torch.load(tmp_path / "best.pth", weights_only=True)["classes"] == ["A", "B", "C"]


@pytest.mark.parametrize("value", [torch.__version__, np.float64(1.0), ROOT, (1, {2})])
def test_what_weights_only_would_refuse_is_not_saved(tmp_path, value):
    with pytest.raises(AssertionError):
        save_checkpoint(tmp_path / "best.pth", {"model": {}, "bad": [value]})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_leaves_the_old_checkpoint_and_says_so(tmp_path):
    save_checkpoint(tmp_path / "last.pth", {"step": 1})
    temporary_name(tmp_path / "last.pth").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device") as raised:
        save_checkpoint(tmp_path / "last.pth", {"step": 2, "weights": torch.zeros(100_000)})
    assert raised.value.filename == str(tmp_path / "last.pth")
    assert [path.name for path in tmp_path.iterdir()] == ["last.pth"]
    assert torch.load(tmp_path / "last.pth")["step"] == 1


def test_other_files_are_refused_as_checkpoints(tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="not a checkpoint of this program: it has no 'model'"):
        load_checkpoint(tmp_path / "other.pth")
    saved = content() | {"classes": ["A", "B"]}
    save_checkpoint(tmp_path / "mixed.pth", saved)
    with pytest.raises(UserError, match="do not fit VideoResNet: size mismatch for fc.weight"):
        load_model(tmp_path / "mixed.pth")
    save_checkpoint(tmp_path / "spec.pth", content() | {"input_spec": {"clip_size": 3}})
    with pytest.raises(UserError, match="another version of the program: its input_spec differs"):
        load_model(tmp_path / "spec.pth")


def test_a_run_is_found_by_folder_by_name_and_by_file(tmp_path):
    (tmp_path / "run" / "a-000").mkdir(parents=True)
    with pytest.raises(UserError, match=r"has no best\.pth"):
        find_checkpoint("a-000", tmp_path / "run")
    path = tmp_path / "run" / "a-000" / "best.pth"
    path.touch()
    for name in ("a-000", path, path.parent):
        assert find_checkpoint(name, tmp_path / "run") == path
    with pytest.raises(UserError, match="no run and no checkpoint 'b-000'. Runs in .*: a-000"):
        find_checkpoint("b-000", tmp_path / "run")
