import math
import subprocess
import sys

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

from engine.errors import ROOT, UsageError, UserError
from network import InputSpec, create_model, input_spec, list_models, model_entry
from network.__main__ import count_macs, main
from network.c3d import C3D
from network.video_resnet import mid_width

RESNETS_18 = ["r3d_18", "mc3_18", "r2plus1d_18"]
NUM_CLASSES = 5


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
    frames, size = (16, 112) if isinstance(model, C3D) else (8, 32)
    return torch.randn(batch_size, 3, frames, size, size, generator=torch.Generator().manual_seed(1))


def num_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


# --- every model


@pytest.mark.parametrize("name", list_models())
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


@pytest.mark.parametrize("name", list_models())
@torch.no_grad()
def test_a_model_keeps_nothing_between_two_clips(models, name):
    model = models(name).eval()
    clips = small_clips(model)
    first, second = clips[:1], clips[1:]
    before = model(first)
    assert not torch.equal(model(second), before)
    assert torch.equal(model(first), before)


@pytest.mark.parametrize("name", list_models())
@torch.no_grad()
def test_models_give_logits_and_no_softmax(models, name):
    """With 101 classes a softmax in front of cross-entropy keeps the loss above ln(e + 100) - 1 = 3.632."""
    model = create_model(name, 101) if name not in ("c3d", "c3d_bn") else models(name)
    num_classes = 101 if model is not models(name) else NUM_CLASSES
    floor = math.log(math.e + num_classes - 1) - 1
    head = model.eval().get_submodule(model.head_name)
    bias = head.bias.clone()
    head.bias.copy_(torch.linspace(-20.0, 20.0, num_classes))
    logits = model(small_clips(model, batch_size=1))
    head.bias.copy_(bias)

    assert logits.min() < 0
    assert F.cross_entropy(logits, torch.tensor([num_classes - 1])) < floor - 0.3


@pytest.mark.parametrize("name", list_models())
def test_head_name_names_the_last_linear_layer(name):
    with torch.device("meta"):
        model = create_model(name, 7)
    head = model.get_submodule(model.head_name)
    assert isinstance(head, nn.Linear)
    assert head.out_features == 7
    assert [module for module in model.modules() if isinstance(module, nn.Linear)][-1] is head


@pytest.mark.parametrize("name", list_models())
def test_a_model_takes_the_input_that_it_asks_for(name):
    spec = input_spec(name)
    with torch.device("meta"):
        clips = torch.empty(2, 3, spec.clip_len, spec.crop_size, spec.crop_size)
        assert create_model(name, 7)(clips).shape == (2, 7)


@pytest.mark.parametrize("name", list_models())
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


@pytest.mark.parametrize("name, giga", [("c3d", 38.55), ("r3d_18", 40.70)])
def test_multiply_adds_are_the_published_ones(name, giga):
    with torch.device("meta"):
        macs = count_macs(create_model(name, 400).eval(), torch.empty(1, 3, 16, 112, 112))
    assert round(macs / 1e9, 2) == giga


def test_c3d_bn_is_c3d_with_eight_norms_in_place_of_eight_biases():
    with torch.device("meta"):
        plain, normed = create_model("c3d", 10), create_model("c3d_bn", 10)
    convs = [module for module in normed.modules() if isinstance(module, nn.Conv3d)]
    norms = [module for module in normed.modules() if isinstance(module, nn.BatchNorm3d)]
    assert [norm.num_features for norm in norms] == [conv.out_channels for conv in convs]
    assert len(norms) == 8
    assert num_parameters(normed) - num_parameters(plain) == sum(conv.out_channels for conv in convs)


# --- C3D


def test_pool5_pads_right_and_bottom_only():
    with torch.device("meta"):
        caffe, symmetric = C3D(2).pool5, C3D(2, pool5="symmetric").pool5
    x = torch.rand(2, 4, 2, 7, 7)  # as after a ReLU, not negative
    padded_far = F.max_pool3d(F.pad(x, (0, 1, 0, 1)), 2)
    padded_around = F.max_pool3d(F.pad(x, (1, 0, 1, 0)), 2)

    assert torch.equal(caffe(x), padded_far)
    assert torch.equal(symmetric(x), padded_around)
    assert caffe(x).shape == symmetric(x).shape == (2, 4, 1, 4, 4)
    assert not torch.equal(caffe(x), symmetric(x))


@pytest.mark.parametrize("name", ["c3d", "c3d_bn"])
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
    expected |= {"r2plus1d_18_paper", "r2plus1d_34", "r3d_34"}
    assert expected <= set(list_models())
    assert list_models() == sorted(list_models())


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


def test_a_wrong_argument_of_the_table_ends_with_status_2():
    done = subprocess.run(
        [sys.executable, "-m", "network", "--nonsense"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
