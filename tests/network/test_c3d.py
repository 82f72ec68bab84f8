"""C3D: its poolings, its input size, its norms and its start."""

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

from common.errors import UsageError, UserError
from network import create_model
from network.c3d import C3D, layer_norm
from network.cost import num_parameters

NUM_CLASSES = 5


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


@pytest.mark.slow
@torch.no_grad()
def test_c3d_starts_with_a_signal_that_reaches_its_last_layer_and_does_not_flood_it():
    """Without norms, a start that shrinks from layer to layer leaves nothing to learn from; one that gives fc8 features
    of norm 64 (values of size 1) makes its first gradients so large that SGD leaves for loss 15 at a rate of 0.003.
    """
    torch.manual_seed(0)
    model = create_model("c3d", NUM_CLASSES).eval()
    features = model.forward_features(torch.randn(2, 3, 16, 112, 112, generator=torch.Generator().manual_seed(1)))
    assert features.shape == (2, 4096)
    assert 1 < features[0].norm() < 20
