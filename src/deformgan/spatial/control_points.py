"""Control points of a field: where they lie, smoothing, an affine map beside them, and the unit of the full grid."""

from __future__ import annotations

import torch
from torch import Tensor

from deformgan.spatial.constants import of_axes
from deformgan.spatial.field import identity_positions

REACH = 50.0  # voxels over which a linear coefficient of 1 moves its end by one voxel: gives every parameter one scale


def linear(affine: Tensor, positions: Tensor) -> Tensor:
    """Displacement (1, 3, d, h, w) by an affine map (3, 4) of `centred_positions`."""
    return torch.einsum("ij,bjdhw->bidhw", affine[:, :3], positions) + affine[:, 3].view(1, 3, 1, 1, 1)


def centred_positions(full: tuple[int, ...], shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Where a coarser grid's voxels lie in the full one, from its centre, in units of `REACH`, (1, 3, d, h, w)."""
    middle, ratio = (of_axes(values, device) for values in _middle_and_ratio(full, shape))
    return (identity_positions(shape, device) - middle) * ratio / REACH


def _middle_and_ratio(full: tuple[int, ...], shape: tuple[int, ...]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return tuple((n - 1) / 2 for n in shape), tuple(a / b for a, b in zip(full, shape, strict=True))


def to_full_voxels(field: Tensor, full: tuple[int, ...]) -> Tensor:
    """The vectors in voxels of the full grid instead of the field's own."""
    ratio = _middle_and_ratio(full, tuple(field.shape[2:]))[1]
    return field * of_axes(ratio, field.device)


def from_full_voxels(field: Tensor, full: tuple[int, ...]) -> Tensor:
    """The inverse of `to_full_voxels`."""
    ratio = _middle_and_ratio(full, tuple(field.shape[2:]))[1]
    return field / of_axes(ratio, field.device)


def smoothed(control: Tensor, times: int) -> Tensor:
    """3³ box means, ``times`` over, the border replicated."""
    for _ in range(times):
        for axis in (2, 3, 4):
            n = control.shape[axis]
            before, after = control.narrow(axis, 0, 1), control.narrow(axis, n - 1, 1)
            padded = torch.cat([before, control, after], axis)
            control = (padded.narrow(axis, 0, n) + control + padded.narrow(axis, 2, n)) / 3
    return control
