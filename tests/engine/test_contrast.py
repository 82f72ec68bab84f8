"""Pretraining without labels: pretrain.py."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import compare
import pretrain
import train
from common.errors import Stopped, UserError
from dataloaders.dataset import PairDataset, TrainDataset
from dataloaders.frame_set import open_frames
from engine.contrast import TEMPERATURE, add_projection, draw_disorder, pair_losses, three_views
from engine.runs.checkpoint import load_checkpoint, load_model
from engine.training.config import TrainConfig
from network import create_model, input_spec
from tests.helpers.training import TINY, assert_equal_weights, finish, run_tiny, stop_after, torchrun

pytestmark = pytest.mark.usefixtures("one_thread")
TINY_PAIRS = TINY | {"pretrain": True, "epochs": 2}
PRETRAIN = "import pretrain\nrun_cli(pretrain.cli)"


def test_the_loss_is_that_of_its_formula():
    torch.manual_seed(0)
    output = torch.randn(9, 8)  # 3 videos
    losses, found = pair_losses(output)
    z = F.normalize(output, dim=1).tolist()
    for video in range(3):
        both, hits = [], []
        for own, partner in ((video, video + 3), (video + 3, video)):
            similar = {k: np.exp(np.dot(z[own], z[k]) / TEMPERATURE) for k in range(9) if k != own}
            both.append(-np.log(similar[partner] / sum(similar.values())))
            hits.append(max(range(6), key=lambda k: similar.get(k, 0)) == partner)
        assert losses[video].item() == pytest.approx(np.mean(both), rel=1e-4)
        assert found[video].item() == np.mean(hits)


def test_a_clip_in_disorder_that_looks_the_same_costs():
    same, other = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    apart, alike = (pair_losses(torch.stack([same, same, third]))[0].item() for third in (other, same))
    assert alike == pytest.approx(np.log(2), rel=1e-4) and apart < 1e-3


def test_the_views_are_both_clips_and_the_first_in_another_order():
    clips = torch.arange(2 * 2 * 4, dtype=torch.uint8).view(2, 2, 4, 1, 1, 1).expand(2, 2, 4, 2, 2, 3)
    orders = draw_disorder(0, 1, 5, 4)[[3, 1]]
    assert sorted(orders[0]) == [0, 1, 2, 3]
    views, mirrored = three_views(clips, torch.tensor([1, 2]), orders)
    assert views[:, :, 0, 0, 0].tolist() == [
        [0, 1, 2, 3], [8, 9, 10, 11], [4, 5, 6, 7], [12, 13, 14, 15],
        orders[0].tolist(), (8 + orders[1]).tolist(),
    ]  # fmt: skip
    assert mirrored.tolist() == [True, False, False, True, True, False]


def test_the_pairs_are_two_different_clips_of_one_video(toy_source, toy_frames):
    spec = replace(input_spec("r3d_10"), clip_len=4, frame_stride=1, crop_size=24, resize=(80, 60))
    frame_set = open_frames(toy_source, spec, "1")
    pairs, single = PairDataset(frame_set, spec, flip=True), TrainDataset(frame_set, spec, flip=True)
    assert pairs.clip_shape == (2, *single.clip_shape) and len(pairs) == len(single)
    out, one = np.zeros(pairs.clip_shape, np.uint8), np.zeros(single.clip_shape, np.uint8)
    differ, bits = 0, set()
    for position in range(len(pairs)):
        label, mirrored = pairs.load(0, position, out)
        assert (label, mirrored & 1) == single.load(0, position, one)
        np.testing.assert_array_equal(out[0], one)
        differ += not np.array_equal(out[0], out[1])
        bits.add(mirrored)
    assert differ == len(pairs) and bits <= {0, 1, 2, 3} and len(bits) > 2


def test_a_run_learns_to_find_the_other_clip_and_its_weights_begin_another_run(toy_project, capsys):
    run_dir = train.main(TrainConfig(**TINY_PAIRS | {"epochs": 8, "batch_size": 6}))
    assert run_dir.name == "r3d_10-toy-pretrain-000"
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["train/loss"] < lines[0]["train/loss"] - 0.2
    assert not [key for line in lines for key in line if key.startswith("val/")]
    config = json.loads((run_dir / "config.json").read_text())
    assert (config["input"], config["zoom"], config["optimizer"]) == ("diff", 0.6, "adamw")
    seen = load_checkpoint(run_dir / "best.pth")["split"]
    out = capsys.readouterr().out
    assert "pretraining without labels" in out and f"--weights {run_dir}" in " ".join(out.split())

    tuned = run_tiny(weights=str(run_dir), epochs=1, recipe="scratch", lr=1e-8)
    out = capsys.readouterr().out
    assert "The last layer starts anew" in out and "diff" in json.loads((tuned / "config.json").read_text())["input"]
    before, after = (load_checkpoint(folder / "best.pth")["model"] for folder in (run_dir, tuned))
    trunk = [name for name in after if not name.startswith("fc.") and name.endswith("weight")]
    assert trunk and all(torch.allclose(before[name], after[name], atol=1e-5) for name in trunk)
    assert set(load_checkpoint(tuned / "best.pth")["split"]["seen_content"]) >= set(seen["training_content"])

    with pytest.raises(UserError, match="was pretrained without labels and names no class"):
        load_model(run_dir / "best.pth")
    compare.main([])
    assert run_dir.name in capsys.readouterr().out


def test_a_stopped_run_goes_on_to_the_same_weights(toy_project, monkeypatch):
    whole = train.main(TrainConfig(**TINY_PAIRS))
    with monkeypatch.context() as patch:
        stop_after(2, patch)
        with pytest.raises(Stopped):
            train.main(TrainConfig(**TINY_PAIRS, name="cut"))
    train.main(TrainConfig(resume="cut", workers=1))
    assert_equal_weights(whole / "last.pth", toy_project.runs / "cut" / "last.pth")


@pytest.mark.slow
def test_two_processes_and_accumulation(toy_project):
    argv = "--dataset toy --model r3d_10 --epochs 1 --batch-size 3 --accumulate 2 --crop-size 32 --clip-len 4"
    finish(torchrun(toy_project, 2, PRETRAIN, *f"{argv} --device cpu --name two".split()))
    assert (toy_project.runs / "two" / "best.pth").is_file()


def test_tests_on_what_was_pretrained_on_are_said(toy_project, capsys):
    run_dir = train.main(TrainConfig(**TINY_PAIRS | {"epochs": 1, "split": "2"}))
    capsys.readouterr()
    run_tiny(weights=str(run_dir), epochs=1, split="1")
    assert "evaluate.py will refuse that test" in capsys.readouterr().out


@pytest.mark.parametrize("flag", ["--mixup 0.2", "--folds 3", "--recipe finetune", "--test", "--pretrain"])
def test_flags_of_labels_are_none_of_its_flags(flag, capsys):
    with pytest.raises(SystemExit) as ended:
        pretrain.parse_args(f"--dataset toy --model r3d_10 {flag}".split())
    assert ended.value.code == 2 and "Unknown flag" in capsys.readouterr().err


def test_settings_of_a_pretraining_begin_a_training_with_labels(tmp_path):
    saved = TrainConfig(dataset="toy", model="r3d_10", pretrain=True, zoom=0.6)
    saved.save(tmp_path / "config.json")
    argv = ["--config", str(tmp_path / "config.json")]
    [config], [pairs] = train.parse_args(argv), pretrain.parse_args(argv)
    assert (config.pretrain, config.zoom, pairs.pretrain, pairs.zoom) == (False, 0.6, True, 0.6)


def test_the_default_rate_is_for_batches_of_32():
    config = TrainConfig(dataset="toy", model="r3d_10", pretrain=True, batch_size=8)
    assert config.resolved(input_spec("r3d_10"), False, "1", 0).lr == pytest.approx(1e-3 / 2)


def test_a_network_without_a_linear_head_is_refused():
    with pytest.raises(UserError, match="last layer is a linear one; .* has Conv3d"):
        add_projection(create_model("s3d", 3))
