import math
import subprocess
import sys

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

from common.errors import UsageError, UserError
from common.files import ROOT
from engine.hardware.device import to_device
from network import InputSpec, create_model, input_spec, list_models, model_entry
from network.__main__ import main
from network.base import PARTS, freeze
from network.c3d import C3D, layer_norm
from network.cost import count_macs, list_layers
from network.torchvision_zoo import S3D, MViT
from network.video_resnet import mid_width

RESNETS_18 = ["r3d_18", "mc3_18", "r2plus1d_18"]
NUM_CLASSES = 5

# too slow to compute with here: their shapes are tested, their values with  pytest -m slow
HEAVY = {"c3d_ln", "cnn_lstm", "cnn_lstm_50", "cnn_mean", "cnn_mean_50"}
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


def num_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


# --- every model


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
    large = name in HEAVY or name in ("c3d", "c3d_bn")
    model, num_classes = (models(name), NUM_CLASSES) if large else (create_model(name, 101), 101)
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


# --- counts


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
    ],
)
def test_networks_have_the_published_number_of_parameters(name, num_classes, parameters):
    with torch.device("meta"):
        assert num_parameters(create_model(name, num_classes)) == parameters


def test_the_papers_networks_have_a_mid_width_for_each_convolution_and_its_norms():
    with torch.device("meta"):
        torchvisions, papers = create_model("r2plus1d_18", 2), create_model("r2plus1d_18_paper", 2)
    for model, widths in ((torchvisions, (230, 230)), (papers, (230, 288))):
        block = model.layer2[0]
        assert (block.conv1[0][0].out_channels, block.conv2[0][0].out_channels) == widths
    assert {module.eps for module in torchvisions.modules() if isinstance(module, nn.BatchNorm3d)} == {1e-5}
    assert {module.eps for module in papers.modules() if isinstance(module, nn.BatchNorm3d)} == {1e-3}


def test_a_network_keeps_the_options_that_it_was_built_with():
    with torch.device("meta"):
        assert create_model("r3d_10", 2).options == {}
        assert create_model("r3d_10", 2, bn_eps=0.5, dropout=0.1).options == {"bn_eps": 0.5, "dropout": 0.1}
        assert create_model("r3d_10", 2, bn_eps=0.5).stem[1].eps == 0.5


def test_mid_width_gives_the_pair_as_many_weights_as_3x3x3():
    assert [mid_width(64, 64), mid_width(64, 128), mid_width(256, 512), mid_width(512, 512)] == [144, 230, 921, 1152]
    mid = mid_width(128, 128)
    assert 9 * 128 * mid + 3 * mid * 128 == 27 * 128 * 128


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


def test_c3d_bn_is_c3d_with_eight_norms_in_place_of_eight_biases():
    with torch.device("meta"):
        plain, normed = create_model("c3d", 10), create_model("c3d_bn", 10)
    convs = [module for module in normed.modules() if isinstance(module, nn.Conv3d)]
    norms = [module for module in normed.modules() if isinstance(module, nn.BatchNorm3d)]
    assert [norm.num_features for norm in norms] == [conv.out_channels for conv in convs]
    assert len(norms) == 8
    assert num_parameters(normed) - num_parameters(plain) == sum(conv.out_channels for conv in convs)


def test_c3d_ln_norms_all_of_a_clip_and_nothing_of_its_neighbours():
    with torch.device("meta"):
        norms = [module for module in create_model("c3d_ln", 2).modules() if isinstance(module, nn.GroupNorm)]
    assert [norm.num_channels for norm in norms] == [64, 128, 256, 256, 512, 512, 512, 512]

    norm = layer_norm(4)
    x = torch.randn(3, 4, 2, 5, 5) * torch.tensor([1.0, 10, 0.1, 3]).view(1, 4, 1, 1, 1) + 7
    by_hand = torch.stack([(clip - clip.mean()) / (clip.var(correction=0) + 1e-5).sqrt() for clip in x])
    torch.testing.assert_close(norm.train()(x), by_hand)
    torch.testing.assert_close(norm.train()(x[:1]), norm.eval()(x)[:1])


