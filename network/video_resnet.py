"""R3D, MC3 and R(2+1)D: one residual network over clips; they differ by the convolution of each stage.

Tran, Wang, Torresani, Ray, LeCun, Paluri: "A Closer Look at Spatiotemporal Convolutions for Action Recognition", CVPR
2018. R3D convolves space and time together everywhere, MC3 only in the first stages, R(2+1)D space first and then time.
Parameter names are torchvision's, so that weights pass unchanged in both directions.
"""

import torch
import torch.nn as nn

from common.input_spec import InputSpec
from network.base import VideoModel
from network.registry import register_model

Stride = tuple[int, int, int]  # time, height, width


class Conv3x3x3(nn.Conv3d):
    """R3D's convolution over space and time together."""

    time_stride = True

    def __init__(self, in_channels: int, out_channels: int, mid_channels: int, stride: Stride):
        super().__init__(in_channels, out_channels, 3, stride, padding=1, bias=False)


class Conv1x3x3(nn.Conv3d):
    """MC3's convolution in the later stages: over space only, without a stride in time."""

    time_stride = False

    def __init__(self, in_channels: int, out_channels: int, mid_channels: int, stride: Stride):
        super().__init__(in_channels, out_channels, (1, 3, 3), stride, padding=(0, 1, 1), bias=False)


class Conv2Plus1D(nn.Sequential):
    """R(2+1)D's convolution: 1x3x3 over space, norm, ReLU, then 3x1x1 over time. The ReLU between them is the extra
    nonlinearity over a full 3x3x3."""

    time_stride = True

    def __init__(self, in_channels: int, out_channels: int, mid_channels: int, stride: Stride):
        time, height, width = stride
        super().__init__(
            nn.Conv3d(in_channels, mid_channels, (1, 3, 3), (1, height, width), padding=(0, 1, 1), bias=False),
            nn.BatchNorm3d(mid_channels),
            nn.ReLU(inplace=True),
            nn.Conv3d(mid_channels, out_channels, (3, 1, 1), (time, 1, 1), padding=(1, 0, 0), bias=False),
        )


Conv = type[Conv3x3x3] | type[Conv1x3x3] | type[Conv2Plus1D]


def mid_width(in_channels: int, out_channels: int) -> int:
    """Width at which the (2+1)D pair has as many weights as the full 3x3x3 (paper, section 3.5):

    3*3*in*mid + 3*mid*out = 3*3*3*in*out
    """
    return 27 * in_channels * out_channels // (9 * in_channels + 3 * out_channels)


class BasicBlock(nn.Module):
    """Two convolutions and a shortcut. (B, in, T, H, W) -> (B, out, T/s, H/s, W/s), T kept by Conv1x3x3.

    mid_per_conv  False: both convolutions have the mid width of the block's input and output channels, as in
                  torchvision and its weights.
                  True: each convolution has the mid width of its own channels, as in the paper and its Caffe2 code. The
                  first block of a stage differs: 230 and 288 instead of 230 and 230 from 64 to 128 channels.
    """

    def __init__(self, in_channels: int, out_channels: int, conv: Conv, stride: int, mid_per_conv: bool = False):
        super().__init__()
        strides = (stride if conv.time_stride else 1, stride, stride)
        mid1 = mid_width(in_channels, out_channels)
        mid2 = mid_width(out_channels, out_channels) if mid_per_conv else mid1

        self.conv1 = nn.Sequential(
            conv(in_channels, out_channels, mid1, strides), nn.BatchNorm3d(out_channels), nn.ReLU(inplace=True)
        )
        self.conv2 = nn.Sequential(conv(out_channels, out_channels, mid2, (1, 1, 1)), nn.BatchNorm3d(out_channels))
        self.relu = nn.ReLU(inplace=True)

        self.downsample = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv3d(in_channels, out_channels, 1, strides, bias=False), nn.BatchNorm3d(out_channels)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(self.conv2(self.conv1(x)) + shortcut)


def stem_3d(width: int) -> nn.Sequential:
    """(B, 3, T, H, W) -> (B, width, T, H/2, W/2)"""
    return nn.Sequential(
        nn.Conv3d(3, width, (3, 7, 7), stride=(1, 2, 2), padding=(1, 3, 3), bias=False),
        nn.BatchNorm3d(width),
        nn.ReLU(inplace=True),
    )


