"""A moving average of the weights, which as a rule answers better than the last step's own.

Polyak and Juditsky, SIAM J. Control and Optimization 30(4), 1992; as an exponential average with a rising decay as in
TensorFlow's ExponentialMovingAverage(num_updates=...).
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn as nn


class WeightAverage:
    """average <- decay * average + (1 - decay) * weights, after every step; statistics of norms likewise.

    The decay rises as (1 + step) / (10 + step) to the one that is asked for, so that a short run's average does not
    remember the random weights of its beginning. Whole numbers, such as counts of batches, are copied.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.state = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """After optimiser step `step`, counted from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        averages, values = [], []
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                averages.append(self.state[name])
                values.append(value)
            else:
                self.state[name].copy_(value)
        torch._foreach_lerp_(averages, values, 1 - decay)

    @contextmanager
    def in_place_of(self, model: nn.Module) -> Iterator[None]:
        """The model has the average's weights inside, and its own again after it."""
        own = {name: value.detach().clone() for name, value in model.state_dict().items()}
        model.load_state_dict(self.state)
        try:
            yield
        finally:
            model.load_state_dict(own)

    def load(self, state: dict[str, torch.Tensor]) -> None:
        for name, value in state.items():
            self.state[name].copy_(value)
