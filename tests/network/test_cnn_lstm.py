"""CNN + LSTM and the mean over frames, with the smallest of their trunks."""

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

from common.errors import UsageError
from network import create_model
from network.base import freeze
from network.cnn_lstm import POOLS, RowNorm

NUM_CLASSES = 5
SMALL = {"latent": 24, "hidden": 16}


def small_lstm(**options) -> nn.Module:
    torch.manual_seed(0)
    model = create_model("cnn_lstm_18", NUM_CLASSES, **SMALL, **options).eval()
    nn.init.normal_(model.fc.weight)  # so that what differs shows
    return model


@pytest.fixture(scope="module")
def lstm() -> nn.Module:
    return small_lstm()


@pytest.fixture(scope="module")
def mean() -> nn.Module:
    torch.manual_seed(0)
    return create_model("cnn_mean_18", NUM_CLASSES).eval()


def clips(batch_size: int = 2, num_frames: int = 6) -> torch.Tensor:
    return torch.randn(batch_size, 3, num_frames, 32, 32, generator=torch.Generator().manual_seed(num_frames))


# --- frames


@torch.no_grad()
def test_frames_are_folded_into_the_batch_and_find_their_clip_again(lstm):
    seen = []
    handle = lstm.trunk.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    x = clips()
    features = lstm.forward_frames(x)
    handle.remove()
    assert seen[0].shape == (12, 3, 32, 32)
    assert torch.equal(seen[0][6 + 4], x[1, :, 4])
    assert features.shape == (2, 6, 512)
    torch.testing.assert_close(features[1, 4], lstm.trunk(x[1, :, 4][None])[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("num_frames", [1, 7, 40])
@pytest.mark.parametrize("pool", POOLS)
@torch.no_grad()
def test_clips_may_have_any_number_of_frames(num_frames, pool):
    assert small_lstm(pool=pool)(clips(2, num_frames)).shape == (2, NUM_CLASSES)


@torch.no_grad()
def test_the_mean_answers_with_the_mean_of_what_it_says_of_each_frame(mean):
    x = clips()
    by_frame = torch.stack([mean(x[:, :, t : t + 1]) for t in range(6)])
    torch.testing.assert_close(mean(x), by_frame.mean(dim=0), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_the_lstm_sees_the_order_of_frames_and_the_mean_does_not(lstm, mean):
    x = clips()
    torch.testing.assert_close(mean(x), mean(x.flip(2)), atol=1e-5, rtol=1e-4)
    assert (lstm(x) - lstm(x.flip(2))).abs().max() > 1e-3


# --- LSTM


@pytest.mark.parametrize("pool", POOLS)
@torch.no_grad()
def test_no_state_is_kept_between_two_clips(pool):
    """Trap 18: a state on the module makes an answer depend on the clip before, and breaks at another batch size."""
    model = small_lstm(pool=pool)
    x = clips(3)
    tensors = {name for name, value in vars(model).items() if isinstance(value, torch.Tensor)}
    first = model(x)
    model(clips(2, 9))
    model.train()(clips(4))
    again = small_lstm(pool=pool)
    again(clips(1))
    torch.testing.assert_close(again(x), first, atol=0, rtol=0)
    torch.testing.assert_close(torch.cat([again(clip[None]) for clip in x]), first, atol=1e-5, rtol=1e-4)
    assert {name for name, value in vars(model).items() if isinstance(value, torch.Tensor)} == tensors
    assert set(model.state_dict()) == set(again.state_dict())


@torch.no_grad()
def test_attention_weighs_the_frames_of_a_clip_by_weights_that_add_up_to_one(lstm):
    states = torch.randn(3, 7, 2 * SMALL["hidden"])
    weights = lstm.weigh_frames(states)
    assert weights.shape == (3, 7, 1)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(3, 1))
    assert weights.std(dim=1).min() > 0
    torch.testing.assert_close(lstm.weigh_frames(states[1:2]), weights[1:2])


@pytest.mark.parametrize("pool", POOLS)
@torch.no_grad()
def test_each_pool_does_what_it_says_with_the_states(pool):
    model = small_lstm(pool=pool)
    x = clips()
    frames = model.forward_frames(x)
    states = model.lstm(model.latent(frames.flatten(0, 1)).view(2, 6, -1))[0]
    hidden = SMALL["hidden"]
    if pool == "attention":
        scores = states @ model.attention.weight[0] + model.attention.bias
        expected = model.hidden((scores.softmax(dim=1)[:, :, None] * states).sum(dim=1))
    elif pool == "last":  # each direction's own last: the one that reads backwards ends at the first frame
        expected = model.hidden(torch.cat([states[:, -1, :hidden], states[:, 0, hidden:]], dim=1))
    else:
        expected = torch.stack([model.hidden(states[:, t]) for t in range(6)]).mean(dim=0)
    torch.testing.assert_close(model.forward_features(x), expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(model(x), model.fc(expected), atol=1e-5, rtol=1e-4)


def test_latent_hidden_and_layers_are_options():
    with torch.device("meta"):
        model = create_model("cnn_lstm_18", 3, latent=40, hidden=20, layers=2, dropout=0.1)
        assert model.lstm.input_size == model.latent[0].out_features == 40
        assert (model.lstm.hidden_size, model.lstm.num_layers, model.fc.in_features) == (20, 2, 20)
        assert model(torch.empty(2, 3, 5, 32, 32)).shape == (2, 3)
    assert model.options == {"latent": 40, "hidden": 20, "layers": 2, "dropout": 0.1}


def test_the_whole_network_has_the_sizes_that_it_is_known_by():
    with torch.device("meta"):
        model = create_model("cnn_lstm", 101)
    assert len(model.trunk.layer3) == 36
    assert (model.num_features, model.lstm.input_size, model.lstm.hidden_size) == (2048, 512, 1024)
    assert model.lstm.bidirectional
    assert sum(parameter.numel() for parameter in model.parameters()) == 73_999_014


def test_an_unknown_pool_names_the_known():
    with pytest.raises(UsageError, match="attention, last, mean, but is 'max'"):
        create_model("cnn_lstm_18", 2, pool="max")


# --- training


def test_a_batch_of_one_clip_trains_too():
    """An epoch's last batch may be one clip, of which no variance can be taken."""
    model = small_lstm().train()
    F.cross_entropy(model(clips(1)), torch.tensor([2])).backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_row_norm_is_batch_norm_for_all_but_a_single_row_and_averages_its_first_batches():
    torch.manual_seed(1)
    ours, theirs = RowNorm(4, momentum=0.01), nn.BatchNorm1d(4, momentum=None)  # None: the mean over all batches
    for _ in range(100):
        x = torch.randn(6, 4) * 3 + 1
        torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(ours.running_var, theirs.running_var)
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    mean = ours.running_mean.clone()
    ours(x)
    torch.testing.assert_close(ours.running_mean, 0.99 * mean + 0.01 * x.mean(0))
    ours.num_batches_tracked.fill_(1)
    alone = ours(x[:1])
    assert ours.num_batches_tracked == 1
    torch.testing.assert_close(alone, ours.eval()(x[:1]))


def test_only_the_resnet_is_frozen_and_the_lstm_learns():
    """Trap 17, here for the network it was found in: its trunk had no gradient and was left in train mode."""
    model = small_lstm()
    assert freeze(model, "trunk") == ("trunk",)
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    F.cross_entropy(model(clips(4)), torch.arange(4)).backward()
    assert {name for name, parameter in model.named_parameters() if parameter.grad is not None} == {
        name for name, _ in model.named_parameters() if not name.startswith("trunk.")
    }
    for name, value in model.state_dict().items():
        if name.startswith("trunk."):
            assert torch.equal(value, before[name]), name
    assert not torch.equal(model.latent[1].running_mean, before["latent.1.running_mean"])
    assert not model.forward_frames(clips(1)).requires_grad  # nothing is kept for a gradient that nobody asks for


@pytest.mark.slow
@pytest.mark.parametrize("name, learns", [("cnn_lstm_18", True), ("cnn_mean_18", False)])
def test_whether_clips_brighten_or_darken_is_learnt_by_the_lstm_alone(name, learns):
    """The frames of both classes are the same, in another order. Even a trunk that never learnt is enough for it."""
    torch.manual_seed(0)
    model = create_model(name, 2)
    freeze(model, "trunk")
    optimizer = torch.optim.AdamW([p for p in model.train().parameters() if p.requires_grad], lr=1e-3)
    brighten = torch.linspace(-1, 1, 6).view(1, 1, 6, 1, 1)
    losses = []
    for _ in range(30):
        labels = torch.arange(12) % 2
        x = 0.5 * torch.randn(12, 3, 6, 32, 32) + brighten * (2 * labels - 1).view(-1, 1, 1, 1, 1)
        loss = F.cross_entropy(model(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    last = sum(losses[-5:]) / 5
    assert last < 0.1 if learns else last > 0.55  # chance: 0.69


@pytest.mark.slow
def test_a_run_trains_it_and_its_checkpoint_rebuilds_it(toy_project):
    """From frames on disk to a checkpoint: what a run asks of a network, one of 2D kernels gives too."""
    import train
    from engine.runs.checkpoint import load_model
    from engine.training.config import TrainConfig

    settings = {"dataset": "toy", "model": "cnn_lstm_18", "device": "cpu", "batch_size": 11, "workers": 0}
    sizes = {"clip_len": 4, "frame_stride": 1, "crop_size": 32, "val_clips": 1}
    run_dir = train.main(TrainConfig(**settings, **sizes, epochs=1))  # 12 videos: the last batch is one clip
    trained = load_model(run_dir / "last.pth")
    assert trained.input_spec.resize == (320, 240)
    with torch.inference_mode():
        assert trained.model(clips()).shape == (2, 3)
