"""Where along an axis most of a mask lies."""

from __future__ import annotations

import numpy as np


def extent(areas: np.ndarray, shares: tuple[float, float]) -> tuple[int, int]:
    """The planes between two shares of a mask's voxels, ``start ≤ i < stop``; all of an empty mask.

    Args:
        areas: The mask's voxels in each plane across an axis.
        shares: Of all its voxels, counted along the axis, in [0, 1].
    """
    total = int(areas.sum())
    if not total:
        return 0, len(areas)
    share = np.cumsum(areas) / total
    first, last = np.searchsorted(share, shares[0], "right"), np.searchsorted(share, shares[1], "left")
    return int(first), min(int(last), len(areas) - 1) + 1


def areas_of(mask: np.ndarray) -> list[np.ndarray]:
    """For each axis of a mask (D, H, W) the voxels in each plane across it."""
    plane = mask.sum(axis=2, dtype=np.int32)
    return [
        plane.sum(axis=1, dtype=np.int64),
        plane.sum(axis=0, dtype=np.int64),
        np.array([np.count_nonzero(mask[:, :, k]) for k in range(mask.shape[2])], np.int64),
    ]
