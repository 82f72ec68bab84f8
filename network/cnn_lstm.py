"""A 2D network on each frame, followed by an LSTM (CNN + LSTM) or by the mean over frames (its baseline).

Donahue et al.: "Long-term Recurrent Convolutional Networks for Visual Recognition and Description", CVPR 2015: a 2D
network turns frames into vectors, an LSTM reads them in order. Here it reads them in both directions, and attention
(Bahdanau, Cho, Bengio, ICLR 2015, arXiv 1409.0473) weighs its states over time. The mean ignores the order
of the frames: the gain of an LSTM or a 3D network over it comes from motion.

The 2D network is torchvision's ResNet (He et al., CVPR 2016) or MobileNetV2 (Sandler et al., CVPR 2018), under its
parameter names, imported when a network is built.
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

from common.errors import UsageError
from common.input_spec import InputSpec
from network.base import VideoModel
from network.optional import import_torchvision
from network.registry import register_model

POOLS = ("attention", "last", "mean")


class FrameNetwork(VideoModel):
    """Base of CNN + LSTM and the frame mean: a 2D network of torchvision as `trunk`, and a last layer `fc`."""

    head_name = "fc"

    def __init__(self, trunk: str):
        super().__init__()
        self.trunk = getattr(import_torchvision().models, trunk)(weights=None)
        if trunk == "mobilenet_v2":
            self.stem_names = ("trunk.features.0",)
            self.stage_names = tuple(f"trunk.features.{number}" for number in (1, 3, 6, 13, 18))
            self.num_features = self.trunk.last_channel  # 1280
            self.trunk.classifier = nn.Identity()
        else:
            self.stem_names = ("trunk.conv1", "trunk.bn1")
            self.stage_names = tuple(f"trunk.layer{number}" for number in (1, 2, 3, 4))
            self.num_features = self.trunk.fc.in_features  # 512, or 2048 from resnet50 on
            self.trunk.fc = nn.Identity()

    @property
    def trunk_names(self) -> tuple[str, ...]:
        return ("trunk",)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 3, T, H, W) -> (B, num_classes) logits, for any T, H and W."""
        return self.forward_head(self.forward_features(x))

    def forward_frames(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 3, T, H, W) -> (B, T, num_features), each frame by itself."""
        batch_size, _, num_frames = x.shape[:3]
        frames = x.transpose(1, 2).flatten(0, 1)  # (B*T, 3, H, W)
        return self.trunk(frames).view(batch_size, num_frames, self.num_features)

    def forward_head(self, x: torch.Tensor) -> torch.Tensor:
        """(B, features) -> (B, num_classes) logits."""
        return self.fc(self.dropout(x))


class CnnLstm(FrameNetwork):
    """(B, 3, T, H, W) -> (B, num_classes) logits, for any T, H and W.

    latent   features a frame before the LSTM
    hidden   size of the LSTM's state, in each of its two directions
    layers   layers of the LSTM
    pool     pooling of the LSTM's T states: "attention" averages them with learned weights; "last" takes each
             direction's state after all frames; "mean" averages the hidden layer's output over the frames
    dropout  probability before the last layer
    """

    def __init__(
        self,
        num_classes: int,
        trunk: str,
        *,
        latent: int = 512,
        hidden: int = 1024,
        layers: int = 1,
        pool: str = "attention",
        dropout: float = 0.0,
    ):
        super().__init__(trunk)
        if pool not in POOLS:
            raise UsageError(f"pool must be {', '.join(POOLS)}, but is '{pool}'.")
        self.pool = pool
        self.latent = nn.Sequential(nn.Linear(self.num_features, latent), RowNorm(latent, momentum=0.01))
        self.lstm = nn.LSTM(latent, hidden, layers, batch_first=True, bidirectional=True)
        if pool == "attention":
            self.attention = nn.Linear(2 * hidden, 1)
        self.hidden = nn.Sequential(nn.Linear(2 * hidden, hidden), RowNorm(hidden, momentum=0.01), nn.ReLU())
        self.dropout = nn.Dropout(dropout)
        self.fc = new_head(hidden, num_classes)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 3, T, H, W) -> (B, hidden)"""
        x = self.forward_frames(x)  # (B, T, num_features)
        latent = self.latent(x.flatten(0, 1)).view(*x.shape[:2], -1)  # (B, T, latent)
        # the LSTM's state begins at zero for every clip
        states, (final, _) = self.lstm(latent)  # (B, T, 2 * hidden), (2 * layers, B, hidden)

        if self.pool == "attention":
            return self.hidden((self.weigh_frames(states) * states).sum(dim=1))
        if self.pool == "last":
            return self.hidden(torch.cat([final[-2], final[-1]], dim=1))  # forward at T - 1, backward at 0
        return self.hidden(states.flatten(0, 1)).view(*states.shape[:2], -1).mean(dim=1)

    def weigh_frames(self, states: torch.Tensor) -> torch.Tensor:
        """(B, T, 2 * hidden) -> (B, T, 1) weights that add up to 1 over T."""
        return F.softmax(self.attention(states), dim=1)


