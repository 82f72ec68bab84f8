"""C3D: eight 3x3x3 convolutions, five poolings, three linear layers.

Tran, Bourdev, Fergus, Torresani, Paluri: "Learning Spatiotemporal Features with 3D Convolutional Networks", ICCV 2015.
Space and time are treated alike, as VGG treats height and width; only the first pooling keeps all frames apart.
"""

from collections.abc import Callable

import torch
import torch.nn as nn
import torch.nn.functional as F

from common.errors import UsageError, UserError
from common.input_spec import InputSpec
from network.base import VideoModel
from network.registry import register_model

C3D_INPUT = InputSpec(clip_len=16, frame_stride=1, resize=(171, 128), crop_size=112)


class C3D(VideoModel):
    """(B, 3, 16, 112, 112) -> (B, num_classes) logits. Any other clip is a UserError: fc6 has 8192 inputs.

    norm     None, as published, or a function from a number of channels to a normalisation layer, such as
             nn.BatchNorm3d. The layer stands between each convolution and its ReLU, and its bias replaces the
             convolution's.
    pool5    "ceil": Caffe's windows over 7 rows, [0 1][2 3][4 5][6 .], of which only the last is cut short.
             "symmetric": [. 0][1 2][3 4][5 6], as in many ports. The shape is the same and the values differ, so it is
             only for weights that were trained with it.
    dropout  after fc6 and fc7
    """

    head_name = "fc8"
    stem_names = ("conv1", "norm1")
    stage_names = ("norm1", "norm2", "norm3b", "norm4b", "norm5b")  # before each pool

    def __init__(
        self,
        num_classes: int,
        norm: Callable[[int], nn.Module] | None = None,
        pool5: str = "ceil",
        dropout: float = 0.5,
    ):
        super().__init__()
        if pool5 not in ("ceil", "symmetric"):
            raise UsageError(f"pool5 must be 'ceil' (Caffe's) or 'symmetric', but is '{pool5}'.")

        def conv(in_channels: int, out_channels: int) -> nn.Conv3d:
            return nn.Conv3d(in_channels, out_channels, kernel_size=3, padding=1, bias=norm is None)

        def norm_or_nothing(channels: int) -> nn.Module:
            return nn.Identity() if norm is None else norm(channels)

        self.conv1, self.norm1 = conv(3, 64), norm_or_nothing(64)
        self.conv2, self.norm2 = conv(64, 128), norm_or_nothing(128)
        self.conv3a, self.norm3a = conv(128, 256), norm_or_nothing(256)
        self.conv3b, self.norm3b = conv(256, 256), norm_or_nothing(256)
        self.conv4a, self.norm4a = conv(256, 512), norm_or_nothing(512)
        self.conv4b, self.norm4b = conv(512, 512), norm_or_nothing(512)
        self.conv5a, self.norm5a = conv(512, 512), norm_or_nothing(512)
        self.conv5b, self.norm5b = conv(512, 512), norm_or_nothing(512)

        self.pool1 = nn.MaxPool3d((1, 2, 2))
        self.pool = nn.MaxPool3d(2)
        self.pool5 = nn.MaxPool3d(2, 2, ceil_mode=True) if pool5 == "ceil" else nn.MaxPool3d(2, 2, padding=(0, 1, 1))

        self.fc6 = nn.Linear(512 * 1 * 4 * 4, 4096)
        self.fc7 = nn.Linear(4096, 4096)
        self.fc8 = nn.Linear(4096, num_classes)
        self.relu = nn.ReLU()  # of the convolutions
        self.dropout = nn.Dropout(dropout)

        init_weights(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 3, 16, 112, 112) -> (B, 4096): the output of fc7 after its ReLU."""
        check_size(x, self.conv1.in_channels)

        x = self.relu(self.norm1(self.conv1(x)))
        x = self.pool1(x)  # (B, 64, 16, 56, 56)
        x = self.relu(self.norm2(self.conv2(x)))
        x = self.pool(x)  # (B, 128, 8, 28, 28)
        x = self.relu(self.norm3a(self.conv3a(x)))
        x = self.relu(self.norm3b(self.conv3b(x)))
        x = self.pool(x)  # (B, 256, 4, 14, 14)
        x = self.relu(self.norm4a(self.conv4a(x)))
        x = self.relu(self.norm4b(self.conv4b(x)))
        x = self.pool(x)  # (B, 512, 2, 7, 7)
        x = self.relu(self.norm5a(self.conv5a(x)))
        x = self.relu(self.norm5b(self.conv5b(x)))
        x = self.pool5(x)  # (B, 512, 1, 4, 4)

        x = x.flatten(1)  # (B, 8192), a clip stays a row
        x = self.dropout(F.relu(self.fc6(x)))  # (B, 4096)
        return F.relu(self.fc7(x))

    def convolutions(self) -> list[nn.Conv3d]:
        """The eight convolutions, each followed by its norm, where there is one, and by relu."""
        return [layer for layer in self.children() if isinstance(layer, nn.Conv3d)]

    def forward_head(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 4096) -> (B, num_classes) logits."""
        return self.fc8(self.dropout(x))


