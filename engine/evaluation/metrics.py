"""Metrics that are summed up on the device and read when they are logged."""

import torch


def topk_correct(logits: torch.Tensor, labels: torch.Tensor, k: int = 1) -> torch.Tensor:
    """(B, K) scores, (B,) ids -> (B,) bool: is the label among the k highest? A k above K counts as K."""
    k = min(k, logits.shape[1])
    return (logits.topk(k, dim=1).indices == labels[:, None]).any(dim=1)


class Mean:
    """A mean over samples. The sum stays on the device, so adding waits for nothing; a small batch counts as few."""

    def __init__(self, device: torch.device | str = "cpu"):
        self.sum = torch.zeros((), device=device)
        self.count = 0

    def add(self, values: torch.Tensor) -> None:
        """values: (B,), one a sample."""
        self.sum += values.detach().float().sum()
        self.count += values.numel()

    def value(self) -> float:
        """The mean so far; nan without samples. Waits for the device."""
        return self.sum.item() / self.count if self.count else float("nan")

    def state(self) -> list:
        """The sum and count as plain numbers, for a checkpoint."""
        return [self.sum.item(), self.count]

    def load(self, state: list) -> None:
        self.sum.fill_(state[0])
        self.count = state[1]
