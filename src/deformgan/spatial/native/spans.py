"""Stretches of rows, outside of which compiled code leaves out what nothing depends on."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def spans_of(counts: Tensor, reach: int) -> Tensor:
    """Of each row (1, 1, D, H, W) the smallest stretch with all voxels that are at most ``reach`` from one that counts.

    Returns:
        (D, H, 2) int32: its first voxel, and the one behind its last; no stretch has the first behind the last.
    """
    there = counts[0, 0].numpy() != 0
    width = there.shape[2]
    some = there.any(2)
    first = np.where(some, there.argmax(2), width)
    last = np.where(some, width - there[:, :, ::-1].argmax(2), 0)
    for axis in (0, 1):
        first, last = -_largest_near(-first, reach, axis), _largest_near(last, reach, axis)
    found = np.stack([np.maximum(first - reach, 0), np.minimum(last + reach, width)], 2)
    found[last <= first] = 0
    return torch.from_numpy(found.astype(np.int32))


def _largest_near(values: np.ndarray, reach: int, axis: int) -> np.ndarray:
    n, out = values.shape[axis], values.copy()
    for shift in range(1, min(reach, n - 1) + 1):
        upper, lower = ([slice(None)] * 2 for _ in range(2))
        upper[axis], lower[axis] = slice(shift, None), slice(None, n - shift)
        out[tuple(upper)] = np.maximum(out[tuple(upper)], values[tuple(lower)])
        out[tuple(lower)] = np.maximum(out[tuple(lower)], values[tuple(upper)])
    return out
