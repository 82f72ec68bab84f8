"""The random streams of a training run, by name. Each belongs to a seed and an epoch, and most to a position of the
epoch, so that neither worker threads nor an interruption change a sample.

    order      (seed, epoch)                 order of the videos
    sample     (seed, epoch, position)       frames, stride, crop and mirroring of one clip
    mixup      (seed, epoch, 0, 1)           partners and shares of mixed clips, a row for each position
    augment    (seed, epoch, 0, 2)           colours and zoom, a row for each position

Weights come from torch.manual_seed(seed). A new stream takes the next free number.
"""

import numpy as np

MIXUP, AUGMENT = 1, 2


def order_stream(seed: int, epoch: int) -> np.random.Generator:
    """The generator of an epoch's order."""
    return np.random.default_rng((seed, epoch))


def sample_stream(seed: int, epoch: int, position: int) -> np.random.Generator:
    """The generator of the clip at a position of an epoch."""
    return np.random.default_rng((seed, epoch, position))


def epoch_stream(seed: int, epoch: int, number: int) -> np.random.Generator:
    """The generator that draws a row for each position of an epoch; number: MIXUP or AUGMENT."""
    return np.random.default_rng((seed, epoch, 0, number))
