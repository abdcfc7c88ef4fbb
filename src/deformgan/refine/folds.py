"""Takes the folds out of a field where they are, and leaves the rest of it alone."""

from __future__ import annotations

import torch
from torch import Tensor

from deformgan.spatial.field import jacobian_determinant

_ROUNDS = 60
_LEAST = 0.05  # Jacobian determinant below which the surroundings are smoothed
_REACH = 2  # voxels around a fold that are smoothed with it


@torch.no_grad()
def without_folds(field: Tensor) -> Tensor:
    """Smooth a field around its folds, again and again, until there are none or patience ends.

    Args:
        field: (1, 3, D, H, W) in voxels of its own grid, finite.

    Returns:
        Same shape; voxels farther than a few from every fold keep their values.
    """
    smoothed = None
    for _ in range(_ROUNDS):
        at = (jacobian_determinant(field if smoothed is None else smoothed)[0] < _LEAST).nonzero()
        if len(at) == 0:
            break
        smoothed = field.clone() if smoothed is None else smoothed
        _smooth_around(smoothed[0].flatten(1), at, tuple(field.shape[2:]))
    return field if smoothed is None else smoothed


def _smooth_around(values: Tensor, at: Tensor, shape: tuple[int, ...]) -> None:
    """Means of 3³ voxels near some voxels, fading out at the rim; folds are few, so the rest is not looked at.

    Args:
        values: (C, D·H·W), changed in place; the border value goes on outside.
        at: (N, 3) indices.
        shape: D, H, W.
    """
    last = torch.tensor(shape, device=at.device) - 1
    near = torch.zeros(values.shape[1], device=values.device)
    near[_flat(_cubes(at, _REACH, last), shape)] = 1
    places = _cubes(at, _REACH + 1, last)
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


def _cubes(at: Tensor, reach: int, last: Tensor) -> Tensor:
    """The voxels at most ``reach`` from one of ``at`` along each axis, each once, (M, 3)."""
    around = (at[:, None] + _offsets(reach, at.device)).flatten(0, 1)
    return torch.unique(around[((around >= 0) & (around <= last)).all(1)], dim=0)


def _flat(at: Tensor, shape: tuple[int, ...]) -> Tensor:
    return (at[:, 0] * shape[1] + at[:, 1]) * shape[2] + at[:, 2]


def count_folds(field: Tensor, mask: Tensor) -> int:
    """Voxels inside a mask (1, 1, D, H, W) > 0.5 whose Jacobian determinant is not positive."""
    return int(((jacobian_determinant(field) <= 0)[:, None] & (mask > 0.5)).sum())
