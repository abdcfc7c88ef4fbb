"""Displacement and velocity fields in voxels: integrate, compose, invert, resize, Jacobian, affine parts.

All fields are (B, 3, D, H, W) float32 tensors in voxels of their own grid, pull-back (see `deformgan.spatial.warp`),
and every function is differentiable and runs on the field's device. Beyond its border a field keeps its border value.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from deformgan.spatial.affine import nearest_affine
from deformgan.spatial.constants import of_axes
from deformgan.spatial.native import grids as native
from deformgan.spatial.native.fields import axis_map
from deformgan.spatial.native.use import usable
from deformgan.spatial.warp import warp, warp_points

_DENSE_ITERATIONS = 6
_NEARER = 0.1
_MANY = 1 << 20  # voxels that an affine map is fitted to


def identity_positions(shape: tuple[int, ...], device: torch.device | None = None) -> Tensor:
    """Voxel index of every voxel, (1, 3, D, H, W)."""
    axes = [torch.arange(n, device=device, dtype=torch.float32) for n in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))[None]


def resize(field: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Resample a field to a grid of ``shape`` over the same extent, linearly; the vectors are rescaled to its voxels.

    A product with a small matrix along each axis: on a CPU many times faster than `torch.nn.functional.interpolate`.
    """
    own, shape = tuple(field.shape[2:]), tuple(shape)
    if own == shape:
        return field
    if usable(field):
        factor = [b / a for a, b in zip(own, shape, strict=True)]
        maps = [axis_map(a, b) for a, b in zip(own, shape, strict=True)]
        lines = [(below, above, share) for below, above, share, *_ in maps]
        return native.resample(field[0], lines, matrix=np.diag(factor))[None]
    with torch.autocast(field.device.type, enabled=False):
        out = interpolated(field.float(), shape)
        return out * of_axes(tuple(b / a for a, b in zip(own, shape, strict=True)), field.device)


def interpolated(volumes: Tensor, shape: tuple[int, ...]) -> Tensor:
    """(B, C, d, h, w) → (B, C, *shape), as `torch.nn.functional.interpolate` does, trilinear, corners not aligned."""
    own = volumes.shape[2:]
    d, h, w = (_linear_weights(a, b, volumes.device).to(volumes.dtype) for a, b in zip(own, shape, strict=True))
    out = h @ (volumes @ w.T)  # the last axis, then the one before
    return (d @ out.flatten(3)).unflatten(3, shape[1:])


@lru_cache(maxsize=64)
def _linear_weights(source: int, target: int, device: torch.device) -> Tensor:
    """(target, source) matrix of linear interpolation between voxel centres; beyond the outermost its value is kept."""
    with torch.inference_mode(False):
        at = ((torch.arange(target, dtype=torch.float64) + 0.5) * source / target - 0.5).clamp(0, source - 1)
        below = at.floor().long().clamp(max=max(source - 2, 0))
        weights = torch.zeros(target, source, dtype=torch.float64)
        rows = torch.arange(target)
        weights[rows, below] += 1 - (at - below)
        weights[rows, (below + 1).clamp(max=source - 1)] += at - below
        return weights.float().to(device)


def compose(outer: Tensor, inner: Tensor) -> Tensor:
    """Displacement of ``x → (id + outer)((id + inner)(x))``."""
    return inner + warp(outer, inner, padding="border")


def integrate(velocity: Tensor, steps: int = 7) -> Tensor:
    """Displacement of the flow of a stationary velocity field at time 1, by scaling and squaring (``steps`` ≥ 0)."""
    field = velocity * (1.0 / 2**steps)
    for _ in range(steps):
        field = compose(field, field)
    return field


