"""Takes the folds out of a field where they are, and leaves the rest of it alone."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from deformgan.losses.boxes import box_sum
from deformgan.spatial.field import jacobian_determinant
from deformgan.spatial.native import fluid as native
from deformgan.spatial.native.use import usable
from deformgan.spatial.warp import box_maximum

_ROUNDS = 60
_LEAST = 0.05  # Jacobian determinant below which the surroundings are smoothed
_FEW = 2000  # folds, up to which it pays to look at their surroundings alone
_REACH = 2  # voxels around a fold that are smoothed with it


@torch.no_grad()
def without_folds(field: Tensor) -> Tensor:
    """Smooth a field around its folds, again and again, until there are none or patience ends.

    Args:
        field: (1, 3, D, H, W) in voxels of its own grid, finite.

    Returns:
        Same shape; voxels farther than a few from every fold keep their values.
    """
    field = field.clone(memory_format=torch.contiguous_format)  # changed in place below
    for _ in range(_ROUNDS):
        at = (jacobian_determinant(field)[0] < _LEAST).nonzero()
        if len(at) == 0:
            break
        if len(at) > _FEW or field.device.type != "cpu":  # a GPU takes longer to start what looks at few
            field = _smooth(field, at)
        else:
            _smooth_around(field[0].flatten(1), at, tuple(field.shape[2:]))
    return field


def _smooth(field: Tensor, at: Tensor) -> Tensor:
    """Means of 3³ voxels near some voxels, (N, 3), fading out at the rim."""
    folded = torch.zeros_like(field[:, :1])
    folded[(0, 0, *at.unbind(1))] = 1
    share = _sums(box_maximum(folded, _REACH)) / 27
    means = _sums(F.pad(field, [1] * 6, mode="replicate"))[:, :, 1:-1, 1:-1, 1:-1] / 27
    return torch.lerp(field, means, share.expand_as(field))


def _sums(volume: Tensor) -> Tensor:
    """Over 3³ voxels, nothing lying outside."""
    return native.box_sum(volume, 3) if usable(volume) else box_sum(volume, 3)


def _smooth_around(values: Tensor, at: Tensor, shape: tuple[int, ...]) -> None:
    """The same but for rounding, without a look at the rest of the field.

    Args:
        values: (C, D·H·W), changed in place; the border value goes on outside.
        at: (N, 3) indices.
        shape: D, H, W.
    """
    last = torch.tensor(shape, device=at.device) - 1
    near = torch.zeros(values.shape[1], device=values.device)
    near[_flat(_cubes(at, _REACH, shape), shape)] = 1
    places = _cubes(at, _REACH + 1, shape)
    share, means = torch.zeros(len(places), device=values.device), values.new_zeros(values.shape[0], len(places))
    for step in _offsets(1, at.device):
        moved = places + step
        inside = moved.clamp(min=0).minimum(last)
        index = _flat(inside, shape)
        share += near[index] * (inside == moved).all(1)
        means += values[:, index]
    index = _flat(places, shape)
    values[:, index] = torch.lerp(values[:, index], means / 27, share / 27)


def _offsets(reach: int, device: torch.device) -> Tensor:
    line = torch.arange(-reach, reach + 1, device=device)
    return torch.cartesian_prod(line, line, line)


def _cubes(at: Tensor, reach: int, shape: tuple[int, ...]) -> Tensor:
    """The voxels at most ``reach`` from one of ``at`` along each axis, each once, (M, 3)."""
    around = (at[:, None] + _offsets(reach, at.device)).flatten(0, 1)
    inside = ((around >= 0) & (around < torch.tensor(shape, device=at.device))).all(1)
    flat = torch.unique(_flat(around[inside], shape))
    return torch.stack([flat // (shape[1] * shape[2]), flat // shape[2] % shape[1], flat % shape[2]], 1)


def _flat(at: Tensor, shape: tuple[int, ...]) -> Tensor:
    return (at[:, 0] * shape[1] + at[:, 1]) * shape[2] + at[:, 2]


def count_folds(field: Tensor, mask: Tensor) -> int:
    """Voxels inside a mask (1, 1, D, H, W) > 0.5 whose Jacobian determinant is not positive."""
    return int(((jacobian_determinant(field) <= 0)[:, None] & (mask > 0.5)).sum())
