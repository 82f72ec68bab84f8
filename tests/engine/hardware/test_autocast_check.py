"""Low precision against float32, layer by layer, on this machine's own kernels."""

import copy

import pytest
import torch
import torch.nn as nn

import train
from engine.hardware.autocast_check import TOLERANCE, InFloat32, keep_wrong_layers_in_float32, low_precision_error
from engine.hardware.device import autocast, to_device
from engine.training.config import TrainConfig
from network import create_model
from network.base import freeze

CPU = torch.device("cpu")
CLIP = (3, 12, 32, 32)


class Overflowing(nn.Conv3d):
    """Right in float32; in low precision its weight gradient is wrong, as a bad kernel's would be."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = super().forward(x)
        return y if y.dtype == torch.float32 else y.detach() + 0 * super().forward(x)


def small_model(last: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv3d(3, 4, 3, bias=False), nn.ReLU(), last)


def gradients(model: nn.Module, x: torch.Tensor, amp: torch.dtype | None) -> list[torch.Tensor]:
    with autocast(CPU, amp):
        loss = model(x).float().square().mean()
    return torch.autograd.grad(loss, list(model.parameters()))


def test_a_layer_that_is_wrong_in_low_precision_computes_in_float32_and_the_others_do_not():
    model = small_model(Overflowing(4, 4, (1, 3, 3), bias=False))
    expected = copy.deepcopy(model)
    wrong = keep_wrong_layers_in_float32(model, (3, 4, 8, 8), CPU, torch.bfloat16)
    assert wrong == ["2 (4, 4, kernel_size=(1, 3, 3) on 4x2x6x6)"]
    assert isinstance(model[2], InFloat32) and isinstance(model[2], Overflowing)
    assert list(model.state_dict()) == list(expected.state_dict())

    seen = []
    for layer in model:
        layer.register_forward_hook(lambda layer, inputs, output: seen.append(output.dtype))
    x = torch.randn(2, 3, 4, 8, 8)
    for ours, full in zip(gradients(model, x, torch.bfloat16), gradients(expected, x, None), strict=True):
        assert (ours - full).norm() < 0.2 * full.norm()
    assert seen == [torch.bfloat16, torch.bfloat16, torch.float32]
    assert isinstance(copy.deepcopy(model)[2], InFloat32), "a moving average of the weights is a copy"


def test_what_is_right_in_low_precision_stays_in_it_and_nothing_is_checked_in_float32():
    model = small_model(nn.Conv3d(4, 4, (1, 3, 3), bias=False))
    assert keep_wrong_layers_in_float32(model, (3, 4, 8, 8), CPU, torch.bfloat16) == []
    assert not any(isinstance(layer, InFloat32) for layer in model)
    model = small_model(Overflowing(4, 4, (1, 3, 3), bias=False))
    assert keep_wrong_layers_in_float32(model, (3, 4, 8, 8), CPU, None) == []


@pytest.mark.parametrize("name", ["r3d_10", "r2plus1d_10", "mc3_10"])
def test_after_the_check_every_convolution_of_a_network_is_right_in_bf16(name):
    """On a CPU with bf16 instructions PyTorch 2.14.1 makes arbitrary numbers of some weight gradients of r3d_10."""
    model = to_device(create_model(name, 4), CPU)
    wrong = keep_wrong_layers_in_float32(model, CLIP, CPU, torch.bfloat16)
    in_float32 = [layer for layer in model.modules() if isinstance(layer, InFloat32)]
    assert len(in_float32) == len(wrong)

    torch.manual_seed(0)
    clips = torch.randn(2, *CLIP).contiguous(memory_format=torch.channels_last_3d)
    shapes = {}
    for layer in model.modules():
        if isinstance(layer, nn.Conv3d):
            layer.register_forward_pre_hook(lambda layer, inputs: shapes.update({layer: tuple(inputs[0].shape)}))
    with torch.inference_mode():
        model.eval()(clips)
    assert all(low_precision_error(layer, shapes[layer], CPU, torch.bfloat16) <= TOLERANCE for layer in shapes)


def test_the_check_leaves_random_state_mode_and_statistics_alone_and_takes_frozen_layers():
    model = create_model("r3d_10", 4).train()
    freeze(model, "trunk")
    state, before = torch.get_rng_state(), copy.deepcopy(model.state_dict())
    keep_wrong_layers_in_float32(model, CLIP, CPU, torch.bfloat16)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.slow
def test_a_run_in_bf16_says_which_layers_stay_in_float32(toy_project, capsys):
    settings = {"dataset": "toy", "model": "r3d_10", "crop_size": 32, "clip_len": 8, "batch_size": 6, "epochs": 1}
    train.main(TrainConfig(**settings, amp="bf16"))
    wrong = keep_wrong_layers_in_float32(to_device(create_model("r3d_10", 3), CPU), (3, 8, 32, 32), CPU, torch.bfloat16)
    out = capsys.readouterr().out
    assert ("of the network wrongly in bfloat16; float32 is used for" in out) == bool(wrong)
    assert all(text in out for text in wrong[:2])
