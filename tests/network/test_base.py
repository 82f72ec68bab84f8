"""Frozen parts of a network, and networks whose weights are not drawn."""

import pytest
import torch
import torch.nn.functional as F

from common.errors import UsageError
from network import create_model, list_models
from network.base import PARTS, UndrawnWeights, freeze

NUM_CLASSES = 5


@pytest.mark.parametrize("name", list_models())
def test_stem_trunk_and_head_of_every_model_can_be_told_apart(name):
    with torch.device("meta"):
        model = create_model(name, 7)
    parts = {
        part: {id(p) for at in freeze(model, part) for p in model.get_submodule(at).parameters()} for part in PARTS
    }
    head = {id(parameter) for parameter in model.get_submodule(model.head_name).parameters()}
    assert parts["none"] == set()
    assert parts["stem"] and parts["stem"] < parts["trunk"]
    assert not parts["trunk"] & head
    rest = {id(parameter) for parameter in model.parameters()} - parts["trunk"] - head
    assert bool(rest) == name.startswith("cnn_lstm")  # whose LSTM stands between trunk and head

    freeze(model, "stem")
    assert {id(parameter) for parameter in model.parameters() if not parameter.requires_grad} == parts["stem"]
    freeze(model, "none")
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("name", ["r2plus1d_10", "cnn_mean_18"])
@pytest.mark.parametrize("part", ["stem", "trunk"])
def test_a_frozen_part_does_not_drift_in_train_mode(name, part):
    """Trap 17: norms of a frozen trunk in train mode count on, and its features change though no weight does."""
    torch.manual_seed(0)
    model = create_model(name, NUM_CLASSES, dropout=0.5)
    frozen = freeze(model, part)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1, momentum=0.9)
    clips = torch.randn(4, 3, 8, 32, 32, generator=torch.Generator().manual_seed(1))
    for _ in range(2):
        model.eval()
        model.train()
        F.cross_entropy(model(clips), torch.arange(4)).backward()
        optimizer.step()

    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    still = {key for key in before if key.startswith(tuple(f"{name}." for name in frozen))}
    assert still
    assert changed == set(before) - still
    assert model.dropout.training
    assert not any(module.training for at in frozen for module in model.get_submodule(at).modules())


def test_what_is_no_longer_frozen_trains_again():
    model = create_model("r3d_10", NUM_CLASSES).train()
    assert freeze(model, "trunk") == ("stem", "layer1", "layer2", "layer3", "layer4")
    assert not model.layer4[0].conv1[1].training
    assert freeze(model, "stem") == ("stem",)
    assert model.layer4[0].conv1[1].training
    assert not model.stem[1].training
    assert freeze(model, "none") == ()
    assert model.stem[1].training


def test_an_unknown_part_is_answered_with_the_known_ones():
    with pytest.raises(UsageError, match="none, stem, trunk, but is 'head'"):
        freeze(create_model("r3d_10", 2), "head")


@pytest.mark.parametrize(
    "name", ["c3d", "r2plus1d_10", "cnn_lstm_18", "cnn_mean_mobile", "s3d", "mvit_v2_s", "swin3d_t"]
)
def test_undrawn_networks_have_all_but_the_values_of_their_parameters(name):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    with UndrawnWeights():
        undrawn = create_model(name, 7)
    if not name.startswith(("mvit", "swin")):
        assert torch.equal(torch.get_rng_state(), before)
    drawn = create_model(name, 7)
    assert {key: value.shape for key, value in undrawn.state_dict().items()} == {
        key: value.shape for key, value in drawn.state_dict().items()
    }
    for (key, found), (_, expected) in zip(undrawn.named_buffers(), drawn.named_buffers(), strict=True):
        torch.testing.assert_close(found, expected, msg=key)


def test_buffers_of_undrawn_networks_are_filled():
    with UndrawnWeights():
        mask = torch.nn.Buffer(torch.empty(3).fill_(7), persistent=False)
        torch.nn.init.ones_(mask)
        norm = torch.nn.BatchNorm3d(2)
    assert mask.tolist() == [1, 1, 1] and norm.running_var.tolist() == [1, 1]
