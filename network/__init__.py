"""The networks: create_model("r3d_18", num_classes=101). `python -m network` prints the list."""

from common.input_spec import INPUTS, InputSpec
from network import c3d, cnn_lstm, torchvision_zoo, video_resnet  # noqa: F401  (models register when their module is imported)
from network.base import freeze
from network.registry import create_model, input_spec, list_models, model_entry, model_options, register_model

__all__ = [
    "INPUTS",
    "InputSpec",
    "create_model",
    "freeze",
    "input_spec",
    "list_models",
    "model_entry",
    "model_options",
    "register_model",
]
