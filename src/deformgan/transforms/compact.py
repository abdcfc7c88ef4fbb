"""The map as it is saved: its field on the coarsest grid that keeps it, its values rounded below a stated bound.

A displacement field may lie on any grid whose axes are at right angles; ITK and ANTs interpolate it linearly. A map
that was found on a grid of 3 mm is the same map there, and a fiftieth of the size that it has on the voxels of an
image of 1 mm.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from deformgan.spatial import blockwise
from deformgan.spatial.grid import Grid
from deformgan.transforms.formats.checks import linear_plus_ramp
from deformgan.transforms.transform import Transform

MOST_ADDED_MM = 0.02  # by a coarser grid and by rounding, anywhere in the foreground
STEP_MM = 2.0**-10  # displacements are multiples of it, so rounding moves each coordinate by half of it at most
ROUNDING_MM = float(np.sqrt(3.0)) * STEP_MM / 2

_FACTORS = (2, 3, 4, 6, 8)
_ALWAYS_FINE = 1 << 20  # voxels; a smaller field stays on its own grid whatever the image's size
_RIGHT_ANGLE = 1e-5  # cosine
_POLISH = 5  # fixed-point iterations at the voxels of an inverse's new grid


def compact(transform: Transform, fixed: Grid, foreground: np.ndarray, foreground_grid: Grid) -> Transform:
    """The map on the coarsest grid over the fixed image that adds at most `MOST_ADDED_MM` in the foreground.

    Tried are the grid of the map's own field, extended over the image, and every second, third, … of its voxels. Both
    fields are linear along each axis within the finer one's cells, so their largest distance lies at the voxels of the
    finer one: it is measured exactly, not sampled. A field that was found finer than the image is kept on the image's
    voxels.

    Args:
        transform: Found from fixed to moving space; one without a field is returned as it is.
        fixed: The fixed image's grid.
        foreground: (D, H, W), not 0 where the map matters.
        foreground_grid: Where that lies, in fixed space.

    Returns:
        The map with displacements that are multiples of `STEP_MM` on the new grid, and with `added_error_mm`.
    """
    own = transform.grid
    if transform.disp_mm is None or own is None:
        return transform
    grid, added = fixed, 0.0
    if _right_angled(own):
        whole = own.covering(box(fixed), 1)
        grid, added = _coarsest(transform, whole, _near(foreground, foreground_grid, whole))
        if np.prod(grid.shape) > max(np.prod(fixed.shape), _ALWAYS_FINE):
            grid, added = fixed, 0.0
    return on_grid(transform, grid, added)


def on_grid(transform: Transform, grid: Grid, added_error_mm: float) -> Transform:
    """The map with its field on ``grid``, the complete displacement there being rounded to `STEP_MM`."""
    disp = rounded(transform.displacement(grid), STEP_MM)
    # x + r(x) = A⁻¹(x + d(x))
    back = np.linalg.inv(transform.affine)
    rest = linear_plus_ramp(disp, back[:3, :3], (back - np.eye(4)) @ grid.affine, grid)
    return Transform(transform.affine, rest, grid, added_error_mm=added_error_mm + ROUNDING_MM)


def rounded(values: np.ndarray, step: float) -> np.ndarray:
    """``values`` (float32) to the nearest multiple of ``step``, a power of 2, in place: short for gzip."""
    np.multiply(values, np.float32(1 / step), out=values)
    np.rint(values, out=values)
    return np.multiply(values, np.float32(step), out=values)


def box(grid: Grid) -> Grid:
    """The 2×2×2 grid at the outer corners of the voxels of ``grid``: enough for an affine map."""
    to_faces = np.diag([*map(float, grid.shape), 1.0])
    to_faces[:3, 3] = -0.5
    return Grid((2, 2, 2), grid.affine @ to_faces)


def compact_inverse(transform: Transform, moving: Grid, spacing_mm: float | None = None) -> Transform:
    """The map from moving to fixed space on a grid along the moving image's axes that covers it.

    The inverse that `Transform.inverse` finds lies on the field's grid as the affine part moves it, whose axes need not
    be at right angles. Here it is solved again at voxels as far apart as the field's own.

    Args:
        transform: From fixed to moving space.
        moving: The moving image's grid.
        spacing_mm: Of the inverse; default: the field's own.

    Returns:
        The inverse; its ``residual_mm`` is the largest inverse-consistency error at new voxels with a source inside.
    """
    back = transform.inverse()
    if transform.grid is None:
        return back
    grid = _of_spacing(moving, float(transform.grid.spacing.min()) if spacing_mm is None else spacing_mm)
    disp, residual = _polished(transform, back, grid)
    return Transform(back.affine, disp, grid, residual_mm=residual, added_error_mm=ROUNDING_MM)


def _of_spacing(grid: Grid, spacing_mm: float) -> Grid:
    """A grid along the same axes, from outer face to outer face of ``grid``, of voxels at most so far apart."""
    extent = np.array(grid.shape) * grid.spacing
    cells = np.maximum(np.ceil(extent / spacing_mm - 1e-6), 1)
    to_index = np.diag([*(np.array(grid.shape) / cells), 1.0])
    to_index[:3, 3] = -0.5
    d, h, w = (int(n) + 1 for n in cells)
    return Grid((d, h, w), grid.affine @ to_index)


def _polished(transform: Transform, back: Transform, grid: Grid) -> tuple[np.ndarray, float]:
    """The field of ``back``, solved at the voxels of ``grid``, and its largest inverse-consistency error.

    The field is (D, H, W, 3) in world mm, in Fortran order; the error is in mm. With z = A⁻¹y the source is z + w,
    and w + r(z + w) = 0. A step is kept where it comes nearer to that.
    """
    (rest, own), (start_from, moved_own) = _field(transform), _field(back)
    linear = torch.from_numpy(transform.affine[:3, :3].astype(np.float32))
    to_sample = blockwise.normalised_index(own)
    scale = torch.from_numpy(to_sample[:3, :3].astype(np.float32))
    out = np.empty((*grid.shape, 3), np.float32, order="F")
    reversed_out, largest = torch.from_numpy(out.T), 0.0
    starts = blockwise.resampled_blocks(start_from, moved_own, grid)
    bases = blockwise.ramp_blocks(to_sample @ back.affine @ grid.affine, grid)
    to_fixed = torch.linalg.inv(linear)
    for (start, stop, moved), (_, _, base) in zip(starts, bases, strict=True):
        w = torch.tensordot(to_fixed, moved, 1)
        best, residual = w, torch.full(w.shape[1:], float("inf"))
        for _ in range(_POLISH):
            at = base + torch.tensordot(scale, w, 1)
            error = w + blockwise.sample(rest, at)
            length = error.square().sum(0).sqrt()
            nearer = length < residual
            best, residual = torch.where(nearer, w, best), torch.where(nearer, length, residual)
            w = w - error
        at = base + torch.tensordot(scale, best, 1)
        inside = (at.abs() <= 1).all(0)
        largest = max(largest, float((residual * inside).amax()))
        reversed_out[:, start:stop] = torch.tensordot(linear, best, 1)
    return out, largest


def _field(transform: Transform) -> tuple[Tensor, Grid]:
    """Displacement, (3, W, H, D) mm, and grid of a map that has them."""
    assert transform.disp_mm is not None
    assert transform.grid is not None
    return torch.from_numpy(transform.disp_mm.T), transform.grid


def _right_angled(grid: Grid) -> bool:
    axes = grid.affine[:3, :3] / grid.spacing
    return bool(np.abs(axes.T @ axes - np.eye(3)).max() < _RIGHT_ANGLE)


def _coarsest(transform: Transform, whole: Grid, near: np.ndarray) -> tuple[Grid, float]:
    """``whole`` or every n-th of its voxels, and the largest error that adds in mm where ``near`` is True."""
    best, added = whole, 0.0
    if not near.any():
        return best, added
    fine = transform.displacement(whole)
    for factor in _FACTORS:
        coarse = _every(whole, factor)
        values = torch.from_numpy(transform.displacement(coarse).T)
        error = 0.0
        for start, stop, block in blockwise.resampled_blocks(values, coarse, whole):
            difference = block - torch.from_numpy(fine.T)[:, start:stop]
            there = torch.from_numpy(near.T[start:stop].copy())
            error = max(error, float((difference.square().sum(0).sqrt() * there).amax()))
        if not error + ROUNDING_MM <= MOST_ADDED_MM:
            break
        best, added = coarse, error
    return best, added


def _every(grid: Grid, factor: int) -> Grid:
    """Every ``factor``-th voxel of a grid, and as many more as reach over its end."""
    d, h, w = (-(-(n - 1) // factor) + 1 for n in grid.shape)
    return Grid((d, h, w), grid.affine @ np.diag([factor, factor, factor, 1.0]))


def _near(foreground: np.ndarray, grid: Grid, whole: Grid) -> np.ndarray:
    """The voxels of ``whole`` (D, H, W) whose cells hold foreground, and their neighbours."""
    # blocks of at most a cell each stand for their voxels; the margin of a voxel makes up for it
    steps = np.maximum((whole.spacing.min() / grid.spacing).astype(int), 1)
    blocks = foreground != 0
    for axis, step in enumerate(steps):
        blocks = np.logical_or.reduceat(blocks, np.arange(0, blocks.shape[axis], step), axis=axis)
    centres = np.argwhere(blocks) * steps + (steps - 1) / 2
    base = np.floor(whole.to_index(grid.to_world(centres))).astype(int)
    near = np.zeros(whole.shape, bool)
    last = np.array(whole.shape) - 1
    for corner in np.ndindex(4, 4, 4):
        at = np.clip(base + np.array(corner) - 1, 0, last)
        near[at[:, 0], at[:, 1], at[:, 2]] = True
    return near
