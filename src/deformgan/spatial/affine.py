"""What an affine map does, in words a person can check: how far it turns, stretches and shifts."""

from __future__ import annotations

import math
from typing import Any

import numpy as np


def affine_figures(matrix: np.ndarray, centre_mm: np.ndarray) -> dict[str, Any]:
    """The parts of a map, JSON-able.

    Args:
        matrix: 4×4 from fixed to moving world mm (RAS+), invertible.
        centre_mm: (3,), where the shift is measured: far from it a rotation alone moves things.

    Returns:
        ``matrix`` (4 rows); ``rotation_degrees`` in [0, 180] of the rotation nearest to it (polar decomposition);
        ``scales``, its stretch along three perpendicular directions, falling; ``shift_mm`` of the centre.
    """
    u, scales, v = np.linalg.svd(matrix[:3, :3])
    rotation = u @ v
    if np.linalg.det(rotation) < 0:  # of a mirrored map: the nearest that is none
        rotation = u @ np.diag([1.0, 1.0, -1.0]) @ v
    # atan2 keeps its accuracy where the arc cosine has none, at small angles
    axis = np.array([rotation[2, 1] - rotation[1, 2], rotation[0, 2] - rotation[2, 0], rotation[1, 0] - rotation[0, 1]])
    angle = math.degrees(math.atan2(float(np.linalg.norm(axis)), float(np.trace(rotation)) - 1))
    moved = matrix[:3, :3] @ centre_mm + matrix[:3, 3]
    return {
        "matrix": [[float(value) for value in row] for row in matrix],
        "rotation_degrees": round(angle, 4),
        "scales": [round(float(scale), 6) for scale in scales],
        "shift_mm": round(float(np.linalg.norm(moved - centre_mm)), 4),
    }
