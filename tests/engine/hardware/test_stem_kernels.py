"""First convolutions in another form: the same outputs, gradients and names."""

import copy

import pytest
import torch
import torch.nn as nn

from engine.hardware import device as device_module
from engine.hardware.device import autocast, channels_last
from engine.hardware.stem_kernels import PaddedConv3d, SpaceToDepthConv3d, pad_channels, space_to_depth
from network import create_model, input_spec, list_models
from network.fuse_batch_norm import fuse_batch_norms
from network.input_channels import input_conv

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")


def outputs(conv: nn.Module, x: torch.Tensor, dtype: torch.dtype | None = None) -> list[torch.Tensor]:
    """Output, and gradients of the kernels, the bias and the input."""
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    with autocast(CPU, dtype):
        y = conv(x)
    loss = (y.float() * torch.linspace(-1, 1, y.numel()).view(y.shape)).sum()
    grads = torch.autograd.grad(loss, [x, *conv.parameters()])
    return [y, *grads]


@pytest.mark.parametrize("change", [pad_channels, space_to_depth])
@pytest.mark.parametrize("name", ["r3d_10", "r2plus1d_10", "c3d", "cnn_mean_18", "s3d", "mvit_v2_s", "swin3d_t"])
@pytest.mark.parametrize("size", [(4, 16, 16), (3, 15, 13)])
def test_the_first_convolution_computes_the_same(name, change, size):
    with torch.device("meta"):
        model = create_model(name, 3)
    conv = copy.deepcopy(input_conv(model)[1]).to_empty(device="cpu")
    nn.init.normal_(conv.weight)
    if conv.bias is not None:
        nn.init.normal_(conv.bias)
    holder = type(model).__new__(type(model))
    nn.Module.__init__(holder)
    holder.stem, holder.stem_names = conv, ("stem",)
    plain = copy.deepcopy(conv)
    applies = change(holder)
    assert applies == (change is pad_channels or name in ("r3d_10", "r2plus1d_10", "s3d"))
    if not applies:
        assert type(conv) is type(plain)
        return
    assert conv.state_dict().keys() == plain.state_dict().keys()
    x = torch.randn(2, 3, *(size if conv.weight.ndim == 5 else size[1:]))
    x = x.contiguous(memory_format=torch.channels_last_3d if x.ndim == 5 else torch.channels_last)
    for dtype, tolerance in ((None, 1e-4), (torch.bfloat16, 0.03)):
        for got, expected in zip(outputs(conv, x, dtype), outputs(plain, x, dtype), strict=True):
            assert got.shape == expected.shape and got.dtype == expected.dtype
            assert ((got - expected).float().norm() / expected.float().norm()).item() < tolerance


def test_clips_and_kernels_keep_their_order_in_memory(monkeypatch):
    seen, inside = [], torch.nn.functional.conv3d

    def conv3d(x, weight, *rest, **named):
        seen.append((x, weight))
        return inside(x, weight, *rest, **named)

    monkeypatch.setattr(torch.nn.functional, "conv3d", conv3d)
    for change, channels in ((pad_channels, 8), (space_to_depth, 12)):
        model = channels_last(create_model("r3d_10", 3))
        assert change(model)
        model(torch.zeros(2, 3, 4, 16, 16).contiguous(memory_format=torch.channels_last_3d))
        x, weight = seen[0]
        assert x.shape[1] == weight.shape[1] == channels
        assert all(part.is_contiguous(memory_format=torch.channels_last_3d) for part in (x, weight))
        seen.clear()


def test_a_network_on_a_gpu_gets_padded_channels_and_one_on_a_cpu_does_not(monkeypatch):
    model = create_model("r3d_10", 3)
    device_module.to_device(model, CPU)
    assert type(model.stem[0]) is nn.Conv3d
    monkeypatch.setattr(nn.Module, "to", lambda self, device: self)
    device_module.to_device(model, torch.device("cuda"))
    assert type(model.stem[0]) is PaddedConv3d


def test_batch_norms_fold_into_a_padded_convolution_and_copies_stay_padded():
    model = create_model("r3d_10", 3).eval()
    x = torch.randn(2, 3, 4, 16, 16)
    expected = model(x)
    assert pad_channels(model) and not pad_channels(model), "once"
    folded = fuse_batch_norms(model, x)
    assert type(folded.stem[0]) is PaddedConv3d and isinstance(folded.stem[1], nn.Identity)
    assert torch.allclose(folded(x), expected, atol=1e-4)
    assert space_to_depth(folded) and type(folded.stem[0]) is SpaceToDepthConv3d
    assert torch.allclose(folded(x), expected, atol=1e-4)


def test_every_network_with_three_channels_is_padded_or_has_no_convolution_at_first():
    for name in list_models():
        with torch.device("meta"):
            model = create_model(name, 3)
        assert pad_channels(model), name
        assert input_spec(name).channels == 3
