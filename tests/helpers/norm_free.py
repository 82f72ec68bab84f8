"""A network without batch norm: no clip touches another, so steps may be divided in any way."""

import torch
import torch.nn as nn

from common.input_spec import InputSpec
from network.base import VideoModel
from network.registry import ModelEntry, TrainDefaults


class NormFree(VideoModel):
    head_name, stem_names = "fc", ("stem",)

    def __init__(self, num_classes: int, dropout: float = 0.0):
        super().__init__()
        self.stem = nn.Conv3d(3, 8, 3, stride=(1, 2, 2), padding=1)
        self.body = nn.Conv3d(8, 16, 3, stride=2, padding=1)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(16, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 3, T, H, W) -> (B, num_classes) logits."""
        x = self.body(self.stem(x).tanh()).tanh()
        return self.fc(self.dropout(x.mean(dim=(2, 3, 4))))


SPEC = InputSpec(clip_len=4, frame_stride=2, resize=(80, 60), crop_size=32)
ENTRY = ModelEntry("norm_free", NormFree, SPEC, TrainDefaults(lr=0.1, batch_size=4, epochs=2, warmup_epochs=0.0))
