"""The networks: create_model("r3d_18", num_classes=101). `python -m network` prints the list."""

from network import c3d, video_resnet  # noqa: F401  (models register when their module is imported)
from network.registry import (
    InputSpec,
    create_model,
    input_spec,
    list_models,
    model_entry,
    model_options,
    register_model,
)

__all__ = [
    "InputSpec",
    "create_model",
    "input_spec",
    "list_models",
    "model_entry",
    "model_options",
    "register_model",
]
