"""python -m network: convert, check, show and the table."""

import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch

from common.errors import UsageError, UserError
from common.files import ROOT
from engine.runs.checkpoint import load_model
from network import list_models, table
from network.__main__ import main
from network.cost import describe_model, list_layers
from network.weights.read import read_weights
from tests.helpers.weights import hollow_c3d, labels_file, random_blobs, small_widths, vmz_forward


@pytest.fixture(scope="module")
def small_blobs() -> dict:
    return random_blobs((1, 1, 1, 1), small_widths(), factored=False, num_classes=4)


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


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("top, status", [(184, 0), (7, 1)])
def test_check_knows_the_answer_to_zeros(tmp_path, capsys, top, status):
    state = hollow_c3d(487, fill=0.0)
    state["fc8.bias"] = torch.zeros(487)
    state["fc8.bias"][top] = 5
    torch.save(state, tmp_path / "c3d.pickle")
    assert main(["check", str(tmp_path / "c3d.pickle"), "--model", "c3d"]) == status
    last = capsys.readouterr().out.splitlines()[-1]
    assert f"class {top} of 487 is the most probable" in last
    assert ("are right" in last) == (status == 0)


@pytest.mark.slow
def test_check_has_nothing_to_say_of_other_networks_and_classes(tmp_path):
    torch.save({"state_dict": hollow_c3d(5), "opt_dict": {}}, tmp_path / "C3D.pth.tar")
    with pytest.raises(UserError, match="has 5 classes"):
        main(["check", str(tmp_path / "C3D.pth.tar"), "--model", "c3d"])
    with pytest.raises(UsageError, match="needs c3d, whose output"):
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


@pytest.fixture
def three_models(monkeypatch, tmp_path) -> list[str]:
    names = ["c3d", "r3d_18", "swin3d_t"]  # the table of docs/networks.md is compared for all of them
    monkeypatch.setattr(table, "list_models", lambda: names)
    monkeypatch.setattr(table, "CACHE", tmp_path / "cache" / "network.json")
    monkeypatch.setattr(table, "SHIPPED", tmp_path / "table.json")
    return names


def test_the_shipped_table_is_that_of_the_code():
    shipped = json.loads(table.SHIPPED.read_text())
    assert shipped["key"] == table.source_hash(), "network/ has changed: python -m network.table"
    assert sorted(shipped["rows"]) == list_models()
    for name in ("c3d", "r2plus1d_10", "mvit_v2_s", "cnn_lstm_mobile"):
        assert tuple(shipped["rows"][name]) == describe_model(name)


def test_a_fresh_clone_counts_nothing_and_imports_no_pytorch(tmp_path):
    script = (
        "import sys; from pathlib import Path; from network import table; "
        f"table.CACHE = Path({str(tmp_path / 'none.json')!r}); table.print_models(); assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "none.json").exists() and "78,409,573" in done.stdout


def test_the_table_has_a_line_for_every_model(capsys, three_models):
    names = three_models
    main([])
    table_text, footer = capsys.readouterr().out.split("\n\n")
    header, *lines = table_text.splitlines()
    assert [line.split()[0] for line in lines] == names
    by_name = {line.split()[0]: line.split() for line in lines}
    assert by_name["c3d"][1:] == ["78,409,573", "38.55", "16x112x112", "1", "sgd", "0.003", "60", "30", "-"]
    assert by_name["r3d_18"][1:5] == ["33,218,085", "40.70", "16x112x112", "2"]
    assert by_name["r3d_18"][-2:] == ["kinetics400", "63.2"] and by_name["swin3d_t"][5] == "adamw"
    assert "GMACs are" in footer and "top-1" in footer
    assert header.startswith("model")


def test_the_table_is_counted_once_and_again_when_something_changed(capsys, monkeypatch, three_models):
    main([])
    counted = capsys.readouterr().out
    with monkeypatch.context() as patch:
        patch.setattr(table, "_count", lambda name: pytest.fail(f"{name} is counted again"))
        main([])
    assert capsys.readouterr().out == counted

    again = []
    monkeypatch.setattr(table, "_key", lambda: "a file has changed")
    monkeypatch.setattr(table, "_count", lambda name: again.append(name) or describe_model(name))
    table.CACHE.write_text(table.CACHE.read_text()[:-5])  # damaged counts as changed
    main([])
    assert again == three_models and capsys.readouterr().out == counted


@pytest.mark.parametrize("name", ["cnn_lstm", "mvit_v2_s", "swin3d_t", "s3d", "r3d_18"])
def test_the_layers_parameters_add_up_to_the_networks(name):
    rows = list_layers(name)[1:]
    numbers = [int(row[2].replace(",", "")) for row in rows if row[2]]
    assert sum(numbers[:-1]) == numbers[-1]


def test_a_wrong_argument_of_the_table_ends_with_status_2():
    done = subprocess.run(
        [sys.executable, "-m", "network", "--nonsense"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