# --- C3D


def test_pool5_pads_right_and_bottom_only():
    """Trap 26: padded at both sides, the shape is the same and every value is another."""
    with torch.device("meta"):
        caffe, symmetric = C3D(2).pool5, C3D(2, pool5="symmetric").pool5
    x = torch.rand(2, 4, 2, 7, 7)  # as after a ReLU, not negative
    padded_far = F.max_pool3d(F.pad(x, (0, 1, 0, 1)), 2)
    padded_around = F.max_pool3d(F.pad(x, (1, 0, 1, 0)), 2)

    assert torch.equal(caffe(x), padded_far)
    assert torch.equal(symmetric(x), padded_around)
    assert caffe(x).shape == symmetric(x).shape == (2, 4, 1, 4, 4)
    assert not torch.equal(caffe(x), symmetric(x))


@pytest.mark.parametrize("name", ["c3d", "c3d_bn", "c3d_ln"])
def test_c3d_pools_caffes_way_unless_told_otherwise(name):
    with torch.device("meta"):
        assert create_model(name, 2).pool5.ceil_mode
        assert not create_model(name, 2, pool5="symmetric").pool5.ceil_mode


@pytest.mark.parametrize(
    "shape",
    [
        (2, 3, 16, 128, 128),
        (2, 3, 16, 224, 224),
        (2, 3, 8, 112, 112),
        (2, 3, 32, 112, 112),
        (4, 3, 16, 56, 56),
        (2, 16, 3, 112, 112),
        (3, 16, 112, 112),
    ],
)
def test_c3d_names_the_size_it_got_and_the_size_it_needs(shape):
    """Trap 20: view(-1, 8192) makes of a wrong size another number of clips."""
    with torch.device("meta"), pytest.raises(UserError) as raised:
        C3D(2)(torch.empty(shape))
    message = str(raised.value)
    assert str(shape) in message
    assert "(B, 3, 16, 112, 112)" in message
    assert "\n" not in message


def test_c3d_refuses_a_pooling_that_it_does_not_know():
    with pytest.raises(UsageError, match="'ceil'.*'symmetric'.*'floor'"):
        create_model("c3d", 2, pool5="floor")


@torch.no_grad()
def test_c3d_starts_with_a_signal_that_reaches_its_last_layer_and_does_not_flood_it(models):
    """Without norms, a start that shrinks from layer to layer leaves nothing to learn from; one that gives fc8 features
    of norm 64 (values of size 1) makes its first gradients so large that SGD leaves for loss 15 at a rate of 0.003.
    """
    model = models("c3d").eval()
    features = model.forward_features(small_clips(model))
    assert features.shape == (2, 4096)
    assert 1 < features[0].norm() < 20


# --- R3D, MC3, R(2+1)D against torchvision's


def torchvision_network(name: str) -> nn.Module:
    """torchvision's, with every parameter and every BatchNorm statistic random."""
    from torchvision.models import video

    torch.manual_seed(3)
    theirs = getattr(video, name)(weights=None, num_classes=NUM_CLASSES)
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.uniform_(module.bias, -0.2, 0.2)
    nn.init.normal_(theirs.fc.bias)
    return theirs


@pytest.mark.parametrize("name", RESNETS_18)
def test_networks_equal_torchvisions_under_the_same_weights(name):
    theirs, ours = torchvision_network(name), create_model(name, NUM_CLASSES)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    clips = torch.randn(2, 3, 8, 40, 40)

    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(clips), theirs.eval()(clips), atol=1e-5, rtol=1e-5)

    # training: the same gradients and the same running statistics
    labels = torch.tensor([0, 3])
    for network in (ours, theirs):
        F.cross_entropy(network.train()(clips), labels).backward()
    pairs = zip(ours.named_parameters(), theirs.named_parameters(), strict=True)
    for (our_name, our), (their_name, their) in pairs:
        assert our_name == their_name
        torch.testing.assert_close(our.grad, their.grad, atol=1e-5, rtol=1e-3, msg=our_name)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    torch.testing.assert_close(ours.layer4[0].conv2[1].running_var, theirs.layer4[0].conv2[1].running_var)