class CnnMean(FrameNetwork):
    """(B, 3, T, H, W) -> (B, num_classes) logits, for any T, H and W: the mean of the logits of the frames.

    The last layer is linear, so applying it once to the mean of the features gives the same logits.
    """

    def __init__(self, num_classes: int, trunk: str, dropout: float = 0.0):
        super().__init__(trunk)
        self.dropout = nn.Dropout(dropout)
        self.fc = new_head(self.num_features, num_classes)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 3, T, H, W) -> (B, num_features)"""
        return self.forward_frames(x).mean(dim=1)


class RowNorm(nn.BatchNorm1d):
    """BatchNorm1d whose statistics are the mean over all batches at first, until `momentum` is more than the share of
    one: with a momentum of 0.01 they would hold a third of their initial values after 100 batches. A single row, as a
    last batch of one clip is, has no variance: it is normalised as in evaluation."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training or len(x) == 1:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            share = (1 / self.num_batches_tracked).clamp(min=self.momentum)
            self.running_mean.lerp_(x.float().mean(0), share)
            self.running_var.lerp_(x.float().var(0), share)
        return F.batch_norm(x, None, None, self.weight, self.bias, training=True, eps=self.eps)


def new_head(num_features: int, num_classes: int) -> nn.Linear:
    head = nn.Linear(num_features, num_classes)
    nn.init.normal_(head.weight, std=0.01)
    nn.init.zeros_(head.bias)
    return head


# Frames at UCF101's own size. Mean and std are those with which torchvision's ImageNet weights were trained.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
INPUT = InputSpec(16, frame_stride=4, resize=(320, 240), crop_size=224, mean=IMAGENET_MEAN, std=IMAGENET_STD)
DEFAULTS = {"optimizer": "adamw", "lr": 1e-4, "weight_decay": 0.02, "batch_size": 16, "epochs": 30}
DEFAULTS["from_scratch"] = "a network over single frames learns little from videos alone: add --weights imagenet."


@register_model(INPUT, **DEFAULTS)
def cnn_lstm(num_classes: int, **options) -> CnnLstm:
    return CnnLstm(num_classes, "resnet152", **options)


@register_model(INPUT, **DEFAULTS)
def cnn_lstm_50(num_classes: int, **options) -> CnnLstm:
    return CnnLstm(num_classes, "resnet50", **options)


@register_model(INPUT, **DEFAULTS)
def cnn_lstm_18(num_classes: int, latent: int = 256, hidden: int = 256, **options) -> CnnLstm:
    return CnnLstm(num_classes, "resnet18", latent=latent, hidden=hidden, **options)


@register_model(INPUT, **DEFAULTS)
def cnn_lstm_mobile(num_classes: int, latent: int = 256, hidden: int = 256, **options) -> CnnLstm:
    return CnnLstm(num_classes, "mobilenet_v2", latent=latent, hidden=hidden, **options)


@register_model(INPUT, **DEFAULTS)
def cnn_mean(num_classes: int, dropout: float = 0.0) -> CnnMean:
    return CnnMean(num_classes, "resnet152", dropout)


@register_model(INPUT, **DEFAULTS)
def cnn_mean_50(num_classes: int, dropout: float = 0.0) -> CnnMean:
    return CnnMean(num_classes, "resnet50", dropout)


@register_model(INPUT, **DEFAULTS)
def cnn_mean_18(num_classes: int, dropout: float = 0.0) -> CnnMean:
    return CnnMean(num_classes, "resnet18", dropout)


@register_model(INPUT, **DEFAULTS)
def cnn_mean_mobile(num_classes: int, dropout: float = 0.0) -> CnnMean:
    return CnnMean(num_classes, "mobilenet_v2", dropout)