def invert(field: Tensor, iterations: int = 30, tolerance: float = 1e-3) -> tuple[Tensor, float]:
    """Displacement ``w`` with ``w(y) = -u(y + w(y))``, by fixed-point iteration, damped towards the end.

    Most voxels are there after a few iterations, which run over the whole grid; the others go on by themselves.

    Returns:
        The inverse and its residual: the largest ``|w(y) + u(y + w(y))|`` in voxels over positions whose source lies
        inside the grid. A voxel's iteration stops at ``tolerance`` or after ``iterations``; a field that folds has no
        inverse and keeps a large residual.
    """
    if field.shape[0] > 1:
        found = [invert(one[None], iterations, tolerance) for one in field]
        return torch.cat([inverse for inverse, _ in found]), max(residual for _, residual in found)
    if usable(field):
        return _invert_compiled(field, iterations, tolerance)
    dense = min(_DENSE_ITERATIONS, iterations)
    inverse = -field
    for _ in range(dense):
        inverse = -warp(field, inverse, padding="border")
    with torch.no_grad():
        far = _length(inverse + warp(field, inverse, padding="border"))[0, 0]
    at = torch.nonzero(far > tolerance)
    y, w = at.to(field), inverse[0, :, at[:, 0], at[:, 1], at[:, 2]].T
    for i in range(dense, iterations):
        error = warp_points(y + w, field) - y
        # full steps contract quickly where |∇u| < 1; half steps still do where it is larger
        w = w - (error if i < iterations // 2 else 0.5 * error)
    if len(at):
        inverse = inverse.clone()
        inverse[0, :, at[:, 0], at[:, 1], at[:, 2]] = w.T
    with torch.no_grad():
        far[far > tolerance] = (warp_points(y + w, field) - y).norm(dim=1)
        source = identity_positions(tuple(field.shape[2:]), field.device) + inverse
        upper = torch.tensor(field.shape[2:], device=field.device).view(1, 3, 1, 1, 1) - 1
        inside = ((source >= 0) & (source <= upper)).all(1)[0]
        return inverse, float((far * inside).amax())


def _invert_compiled(field: Tensor, iterations: int, tolerance: float) -> tuple[Tensor, float]:
    # whole-grid iterations come much nearer than the tolerance, so a voxel is left only where it does too
    how = {"iterations": iterations, "tolerance": _NEARER * tolerance, "slack": 0.0}
    found, residual = native.invert(field[0], field.shape[2:], np.eye(4), np.eye(3), **how)
    return found[None], residual


def _length(field: Tensor) -> Tensor:
    return field.square().sum(1, keepdim=True).sqrt()


def invert_padded(field: Tensor) -> tuple[Tensor, float, tuple[int, int, int]]:
    """`invert` on a grid widened, with border values, by as much as the field displaces: sources may lie beyond it.

    Returns:
        Inverse, residual, and by how many voxels the grid was widened at both ends of each axis.
    """
    d, h, w = margin(field)
    return *invert(F.pad(field, [w, w, h, h, d, d], mode="replicate")), (d, h, w)


def margin(field: Tensor) -> tuple[int, int, int]:
    """By how many voxels `invert_padded` widens each axis: as far as the field displaces, at most its own length."""
    d, h, w = (min(math.ceil(float(field[:, axis].abs().amax())) + 1, field.shape[2 + axis]) for axis in range(3))
    return d, h, w


def jacobian_matrix(field: Tensor) -> Tensor:
    """Jacobian of ``x + u(x)``, central differences, one-sided at the border, (B, 3, 3, D, H, W); [:, i, j] = ∂i/∂j."""
    derivatives = torch.stack(torch.gradient(field, dim=(2, 3, 4)), dim=2)
    return derivatives + torch.eye(3, device=field.device).view(1, 3, 3, 1, 1, 1)


def jacobian_determinant(field: Tensor) -> Tensor:
    """Local volume change of ``x + u(x)``, (B, D, H, W); 1 is none, ≤ 0 is folding."""
    if min(field.shape[2:]) > 1 and usable(field):
        return native.jacobian(field[0], np.eye(3))[None]
    return determinant(jacobian_matrix(field))


def determinant(j: Tensor) -> Tensor:
    """Of 3×3 matrices, (B, 3, 3, D, H, W) → (B, D, H, W): many times faster here than `torch.linalg.det`."""
    return (
        j[:, 0, 0] * (j[:, 1, 1] * j[:, 2, 2] - j[:, 1, 2] * j[:, 2, 1])
        - j[:, 0, 1] * (j[:, 1, 0] * j[:, 2, 2] - j[:, 1, 2] * j[:, 2, 0])
        + j[:, 0, 2] * (j[:, 1, 0] * j[:, 2, 1] - j[:, 1, 1] * j[:, 2, 0])
    )


def affine_field(matrix: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Displacement of ``x → A x + t``; ``matrix`` is (B, 3, 4) or (B, 4, 4) in voxels, the result (B, 3, D, H, W)."""
    x = identity_positions(shape, matrix.device).to(matrix.dtype)
    moved = torch.einsum("bij,jdhw->bidhw", matrix[:, :3, :3], x[0]) + matrix[:, :3, 3, None, None, None]
    return moved - x


def fit_affine(field: Tensor, weight: Tensor | None = None) -> Tensor:
    """The affine map nearest to ``x + u(x)`` in the (weighted) least-squares sense, (B, 3, 4) in voxels.

    Of more than `_MANY` voxels every second along each axis is taken.

    Args:
        field: (B, 3, D, H, W).
        weight: (B, 1, D, H, W), ≥ 0, not all zero; default: every voxel alike.
    """
    every = (..., *(slice(None, None, 1 if field[0, 0].numel() <= _MANY else 2),) * 3)
    x = identity_positions(tuple(field.shape[2:]), field.device)[every].flatten(2).double()  # (1, 3, N)
    target = x + field[every].flatten(2).double()
    weight = None if weight is None else weight[every].flatten(2).double()
    return nearest_affine(x.expand_as(target), target, weight).to(field)
