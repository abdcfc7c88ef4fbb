"""A field continued smoothly beyond where it is known."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from deformgan.spatial.field import affine_field, fit_affine

_ROUNDS = 8  # of averaging on each grid, which take out what the next coarser one could not say; of a field
_SMALLEST = 4  # voxels along the shortest axis of the coarsest grid
_ENOUGH = 64  # voxels, of which an affine map is taken


@torch.no_grad()
def continued(field: Tensor, known: Tensor, weight: Tensor) -> Tensor:
    """The field where it is known; beyond, the affine map nearest to it, and what is left continued smoothly.

    What is left becomes nearly harmonic, from coarse to fine grids: along each axis it is nowhere longer than where
    it is known. A known part that does not fold was not seen to be continued by one that does; no bound says so.

    Args:
        field: (1, 3, D, H, W) in voxels of its own grid.
        known: (1, 1, D, H, W), not 0 where the field is known.
        weight: The same, ≥ 0: where the affine map is to be near.

    Returns:
        As ``field``; the same field where too little is known.
    """
    known = known != 0
    weight = weight.to(field) * known
    if float(weight.sum()) < _ENOUGH or bool(known.all()):
        return field
    affine = affine_field(fit_affine(field, weight), tuple(field.shape[2:]))
    return torch.where(known, field, affine + filled(field - affine, known))


def filled(values: Tensor, known: Tensor, rounds: int = _ROUNDS) -> Tensor:
    """Values (1, C, D, H, W) where ``known`` (1, 1, D, H, W) is true, and between and around them smooth ones."""
    share = known.to(values)
    if min(values.shape[2:]) <= _SMALLEST:
        mean = (values * share).sum((2, 3, 4), keepdim=True) / share.sum().clamp_min(1)
        return torch.where(known, values, mean)
    size = [-(-n // 2) for n in values.shape[2:]]
    parts = F.adaptive_avg_pool3d(share, size)  # type: ignore[arg-type]
    means = F.adaptive_avg_pool3d(values * share, size) / parts.clamp_min(1e-6)  # type: ignore[arg-type]
    coarse = F.interpolate(filled(means, parts > 0, rounds), values.shape[2:], mode="trilinear", align_corners=False)
    out = torch.where(known, values, coarse)
    for _ in range(rounds):
        out = torch.where(known, values, _mean_of_neighbours(out))
    return out


def _mean_of_neighbours(volume: Tensor) -> Tensor:
    """Of the six; the border value goes on outside."""
    total = torch.zeros_like(volume)
    for axis in (2, 3, 4):
        n = volume.shape[axis]
        total += torch.cat([volume.narrow(axis, 1, n - 1), volume.narrow(axis, n - 1, 1)], axis)
        total += torch.cat([volume.narrow(axis, 0, 1), volume.narrow(axis, 0, n - 1)], axis)
    return total / 6