def check_size(x: torch.Tensor, channels: int = 3) -> None:
    """Raises UserError unless x is (B, channels, 16, 112, 112)."""
    size, clip_len = C3D_INPUT.crop_size, C3D_INPUT.clip_len
    needed = (channels, clip_len, size, size)
    if x.ndim != 5 or tuple(x.shape[1:]) != needed:
        raise UserError(
            f"C3D got an input of {tuple(x.shape)}, but its fc6 needs (B, {', '.join(map(str, needed))}): "
            f"{clip_len} frames (--clip-len {clip_len}) of {size}x{size} pixels (--crop-size {size})."
        )


def init_weights(model: C3D) -> None:
    """Convolutions: He et al. 2015 (arXiv 1502.01852) over their inputs, so that eight of them without norms keep the
    size of the signal. Linear layers: the small Gaussians of the Caffe settings, 0.005 and 0.01 for fc8. With He's
    initialisation fc8 would get 4096 values of size 1, nearly the same for every clip; its first gradient would have a
    norm of 100, and SGD would diverge at a rate of 0.003. Biases begin at 0; Caffe's 1 belongs to inputs of 0 to 255.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01 if module is model.fc8 else 0.005)
        if isinstance(module, nn.Conv3d | nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)


# 0.003 is the authors' rate from scratch; at 0.01 the normed network's first steps jump to losses far above chance.
DEFAULTS = {"optimizer": "sgd", "lr": 0.003, "weight_decay": 5e-4, "batch_size": 30, "epochs": 60, "warmup_epochs": 2.0}


SLOW_START = (
    "c3d has no normalisation layers and learns slowly from scratch; c3d_bn does better, and so does --weights FILE."
)


@register_model(C3D_INPUT, **DEFAULTS, from_scratch=SLOW_START)
def c3d(num_classes: int, pool5: str = "ceil", dropout: float = 0.5) -> C3D:
    return C3D(num_classes, norm=None, pool5=pool5, dropout=dropout)


@register_model(C3D_INPUT, **DEFAULTS)
def c3d_bn(num_classes: int, pool5: str = "ceil", dropout: float = 0.5) -> C3D:
    return C3D(num_classes, norm=nn.BatchNorm3d, pool5=pool5, dropout=dropout)


def layer_norm(channels: int) -> nn.GroupNorm:
    """Layer normalisation (Ba, Kiros, Hinton 2016, arXiv 1607.06450): mean and variance over channels, time and space
    of one clip. Normalising the channels of each position alone would amplify a still corner to the strength of the
    action. Scale and shift are one a channel, 2 * 2752 parameters over the eight norms; one a value would be 13
    million each for conv1 alone. The rest of the batch has no influence, so training, evaluation and batches of one
    give the same.
    """
    return nn.GroupNorm(1, channels)


@register_model(C3D_INPUT, **DEFAULTS)
def c3d_ln(num_classes: int, pool5: str = "ceil", dropout: float = 0.5) -> C3D:
    return C3D(num_classes, norm=layer_norm, pool5=pool5, dropout=dropout)
