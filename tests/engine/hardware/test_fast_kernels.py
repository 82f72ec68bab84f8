"""Layers in other forms: the same outputs, gradients, statistics and names."""

import copy

import pytest
import torch
import torch.nn as nn

from engine.hardware import device as device_module
from engine.hardware.autocast_check import InFloat32
from engine.hardware.device import autocast, channels_last
from engine.hardware.fast_kernels import (
    ConvReLU3d,
    FastConv3d,
    FusedBlock,
    WideBatchNorm3d,
    columns_as_channels,
    fuse_activations,
    use_fast_kernels,
    widen,
)
from engine.hardware.low_precision import relative_difference, to_bf16
from network import create_model, list_models
from network.input_channels import input_conv

pytestmark = pytest.mark.usefixtures("one_thread")
CPU, BF16 = torch.device("cpu"), torch.bfloat16


def outputs(layer: nn.Module, x: torch.Tensor, dtype: torch.dtype | None) -> list[torch.Tensor]:
    """Output, and gradients of the input and of the parameters."""
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    with autocast(CPU, dtype):
        y = layer(x)
    loss = (y.float() * torch.linspace(-1, 1, y.numel()).view(y.shape)).sum()
    grads = torch.autograd.grad(loss, [x, *layer.parameters()])
    return [y, *grads]


@pytest.mark.parametrize("name", ["r3d_10", "r2plus1d_10", "c3d", "cnn_mean_18", "s3d", "mvit_v2_s", "swin3d_t"])
@pytest.mark.parametrize("size", [(4, 16, 16), (3, 15, 13)])
def test_the_first_convolution_computes_the_same(name, size):
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
    use_fast_kernels(holder)
    assert conv.columns and conv.state_dict().keys() == plain.state_dict().keys()
    x = torch.randn(2, 3, *(size if conv.weight.ndim == 5 else size[1:]))
    x = x.contiguous(memory_format=torch.channels_last_3d if x.ndim == 5 else torch.channels_last)
    for got, expected in zip(outputs(conv, x, None), outputs(plain, x, None), strict=True):
        assert torch.equal(got, expected), "in float32 it is the plain convolution"
    for got, expected in zip(outputs(conv, x, BF16), outputs(plain, x, BF16), strict=True):
        assert got.shape == expected.shape and got.dtype == expected.dtype
        assert relative_difference(got, expected.float()).item() < 0.03


def test_the_columns_of_a_kernel_become_channels():
    x = torch.arange(2 * 3 * 1 * 1 * 6).view(2, 3, 1, 1, 6).float()
    columns = columns_as_channels(x, width=3, stride=2, padding=1)  # 3 columns of 3 channels, padded to 16
    assert columns.shape == (2, 16, 1, 1, 3) and (columns[:, 9:] == 0).all()
    assert columns[0, :3, 0, 0, 0].tolist() == [0, 0, 0], "outside of the frame"
    assert columns[0, 3:6, 0, 0, 0].tolist() == x[0, :, 0, 0, 0].tolist()
    assert columns[0, 6:9, 0, 0, 2].tolist() == x[0, :, 0, 0, 5].tolist()


def test_clips_and_kernels_keep_their_order_in_memory(monkeypatch):
    seen, inside = [], torch.nn.functional.conv3d

    def conv3d(x, weight, *rest, **named):
        seen.append((x, weight))
        return inside(x, weight, *rest, **named)

    model = channels_last(create_model("r2plus1d_10", 3))
    use_fast_kernels(model)
    assert widen(model) == 9
    monkeypatch.setattr(torch.nn.functional, "conv3d", conv3d)
    with autocast(CPU, BF16):
        model(torch.zeros(2, 3, 4, 16, 16).contiguous(memory_format=torch.channels_last_3d))
    assert [x.shape[1] for x, _ in seen[:2]] == [32, 8], "7 columns of 3 channels; 5 channels between the stem's pair"
    for x, weight in seen:
        assert x.shape[1] == weight.shape[1] and x.shape[1] % 8 == 0
        assert weight.is_contiguous(memory_format=torch.channels_last_3d)
    assert seen[0][0].is_contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize("dtype", [None, BF16])
