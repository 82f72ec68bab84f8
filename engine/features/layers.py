"""Layers of a network whose output is the feature."""

from collections.abc import Callable

import torch
import torch.nn as nn

from common.errors import UserError
from network.base import VideoModel

EVERY_MODEL_HAS = ("pool", "prob")


def layer_reader(model: VideoModel, layer: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """A function that maps clips (B, C, T, H, W) to features (B, D) float32, for a model in eval mode.

    fc6, fc7  of C3D, after ReLU (Caffe's relu6 and relu7 work in place, so its blobs of that name are rectified)
    pool      the input of the last layer, for every model; for C3D that is fc7. Maps are averaged over positions.
    prob      softmax of the logits
    Raises UserError for a layer that the model does not have.
    """
    assert not model.training, "dropout would make each feature another one"
    if layer == "prob":
        return lambda x: model(x).float().softmax(1)
    if layer == "pool":
        return lambda x: _flat(model.forward_features(x).float())
    if not isinstance(getattr(model, layer, None), nn.Linear):
        raise UserError(
            f"--layer {layer} is a layer of C3D, not of {type(model).__name__}. All models have: "
            f"{', '.join(EVERY_MODEL_HAS)}."
        )

    def read(x: torch.Tensor) -> torch.Tensor:
        said: list[torch.Tensor] = []
        hook = getattr(model, layer).register_forward_hook(lambda _, __, output: said.append(output))
        try:
            model.forward_features(x)
        finally:
            hook.remove()
        return said[0].float().relu()  # (B, 4096)

    return read


def _flat(features: torch.Tensor) -> torch.Tensor:
    """(B, D) as it is; (B, D, ...) averaged over positions -> (B, D)"""
    return features if features.ndim == 2 else features.flatten(2).mean(2)
