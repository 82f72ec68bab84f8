"""torchvision's other video networks under our contract: S3D, MViT and Video Swin.

S3D   Xie, Sun, Huang, Tu, Murphy: "Rethinking Spatiotemporal Feature Learning", ECCV 2018. Inception whose convolutions
      go over space and then over time.
MViT  Fan et al.: "Multiscale Vision Transformers", ICCV 2021; v2: Li et al., CVPR 2022. A transformer with fewer and
      wider patches from stage to stage.
Swin  Liu et al.: "Video Swin Transformer", CVPR 2022. Attention within windows of space and time that shift from layer
      to layer.

Layers and parameter names are torchvision's, imported when a network is built, so its state dicts load unchanged. The
forward passes here separate features and head.
"""

import torch
import torch.nn as nn

from common.errors import UserError
from common.input_spec import InputSpec
from network.base import VideoModel
from network.input_channels import input_conv
from network.optional import import_torchvision
from network.registry import register_model


class ZooNetwork(VideoModel):
    """A network with the layers of a torchvision network, under torchvision's names."""

    def __init__(self, name: str, num_classes: int, **options: float):
        super().__init__()
        theirs = getattr(import_torchvision().models.video, name)(weights=None, num_classes=num_classes, **options)
        for layer_name, layer in theirs.named_children():
            self.add_module(layer_name, layer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 3, T, H, W) -> (B, num_classes) logits."""
        return self.forward_head(self.forward_features(x))


class S3D(ZooNetwork):
    """(B, 3, T, H, W) -> (B, num_classes) logits, for T from 14 and H, W from 224 on."""

    head_name = "classifier.1"
    stem_names = ("features.0",)
    stage_names = ("features.3", "features.6", "features.12", "features.15")  # before each pool

    @property
    def dropout(self) -> nn.Dropout:
        return self.classifier[0]

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 3, T, H, W) -> (B, 1024, T/8 - 1, H/32 - 6, W/32 - 6), averaged over 2 x 7 x 7 positions."""
        channels = input_conv(self)[1].in_channels
        if x.ndim != 5 or x.shape[1] != channels or x.shape[2] < 14 or min(x.shape[3:]) < 224:
            raise UserError(
                f"s3d got an input of {tuple(x.shape)}, but it averages over 2x7x7 positions at its end, so it needs "
                f"(B, {channels}, 14 or more, 224 or more, 224 or more): --clip-len 16 --crop-size 224."
            )
        return self.avgpool(self.features(x))

    def forward_head(self, x: torch.Tensor) -> torch.Tensor:
        """The output of forward_features -> (B, num_classes) logits, averaged over positions."""
        return self.classifier(x).mean(dim=(2, 3, 4))


class MViT(ZooNetwork):
    """(B, 3, 16, 224, 224) -> (B, num_classes) logits. Any other clip is a UserError: every position has parameters."""

    head_name = "head.1"
    stem_names = ("conv_proj", "pos_encoding")

    @property
    def dropout(self) -> nn.Dropout:
        return self.head[0]

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 3, 16, 224, 224) -> (B, 768): the class token after the last block."""
        channels = self.conv_proj.in_channels
        if x.shape[1:] != (channels, 16, 224, 224):
            raise UserError(
                f"MViT got an input of {tuple(x.shape)}, but its parameters for positions need "
                f"(B, {channels}, 16, 224, 224): 16 frames (--clip-len 16) of 224x224 pixels (--crop-size 224)."
            )
        x = self.conv_proj(x)  # (B, 96, 8, 56, 56)
        sizes = tuple(x.shape[2:])
        x = self.pos_encoding(x.flatten(2).transpose(1, 2))  # (B, 1 + 8*56*56, 96), the class token first
        for block in self.blocks:
            x, sizes = block(x, sizes)
        return self.norm(x)[:, 0]  # (B, 768), of (B, 1 + 8*7*7, 768)

    def forward_head(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 768) -> (B, num_classes) logits."""
        return self.head(x)


class Swin3D(ZooNetwork):
    """(B, 3, T, H, W) -> (B, num_classes) logits, for any T, H and W. Shapes are those of swin3d_t.

    dropout  probability before the last layer; torchvision's has no dropout there
    """

    head_name = "head"
    stem_names = ("patch_embed",)

    def __init__(self, name: str, num_classes: int, dropout: float = 0.0):
        super().__init__(name, num_classes)
        self.dropout = nn.Dropout(dropout)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 3, T, H, W) -> (B, 768), averaged over time and space."""
        x = self.pos_drop(self.patch_embed(x))  # (B, T/2, H/4, W/4, 96)
        x = self.norm(self.features(x))  # (B, T/2, H/32, W/32, 768)
        return x.mean(dim=(1, 2, 3))

    def forward_head(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 768) -> (B, num_classes) logits."""
        return self.head(self.dropout(x))


# Sizes, means and stds of torchvision's transforms for its Kinetics-400 weights; strides for videos of about 30 frames
# a second. Where those transforms only set the short side to 256, the size here is for frames of 4:3, as in UCF101:
# 341x256.

S3D_INPUT = InputSpec(16, frame_stride=2, resize=(256, 256), crop_size=224)
MVIT_INPUT = InputSpec(16, 4, resize=(341, 256), crop_size=224, mean=(0.45, 0.45, 0.45), std=(0.225, 0.225, 0.225))
SWIN_INPUT = InputSpec(16, 2, resize=(341, 256), crop_size=224, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))

S3D_DEFAULTS = {"optimizer": "sgd", "lr": 0.01, "weight_decay": 5e-4, "batch_size": 16}
TRANSFORMER_DEFAULTS = {"optimizer": "adamw", "lr": 1e-4, "weight_decay": 0.05, "batch_size": 8, "epochs": 30}
TRANSFORMER_DEFAULTS["from_scratch"] = "a transformer learns little from few videos alone: add --weights kinetics400."


@register_model(S3D_INPUT, **S3D_DEFAULTS)
def s3d(num_classes: int, dropout: float = 0.2) -> S3D:
    return S3D("s3d", num_classes, dropout=dropout)


@register_model(MVIT_INPUT, **TRANSFORMER_DEFAULTS)
def mvit_v1_b(num_classes: int, dropout: float = 0.5) -> MViT:
    return MViT("mvit_v1_b", num_classes, dropout=dropout)


@register_model(MVIT_INPUT, **TRANSFORMER_DEFAULTS)
def mvit_v2_s(num_classes: int, dropout: float = 0.5) -> MViT:
    return MViT("mvit_v2_s", num_classes, dropout=dropout)


@register_model(SWIN_INPUT, **TRANSFORMER_DEFAULTS)
def swin3d_t(num_classes: int, dropout: float = 0.0) -> Swin3D:
    return Swin3D("swin3d_t", num_classes, dropout)


@register_model(SWIN_INPUT, **TRANSFORMER_DEFAULTS)
def swin3d_s(num_classes: int, dropout: float = 0.0) -> Swin3D:
    return Swin3D("swin3d_s", num_classes, dropout)


@register_model(SWIN_INPUT, **TRANSFORMER_DEFAULTS)
def swin3d_b(num_classes: int, dropout: float = 0.0) -> Swin3D:
    return Swin3D("swin3d_b", num_classes, dropout)
