"""Factored convolutions in two dimensions and with padded widths: the same numbers, from the same parameters."""

import copy

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

from benchmarks.factorised import FrameConv, TimeConv, add_biases_apart, pad_mid_widths, use_views
from engine.hardware.device import to_device
from network import create_model, input_spec
from network.video_resnet import Conv1x3x3, Conv2Plus1D

CPU = torch.device("cpu")


def both(x: torch.Tensor, left: nn.Module, right: nn.Module) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Output, gradient of the input and of each parameter of two modules, in pairs."""
    results = []
    for module in (left, right):
        clip = x.clone(memory_format=torch.preserve_format).requires_grad_()
        y = module(clip)
        way = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=y.dtype)
        results.append([y, *torch.autograd.grad(y, [clip, *module.parameters()], way)])
    return list(zip(*results, strict=True))


def relative(left: torch.Tensor, right: torch.Tensor) -> float:
    return ((left - right).norm() / right.norm()).item()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [
        ((1, 3, 3), (1, 1, 1), (0, 1, 1)),
        ((1, 7, 7), (1, 2, 2), (0, 3, 3)),
        ((1, 3, 3), (1, 2, 1), (0, 0, 1)),
        ((1, 1, 1), (1, 2, 2), (0, 0, 0)),
        ((3, 1, 1), (1, 1, 1), (1, 0, 0)),
        ((3, 1, 1), (2, 1, 1), (1, 0, 0)),
        ((5, 1, 1), (3, 1, 1), (0, 0, 0)),
    ],
)
def test_a_view_gives_the_same_output_and_gradients(kernel, stride, padding, layout):
    conv = nn.Conv3d(5, 7, kernel, stride, padding, bias=False)
    view = nn.Sequential(copy.deepcopy(conv))
    assert use_views(view) == 1
    x = torch.randn(2, 5, 6, 9, 8).contiguous(memory_format=layout)
    pairs = both(x, view, conv)
    assert pairs[0][0].shape == pairs[0][1].shape
    for ours, expected in pairs:
        assert relative(ours, expected) <= 1e-6


def test_views_copy_nothing_where_channels_are_last():
    model = Conv2Plus1D(8, 8, 16, (2, 2, 2))
    use_views(model)
    to_device(model, CPU)
    x = torch.randn(2, 8, 4, 6, 6).contiguous(memory_format=torch.channels_last_3d)
    spatial, _, _, temporal = model
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile, torch.no_grad():
        y = spatial(x)
        assert y.is_contiguous(memory_format=torch.channels_last_3d)
        assert temporal(y).is_contiguous(memory_format=torch.channels_last_3d)
    names = {event.key for event in profile.key_averages()}
    assert "aten::conv2d" in names
    assert not names & {"aten::clone", "aten::copy_", "aten::contiguous", "aten::conv3d"}


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv3d(4, 4, 3, padding=1, bias=False),
        nn.Conv3d(4, 4, (1, 3, 3)),  # has a bias
        nn.Conv3d(4, 4, (1, 3, 3), groups=2, bias=False),
        nn.Conv3d(4, 4, 1, stride=2, bias=False),  # leaves out frames
        nn.Conv3d(4, 4, (1, 3, 3), padding=(1, 1, 1), bias=False),
        nn.Conv3d(4, 4, (1, 3, 3), padding="same", bias=False),
    ],
)
def test_other_convolutions_are_left_as_they_are(conv):
    assert use_views(nn.Sequential(conv)) == 0
    assert type(conv) is nn.Conv3d


def test_mc3s_convolution_over_frames_is_a_view_too():
    model = nn.Sequential(Conv1x3x3(4, 6, 0, (1, 2, 2)))
    assert use_views(model) == 1
    assert isinstance(model[0], FrameConv)


@pytest.mark.parametrize("name", ["r2plus1d_10", "mc3_10"])
def test_a_whole_network_gives_the_same_logits_and_gradients_and_keeps_its_names(name):
    spec = input_spec(name)
    plain = create_model(name, 5).double()
    fast = copy.deepcopy(plain)
    assert use_views(fast) == {"r2plus1d_10": 18, "mc3_10": 9}[name]
    assert pad_mid_widths(fast) == {"r2plus1d_10": 9, "mc3_10": 0}[name]
    assert list(fast.state_dict()) == list(plain.state_dict())
    assert [value.shape for value in fast.state_dict().values()] == [v.shape for v in plain.state_dict().values()]

    x = torch.randn(2, 3, spec.clip_len, 48, 48, dtype=torch.float64)
    for ours, expected in both(x, fast, plain):
        assert relative(ours, expected) <= 1e-10
    for name_, value in plain.state_dict().items():  # the norms' statistics, after that pass
        assert torch.allclose(fast.state_dict()[name_], value, rtol=1e-12), name_
    with torch.no_grad():
        assert relative(fast.eval()(x), plain.eval()(x)) <= 1e-10


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_padded_channels_stay_exactly_zero_through_training_and_reach_no_state(optimizer):
    torch.manual_seed(0)
    pair = Conv2Plus1D(4, 4, 13, (1, 1, 1))
    plain = copy.deepcopy(pair)
    assert pad_mid_widths(nn.Sequential(pair)) == 1
    assert pad_mid_widths(nn.Sequential(pair)) == 0, "once is enough"
    assert (pair[0].padding_out, pair[1].extra, pair[3].padding_in) == (3, 3, 3)

    kind = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[optimizer]
    optimizers = [kind(module.parameters(), lr=0.05, weight_decay=0.1) for module in (pair, plain)]
    x, target = torch.randn(4, 4, 3, 8, 8), torch.randn(4, 4, 3, 8, 8)
    for _ in range(5):
        for module, step in zip((pair, plain), optimizers, strict=True):
            step.zero_grad()
            F.mse_loss(module(x), target).backward()
            step.step()

    middle = copy.deepcopy(pair[1])(pair[0](x))  # a copy, since a norm's statistics move with each pass
    assert middle.shape[1] == 16
    assert (middle[:, 13:] == 0).all()
    for ours, expected in zip(pair.state_dict().values(), plain.state_dict().values(), strict=True):
        assert ours.shape == expected.shape
        assert torch.allclose(ours, expected, atol=1e-4)
    for ours, expected in zip(optimizers[0].state.values(), optimizers[1].state.values(), strict=True):
        assert {key: value.shape for key, value in ours.items() if torch.is_tensor(value)} == {
            key: value.shape for key, value in expected.items() if torch.is_tensor(value)
        }


def test_views_and_padding_go_together_in_either_order():
    x = torch.randn(2, 4, 4, 6, 6)
    plain = Conv2Plus1D(4, 4, 13, (2, 1, 1)).eval()
    for first, second in ((use_views, pad_mid_widths), (pad_mid_widths, use_views)):
        fast = copy.deepcopy(plain)
        first(fast), second(fast)
        assert isinstance(fast[0], FrameConv) and isinstance(fast[3], TimeConv)
        assert fast[0].as_2d and fast[3].as_2d and fast[0].padding_out == 3
        assert relative(fast(x), plain(x)) <= 1e-6


def test_a_bias_added_apart_is_the_same_bias_and_keeps_low_precision_low():
    conv = nn.Conv3d(3, 5, 3, padding=1)
    apart = nn.Sequential(copy.deepcopy(conv))
    assert add_biases_apart(apart) == 1
    for ours, expected in both(torch.randn(2, 3, 4, 6, 6), apart, conv):
        assert relative(ours, expected) <= 1e-6
    with torch.autocast("cpu", torch.bfloat16):
        assert apart(torch.randn(2, 3, 4, 6, 6)).dtype == torch.bfloat16
