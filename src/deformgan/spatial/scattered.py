"""Displacements at scattered points: interpolation, and the way back through a map. Double precision, numpy only."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def interpolate(values: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Linear interpolation at voxel positions; beyond the grid the border value.

    Args:
        values: (D, H, W, C).
        index: (N, 3) voxel indices.

    Returns:
        (N, C) float64.
    """
    last = np.array(values.shape[:3]) - 1
    position = np.clip(index, 0, last)
    base = np.minimum(position.astype(np.int64), np.maximum(last - 1, 0))
    after = np.minimum(base + 1, last)
    t = (position - base)[..., None]
    out = np.zeros((len(index), values.shape[3]))
    for corner in np.ndindex(2, 2, 2):
        at = np.where(corner, after, base)
        weight = np.prod(np.where(np.array(corner)[:, None], t, 1 - t), axis=1)
        out += weight * values[at[:, 0], at[:, 1], at[:, 2]]
    return out


def follow(
    displacement: Callable[[np.ndarray], np.ndarray], target: np.ndarray, tolerance: float = 1e-4, iterations: int = 200
) -> np.ndarray:
    """Solve ``x + d(x) = target`` for each point: fixed-point steps, their length guessed from the last one's effect.

    Args:
        displacement: (N, 3) positions to (N, 3) displacements.
        target: (N, 3).
        tolerance: Largest distance to the target that ends the search of a point, in the targets' unit.

    Returns:
        (N, 3); the nearest position found where ``x + d(x)`` folds and the search ends early.
    """
    x = np.array(target, np.float64)
    residual = displacement(x)
    length = np.linalg.norm(residual, axis=1)
    step = np.ones(len(x))
    for _ in range(iterations):
        active = np.flatnonzero(length > tolerance)
        if active.size == 0:
            break
        trial = x[active] - step[active, None] * residual[active]
        trial_residual = trial + displacement(trial) - target[active]
        trial_length = np.linalg.norm(trial_residual, axis=1)
        better = trial_length < length[active]
        kept = active[better]
        went, changed = trial[better] - x[kept], trial_residual[better] - residual[kept]
        x[kept], residual[kept], length[kept] = trial[better], trial_residual[better], trial_length[better]
        # the step that would have been best along the last one (Barzilai and Borwein 1988)
        best = (went * changed).sum(1) / np.maximum((changed * changed).sum(1), 1e-30)
        step[kept] = np.clip(best, 0.1, 2.0)
        step[active[~better]] *= 0.5
    return x
