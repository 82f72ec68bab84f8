import numpy as np
import pytest
import torch

from network.weights.caffe import c3d_shapes
from tests.helpers.weights import NUM_CLASSES


@pytest.fixture(scope="module")
def c3d_state() -> dict[str, torch.Tensor]:
    """A whole C3D of random values, conv1 for B, G, R; about the sizes at which a signal keeps its own."""
    generator, state = torch.Generator().manual_seed(11), {}
    for name, shape in c3d_shapes().items():
        shape = (NUM_CLASSES, *shape) if name.startswith("fc8.") else shape
        fan_in = int(np.prod(shape[1:])) or 1
        # a pattern of 65,521 numbers, repeated: a prime, so that no two rows of a matrix are alike
        some = torch.randn(65_521, generator=generator) * (2 / fan_in) ** 0.5
        count = int(np.prod(shape))
        state[name] = some.repeat(count // len(some) + 1)[:count].view(shape)
    return state
