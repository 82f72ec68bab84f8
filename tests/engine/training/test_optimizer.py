from dataclasses import replace

import pytest

from engine.training.optimizer import Schedule, build_optimizer
from network import create_model
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
