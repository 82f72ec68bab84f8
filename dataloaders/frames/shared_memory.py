"""Memory that a process and its worker processes share."""

import mmap
import sys

import torch

# A forked worker costs milliseconds and copies nothing. macOS's libraries do not survive a fork, Windows has none.
START_METHOD = "fork" if sys.platform == "linux" else "spawn"


class SharedBytes:
    """`array`: (size,) uint8 zeros that worker processes started later read and write as this process does.

    On Linux the memory is anonymous: it belongs to no file system, so that the size of /dev/shm (64 MB in a Docker
    container) does not limit it. The system provides a page when it is first written.
    """

    def __init__(self, size: int):
        if START_METHOD == "fork":
            self.tensor = torch.frombuffer(mmap.mmap(-1, max(size, 1)), dtype=torch.uint8)[:size]
        else:
            self.tensor = torch.zeros(size, dtype=torch.uint8).share_memory_()
        self.array = self.tensor.numpy()

    def __getstate__(self) -> torch.Tensor:  # pickled for a spawned worker: a handle, not the bytes
        return self.tensor

    def __setstate__(self, tensor: torch.Tensor) -> None:
        self.tensor, self.array = tensor, tensor.numpy()
