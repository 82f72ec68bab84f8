"""Many windows, one feature."""

import numpy as np


def pool_windows(windows: np.ndarray, pooling: str = "mean", norm: str = "after") -> np.ndarray:
    """(N, D) -> (D,) float32.

    C3D's protocol (Tran et al., ICCV 2015, and its authors in issue 232 of their repository): the mean over windows,
    then scaled to length 1 (norm "after"). "before" scales each window first, which is another feature.
    """
    windows = windows.astype(np.float64)
    if norm == "before":
        windows = unit(windows)
    pooled = windows.mean(axis=0) if pooling == "mean" else windows.max(axis=0)
    return (unit(pooled) if norm == "after" else pooled).astype(np.float32)


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows of length 1; a row of zeros stays."""
    length = np.linalg.norm(rows, axis=-1, keepdims=True)
    return rows / np.where(length > 0, length, 1)
