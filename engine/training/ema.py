"""The exponential moving average of the weights, which usually generalises better than the last step's weights.

Polyak and Juditsky, SIAM J. Control and Optimization 30(4), 1992; with a rising decay as in TensorFlow's
ExponentialMovingAverage(num_updates=...).
"""

import torch
import torch.nn as nn
from torch.optim.swa_utils import AveragedModel


class WeightAverage(AveragedModel):
    """average <- decay * average + (1 - decay) * weights after every step, statistics of norm layers included.

    The decay rises as (1 + step) / (10 + step) to the given one, so that the average of a short run does not remember
    its random initial weights. Integers, such as counts of batches, are copied. The averaged network is `.module`.
    """

    def __init__(self, model: nn.Module, decay: float):
        super().__init__(model, multi_avg_fn=self._average, use_buffers=True)
        self.n_averaged.fill_(1)  # AveragedModel would copy the weights at its first update
        self.module.requires_grad_(False)
        self.max_decay = decay

    def update(self, model: nn.Module, step: int) -> None:
        """Averages in the weights after optimiser step `step`, counted from 0."""
        self.decay = min(self.max_decay, (1 + step) / (10 + step))
        self.update_parameters(model)

    @torch.no_grad()
    def _average(self, averages: list[torch.Tensor], values: list[torch.Tensor], _: torch.Tensor) -> None:
        if averages[0].is_floating_point():
            torch._foreach_lerp_(averages, values, 1 - self.decay)
        else:
            torch._foreach_copy_(averages, values)