def test_a_training_step_with_wide_pairs_is_the_plain_one(dtype):
    torch.manual_seed(0)
    plain = channels_last(create_model("r2plus1d_10", 3))
    # 17, 9, 5, 3 frames: of two, PyTorch 2.14.1 computes weight gradients in bf16 on a CPU wrongly (autocast_check.py)
    x = torch.randn(4, 3, 17, 16, 16).contiguous(memory_format=torch.channels_last_3d)
    fast = copy.deepcopy(plain)
    use_fast_kernels(fast)
    widen(fast)
    results = []
    for model in (plain, fast):
        with autocast(CPU, dtype):
            model(x).float().logsumexp(1).sum().backward()
        results.append({name: parameter.grad for name, parameter in model.named_parameters()})
    assert plain.state_dict().keys() == fast.state_dict().keys()
    for name, value in plain.state_dict().items():
        assert relative_difference(fast.state_dict()[name].double(), value.double()).item() < (0.05 if dtype else 1e-5)
    errors = {name: relative_difference(results[1][name], grad).item() for name, grad in results[0].items()}
    assert all(error < (0.3 if dtype else 1e-3) for error in errors.values()), errors


def test_batch_norms_keep_their_statistics_and_count():
    plain = nn.BatchNorm3d(6).train()
    fast = copy.deepcopy(plain)
    fast.__class__ = WideBatchNorm3d
    for more in (0, 2):
        x = torch.randn(2, 6, 3, 4, 5)
        wide = torch.nn.functional.pad(x, (0, 0) * 3 + (0, more)).contiguous(memory_format=torch.channels_last_3d)
        got, expected = fast(wide), plain(x)
        assert torch.allclose(got[:, :6], expected, atol=1e-5) and (got[:, 6:] == 0).all()
        assert got.shape == wide.shape and got.is_contiguous(memory_format=torch.channels_last_3d)
        for name, value in plain.state_dict().items():
            assert torch.allclose(fast.state_dict()[name], value, atol=1e-6), name
    assert fast.eval()(x).sub(plain.eval()(x)).abs().max() < 1e-5 and fast.num_batches_tracked == 2


def test_a_network_on_a_gpu_gets_fast_kernels_and_one_on_a_cpu_does_not(monkeypatch):
    model = create_model("r3d_10", 3)
    device_module.to_device(model, CPU)
    assert type(model.stem[0]) is nn.Conv3d
    monkeypatch.setattr(nn.Module, "to", lambda self, device: self)
    device_module.to_device(model, torch.device("cuda"))
    assert type(model.stem[0]) is FastConv3d


def test_a_pair_with_another_norm_or_a_layer_in_float32_stays_narrow():
    model = create_model("r2plus1d_10", 3)
    nn.SyncBatchNorm.convert_sync_batchnorm(model.layer1)
    conv = model.layer2[0].conv1[0][0]
    conv.__class__ = type("Conv3d", (InFloat32, nn.Conv3d), {})
    assert widen(model) == 6 and isinstance(conv, InFloat32)


@pytest.mark.parametrize("name", ["r3d_10", "mc3_10", "r2plus1d_10"])
def test_inference_with_fused_activations_answers_as_in_float32(name):
    torch.manual_seed(0)
    model = create_model(name, 5).eval()
    for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm3d)):
        norm.running_mean.normal_(0, 0.2), norm.running_var.uniform_(0.5, 2)
    x = torch.randn(2, 3, 6, 24, 24)
    use_fast_kernels(model)
    with torch.inference_mode():
        exact = model(x)
        fused = to_bf16(model, CPU, x[:1])
        fuse_activations(fused)
        with autocast(CPU, BF16):
            low = fused(x).float()
    assert relative_difference(low, exact).item() < 0.05
    convs = [module for module in fused.modules() if isinstance(module, nn.Conv3d)]
    assert all(isinstance(conv, ConvReLU3d) == (conv.kernel_size != (1, 1, 1)) for conv in convs), "shortcuts have none"
    relus = [name for name, module in fused.named_modules() if isinstance(module, nn.ReLU)]
    assert all(name.endswith(".relu") for name in relus), "those of the blocks, which their last convolution applies"
    assert sum(isinstance(module, FusedBlock) for module in fused.modules()) == 4


def test_the_relus_of_c3d_are_fused_where_no_norm_stands_before_them():
    for name, fused in (("c3d", True), ("c3d_ln", False)):
        with torch.device("meta"):
            model = create_model(name, 3).to(BF16)
        fuse_activations(model)
        assert all(isinstance(conv, ConvReLU3d) == fused for conv in model.convolutions())
        assert isinstance(model.relu, nn.Identity if fused else nn.ReLU)


def test_every_network_has_a_first_convolution_with_columns():
    for name in list_models():
        with torch.device("meta"):
            model = create_model(name, 3)
        use_fast_kernels(model)
        assert input_conv(model)[1].columns, name
