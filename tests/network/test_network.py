"""What holds for every registered network."""

import math

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

from engine.hardware.device import to_device
from network import InputSpec, create_model, input_spec, list_models, model_entry
from network.c3d import C3D
from network.cost import count_macs, num_parameters
from network.torchvision_zoo import S3D, MViT

NUM_CLASSES = 5


# their shapes are tested here, their values with  pytest -m slow: they are large, or like another one of their family
HEAVY = {"c3d", "c3d_bn", "c3d_ln", "r3d_18", "r3d_34", "mc3_18", "r2plus1d_18", "r2plus1d_18_paper", "r2plus1d_34"}
HEAVY |= {"cnn_lstm", "cnn_lstm_50", "cnn_lstm_mobile", "cnn_mean", "cnn_mean_18", "cnn_mean_50"}
HEAVY |= {"mvit_v1_b", "mvit_v2_s", "s3d", "swin3d_s", "swin3d_b"}
WITH_VALUES = [pytest.param(name, marks=[pytest.mark.slow] * (name in HEAVY)) for name in list_models()]


@pytest.fixture(scope="module")
def models():
    """name -> network for NUM_CLASSES, each built once for this file."""
    built: dict[str, nn.Module] = {}

    def get(name: str) -> nn.Module:
        if name not in built:
            torch.manual_seed(0)
            built[name] = create_model(name, NUM_CLASSES)
        return built[name]

    return get