def stem_2plus1d(width: int) -> nn.Sequential:
    """(B, 3, T, H, W) -> (B, width, T, H/2, W/2): 1x7x7 over space, then 3x1x1 over time."""
    mid = width * 45 // 64  # 45 for 64, as in the authors' code; mid_width's formula would give 83
    return nn.Sequential(
        nn.Conv3d(3, mid, (1, 7, 7), stride=(1, 2, 2), padding=(0, 3, 3), bias=False),
        nn.BatchNorm3d(mid),
        nn.ReLU(inplace=True),
        nn.Conv3d(mid, width, (3, 1, 1), padding=(1, 0, 0), bias=False),
        nn.BatchNorm3d(width),
        nn.ReLU(inplace=True),
    )


class VideoResNet(VideoModel):
    """(B, 3, T, H, W) -> (B, num_classes) logits, for any T, H and W.

    convs          the convolution of each of the four stages
    factored_stem  a (2+1)D stem instead of a 3x7x7 one
    blocks         blocks of each stage: (2, 2, 2, 2) makes 18 layers, (3, 4, 6, 3) makes 34
    widths         channels of each stage
    stem_width     channels of the stem; None: those of the first stage
    dropout        probability before the last layer
    mid_per_conv   see BasicBlock
    bn_eps         epsilon of the batch norms: 1e-5 in PyTorch, 1e-3 in the authors' Caffe2 code
    """

    head_name = "fc"
    stem_names = ("stem",)
    stage_names = ("layer1", "layer2", "layer3", "layer4")

    def __init__(
        self,
        num_classes: int,
        convs: tuple[Conv, Conv, Conv, Conv],
        factored_stem: bool = False,
        blocks: tuple[int, int, int, int] = (2, 2, 2, 2),
        widths: tuple[int, int, int, int] = (64, 128, 256, 512),
        stem_width: int | None = None,
        dropout: float = 0.0,
        mid_per_conv: bool = False,
        bn_eps: float = 1e-5,
    ):
        super().__init__()
        stem_width = widths[0] if stem_width is None else stem_width
        self.stem = (stem_2plus1d if factored_stem else stem_3d)(stem_width)

        def stage(index: int, in_channels: int, stride: int) -> nn.Sequential:
            width, conv = widths[index], convs[index]
            first = BasicBlock(in_channels, width, conv, stride, mid_per_conv)
            rest = (BasicBlock(width, width, conv, 1, mid_per_conv) for _ in range(blocks[index] - 1))
            return nn.Sequential(first, *rest)

        self.layer1 = stage(0, stem_width, stride=1)
        self.layer2 = stage(1, widths[0], stride=2)
        self.layer3 = stage(2, widths[1], stride=2)
        self.layer4 = stage(3, widths[2], stride=2)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(widths[3], num_classes)

        init_weights(self)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm3d):
                module.eps = bn_eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 3, T, H, W) -> (B, widths[3]), averaged over time and space. Shapes are those of widths 64 to 512."""
        x = self.stem(x)  # (B, 64, T, H/2, W/2)
        x = self.layer1(x)  # (B, 64, T, H/2, W/2)
        x = self.layer2(x)  # (B, 128, T/2, H/4, W/4); Conv1x3x3 keeps T here and below
        x = self.layer3(x)  # (B, 256, T/4, H/8, W/8)
        x = self.layer4(x)  # (B, 512, T/8, H/16, W/16)
        return x.mean(dim=(2, 3, 4))  # (B, 512)

    def forward_head(self, x: torch.Tensor) -> torch.Tensor:
        """(B, widths[3]) -> (B, num_classes) logits."""
        return self.fc(self.dropout(x))


def init_weights(model: VideoResNet) -> None:
    """He et al. 2015 (arXiv 1502.01852) over the outputs of each convolution; norms begin as identity; the last layer
    begins small. torchvision's networks start the same way.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.BatchNorm3d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
            nn.init.zeros_(module.bias)


