"""R3D, MC3 and R(2+1)D: torchvision's numbers under torchvision's weights, and the paper's widths."""

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

from network import create_model
from network.video_resnet import mid_width

NUM_CLASSES = 5


RESNETS_18 = ["r3d_18", "mc3_18", "r2plus1d_18"]


def test_the_papers_networks_have_a_mid_width_for_each_convolution_and_its_norms():
    with torch.device("meta"):
        torchvisions, papers = create_model("r2plus1d_18", 2), create_model("r2plus1d_18_paper", 2)
    for model, widths in ((torchvisions, (230, 230)), (papers, (230, 288))):
        block = model.layer2[0]
        assert (block.conv1[0][0].out_channels, block.conv2[0][0].out_channels) == widths
    assert {module.eps for module in torchvisions.modules() if isinstance(module, nn.BatchNorm3d)} == {1e-5}
    assert {module.eps for module in papers.modules() if isinstance(module, nn.BatchNorm3d)} == {1e-3}


def test_mid_width_gives_the_pair_as_many_weights_as_3x3x3():
    assert [mid_width(64, 64), mid_width(64, 128), mid_width(256, 512), mid_width(512, 512)] == [144, 230, 921, 1152]
    mid = mid_width(128, 128)
    assert 9 * 128 * mid + 3 * mid * 128 == 27 * 128 * 128


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


@pytest.mark.parametrize("name", [RESNETS_18[0], *(pytest.param(n, marks=pytest.mark.slow) for n in RESNETS_18[1:])])
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
def test_residual_networks_take_clips_of_any_size(name):
    model = create_model(name, NUM_CLASSES).eval()
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
