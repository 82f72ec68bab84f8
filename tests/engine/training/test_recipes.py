"""What lifts accuracy: each flag does to loss, clips and weights what it says."""

import json
import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import evaluate as evaluate_script
import train
from common.errors import UsageError, UserError
from dataloaders.mixup import Mixup, box_of
from engine.runs.checkpoint import load_model
from engine.runs.tracking import read_metrics
from engine.training import records
from engine.training.command_line import parse_configs
from engine.training.config import TrainConfig
from engine.training.ema import WeightAverage
from engine.training.optimizer import balance, clip_weights
from engine.training.recipes import PLAIN, SCRATCH
from network import create_model, input_spec, model_entry
from tests.helpers.training import TINY, assert_equal_weights, read_events, run_tiny, stop_after, weights_of

pytestmark = pytest.mark.usefixtures("one_thread")

LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 2, 2])


def clips_that_name_themselves(size: int = 16) -> torch.Tensor:
    """(8, 3, 4, size, size): clip i has the value i everywhere."""
    return torch.arange(8.0).view(8, 1, 1, 1, 1).expand(8, 3, 4, size, size).contiguous()


# loss


def losses_of(monkeypatch, **settings) -> tuple[list, dict]:
    """What F.cross_entropy is given in a run of one epoch, and gives."""
    calls = []
    inside = F.cross_entropy

    def note(logits, targets, *args, **options):
        calls.append((logits.detach().clone(), targets.clone(), inside(logits, targets, *args, **options)))
        return calls[-1][2]

    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.functional, "cross_entropy", note)
        run_dir = run_tiny(epochs=1, val="none", **settings)
    assert calls
    return calls, read_metrics(run_dir)[-1]


def test_label_smoothing_gives_a_share_of_the_target_to_all_classes(toy_project, monkeypatch):
    calls, record = losses_of(monkeypatch, label_smoothing=0.3)
    for logits, labels, losses in calls:
        targets = 0.7 * F.one_hot(labels, 3) + 0.1
        assert torch.allclose(losses, -(targets * logits.log_softmax(1)).sum(1), atol=1e-6)
    assert record["train/loss"] == pytest.approx(torch.cat([losses for _, _, losses in calls]).mean().item(), rel=1e-5)
    assert "train/top1" in record


def test_balanced_weights_are_inverse_frequencies_with_a_mean_of_one_over_the_clips():
    labels = np.array([0, 0, 0, 0, 0, 0, 2, 2, 3])
    weights = balance(labels, 5)
    assert weights.tolist() == pytest.approx([0.5, 0, 1.5, 3, 0])
    assert weights[labels].mean().item() == pytest.approx(1)


def test_clips_of_rare_classes_count_more_where_that_is_asked_for(toy_project, monkeypatch):
    monkeypatch.setattr("engine.training.run.balance", lambda labels, num_classes: torch.tensor([1.0, 2.0, 4.0]))
    found = []

    def weights_of(class_weights, targets):
        found.append(class_weights.tolist())
        return 0 * clip_weights(class_weights, targets)

    monkeypatch.setattr(train, "clip_weights", weights_of)
    run_dir = run_tiny(class_weights="balanced", epochs=1)
    assert found and set(map(tuple, found)) == {(1.0, 2.0, 4.0)}
    assert read_metrics(run_dir)[0]["train/loss"] == 0.0, "the loss of a clip is multiplied by its weight"


# mixed clips


def test_mixup_blends_with_the_neighbour_and_the_targets_as_the_clips():
    mixing = Mixup(mixup=0.4)
    x, targets = mixing.mix(clips_that_name_themselves(), LABELS, 3, mixing.draw(0, 20)[4:12])
    own = mixing.draw(0, 20)[4:12, 1]
    before = np.roll(np.arange(8), 1)
    for clip in range(8):
        value = own[clip] * clip + (1 - own[clip]) * before[clip]
        assert torch.allclose(x[clip], torch.full_like(x[clip], value), atol=1e-5), "all frames and pixels alike"
        expected = own[clip] * F.one_hot(LABELS[clip], 3) + (1 - own[clip]) * F.one_hot(LABELS[before[clip]], 3)
        assert torch.allclose(targets[clip], expected.float(), atol=1e-6)
    assert torch.allclose(targets.sum(1), torch.ones(8))
    assert x.is_contiguous(memory_format=torch.channels_last_3d)


