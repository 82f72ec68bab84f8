"""Several runs that answer together: the mean of their probabilities.

The classic case is the two-stream network (Simonyan and Zisserman, Two-Stream Convolutional Networks for Action
Recognition in Videos, NIPS 2014): one network on colours and one on motion, here on differences of frames.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn as nn

from common.errors import UserError
from common.input_spec import InputSpec
from engine.runs.checkpoint import TrainedModel, load_model
from network.base import VideoModel

SAME_FRAMES = ("clip_len", "frame_stride", "fps", "resize", "crop_size", "keep_aspect")


class FusedNetwork(VideoModel):
    """(B, C, T, S, S) -> (B, num_classes): the logarithm of the mean of the networks' probabilities, so that a softmax
    gives that mean.

    specs: InputSpec of each network. x is made by fused_spec(specs); each network gets its own channels of it, with its
    own mean and std.
    """

    head_name, stem_names = "", ()

    def __init__(self, networks: Sequence[nn.Module], specs: Sequence[InputSpec]):
        super().__init__()
        self.networks, self.specs, self.spec = nn.ModuleList(networks), list(specs), fused_spec(specs)
        for number, spec in enumerate(specs):
            scale, shift = _rescaling(self.spec, spec)
            self.register_buffer(f"scale{number}", scale)
            self.register_buffer(f"shift{number}", shift)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        answers = [logits.float().log_softmax(dim=1) for logits in self.answers(x)]
        return torch.stack(answers).logsumexp(dim=0) - math.log(len(answers))

    def answers(self, x: torch.Tensor) -> list[torch.Tensor]:
        """The logits (B, num_classes) of each network."""
        return [network(self._input_of(number, x)) for number, network in enumerate(self.networks)]

    def _input_of(self, number: int, x: torch.Tensor) -> torch.Tensor:
        if self.spec.input == "rgb+diff" and self.specs[number].input != "rgb+diff":
            x = x[:, :3] if self.specs[number].input == "rgb" else x[:, 3:]
        if (self.spec.mean, self.spec.std) == (self.specs[number].mean, self.specs[number].std):
            return x
        return (x * getattr(self, f"scale{number}") + getattr(self, f"shift{number}")).to(x.dtype)


def fused_spec(specs: Sequence[InputSpec]) -> InputSpec:
    """The input that holds the inputs of all: colours, differences, or both where networks differ in it. Raises
    UserError for networks that read other frames."""
    first = specs[0]
    for spec in specs[1:]:
        name = next((name for name in SAME_FRAMES if getattr(spec, name) != getattr(first, name)), None)
        if name:
            raise UserError(
                f"These networks read different frames: {name} is {getattr(first, name)} for the first and "
                f"{getattr(spec, name)} for another. evaluate.py --fuse takes them together; elsewhere they must agree."
            )
    inputs = {spec.input for spec in specs}
    return replace(first, input=inputs.pop() if len(inputs) == 1 else "rgb+diff")


def _rescaling(given: InputSpec, wanted: InputSpec) -> tuple[torch.Tensor, torch.Tensor]:
    """(C, 1, 1, 1) scale and shift from values that were normalised by one spec to those of another; C of `wanted`.
    Differences have no mean."""
    scale = [theirs / own for theirs, own in zip(given.std, wanted.std, strict=True)]
    shift = [(a - b) / std for a, b, std in zip(given.mean, wanted.mean, wanted.std, strict=True)]
    none = [0.0, 0.0, 0.0]
    shift = {"rgb": shift, "diff": none, "rgb+diff": shift + none}[wanted.input]
    scale = scale * (len(shift) // 3)
    return torch.tensor(scale).view(-1, 1, 1, 1), torch.tensor(shift).view(-1, 1, 1, 1)


# --- of checkpoints


def load_fused(paths: Sequence[Path]) -> TrainedModel:
    """Several checkpoints as one network, whose probabilities are the mean of theirs.

    Its checkpoint says what all of them have seen. Raises UserError where their classes or the frames that they read
    differ.
    """
    members = [load_model(path) for path in paths]
    check_same_classes(paths, [member.classes for member in members])
    return fuse_models(members)


def fuse_models(members: Sequence[TrainedModel]) -> TrainedModel:
    """load_fused for networks of the same classes that are loaded already."""
    specs = [member.input_spec for member in members]
    network = FusedNetwork([member.model for member in members], specs).eval()
    name = "+".join(member.name for member in members)
    origin = fused_origin([member.checkpoint for member in members], name)
    return TrainedModel(network, network.spec, members[0].classes, name, origin)


def check_same_classes(paths: Sequence[Path], classes: Sequence[list[str]]) -> None:
    for path, other in zip(paths, classes, strict=True):
        if other != classes[0]:
            unlike = next((name for name in (*other, *classes[0]) if (name in other) != (name in classes[0])), None)
            what = f"'{unlike}' is a class of one of them alone" if unlike else "their classes have another order"
            raise UserError(f"{paths[0]} and {path} cannot answer together: {what}.")


def fused_origin(checkpoints: Sequence[dict], name: str) -> dict:
    """The part of a checkpoint that tells what weights have seen, of several together."""
    splits = [checkpoint.get("split") or {} for checkpoint in checkpoints]
    names = {key for split in splits for key, value in split.items() if isinstance(value, list)}
    seen = {key: sorted({value for split in splits for value in split.get(key) or []}) for key in names}
    if not all(split.get("training_groups") for split in splits):
        seen["training_groups"] = []  # not known of all is not known
    same = len({split.get("hash") for split in splits}) == 1
    return {
        "config": checkpoints[0]["config"] | {"model": name},
        "split": splits[0] | seen | ({} if same else {"name": "several", "hash": ""}),
        "epoch": max(checkpoint.get("epoch", 0) for checkpoint in checkpoints),
        "step": max(checkpoint.get("step", 0) for checkpoint in checkpoints),
        "pretrained": any(checkpoint.get("pretrained") for checkpoint in checkpoints),
    }
