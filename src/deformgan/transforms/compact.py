"""The map as it is saved: its field on the coarsest grid that keeps it, its values rounded below a stated bound.

A displacement field may lie on any grid whose axes are at right angles; ITK and ANTs interpolate it linearly. A map
that was found on a grid of 3 mm is the same map there, and a fiftieth of the size that it has on the voxels of an
image of 1 mm.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from deformgan.io.untrusted import require_memory
from deformgan.spatial import blockwise
from deformgan.spatial.grid import Grid
from deformgan.spatial.native import grids as native
from deformgan.spatial.native.use import usable
from deformgan.transforms.formats.checks import linear_plus_ramp
from deformgan.transforms.transform import Transform

MOST_ADDED_MM = 0.02  # by a coarser grid and by rounding, anywhere in the foreground
STEP_MM = 2.0**-10  # displacements are multiples of it, so rounding moves each coordinate by half of it at most
ROUNDING_MM = float(np.sqrt(3.0)) * STEP_MM / 2

_FACTORS = (2, 3, 4, 6, 8)
_ALWAYS_FINE = 1 << 20  # voxels; a smaller field stays on its own grid whatever the image's size
_RIGHT_ANGLE = 1e-5  # cosine
_AROUND = 2  # voxels of a grid that a place just outside it may reach into
_NEAR_MM = 5e-4  # what an inverse may miss at a voxel: half of `STEP_MM`
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
    disp = transform.displacement(grid, STEP_MM)
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
    if transform.grid is None or transform.disp_mm is None:
        return transform.inverse()
    grid = _of_spacing(moving, float(transform.grid.spacing.min()) if spacing_mm is None else spacing_mm)
    if usable(torch.from_numpy(transform.disp_mm.T)[None]):
        disp, miss = _solved(transform, grid)
    else:
        disp, miss = _polished(transform, transform.inverse(), grid)
    return Transform(np.linalg.inv(transform.affine), disp, grid, residual_mm=miss, added_error_mm=ROUNDING_MM)


def _of_spacing(grid: Grid, spacing_mm: float) -> Grid:
    """A grid along the same axes, from outer face to outer face of ``grid``, of voxels at most so far apart."""
    extent = np.array(grid.shape) * grid.spacing
    cells = np.maximum(np.ceil(extent / spacing_mm - 1e-6), 1)
    to_index = np.diag([*(np.array(grid.shape) / cells), 1.0])
    to_index[:3, 3] = -0.5
    d, h, w = (int(n) + 1 for n in cells)
    return Grid((d, h, w), grid.affine @ to_index)


def _solved(transform: Transform, grid: Grid) -> tuple[np.ndarray, float]:
    """The inverse's field at the voxels of ``grid``: (D, H, W, 3) world mm, Fortran order; largest miss, mm.

    With z = A⁻¹y the source is z + w, and w + r(z + w) = 0.
    """
    rest, own = _field(transform)
    backwards = np.eye(4)[[2, 1, 0, 3]]  # a volume's axes are those of its grid in reverse
    place = backwards @ own.world_to_index @ np.linalg.inv(transform.affine) @ grid.affine @ backwards
    scale = (backwards @ own.world_to_index)[:3, :3]
    require_memory("the inverse", 24 * int(np.prod(grid.shape)))
    w, miss = native.invert(rest, grid.shape[::-1], place, scale, tolerance=_NEAR_MM, slack=0.5)
    return blockwise.resampled_whole(w, grid, grid, linear=transform.affine[:3, :3]).numpy().T, miss


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
    low, high = _bounds(near)
    part = _part(whole, low, high, 1)
    # an affine map is kept by linear interpolation, so the rest alone is compared
    fine, inside = _rest(transform, part), torch.from_numpy(near[tuple(map(slice, low, high))].T.copy())
    for factor in _FACTORS:
        error = _largest_error(_rest(transform, coarse := _part(whole, low, high, factor)), coarse, fine, part, inside)
        if not error + ROUNDING_MM <= MOST_ADDED_MM:
            break
        best, added = _every(whole, factor), error
    return best, added


def _bounds(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first voxel of a mask (D, H, W) along each axis, and one past the last, (3,) each."""
    found = [np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    return np.array([one[0] for one in found]), np.array([one[-1] + 1 for one in found])


def _part(grid: Grid, low: np.ndarray, high: np.ndarray, factor: int) -> Grid:
    """Every ``factor``-th voxel of a grid, counted from its first, as they reach over ``low`` to ``high - 1``."""
    first = low // factor
    d, h, w = (int(n) for n in -(-(high - 1) // factor) - first + 1)
    to_index = np.diag([factor, factor, factor, 1.0])
    to_index[:3, 3] = factor * first
    return Grid((d, h, w), grid.affine @ to_index)


def _rest(transform: Transform, onto: Grid) -> Tensor:
    """What a map adds to its affine part, in world mm of moving space, (3, W, H, D)."""
    values, own = _field(transform)
    return blockwise.resampled_whole(values, own, onto, linear=transform.affine[:3, :3])


def _largest_error(coarse: Tensor, own: Grid, fine: Tensor, onto: Grid, inside: Tensor) -> float:
    """Between two fields where ``inside`` is True, mm; the first that is too large will do."""
    worst = 0.0
    for start, stop, block in blockwise.resampled_blocks(coarse, own, onto):
        away = block.sub_(fine[:, start:stop]).square_().sum(0).mul_(inside[start:stop])
        worst = max(worst, float(away.amax()) ** 0.5)
        if not worst + ROUNDING_MM <= MOST_ADDED_MM:
            break
    return worst


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
    last = np.array(whole.shape) - 1
    base = np.floor(whole.to_index(grid.to_world(centres))).astype(int).clip(-_AROUND, last + _AROUND)
    near = np.zeros(last + 1 + 4 * _AROUND, bool)
    near[tuple((base + 2 * _AROUND).T)] = True
    for axis in range(3):
        near = _spread(near, axis)
    # what lies outside counts for the voxels at the border
    for axis, n in enumerate(whole.shape):
        near = np.moveaxis(near, axis, 0)
        first, end = 2 * _AROUND, 2 * _AROUND + n
        near[first] |= near[:first].any(0)
        near[end - 1] |= near[end:].any(0)
        near = np.moveaxis(near[first:end], 0, axis)
    return near


def _spread(mask: np.ndarray, axis: int) -> np.ndarray:
    """A mask with, along an axis, the voxel before each of its own and the two after."""
    mask = np.moveaxis(mask, axis, 0)
    out = mask.copy()
    out[:-1] |= mask[1:]
    out[1:] |= mask[:-1]
    out[2:] |= mask[:-2]
    return np.moveaxis(out, 0, axis)