def test_cutmix_puts_one_box_into_all_frames_and_its_pixels_decide_the_targets():
    mixing = Mixup(cutmix=1.0, seed=3)
    x, targets = mixing.mix(clips_that_name_themselves(), LABELS, 3, mixing.draw(1, 8))
    shares = []
    for clip in range(8):
        here, there = float(clip), float((clip - 1) % 8)
        assert set(x[clip].unique().tolist()) <= {here, there}
        cut = x[clip] == there
        assert (cut == cut[:1, :1]).all(), "the same for all channels and frames"
        rows, columns = cut[0, 0].any(1), cut[0, 0].any(0)
        assert torch.equal(cut[0, 0], rows[:, None] & columns), "a box"
        share = cut[0, 0].float().mean().item()
        expected = (1 - share) * F.one_hot(LABELS[clip], 3) + share * F.one_hot(LABELS[(clip - 1) % 8], 3)
        assert torch.allclose(targets[clip], expected, atol=1e-6)
        shares.append(share)
    assert 0.05 < np.mean(shares) < 0.6 and np.ptp(shares) > 0.1


def test_a_box_has_the_area_that_is_not_the_clips_own_unless_the_rim_cuts_it_off():
    boxes = box_of(np.array([[0.75, 0.5, 0.5], [0.75, 0.0, 0.5], [1.0, 0.5, 0.5], [0.0, 0.5, 0.5]]), 40, 80)
    assert boxes.tolist() == [[10, 30, 20, 60], [0, 10, 20, 60], [20, 20, 40, 40], [0, 40, 0, 80]]


def test_both_ways_of_mixing_share_the_clips_and_draws_belong_to_seed_and_epoch():
    both = Mixup(0.2, 1.0, seed=1)
    assert 400 < both.draw(0, 1000)[:, 0].sum() < 600
    assert np.array_equal(both.draw(0, 50), Mixup(0.2, 1.0, seed=1).draw(0, 50))
    assert not np.array_equal(both.draw(0, 50), both.draw(1, 50))
    assert not np.array_equal(both.draw(0, 50), Mixup(0.2, 1.0, seed=2).draw(0, 50))
    assert np.median(np.abs(Mixup(mixup=0.2).draw(0, 1000)[:, 1] - 0.5)) > 0.35, "a small alpha mixes most clips little"
    assert not Mixup() and Mixup(mixup=0.2) and Mixup(cutmix=1.0)


@pytest.mark.slow
def test_mixed_runs_log_no_training_accuracy_and_go_on_bit_for_bit(toy_project, monkeypatch, capsys):
    settings = {"mixup": 0.3, "cutmix": 1.0, "label_smoothing": 0.1}
    whole = run_tiny(**settings, workers=2)
    record = read_metrics(whole)[-1]
    assert "train/top1" not in record and "val/top1" in record and math.isfinite(record["train/loss"])
    assert "train/top1" not in read_events(whole).Tags()["scalars"]
    assert "nan" not in capsys.readouterr().out
    with monkeypatch.context() as patch:
        stop_after(4, patch)
        with pytest.raises(train.Stopped):
            run_tiny(**settings, name="stopped", workers=0)
    assert_equal_weights(whole / "last.pth", train.main(TrainConfig(resume="stopped")) / "last.pth")
    plain = run_tiny()
    assert not torch.equal(weights_of(plain / "last.pth")["fc.weight"], weights_of(whole / "last.pth")["fc.weight"])


# moving average of the weights


