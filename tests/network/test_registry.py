"""The registry of models."""

import pytest
import torch

from common.errors import UsageError
from network import create_model, list_models


def test_a_network_keeps_the_options_that_it_was_built_with():
    with torch.device("meta"):
        assert create_model("r3d_10", 2).options == {}
        assert create_model("r3d_10", 2, bn_eps=0.5, dropout=0.1).options == {"bn_eps": 0.5, "dropout": 0.1}
        assert create_model("r3d_10", 2, bn_eps=0.5).stem[1].eps == 0.5


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
    expected |= {f"cnn_{kind}{trunk}" for kind in ("lstm", "mean") for trunk in ("", "_50", "_18", "_mobile")}
    expected |= {"s3d", "mvit_v1_b", "mvit_v2_s", "swin3d_t", "swin3d_s", "swin3d_b"}
    assert expected <= set(list_models())
    assert list_models() == sorted(list_models())
