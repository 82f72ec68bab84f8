"""Networks: create_model("r3d_18", num_classes=101). `python -m network` prints the list.

registry         models by name, their inputs and training defaults; finds a new file by itself
base             VideoModel: head, stem and stages of every network, and freezing
c3d              C3D
video_resnet     R3D, MC3, R(2+1)D
cnn_lstm         a 2D network on frames, with an LSTM or a mean
torchvision_zoo  S3D, MViT, Swin3D
input_channels   first convolutions for another number of channels
fuse_batch_norm  batch norms folded into convolutions
flags            flags that name a network: --model, --weights, --device
optional         torchvision, imported where it is needed
cost             parameters, multiply-adds, layers
table            the table of `python -m network`
weights/         pretrained weights
__main__         `python -m network`: show, convert, check
"""

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