def test_the_average_follows_the_weights_and_copies_what_is_counted():
    model = create_model("r3d_10", 2)
    average = WeightAverage(model, 0.5)
    expected = model.fc.weight.detach().clone()
    for step in range(6):
        with torch.no_grad():
            model.fc.weight.add_(torch.randn_like(model.fc.weight))
            model.stem[1].running_mean.add_(1.0)
            model.stem[1].num_batches_tracked.add_(1)
        average.update(model, step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model.fc.weight.detach()
    assert torch.allclose(average.module.state_dict()["fc.weight"], expected, atol=1e-6)
    assert average.module.state_dict()["stem.1.num_batches_tracked"] == 6
    assert 4 < average.module.state_dict()["stem.1.running_mean"][0] < 6


@pytest.mark.slow
def test_the_average_is_validated_chooses_the_best_epoch_and_is_what_a_checkpoint_answers_with(toy_project):
    run_dir = run_tiny(ema=0.9, epochs=4)
    records = read_metrics(run_dir)
    best = max(records, key=lambda record: (record["val/ema_top1"], -record["val/ema_loss"]))
    content = torch.load(run_dir / "best.pth", weights_only=True)
    assert content["epoch"] == best["epoch"] + 1
    assert content["best_top1"] == best["val/ema_top1"] == records[-1]["best/val_top1"]
    assert "val/ema_top1" in read_events(run_dir).Tags()["scalars"]

    model = load_model(run_dir / "best.pth").model
    assert torch.equal(model.fc.weight, content["ema"]["fc.weight"])
    assert not torch.equal(model.fc.weight, content["model"]["fc.weight"])
    [results] = evaluate_script.main([str(run_dir), "--on", "val", "--num-clips", "3"])
    assert results["normal"].top1 == pytest.approx(best["val/ema_top1"])
    assert results["normal"].loss == pytest.approx(best["val/ema_loss"], rel=1e-4)

    plain = run_tiny(epochs=4)
    assert_equal_weights(plain / "last.pth", run_dir / "last.pth")  # it looks on, and changes nothing


def test_the_average_goes_on_bit_for_bit(toy_project, monkeypatch):
    whole = run_tiny(ema=0.9)
    with monkeypatch.context() as patch:
        stop_after(4, patch)
        with pytest.raises(train.Stopped):
            run_tiny(ema=0.9, name="stopped")
    resumed = train.main(TrainConfig(resume="stopped"))
    left, right = (torch.load(run / "last.pth", weights_only=True)["ema"] for run in (whole, resumed))
    assert [name for name in left if not torch.equal(left[name], right[name])] == []


# gradients and patience


def test_a_gradient_longer_than_the_norm_is_scaled_down_and_a_shorter_one_is_not(toy_project, monkeypatch):
    """Plain SGD without momentum in its first step moves the weights by lr times the gradient."""
    lengths = []
    clip = torch.nn.utils.clip_grads_with_norm_

    def note(parameters, norm, before):
        parameters = list(parameters)
        clip(parameters, norm, before)
        after = torch.stack([parameter.grad.norm() for parameter in parameters]).norm().item()
        lengths.append((before.item(), after))

    monkeypatch.setattr(torch.nn.utils, "clip_grads_with_norm_", note)
    run_tiny(epochs=1, clip_grad=0.5)
    assert len(lengths) == 3 and all(after == pytest.approx(min(before, 0.5), rel=1e-3) for before, after in lengths)
    assert max(before for before, _ in lengths) > 0.5, "nothing was clipped"
    run_tiny(epochs=1)
    assert len(lengths) == 3, "clipped without being asked"


def test_early_stopping_ends_so_many_epochs_after_the_best(toy_project, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr(records, "_is_better", lambda validation, progress: progress.epoch <= 2)
        run_dir = run_tiny(epochs=50, early_stopping=3)
    assert len(read_metrics(run_dir)) == 2 + 3
    assert torch.load(run_dir / "best.pth", weights_only=True)["epoch"] == 2
    assert "Stopped early: 3 epochs without better validation." in capsys.readouterr().out

    with pytest.raises(UserError, match="stopped early, 3 epochs after its best one.*--epochs 50"):
        train.main(TrainConfig(resume=str(run_dir)))
    monkeypatch.setattr(records, "_is_better", lambda *_: False)
    train.main(TrainConfig(resume=str(run_dir), epochs=7))
    assert len(read_metrics(run_dir)) == 7, "patience begins anew"


@pytest.mark.slow
def test_a_run_interrupted_stops_as_early_as_one_that_was_not(toy_project, monkeypatch):
    monkeypatch.setattr(records, "_is_better", lambda validation, progress: progress.epoch == 1)
    with monkeypatch.context() as patch:
        stop_after(7, patch)
        with pytest.raises(train.Stopped):
            run_tiny(epochs=50, early_stopping=3)
    run_dir = train.main(TrainConfig(resume="r3d_10-toy-000"))
    assert len(read_metrics(run_dir)) == 4


# recipes


def resolve(model: str = "r3d_10", **given) -> TrainConfig:
    return TrainConfig(dataset="d", model=model, **given).resolved(input_spec(model), False, "1", 0)


def test_a_recipe_answers_what_is_not_said_and_nothing_else():
    plain, scratch = resolve(), resolve(recipe="scratch")
    assert {name: getattr(plain, name) for name in PLAIN} == PLAIN
    assert {name: getattr(scratch, name) for name in SCRATCH} == SCRATCH
    assert (scratch.lr, scratch.epochs) == (plain.lr, plain.epochs) == (model_entry("r3d_10").defaults.lr, plain.epochs)
    own = resolve(recipe="scratch", clip_grad=0.0, label_smoothing=0.05)
    assert (own.clip_grad, own.label_smoothing, own.colour_jitter) == (0.0, 0.05, SCRATCH["colour_jitter"])
    tuned = resolve("c3d", recipe="finetune", weights="w", epochs=3)
    assert (tuned.optimizer, tuned.lr, tuned.epochs, tuned.weight_decay) == ("adamw", 1e-4, 3, 0.02)
    assert (tuned.dropout, resolve("c3d", recipe="finetune", weights="w", dropout=0.0).dropout) == (0.5, 0.0)
    with pytest.raises(UsageError, match="--recipe finetune needs pretrained weights"):
        resolve(recipe="finetune")
    with pytest.raises(UsageError, match="--recipe scratch is for training without --weights"):
        resolve(recipe="scratch", weights="w")


def test_a_recipe_sets_clips_where_no_flag_does_and_older_runs_keep_theirs():
    assert TrainConfig(recipe="scratch").adapt(input_spec("r3d_10")) == replace(
        input_spec("r3d_10"), input="diff", clip_len=16, frame_stride=4
    )
    assert TrainConfig(recipe="scratch", input="rgb").adapt(input_spec("c3d")).input == "rgb"
    older = TrainConfig.from_dict(resolve(clip_grad=1.0).to_dict() | {"recipe": "strong", "pretrain": False})
    tuned = TrainConfig.from_dict(resolve(weights="w", clip_grad=1.0).to_dict() | {"recipe": "scratch"})
    assert (tuned.recipe, tuned.weights, tuned.clip_grad) == ("plain", "w", 1.0)
    assert (older.recipe, older.clip_grad, older.adapt(input_spec("r3d_10"))) == ("plain", 1.0, input_spec("r3d_10"))


def test_the_run_shows_what_its_recipe_set_and_its_network_is_built_so(toy_project):
    run_dir = run_tiny(recipe="scratch", epochs=1, cutmix=0.5, dropout=0.2)
    shown = json.loads((run_dir / "config.json").read_text())
    assert {name: shown[name] for name in SCRATCH} == SCRATCH | {"cutmix": 0.5}
    assert shown["recipe"] == "scratch"
    assert (shown["input"], shown["clip_len"], shown["frame_stride"]) == ("diff", TINY["clip_len"], 4)
    assert load_model(run_dir / "best.pth").model.options["dropout"] == 0.2


@pytest.mark.slow
def test_a_run_from_before_the_recipes_goes_on_as_it_began(toy_project):
    whole, begun = run_tiny(epochs=2), run_tiny(epochs=2, name="begun")
    content = torch.load(begun / "last.pth", weights_only=True)
    for name in [*PLAIN, "recipe", "input"]:
        del content["config"][name]
    del content["best_epoch"]
    torch.save(content, begun / "last.pth")
    train.main(TrainConfig(resume="begun", epochs=3))
    train.main(TrainConfig(resume=whole.name, epochs=3))
    assert_equal_weights(whole / "last.pth", begun / "last.pth")


def test_all_flags_fit_on_one_screen_a_line_each(capsys):
    with pytest.raises(SystemExit):
        parse_configs(["--help"], "toy", "r3d_10")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 70
    flags = [line for line in lines if line.startswith("  ")]
    assert all(line.lstrip().startswith("-") and len(line) <= 120 for line in flags), "a help text runs over"
    assert len(flags) == len(fields(TrainConfig)) + 2  # --config and --help


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"label_smoothing": 1.0}, "--label-smoothing must be smaller than 1"),
        ({"ema": 1.0}, "--ema must be smaller than 1"),
        ({"clip_grad": -1.0}, "--clip-grad must be at least 0"),
        ({"early_stopping": 3, "val": "none"}, "--early-stopping needs validation, but --val none"),
        ({"mixup": -0.1}, "--mixup must be at least 0"),
        ({"class_weights": "inverse"}, "--class-weights is 'inverse'. It can be none, balanced"),
    ],
)
def test_wrong_settings_are_refused_in_the_users_words(values, message):
    with pytest.raises(UsageError, match=message):
        TrainConfig(**values)
