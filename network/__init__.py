"""The networks: create_model("r3d_18", num_classes=101). `python -m network` prints the list."""

from common.input_spec import INPUTS, InputSpec
from network.registry import (
    check_model_name,
    create_model,
    input_spec,
    list_models,
    model_entry,
    model_options,
    register_model,
)

__all__ = [
    "INPUTS",
    "InputSpec",
    "check_model_name",
    "create_model",
    "input_spec",
    "list_models",
    "model_entry",
    "model_options",
    "register_model",
]
