"""The map that goes through every file, and where it is looked at: numbers that any machine works out alike."""

from __future__ import annotations

from functools import cache

import nibabel as nib
import numpy as np
from grids import inner_voxels

from deformgan.spatial.grid import Grid
from deformgan.transforms.transform import Transform

AFFINE = np.array([[0.98, 0.02, -0.1, 2.0], [-0.03, 1.05, 0.01, -3.0], [0.1, 0.0, 0.99, 1.5], [0.0, 0.0, 0.0, 1.0]])


@cache
def some_map() -> Transform:
    """A matrix, and a smooth field of some millimetres that stays within the grids of `grids.CASES`."""
    grid = Grid.centred((24, 26, 20), 4.0, np.array([0.0, 2.0, 0.0]))
    world = grid.to_world(np.stack(np.meshgrid(*[np.arange(n) for n in grid.shape], indexing="ij"), -1))
    waves = np.sin(world[..., [1, 2, 0]] / (19.0, 23.0, 29.0)) * (3.0, -4.0, 2.5)
    return Transform(AFFINE, waves.astype(np.float32), grid)


def moved(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points, (N, 3), through a 4×4 matrix."""
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def voxels(grid: Grid) -> np.ndarray:
    """World positions of voxels, where fields need no interpolation, (N, 3): inner ones, of a small grid all."""
    return inner_voxels(grid) if min(grid.shape) > 8 else inner_voxels(grid, margin=0, step=1)


def as_nibabel(grid: Grid) -> nib.Nifti1Image:
    """An empty image on a grid."""
    image = nib.Nifti1Image(np.zeros(grid.shape, np.uint8), grid.affine)
    image.header.set_xyzt_units("mm")
    return image
