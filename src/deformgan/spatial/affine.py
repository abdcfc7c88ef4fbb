"""The affine map nearest to a field, and what an affine map does: how far it turns, stretches and shifts."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deformgan.spatial import blockwise
from deformgan.spatial.grid import Grid

_FIT_POINTS = 32  # along an axis, about
_LEAST_VOLUME = 0.05  # an affine that shrinks more than that describes a broken field


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


def split_affine(disp_mm: np.ndarray, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """A map ``x + disp(x)`` as ``A(x + rest(x))``, A being the affine nearest to it.

    Args:
        disp_mm: (D, H, W, 3) float32, world mm, on ``grid``.

    Returns:
        A, 4×4 in world mm (a shift alone where no sound affine is near), and the rest, shaped as ``disp_mm``, Fortran
        order. Both maps are the same between the voxels too, for linear interpolation keeps affine maps.
    """
    affine = _sound_affine(disp_mm, grid)
    # A(x + r) = x + d  ⇔  r = (A⁻¹ - 1) x + A⁻¹ d, where the shift of A⁻¹ goes with x
    back = np.linalg.inv(affine)
    ramp = (back - np.eye(4)) @ grid.affine
    return affine, blockwise.resampled_whole(torch.from_numpy(disp_mm.T), grid, grid, ramp, back[:3, :3]).numpy().T


def _sound_affine(disp_mm: np.ndarray, grid: Grid) -> np.ndarray:
    """The 4×4 world map nearest to ``x + disp(x)`` by least squares; a shift alone where no sound affine is near."""
    matrix = fitted_affine(disp_mm, grid)
    if np.linalg.det(matrix[:3, :3]) < _LEAST_VOLUME:
        centre = grid.to_world((np.array(grid.shape) - 1) / 2)
        matrix[:3, 3] += (matrix[:3, :3] - np.eye(3)) @ centre
        matrix[:3, :3] = np.eye(3)
    return matrix


def fitted_affine(disp_mm: np.ndarray, grid: Grid) -> np.ndarray:
    """The 4×4 world map nearest to ``x + disp(x)`` by least squares, which may be singular; a shift for one slice."""
    strides = [max(1, n // _FIT_POINTS) for n in grid.shape]
    index = np.stack(
        np.meshgrid(*[np.arange(0, n, s) for n, s in zip(grid.shape, strides, strict=True)], indexing="ij")
    )
    displacement = disp_mm[:: strides[0], :: strides[1], :: strides[2]].reshape(-1, 3).astype(np.float64)
    matrix = np.eye(4)
    matrix[:3, 3] = displacement.mean(0)
    if min(grid.shape) < 2:
        return matrix
    points = grid.to_world(index.reshape(3, -1).T)
    centre = points.mean(0)  # far from it rounding would swamp the linear part
    fit = nearest_affine(*(torch.from_numpy(values.T[None]) for values in (points - centre, displacement)))[0].numpy()
    matrix[:3, :3] += fit[:, :3]
    matrix[:3, 3] = fit[:, 3] + centre - matrix[:3, :3] @ centre
    return matrix


def nearest_affine(positions: Tensor, values: Tensor, weight: Tensor | None = None) -> Tensor:
    """The map ``A x + t`` nearest to values at positions in the (weighted) least-squares sense.

    Args:
        positions, values: (B, 3, N) float64; positions far from 0 cost accuracy.
        weight: (B, 1, N), ≥ 0, not all zero; default: every position alike.

    Returns:
        (B, 3, 4) float64.
    """
    design = torch.cat([positions, torch.ones_like(positions[:, :1])], 1)
    weighted = design if weight is None else design * weight
    normal = weighted @ design.transpose(1, 2)
    return torch.linalg.solve(normal, weighted @ values.transpose(1, 2)).transpose(1, 2)