@pytest.mark.parametrize("name", RESNETS_18)
def test_torchvision_takes_our_state_dict(name):
    from torchvision.models import video

    ours = create_model(name, NUM_CLASSES).eval()
    with torch.device("meta"):
        theirs = getattr(video, name)(weights=None, num_classes=NUM_CLASSES).eval()
    theirs.load_state_dict(ours.state_dict(), strict=True, assign=True)
    clips = torch.randn(1, 3, 8, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(theirs(clips), ours(clips), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["r3d_10", "r2plus1d_10", "mc3_18"])
@torch.no_grad()
def test_residual_networks_take_clips_of_any_size(models, name):
    model = models(name).eval()
    for frames, height, width in [(1, 32, 32), (5, 40, 24), (12, 56, 56)]:
        assert model(torch.randn(1, 3, frames, height, width)).shape == (1, NUM_CLASSES)


def test_mc3_keeps_every_frame_and_r3d_an_eighth():
    with torch.device("meta"):
        clips = torch.empty(1, 3, 16, 32, 32)
        lengths = {}
        for name in ("mc3_18", "r3d_18", "r2plus1d_18"):
            model = create_model(name, 2)
            x = model.layer4(model.layer3(model.layer2(model.layer1(model.stem(clips)))))
            lengths[name] = x.shape[2]
    assert lengths == {"mc3_18": 16, "r3d_18": 2, "r2plus1d_18": 2}


@pytest.mark.parametrize("name", list_models())
def test_dropout_is_an_option_of_every_model(name):
    with torch.device("meta"):
        assert create_model(name, 2, dropout=0.25).dropout.p == 0.25


# --- parts that are frozen


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
    for _ in range(2):
        model.eval()
        model.train()
        F.cross_entropy(model(small_clips(model, 4)), torch.arange(4)).backward()
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


# --- the registry


def test_an_unknown_model_is_answered_with_the_nearest_name_and_the_list():
    with pytest.raises(UsageError) as raised:
        create_model("r3d18", 2)
    assert str(raised.value) == f"Unknown model 'r3d18'. Did you mean 'r3d_18'? Available: {', '.join(list_models())}."


def test_an_unknown_option_names_itself_and_the_model():
    with pytest.raises(UsageError, match="'r3d_18' has no option 'pool5'"):
        create_model("r3d_18", 2, pool5="ceil")


def test_the_list_holds_these_models():
    expected = {"c3d", "c3d_bn", "mc3_18", "r2plus1d_10", "r2plus1d_18", "r3d_10", "r3d_18"}
    expected |= {"r2plus1d_18_paper", "r2plus1d_34", "r3d_34", "c3d_ln"}
    expected |= {"cnn_lstm", "cnn_lstm_50", "cnn_lstm_18", "cnn_mean", "cnn_mean_50", "cnn_mean_18"}
    expected |= {"s3d", "mvit_v1_b", "mvit_v2_s", "swin3d_t", "swin3d_s", "swin3d_b"}
    assert expected <= set(list_models())
    assert list_models() == sorted(list_models())


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


# --- python -m network


def test_the_table_has_a_line_for_every_model(capsys):
    main([])
    header, *lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list_models()
    by_name = {line.split()[0]: line.split() for line in lines}
    assert by_name["c3d"][1:] == ["78,409,573", "38.55", "16x112x112", "1", "-"]
    assert by_name["r3d_18"][1:] == ["33,218,085", "40.70", "16x112x112", "2", "kinetics400"]
    assert header.startswith("model")


@pytest.mark.parametrize("name", ["cnn_lstm", "mvit_v2_s", "swin3d_t", "s3d", "r3d_18"])
def test_the_layers_parameters_add_up_to_the_networks(name):
    rows = list_layers(name)[1:]
    numbers = [int(row[2].replace(",", "")) for row in rows if row[2]]
    assert sum(numbers[:-1]) == numbers[-1]


def test_a_wrong_argument_of_the_table_ends_with_status_2():
    done = subprocess.run(
        [sys.executable, "-m", "network", "--nonsense"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
