from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from engine.training.config import TrainConfig
from engine.training.optimizer import Schedule, balance, build_optimizer, clip_weights
from network import create_model, input_spec
from tests.helpers.training import CONFIG


def test_norms_and_biases_are_not_decayed_and_what_is_new_learns_faster_than_what_was_loaded():
    model = create_model("r3d_10", 4)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    optimizer = build_optimizer(model, CONFIG, new=["fc.weight", "fc.bias"])

    seen = set()
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            seen.add(name)
            assert group["weight_decay"] == (0.01 if parameter.ndim > 1 else 0.0), name
            assert group["peak_lr"] == pytest.approx(1.0 if name.startswith("fc.") else 0.1), name
    assert seen == set(names.values())
    assert {group["peak_lr"] for group in build_optimizer(model, CONFIG).param_groups} == {0.1}


@pytest.mark.parametrize(("name", "kind"), [("sgd", "SGD"), ("adam", "Adam"), ("adamw", "AdamW")])
def test_the_optimizer_asked_for_is_built(name, kind):
    optimizer = build_optimizer(create_model("r3d_10", 2), replace(CONFIG, optimizer=name))
    assert type(optimizer).__name__ == kind
    if name == "sgd":
        assert all(group["momentum"] == 0.9 for group in optimizer.param_groups)


def test_cosine_rises_over_the_warm_up_and_ends_at_zero():
    schedule = Schedule(CONFIG, steps_per_epoch=10)
    factors = [schedule.factor(step) for step in range(100)]
    assert factors[0] == pytest.approx(1 / 20)
    assert factors[19] == factors[20] == 1.0
    assert factors == sorted(factors[:20]) + sorted(factors[20:], reverse=True)
    assert factors[60] == pytest.approx(0.5, abs=0.02)
    assert factors[99] < 0.001


def test_step_schedule_is_a_tenth_from_half_on_and_a_hundredth_from_three_quarters_on():
    schedule = Schedule(replace(CONFIG, schedule="step", warmup_epochs=0.0), steps_per_epoch=10)
    assert [schedule.factor(step) for step in (0, 49, 50, 74, 75, 99)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_the_first_step_is_made_at_the_first_rate_of_the_schedule():
    """Trap 15: a scheduler that steps before the optimiser loses the first rate."""
    optimizer = build_optimizer(create_model("r3d_10", 2), CONFIG)
    assert Schedule(CONFIG, 10).set_lr(optimizer, 0) == pytest.approx(0.1 / 20)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.1 / 20] * len(optimizer.param_groups))


def test_a_class_weight_belongs_to_the_clip_and_not_to_the_smoothed_target():
    """84 clips of one class and 2 of another gave 25 % with smoothing, where the weights alone gave 100."""
    torch.manual_seed(0)
    logits, weights = torch.randn(5, 3), torch.tensor([0.5, 1.0, 20.0])
    labels = torch.tensor([0, 1, 2, 0, 2])
    assert torch.equal(clip_weights(weights, labels), weights[labels])
    plain = F.cross_entropy(logits, labels, weights, reduction="none")
    assert torch.allclose(F.cross_entropy(logits, labels, reduction="none") * clip_weights(weights, labels), plain)
    shares = F.one_hot(labels, 3) * 0.7 + F.one_hot(labels.flip(0), 3) * 0.3
    assert torch.allclose(clip_weights(weights, shares), 0.7 * weights[labels] + 0.3 * weights[labels.flip(0)])


def test_balanced_weights_with_smoothing_learn_a_rare_class():
    """Features that tell the classes apart, and 84 clips against 2, as in the recipes scratch and finetune."""
    torch.manual_seed(0)
    labels = torch.tensor([0] * 84 + [1] * 2)
    x = torch.randn(86, 8) + 2.0 * torch.eye(8)[labels]
    model, weights = torch.nn.Linear(8, 4), balance(labels.numpy(), 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        losses = F.cross_entropy(model(x), labels, label_smoothing=0.1, reduction="none")
        (losses * clip_weights(weights, labels)).mean().backward()
        optimizer.step()
    right = model(x).argmax(1) == labels
    assert right[84:].all() and right[:84].float().mean() > 0.95


@pytest.mark.parametrize(("optimizer", "factor"), [("sgd", 4.0), ("adam", 2.0), ("adamw", 2.0)])
def test_the_learning_rate_grows_with_the_batch_for_sgd_and_with_its_root_for_adam(optimizer, factor):
    """AdamW's r3d_10 with steps of 128 clips reached 52.1 in proportion, and 84.4 by the root."""
    spec = input_spec("r3d_10")
    configs = [TrainConfig(model="r3d_10", optimizer=optimizer, batch_size=number) for number in (16, 64)]
    own, large = (config.resolved(spec, False, "1", 0) for config in configs)
    assert large.lr == pytest.approx(own.lr * factor)
