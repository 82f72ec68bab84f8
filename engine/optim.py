"""Optimiser and learning rate."""

import math

import torch
import torch.nn as nn

from engine.config import TrainConfig

HEAD_LR_SCALE = 10.0  # the new last layer of pretrained weights learns faster than what is already good


def build_optimizer(model: nn.Module, config: TrainConfig, pretrained: bool = False) -> torch.optim.Optimizer:
    """SGD with momentum 0.9, Adam or AdamW over four groups: trunk and head, with and without weight decay.

    Norms and biases (everything of one dimension) are not decayed. With a pretrained trunk the head learns at 10 times
    the rate. Each group keeps its peak rate as "peak_lr"; Schedule sets "lr".
    """
    head = f"{model.head_name}."
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((name.startswith(head), parameter.ndim > 1), []).append(parameter)
    settings = [
        {
            "params": parameters,
            "lr": config.lr,
            "peak_lr": config.lr * (HEAD_LR_SCALE if pretrained and in_head else 1.0),
            "weight_decay": config.weight_decay if decayed else 0.0,
        }
        for (in_head, decayed), parameters in groups.items()
    ]
    fused = next(model.parameters()).is_cuda
    if config.optimizer == "sgd":
        return torch.optim.SGD(settings, lr=config.lr, momentum=0.9, fused=fused)
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    return kind(settings, lr=config.lr, fused=fused)


class Schedule:
    """The learning rate as a function of the step alone, so that a resumed run needs nothing but its step.

    cosine   rises to the peak over the warm-up, then falls along half a cosine to zero at the end
    step     rises likewise, then is a tenth from half of the steps on and a hundredth from three quarters on
    """

    def __init__(self, config: TrainConfig, steps_per_epoch: int):
        self.kind = config.schedule
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
        """Sets every group's rate for this step; returns the trunk's."""
        factor = self.factor(step)
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor
        return min(group["lr"] for group in optimizer.param_groups)

    def state_dict(self, step: int) -> dict:
        return {"step": step, "total_steps": self.total_steps, "warmup_steps": self.warmup_steps}
