"""Pretraining without labels: two clips of one video are to be alike, and unlike all others.

The loss is InfoNCE (van den Oord et al. 2018) on the output of a projection head (Chen et al., SimCLR, 2020). A clip
is compared with the clips of the other videos of its batch and with clips whose frames have lost their order, so that
the network has to see motion (Tao et al., Inter-Intra Contrastive framework, 2020).
"""

from functools import lru_cache

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

from common.errors import UserError
from common.random_streams import DISORDER, epoch_stream
from network.base import VideoModel

VIEWS = 3  # of a video: two clips, and the first once more in disorder
HIDDEN, FEATURES = 256, 128  # values of the projection head's layers
TEMPERATURE = 0.1


def add_projection(network: VideoModel) -> None:
    """Replaces the last layer by a projection head of two layers. Raises UserError where it is no linear layer."""
    last = network.get_submodule(network.head_name)
    if not isinstance(last, nn.Linear):
        raise UserError(
            f"pretrain.py takes networks whose last layer is a linear one; {type(network).__name__} has "
            f"{type(last).__name__}."
        )
    head = nn.Sequential(
        nn.Linear(last.in_features, HIDDEN, bias=False), nn.BatchNorm1d(HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, FEATURES)
    )
    network.set_submodule(network.head_name, head)


@lru_cache(maxsize=2)
def draw_disorder(seed: int, epoch: int, num_items: int, length: int) -> np.ndarray:
    """(num_items, length) an order of a clip's frames for each position of an epoch."""
    return epoch_stream(seed, epoch, DISORDER).permuted(np.tile(np.arange(length), (num_items, 1)), axis=1)


def three_views(clips: torch.Tensor, mirrored: torch.Tensor, orders: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Two clips of each video, (B, 2, T, H, W, 3), and a bit for each that is mirrored, (B,) -> all first clips, all
    second ones, the first ones with their frames in the orders (B, T): (3B, T, H, W, 3); (3B,) bool."""
    first, second = clips.unbind(1)
    orders = torch.from_numpy(orders).to(clips.device, non_blocking=True)
    disordered = first[torch.arange(len(first), device=clips.device)[:, None], orders]
    mirrored = torch.cat([mirrored & 1, mirrored >> 1, mirrored & 1])
    return torch.cat([first, second, disordered]), mirrored.bool()


def pair_losses(output: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The projections of three_views, (3B, D) -> the loss of each video, (B,), and the share of its two clips whose
    nearest clip in the batch is the other one, (B,)."""
    z = F.normalize(output.float(), dim=1)
    num_videos = len(z) // VIEWS
    clips = 2 * num_videos
    similar = z[:clips] @ z.T / TEMPERATURE
    similar = similar.masked_fill(torch.eye(clips, len(z), dtype=torch.bool, device=z.device), float("-inf"))
    partner = torch.arange(clips, device=z.device).roll(num_videos)
    losses = F.cross_entropy(similar, partner, reduction="none")
    found = (similar[:, :clips].argmax(1) == partner).float()
    return losses.view(2, -1).mean(0), found.view(2, -1).mean(0)
