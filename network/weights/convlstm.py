"""Checkpoints of eriklindernoren/Action-Recognition: its ConvLSTM, a ResNet-152, an LSTM and attention, as in cnn_lstm.

    encoder.feature_extractor.0, 1, 4 to 7   the ResNet's conv1, bn1, layer1 to layer4
    encoder.final                            latent
    lstm.lstm                                lstm
    attention_layer                          attention
    output_layers.0, .1, .3                  hidden.0, hidden.1, fc; a softmax follows there, and logits are given here

Earlier checkpoints have lstm.output_layers and no attention: their network answers after each frame. It is built here
with pool = "mean".

That program trains on frames squeezed to a square of 224 pixels, ImageNet's mean and std, and 40 frames at a distance
drawn for each clip. Its trunk is frozen in train mode: the weights are ImageNet's, and the norms' statistics follow the
videos, so those of the file are used.
"""

import re
from pathlib import Path

from torch import Tensor

from common.errors import UserError
from common.input_spec import InputSpec
from network.weights.loaded import LoadedWeights, check_finite

PLACES = {
    "encoder.feature_extractor.0": "trunk.conv1",
    "encoder.feature_extractor.1": "trunk.bn1",
    "encoder.feature_extractor.4": "trunk.layer1",
    "encoder.feature_extractor.5": "trunk.layer2",
    "encoder.feature_extractor.6": "trunk.layer3",
    "encoder.feature_extractor.7": "trunk.layer4",
    "encoder.final": "latent",
    "lstm.lstm": "lstm",
    "attention_layer": "attention",
    "output_layers.0": "hidden.0",
    "output_layers.1": "hidden.1",
    "output_layers.3": "fc",
    "lstm.output_layers.0": "hidden.0",
    "lstm.output_layers.1": "hidden.1",
    "lstm.output_layers.3": "fc",
}

# blocks in the ResNet's third stage -> our model
DEPTHS = {2: "cnn_lstm_18", 6: "cnn_lstm_50", 36: "cnn_lstm"}

# The distance of frames was anything from 1 to a 40th of the video, about 4 in UCF101; 2 is in the middle.
CONVLSTM_INPUT = InputSpec(
    clip_len=40, frame_stride=2, resize=(224, 224), crop_size=224, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
)


def is_convlstm(state: dict[str, Tensor]) -> bool:
    return "encoder.feature_extractor.0.weight" in state and "lstm.lstm.weight_ih_l0" in state


def read_convlstm(path: Path, state: dict[str, Tensor], renamed: dict[str, str], model_name: str) -> LoadedWeights:
    """`renamed` holds the names that had a wrapper's prefix, name in the file -> name in `state`."""
    blocks = {match[1] for name in state if (match := re.match(r"encoder\.feature_extractor\.6\.(\d+)\.", name))}
    fits = DEPTHS.get(len(blocks))
    if fits is None:
        raise UserError(
            f"{path} is a ConvLSTM whose ResNet has {len(blocks)} blocks in its third stage. Known: 2, 6, 36."
        )
    if fits != model_name:
        raise UserError(
            f"{path} holds the weights of a {fits}, and {model_name} is another network. Choose --model {fits}."
        )
    if "lstm.lstm.weight_ih_l0_reverse" not in state:
        raise UserError(
            f"{path} has an LSTM of one direction, and {model_name} reads frames in both. It cannot be used."
        )

    before = {new: old for old, new in renamed.items()}
    ours, pairs = {}, {}
    for name, value in state.items():
        place = next((theirs for theirs in PLACES if name.startswith(f"{theirs}.")), None)
        new = PLACES[place] + name[len(place) :] if place else name
        ours[new] = value
        if new != before.get(name, name):
            pairs[before.get(name, name)] = new
    check_finite(path, ours)
    return LoadedWeights(
        state=ours,
        input_spec=CONVLSTM_INPUT,
        classes=None,
        origin=f"{path} (ConvLSTM of Action-Recognition)",
        renamed=pairs,
        options=options_of(path, ours),
        notes=[
            "Frames are squeezed to 224x224, and 40 of them, 2 apart, make a clip. In training the distance varied: "
            "--frame-stride sets another."
        ],
    )


def options_of(path: Path, state: dict[str, Tensor]) -> dict[str, str | float]:
    """Options of the network, from the shapes of its parameters."""
    shapes = {name: tuple(state[name].shape) if name in state else None for name in ("lstm.weight_ih_l0", "fc.weight")}
    if any(shape is None or len(shape) != 2 for shape in shapes.values()) or shapes["lstm.weight_ih_l0"][0] % 4:
        raise UserError(f"{path} is a ConvLSTM without an LSTM or a last layer of a known shape: it is damaged.")
    return {
        "latent": shapes["lstm.weight_ih_l0"][1],
        "hidden": shapes["lstm.weight_ih_l0"][0] // 4,  # four gates
        "layers": sum(bool(re.fullmatch(r"lstm\.weight_ih_l\d+", name)) for name in state),
        "pool": "attention" if "attention.weight" in state else "mean",
    }