def small_clips(model: nn.Module, batch_size: int = 2) -> torch.Tensor:
    """Noise of the smallest shape that the network takes."""
    frames, size = 8, 32
    if isinstance(model, C3D):
        frames, size = 16, 112
    elif isinstance(model, MViT | S3D):
        frames, size = 16, 224
    return torch.randn(batch_size, 3, frames, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", WITH_VALUES)
def test_two_clips_give_two_rows_of_logits_and_every_parameter_a_gradient(models, name):
    model = models(name).train()
    model.zero_grad()
    logits = model(small_clips(model))
    assert logits.shape == (2, NUM_CLASSES)

    F.cross_entropy(logits, torch.tensor([0, 1])).backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
    head = model.get_submodule(model.head_name)
    assert head.weight.grad.abs().sum() > 0
    model.zero_grad(set_to_none=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(HEAVY))
def test_every_parameter_of_a_heavy_network_has_a_part_in_the_answer(name):
    spec = input_spec(name)
    with torch.device("meta"):
        model = create_model(name, NUM_CLASSES).train()
        model(torch.empty(2, 3, spec.clip_len, spec.crop_size, spec.crop_size)).sum().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("name", WITH_VALUES)
@torch.no_grad()
def test_a_model_keeps_nothing_between_two_clips(models, name):
    model = models(name).eval()
    clips = small_clips(model)
    first, second = clips[:1], clips[1:]
    before = model(first)
    assert not torch.equal(model(second), before)
    assert torch.equal(model(first), before)


@pytest.mark.parametrize("name", WITH_VALUES)
@torch.no_grad()
def test_models_give_logits_and_no_softmax(models, name):
    """With 101 classes a softmax in front of cross-entropy keeps the loss above ln(e + 100) - 1 = 3.632."""
    model, num_classes = (models(name), NUM_CLASSES) if name in HEAVY else (create_model(name, 101), 101)
    floor = math.log(math.e + num_classes - 1) - 1
    head = model.eval().get_submodule(model.head_name)
    bias = head.bias.clone()
    head.bias.copy_(torch.linspace(-20.0, 20.0, num_classes))
    logits = model(small_clips(model, batch_size=1))
    head.bias.copy_(bias)

    assert logits.min() < 0
    assert F.cross_entropy(logits, torch.tensor([num_classes - 1])) < floor - 0.3


@pytest.mark.parametrize("name", list_models())
def test_head_name_names_the_last_layer(name):
    with torch.device("meta"):
        model = create_model(name, 7)
    head = model.get_submodule(model.head_name)
    assert isinstance(head, nn.Linear) or head.kernel_size == (1, 1, 1)  # which is the same for each position
    assert head.weight.shape[0] == 7
    assert [module for module in model.modules() if isinstance(module, nn.Linear | nn.Conv3d)][-1] is head


@pytest.mark.parametrize("name", list_models())
def test_a_model_takes_the_input_that_it_asks_for(name):
    spec = input_spec(name)
    with torch.device("meta"):
        clips = torch.empty(2, 3, spec.clip_len, spec.crop_size, spec.crop_size)
        assert create_model(name, 7)(clips).shape == (2, 7)


@pytest.mark.parametrize("name", WITH_VALUES)
def test_untrained_logits_start_near_the_same_value_for_each_class(models, name):
    model = models(name).eval()
    with torch.no_grad():
        loss = F.cross_entropy(model(small_clips(model)), torch.tensor([0, 1]))
    assert loss < math.log(NUM_CLASSES) + 1.5


@pytest.mark.parametrize(
    "name, num_classes, parameters",
    [
        ("c3d", 487, 79_991_015),
        ("c3d", 400, 79_634_576),
        ("c3d", 101, 78_409_573),
        ("c3d", 51, 78_204_723),
        ("c3d", 10, 78_036_746),
        ("r3d_18", 51, 33_192_435),
        ("r3d_18", 101, 33_218_085),
        ("r3d_18", 400, 33_371_472),
        ("mc3_18", 51, 11_516_403),
        ("mc3_18", 101, 11_542_053),
        ("mc3_18", 400, 11_695_440),
        ("r2plus1d_18", 51, 31_326_288),
        ("r2plus1d_18", 101, 31_351_938),
        ("r2plus1d_18", 400, 31_505_325),
        ("r2plus1d_18_paper", 101, 33_217_452),
        ("r2plus1d_18_paper", 400, 33_370_839),
        ("r2plus1d_34", 101, 63_543_788),
        ("r2plus1d_34", 400, 63_697_175),
        ("r3d_34", 400, 63_681_104),
        ("c3d_bn", 101, 78_412_325),
        ("c3d_ln", 101, 78_412_325),
        ("s3d", 400, 8_320_048),
        ("mvit_v1_b", 400, 36_610_672),
        ("mvit_v2_s", 400, 34_537_744),
        ("swin3d_t", 400, 28_158_070),
        ("swin3d_s", 400, 49_816_678),
        ("swin3d_b", 400, 88_048_984),
        ("cnn_mean", 1000, 60_192_808),  # resnet152, resnet50, resnet18 on ImageNet
        ("cnn_mean_50", 1000, 25_557_032),
        ("cnn_mean_18", 1000, 11_689_512),
        ("cnn_mean_mobile", 1000, 3_504_872),  # MobileNetV2
    ],
)
def test_networks_have_the_published_number_of_parameters(name, num_classes, parameters):
    with torch.device("meta"):
        assert num_parameters(create_model(name, num_classes)) == parameters


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, giga",
    [
        ("c3d", 38.55),
        ("r3d_18", 40.70),
        ("s3d", 17.98),
        ("mvit_v1_b", 70.60),
        ("mvit_v2_s", 64.22),
        ("swin3d_t", 43.88),
        ("swin3d_s", 82.84),
        ("swin3d_b", 140.67),
    ],
)
def test_multiply_adds_are_the_published_ones(name, giga):
    size = input_spec(name).crop_size
    with torch.device("meta"):
        macs = count_macs(create_model(name, 400).eval(), torch.empty(1, 3, 16, size, size))
    assert round(macs / 1e9, 2) == giga


@pytest.mark.parametrize("name", list_models())
def test_dropout_is_an_option_of_every_model(name):
    with torch.device("meta"):
        assert create_model(name, 2, dropout=0.25).dropout.p == 0.25


@pytest.mark.parametrize("name", list_models())
def test_every_model_takes_the_order_in_which_clips_lie(name):
    """As training and inference place it: channels_last_3d, which 2D kernels cannot have; they get channels_last."""
    with torch.device("meta"):
        model = to_device(create_model(name, 2), torch.device("meta"))
    for module in model.modules():
        if isinstance(module, nn.Conv3d) and module.kernel_size != (1, 1, 1):
            assert module.weight.is_contiguous(memory_format=torch.channels_last_3d)
        if isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1):
            assert module.weight.is_contiguous(memory_format=torch.channels_last)


def test_every_model_brings_an_input_and_settings_to_learn_by():
    for name in list_models():
        entry = model_entry(name)
        assert entry.defaults.optimizer in ("sgd", "adam", "adamw"), name
        assert 0 < entry.defaults.lr < 1, name
        assert entry.defaults.warmup_epochs < entry.defaults.epochs, name
        assert InputSpec.from_dict(entry.input_spec.to_dict()) == entry.input_spec, name
