"""Answers to clips -> accuracies of clips and of videos."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

from common.console import progress
from dataloaders.loader import ClipLoader
from engine.evaluation.metrics import topk_correct
from engine.hardware.distributed import all_gather
from engine.predictor import Logits, network_logits
from network import InputSpec


@dataclass(frozen=True)
class Evaluation:
    """Accuracies in percent, and what they were computed from.

    top1, top5   of videos: softmax averaged over a video's clips; top5 is top-min(5, classes)
    clip_top1    of single clips
    loss         mean cross-entropy of clips
    probs        (V, K) float64, one row per video       labels     (V,) class ids
    clips_right  (V,) how many of a video's clips are right, of num_clips (V,)
    """

    top1: float
    top5: float
    clip_top1: float
    loss: float
    probs: np.ndarray
    labels: np.ndarray
    clips_right: np.ndarray
    num_clips: np.ndarray

    def to_dict(self) -> dict:
        return {
            "top1": self.top1,
            "top5": self.top5,
            "clip_top1": self.clip_top1,
            "loss": self.loss,
            "num_videos": len(self.labels),
        }


def evaluate(
    model: nn.Module,
    loader: ClipLoader,
    spec: InputSpec,
    device: torch.device,
    amp: torch.dtype | None = None,
    clips_at_once: int = 32,
    stop: Callable[[], bool] = lambda: False,
    label: str = "Evaluating",
    videos: np.ndarray | None = None,
) -> Evaluation | None:
    """Runs every clip of an EvalDataset through the network. Returns None where `stop` ends it between two batches.

    An item of a WindowDataset is one window: `videos` (I,) then says which video each item belongs to, and a video's
    answer is the mean over all its clips. Where several processes work together, each runs its loader's share, and all
    return the whole. The network is left in the mode it was in. Nothing is drawn at random, so the same weights give
    the same numbers.
    """
    was_training = model.training
    model.eval()
    try:
        return evaluate_answers(network_logits(model, spec, device, amp), loader, clips_at_once, stop, label, videos)
    finally:
        model.train(was_training)


def evaluate_answers(
    logits_of: Logits,
    loader: ClipLoader,
    clips_at_once: int = 32,
    stop: Callable[[], bool] = lambda: False,
    label: str = "Evaluating",
    videos: np.ndarray | None = None,
) -> Evaluation | None:
    """evaluate() for whatever answers clips (B, T, h, w, 3) uint8, as the loader has them, with logits (B, K)."""
    rows, stopped = [], False  # per batch: positions (B,), probs (B, K), labels (B,), clip hits, clip losses (B, N)
    for clips, labels, positions in progress(loader, len(loader), label, "batches"):
        if stop():
            stopped = True
            break
        num_items, num_clips = clips.shape[:2]
        clips = clips.flatten(0, 1)  # (B * N, T, h, w, 3)
        logits = torch.cat([logits_of(part) for part in clips.split(clips_at_once)]).float().cpu()  # (B * N, K)
        clip_labels = labels.repeat_interleave(num_clips)
        hits = topk_correct(logits, clip_labels).view(num_items, num_clips)
        losses = F.cross_entropy(logits, clip_labels, reduction="none").view(num_items, num_clips)
        probs = logits.double().softmax(1).view(num_items, num_clips, -1).mean(1)  # (B, K)
        rows.append((positions, probs, labels, hits, losses))

    shares = all_gather(None if stopped else rows)
    if any(share is None for share in shares):
        return None
    columns = zip(*[row for share in shares for row in share], strict=True)
    positions, probs, labels, clip_hits, clip_losses = (torch.cat(column) for column in columns)
    order = positions.argsort()
    assert torch.equal(positions[order], torch.arange(len(loader.dataset))), "each item once"
    numbers = positions[order] if videos is None else torch.as_tensor(videos)
    return by_video(probs[order], labels[order], numbers, clip_hits[order], clip_losses[order])


def by_video(
    probs: torch.Tensor, labels: torch.Tensor, videos: torch.Tensor, hits: torch.Tensor, losses: torch.Tensor
) -> Evaluation:
    """Accuracies from I items: (I, K) softmax, (I,) ids, (I,) numbers of their videos from 0 to V - 1, and (I, N) hits
    and (I, N) losses of their clips. All items have equally many clips."""
    clip_top1, loss = 100 * hits.double().mean().item(), losses.double().mean().item()
    items_of = videos.bincount()  # (V,)
    num_videos = len(items_of)
    probs = probs.new_zeros(num_videos, probs.shape[1]).index_add_(0, videos, probs) / items_of[:, None]
    labels = labels.new_zeros(num_videos).index_copy_(0, videos, labels)
    clips_right = items_of.new_zeros(num_videos).index_add_(0, videos, hits.sum(1))
    return Evaluation(
        top1=100 * topk_correct(probs, labels).double().mean().item(),
        top5=100 * topk_correct(probs, labels, 5).double().mean().item(),
        clip_top1=clip_top1,
        loss=loss,
        probs=probs.numpy(),
        labels=labels.numpy(),
        clips_right=clips_right.numpy(),
        num_clips=(items_of * hits.shape[1]).numpy(),
    )
