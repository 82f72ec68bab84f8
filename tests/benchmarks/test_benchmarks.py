"""The scripts that measure: their arithmetic, and that their variants do the same work."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks import feature_speed, gpu_check, serve_load
from benchmarks.levers import LEVERS, Variant, clip_shape, levers_for
from benchmarks.loader_speed import make_frames
from benchmarks.machine import Machine, layer_costs, limit, measure_machine
from dataloaders.sources.find import find_source

CPU = torch.device("cpu")
H200 = Machine(torch.bfloat16, flops=790e12, bandwidth=4.3e12)


@pytest.mark.parametrize(
    ("name", "train", "infer"),
    [("r3d_18", 2620, 9500), ("mc3_18", 2309, 8860), ("r2plus1d_18", 1849, 8895), ("r3d_34", 1466, 5180)],
)
def test_limits_are_those_worked_out_for_an_h200(name, train, infer):
    costs = layer_costs(name, (3, 16, 112, 112), 101)
    assert limit(costs, H200, 128, train=True) == pytest.approx(train, rel=0.001)
    assert limit(costs, H200, 128, train=False) == pytest.approx(infer, rel=0.001)


def test_costs_are_the_operations_of_the_paper():
    costs = layer_costs("r3d_18", (3, 16, 112, 112), 400)
    assert sum(cost.flop for cost in costs) / 2e9 == pytest.approx(40.70, abs=0.01)  # torchvision's GMACs
    assert [cost.kind for cost in layer_costs("c3d", (3, 16, 112, 112), 101)].count("pool") == 5


def test_a_limit_is_bound_by_what_the_machine_lacks():
    costs = layer_costs("r3d_10", clip_shape("r3d_10"), 101)
    both = limit(costs, H200, 8, train=True)
    assert limit(costs, Machine(torch.bfloat16, 790e12, 2.15e12), 8, train=True) < both
    assert limit(costs, Machine(torch.float32, 790e12, 4.3e12), 8, train=True) < both, (
        "float32 is twice as much to move"
    )
    fast = Machine(torch.bfloat16, 1e30, 1e30)
    assert limit(costs, fast, 8, train=True) > 1e12


def test_the_machine_is_measured_in_plausible_numbers():
    machine = measure_machine(CPU, torch.float32, rounds=1)
    assert 1e9 < machine.flops < 1e14
    assert 1e8 < machine.bandwidth < 1e13


@pytest.mark.parametrize("name", ["r2plus1d_10", "r3d_10"])
def test_every_lever_does_the_plain_loops_work(name):
    """In float32, so that nothing but rounding differs: logits of the same clips, and their gradients."""
    shape = (3, 4, 48, 48)
    plain = Variant(name, [], shape, 3, CPU)
    plain.step()
    levers = [lever for lever in LEVERS if lever not in ("bf16", "compile", "fused")]
    for chosen in [[lever] for lever in [*levers, "space-to-depth"]] + [levers]:
        variant = Variant(name, chosen, shape, 3, CPU)
        variant.labels = plain.labels
        if "uint8" not in chosen:
            variant.clips = plain.clips
        variant.step()
        assert variant.total.item() == pytest.approx(plain.total.item(), rel=0.02 if "uint8" in chosen else 1e-4)
        assert [p.shape for p in variant.model.parameters()] == [p.shape for p in plain.model.parameters()]


def test_levers_that_change_nothing_are_left_out():
    assert levers_for(CPU) == ["bf16", "channels-last", "fused", "uint8", "compile"]
    assert list(LEVERS)[-1] == "compile"


def test_frames_made_for_a_measurement_are_a_data_set(tmp_path):
    make_frames(tmp_path / "frames", 4, 3, (80, 60))
    assert find_source(str(tmp_path / "videos"), {}, tmp_path, str(tmp_path / "frames")).layout == "folder"
    names = sorted(str(path.relative_to(tmp_path / "frames")) for path in tmp_path.rglob("*.jpg"))
    assert names[0] == str(Path("train", "class0", "video00000", "00001.jpg"))
    assert len(names) == 12
    assert 1000 < (tmp_path / "frames" / names[0]).stat().st_size < 10_000, "about a real frame's size at 80x60"


@pytest.mark.slow
def test_the_check_of_a_machine_ends_with_rows_of_each_part_and_a_table(tmp_path, capsys, monkeypatch):
    file, page = tmp_path / "check.json", tmp_path / "page.md"
    gpu_check.main(["--small", "--minutes", "6", "--output", str(file), "--device", "cpu"])
    content = json.loads(file.read_text())
    assert not [row for row in content["rows"] if "failed" in row]
    parts = {row["part"] for row in content["rows"]}
    assert parts >= {"machine", "train", "end to end", "forward", "latency", "tests", "kernels"}
    [tests] = [row for row in content["rows"] if row["part"] == "tests"]
    assert tests["skipped"] > 30 and tests["failed_tests"] == []

    page.write_text(f"Before\n{gpu_check.MARKS[0]}old{gpu_check.MARKS[1]}\nAfter\n")
    monkeypatch.setattr(gpu_check, "PAGE", page)
    gpu_check.main(["--table", str(file)])
    text = page.read_text()
    assert text.startswith("Before\n") and text.endswith("\nAfter\n") and "old" not in text
    assert "| train | r3d_10 | default |" in text and "times the plain way's" in text


def test_a_check_leaves_out_what_no_longer_fits_and_goes_on_after_a_failure(tmp_path, capsys):
    report = gpu_check.Report(tmp_path / "check.json", 1.0, {})
    report.run("long", 61, lambda: iter([{"never": 1}]))
    report.run("broken", 1, lambda: iter([{"ratio": 1 / 3}, 1 / 0]))
    report.run("fine", 1, lambda: iter([{"ratio": 1 / 3}]))
    rows = json.loads((tmp_path / "check.json").read_text())["rows"]
    assert "needs about 61 s" in rows[0]["left_out"]
    assert rows[1:] == [
        {"part": "broken", "failed": "ZeroDivisionError: division by zero"},
        {"part": "fine", "ratio": 0.3333},
    ]


@pytest.mark.parametrize(
    ("argv", "message"),
    [("--minutes 0", "'0' is not a number greater than 0"), ("--frames nowhere", "nowhere does not exist")],
)
def test_wrong_arguments_end_with_status_2(argv, message, capsys):
    with pytest.raises(SystemExit) as ended:
        gpu_check.main(argv.split())
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", ["c3d_ln", "cnn_lstm_18", "cnn_mean_18", "mc3_10", "r2plus1d_34", "s3d"])
def test_every_family_of_convolutions_has_a_limit(name):
    assert limit(layer_costs(name, clip_shape(name), 101), H200, 8, train=True) > 1


@pytest.mark.slow
def test_the_service_is_measured_with_clients_beside_its_network(capsys):
    serve_load.main("--models r3d_10 --clients 1 3 --seconds 1 --rounds 1 --device cpu".split())
    rows = [line.split("|")[2:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("| `r3d_10`")]
    assert [row[0].strip() for row in rows] == ["network", "predict", "1 client", "3 clients"]
    rates = [float(row[1]) for row in rows]
    for row, rate in zip(rows, rates, strict=True):
        assert rate > 0 and float(row[2]) == pytest.approx(2 * rate, abs=0.1)  # windows
        assert float(row[3]) == pytest.approx(rate / rates[0], abs=0.02)
        assert float(row[4]) == pytest.approx(rate / rates[1], abs=0.02)


def test_features_are_measured_from_videos_and_from_frames(capsys):
    feature_speed.main("--models r3d_10 --videos 2 --num-frames 50 --rounds 1 --workers 2 --device cpu".split())
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("| `r3d_10`")]
    assert [row[1].strip() for row in rows] == ["videos", "frames"]
    for row in rows:
        network, reading, extract, bound = (float(cell) for cell in row[2:6])
        assert network > 0 and extract > 0 and bound == pytest.approx(1 / (1 / network + 1 / reading), rel=0.02)
