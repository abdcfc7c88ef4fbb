"""Pairs of grids as different as scanners make them, and a transform and an image to try on them."""

from __future__ import annotations

import numpy as np
import scipy.ndimage as ndi
import torch

from deformgan.io.image import Image
from deformgan.spatial.grid import Grid
from deformgan.transforms.transform import Transform


def oblique(degrees: float, spacing: tuple[float, float, float], shape: tuple[int, int, int]) -> Grid:
    """A grid turned about two axes."""
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, c, s], [0, -s, c]])
    affine = np.eye(4)
    affine[:3, :3] = turn * spacing
    affine[:3, 3] = -affine[:3, :3] @ (np.array(shape) - 1) / 2 + (3, -2, 1)
    return Grid(shape, affine)


def flipped(grid: Grid, axes: tuple[int, ...]) -> Grid:
    """The same voxels counted from the other end."""
    matrix = np.eye(4)
    for axis in axes:
        matrix[axis, axis] = -1
        matrix[axis, 3] = grid.shape[axis] - 1
    return Grid(grid.shape, grid.affine @ matrix)


PLAIN = Grid.centred((24, 28, 20), 4.0, np.array([1.0, 2.0, -3.0]))
THICK = Grid.centred((40, 36, 14), np.array([2.4, 3.0, 6.0]), np.array([-2.0, 4.0, 5.0]))
SLANTED = oblique(17, (3.0, 3.5, 4.5), (30, 28, 22))
CASES = {
    "identity grids": (PLAIN, PLAIN),
    "anisotropic onto plain": (PLAIN, THICK),
    "oblique onto anisotropic": (THICK, SLANTED),
    "plain onto oblique": (SLANTED, PLAIN),
    "flipped, one axis": (flipped(PLAIN, (0,)), flipped(THICK, (1,))),
    "flipped, LPS onto oblique": (flipped(SLANTED, (0, 1)), flipped(PLAIN, (0, 1))),
}


def some_transform() -> Transform:
    """An affine and a smooth field that stay within the images."""
    working = Grid.centred((24, 26, 20), 4.0, np.array([0.0, 2.0, 0.0]))
    coarse = torch.randn(1, 3, 4, 4, 4, generator=torch.Generator().manual_seed(3))
    field = torch.nn.functional.interpolate(coarse, size=(24, 26, 20), mode="trilinear", align_corners=True)
    angle = np.deg2rad(6)
    affine = np.array([[np.cos(angle), 0, -np.sin(angle), 2], [0, 1.05, 0, -3], [np.sin(angle), 0, np.cos(angle), 1.5]])
    moving = working.moved_by(np.vstack([affine, [0, 0, 0, 1]]))
    return Transform.from_field(working, moving, field * 1.2 / field.abs().max())


def some_image(grid: Grid) -> Image:
    """Smooth texture."""
    data = ndi.gaussian_filter(np.random.default_rng(5).random(grid.shape), 1.0)
    return Image(np.ascontiguousarray(data / data.max() * 100, np.float32), grid)


def inner_points(grid: Grid, margin: int = 4, count: int = 40) -> np.ndarray:
    """World positions well inside a grid, (N, 3)."""
    return grid.to_world(np.random.default_rng(1).uniform(margin, np.array(grid.shape) - 1 - margin, (count, 3)))


def inner_voxels(grid: Grid, margin: int = 2, step: int = 4) -> np.ndarray:
    """World positions of voxels, where fields need no interpolation, (N, 3)."""
    axes = [np.arange(margin, n - margin, step) for n in grid.shape]
    return grid.to_world(np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3))
