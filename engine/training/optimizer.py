"""Optimiser and learning rate."""

import math
from collections.abc import Collection

import numpy as np
import torch
import torch.nn as nn

from engine.training.config import TrainConfig


def build_optimizer(model: nn.Module, config: TrainConfig, new: Collection[str] = ()) -> torch.optim.Optimizer:
    """SGD with momentum 0.9, Adam or AdamW over up to four groups: old and new, with and without weight decay.

    Norms and biases (everything of one dimension) are not decayed. `new` names the parameters that pretrained weights
    did not bring, the last layer as a rule: they learn at config.head_lr_scale times the rate. Each group keeps its
    peak rate as "peak_lr"; Schedule sets "lr".
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((name in new, parameter.ndim > 1), []).append(parameter)
    settings = [
        {
            "params": parameters,
            "lr": config.lr,
            "peak_lr": config.lr * (config.head_lr_scale if is_new else 1.0),
            "weight_decay": config.weight_decay if decayed else 0.0,
        }
        for (is_new, decayed), parameters in groups.items()
    ]
    fused = next(model.parameters()).is_cuda
    if config.optimizer == "sgd":
        return torch.optim.SGD(settings, lr=config.lr, momentum=0.9, fused=fused)
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    return kind(settings, lr=config.lr, fused=fused)


def balance(labels: np.ndarray, num_classes: int) -> torch.Tensor:
    """(N,) ids of the training clips -> (num_classes,) weights by inverse frequency, 1 in the mean over the clips.

    As scikit-learn's "balanced": N / (classes with clips * clips of the class). A class without clips has 0.
    """
    counts = np.bincount(labels, minlength=num_classes)
    weights = np.divide(len(labels), counts * (counts > 0).sum(), out=np.zeros(num_classes), where=counts > 0)
    return torch.from_numpy(weights).float()


def clip_weights(class_weights: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """(B,) the weight of each clip's loss: that of its class, or of its classes by their shares under mixup and cutmix.
    It belongs to the clip and not to the smoothed target, whose small shares of other classes it would enlarge.

    class_weights (K,); targets (B,) ids or (B, K) shares
    """
    return class_weights[targets] if targets.ndim == 1 else targets @ class_weights


class Schedule:
    """The learning rate as a function of the step alone, so that a resumed run needs nothing but its step.

    cosine   rises to the peak over the warm-up, then falls along half a cosine to zero at the end
    step     rises likewise, then is a tenth from half of the steps on and a hundredth from three quarters on
    """

    def __init__(self, config: TrainConfig, steps_per_epoch: int):
        self.kind, self.peak_lr = config.schedule, config.lr
        self.total_steps = max(config.epochs * steps_per_epoch, 1)
        self.warmup_steps = round(config.warmup_epochs * steps_per_epoch)

    def factor(self, step: int) -> float:
        """Share of the peak rate at which step `step`, counted from 0, is made."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        if self.kind == "step":
            return 0.1 ** sum(step >= self.total_steps * share for share in (0.5, 0.75))
        done = (step - self.warmup_steps) / max(self.total_steps - self.warmup_steps, 1)
        return 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))

    def set_lr(self, optimizer: torch.optim.Optimizer, step: int) -> float:
        """Sets every group's rate for this step; returns that of what is not new."""
        factor = self.factor(step)
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor
        return self.peak_lr * factor

    def state_dict(self, step: int) -> dict:
        return {"step": step, "total_steps": self.total_steps, "warmup_steps": self.warmup_steps}