R3D = (Conv3x3x3, Conv3x3x3, Conv3x3x3, Conv3x3x3)
MC3 = (Conv3x3x3, Conv1x3x3, Conv1x3x3, Conv1x3x3)
R2PLUS1D = (Conv2Plus1D, Conv2Plus1D, Conv2Plus1D, Conv2Plus1D)

BLOCKS_34 = (3, 4, 6, 3)

INPUT_18 = InputSpec(clip_len=16, frame_stride=2, resize=(171, 128), crop_size=112)
DEFAULTS_18 = {"optimizer": "sgd", "lr": 0.01, "weight_decay": 5e-4}

INPUT_34 = InputSpec(clip_len=32, frame_stride=1, resize=(171, 128), crop_size=112)
DEFAULTS_34 = {"optimizer": "sgd", "lr": 0.01, "weight_decay": 5e-4, "batch_size": 16}

# Small networks on small frames, for CPUs and first tries.
WIDTHS_10 = (8, 32, 64, 128)
INPUT_10 = InputSpec(clip_len=12, frame_stride=3, resize=(80, 60), crop_size=56)
DEFAULTS_10 = {"optimizer": "adamw", "lr": 2e-3, "weight_decay": 0.02, "batch_size": 16, "epochs": 24}


@register_model(INPUT_18, **DEFAULTS_18)
def r3d_18(num_classes: int, dropout: float = 0.0, bn_eps: float = 1e-5) -> VideoResNet:
    return VideoResNet(num_classes, R3D, dropout=dropout, bn_eps=bn_eps)


@register_model(INPUT_34, **DEFAULTS_34)
def r3d_34(num_classes: int, dropout: float = 0.0, bn_eps: float = 1e-5) -> VideoResNet:
    return VideoResNet(num_classes, R3D, blocks=BLOCKS_34, dropout=dropout, bn_eps=bn_eps)


@register_model(INPUT_18, **DEFAULTS_18)
def mc3_18(num_classes: int, dropout: float = 0.0, bn_eps: float = 1e-5) -> VideoResNet:
    return VideoResNet(num_classes, MC3, dropout=dropout, bn_eps=bn_eps)


@register_model(INPUT_18, **DEFAULTS_18)
def r2plus1d_18(num_classes: int, dropout: float = 0.0, bn_eps: float = 1e-5) -> VideoResNet:
    return VideoResNet(num_classes, R2PLUS1D, factored_stem=True, dropout=dropout, bn_eps=bn_eps)


# The paper's mid widths and epsilon, which the authors' published weights need.


@register_model(INPUT_18, **DEFAULTS_18)
def r2plus1d_18_paper(num_classes: int, dropout: float = 0.0, bn_eps: float = 1e-3) -> VideoResNet:
    return VideoResNet(num_classes, R2PLUS1D, factored_stem=True, mid_per_conv=True, dropout=dropout, bn_eps=bn_eps)


@register_model(INPUT_34, **DEFAULTS_34)
def r2plus1d_34(num_classes: int, dropout: float = 0.0, bn_eps: float = 1e-3) -> VideoResNet:
    return VideoResNet(num_classes, R2PLUS1D, True, BLOCKS_34, mid_per_conv=True, dropout=dropout, bn_eps=bn_eps)


@register_model(INPUT_10, **DEFAULTS_10)
def r3d_10(num_classes: int, dropout: float = 0.0, bn_eps: float = 1e-5) -> VideoResNet:
    return VideoResNet(num_classes, R3D, False, (1, 1, 1, 1), WIDTHS_10, dropout=dropout, bn_eps=bn_eps)


@register_model(INPUT_10, **DEFAULTS_10)
def mc3_10(num_classes: int, dropout: float = 0.0, bn_eps: float = 1e-5) -> VideoResNet:
    return VideoResNet(num_classes, MC3, False, (1, 1, 1, 1), WIDTHS_10, dropout=dropout, bn_eps=bn_eps)


@register_model(INPUT_10, **DEFAULTS_10)
def r2plus1d_10(num_classes: int, dropout: float = 0.0, bn_eps: float = 1e-5) -> VideoResNet:
    return VideoResNet(num_classes, R2PLUS1D, True, (1, 1, 1, 1), WIDTHS_10, dropout=dropout, bn_eps=bn_eps)
