"""FreeSurfer's way to say where a volume lies: voxel sizes, directions, and the world position of its middle."""

from __future__ import annotations

import numpy as np

from deformgan.errors import InputError
from deformgan.io.image import checked_affine
from deformgan.spatial.grid import Grid


def to_grid(shape: np.ndarray, sizes: np.ndarray, directions: np.ndarray, middle: np.ndarray, name: str) -> Grid:
    """The grid of a geometry.

    Args:
        shape: Voxels along each axis.
        sizes: Voxel sizes, mm.
        directions: 3×3; columns are the axes' directions in world space (RAS).
        middle: World position of the voxel index ``shape / 2``, which FreeSurfer calls the centre.
        name: What messages call it.

    Raises:
        InputError: no voxels, not finite, or singular.
    """
    shape = np.asarray(shape, np.int64)
    if (shape < 1).any() or not np.isfinite(np.concatenate([sizes, directions.ravel(), middle])).all():
        raise InputError(f"{name} is damaged: a volume of {shape.tolist()} voxels", "write it again")
    affine = np.eye(4)
    affine[:3, :3] = np.asarray(directions, np.float64) * np.asarray(sizes, np.float64)
    affine[:3, 3] = middle - affine[:3, :3] @ (shape / 2)
    d, h, w = shape.tolist()
    return Grid((d, h, w), checked_affine(affine, name))


def from_grid(grid: Grid) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Voxel sizes, directions and middle of a grid, as `to_grid` takes them."""
    return grid.spacing, grid.affine[:3, :3] / grid.spacing, grid.to_world(np.array(grid.shape) / 2)
