"""ConvLSTM checkpoints of eriklindernoren/Action-Recognition."""

import pytest
import torch

from common.errors import UserError
from engine.runs.checkpoint import load_model
from network.__main__ import main
from network.weights.read import build_whole, read_weights
from tests.helpers.weights import NAMES, ConvLstm, hollow_convlstm, labels_file


@pytest.mark.parametrize("per_frame, layers, wrapper", [(False, 1, ""), (False, 2, "module."), (True, 1, "")])
@torch.no_grad()
def test_a_convlstm_gives_the_answers_of_its_own_program(tmp_path, per_frame, layers, wrapper):
    torch.manual_seed(6)
    theirs = ConvLstm(per_frame, layers=layers).eval()
    state = theirs.state_dict()
    torch.save({wrapper + name: value for name, value in state.items()}, tmp_path / "ConvLSTM_95.pth")

    weights = read_weights(tmp_path / "ConvLSTM_95.pth", "cnn_lstm_18")
    assert weights.options == {
        "latent": 12,
        "hidden": 6,
        "layers": layers,
        "pool": "mean" if per_frame else "attention",
    }
    assert weights.renamed[f"{wrapper}encoder.feature_extractor.4.0.conv1.weight"] == "trunk.layer1.0.conv1.weight"
    assert weights.renamed[f"{wrapper}lstm.lstm.weight_ih_l0_reverse"] == "lstm.weight_ih_l0_reverse"

    model, spec, classes, report = build_whole("cnn_lstm_18", weights, NAMES[:4])
    assert report.reinitialised == report.skipped == {}
    assert (spec.clip_len, spec.resize, spec.crop_size, spec.mean[0]) == (40, (224, 224), 224, 0.485)
    clips = torch.randn(2, 5, 3, 64, 64)
    logits, probs = model.eval()(clips.transpose(1, 2)), theirs(clips)
    if per_frame:  # the mean of the logits; a softmax hides no more of them than a shift for each frame
        expected = probs.log().mean(dim=1)
        torch.testing.assert_close(logits.log_softmax(1), expected.log_softmax(1), atol=1e-5, rtol=1e-4)
    else:
        torch.testing.assert_close(logits.softmax(1), probs, atol=1e-6, rtol=1e-4)
    assert probs.std() > 1e-3


@pytest.mark.parametrize(
    "model_name, change, says",
    [
        ("cnn_lstm", lambda state: state, "weights of a cnn_lstm_18, and cnn_lstm is another.*--model cnn_lstm_18"),
        ("c3d", lambda state: state, "Choose --model cnn_lstm_18"),
        ("cnn_mean_18", lambda state: state, "Choose --model cnn_lstm_18"),
        (
            "cnn_lstm_18",
            lambda state: {name: value for name, value in state.items() if "_reverse" not in name},
            "of one direction",
        ),
        (
            "cnn_lstm_18",
            lambda state: {name: value for name, value in state.items() if "extractor.6.1" not in name},
            "1 blocks in its third stage",
        ),
        (
            "cnn_lstm_18",
            lambda state: {name: value for name, value in state.items() if "output_layers.3" not in name},
            "without an LSTM or a last layer",
        ),
        (
            "cnn_lstm_18",
            lambda state: {**state, "attention_layer.bias": torch.full((1,), float("nan"))},
            "attention.bias that are not numbers",
        ),
        (
            "cnn_mean_18",
            lambda state: {name.removeprefix("encoder."): value for name, value in state.items()},
            "ConvClassifier",
        ),
    ],
)
def test_a_convlstm_that_does_not_fit_is_refused_with_the_reason(tmp_path, model_name, change, says):
    torch.save(change(hollow_convlstm()), tmp_path / "ConvLSTM_95.pth")
    with pytest.raises(UserError, match=says) as raised:
        read_weights(tmp_path / "ConvLSTM_95.pth", model_name)
    assert "\n" not in str(raised.value)


def test_convert_keeps_a_convlstms_sizes(tmp_path):
    torch.save(hollow_convlstm(), tmp_path / "ConvLSTM_95.pth")
    labels = labels_file(tmp_path / "labels.txt", 4)
    out = tmp_path / "ours.pth"
    main(["convert", f"{tmp_path}/ConvLSTM_95.pth", str(out), "--model", "cnn_lstm_18", "--labels", str(labels)])
    model = load_model(out).model
    assert model.options == {"latent": 12, "hidden": 6, "layers": 1, "pool": "attention"}
