"""Displacement fields as the kernels take them: on a grid, interpolated from a coarser one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from deformgan.spatial.native.structures import AXIS, CoarseField

MOST_VOXELS = 2**31 - 1  # of a volume: the kernels count voxels in 32 bits


@lru_cache(maxsize=64)
def axis_map(source: int, target: int) -> tuple[np.ndarray, ...]:
    """Linear interpolation along an axis (see `deformgan.spatial.field.resize`), and its transpose.

    Returns:
        For each target voxel the source voxel below, that above, and the latter's share; for each source voxel the
        first of the targets it goes to, and one past the last.
    """
    at = np.clip((np.arange(target) + 0.5) * source / target - 0.5, 0, source - 1)
    below = at.astype(np.int32)
    above = np.minimum(below + 1, source - 1)
    k = np.arange(source)[:, None]
    used = (below == k) | (above == k)
    first = np.where(used.any(1), used.argmax(1), 0)
    last = np.where(used.any(1), target - used[:, ::-1].argmax(1), 0)
    whole = [np.ascontiguousarray(a, np.int32) for a in (below, above, first, last)]
    return whole[0], whole[1], (at - below).astype(np.float32), whole[2], whole[3]


def describe(
    into: CoarseField, coarse: Sequence[int], fine: Sequence[int], target: Sequence[int], offset: int = 0
) -> list[tuple[np.ndarray, ...]]:
    """Fill in everything but the values and the memory.

    Args:
        into: What to fill in.
        coarse, fine: (d, h, w) of the field that is given, and (D, H, W) of the grid it is wanted on.
        target: (D', H', W') of the image it leads to, with its border.
        offset: Voxels of that border.

    Returns:
        What must live as long as the structure.
    """
    maps = [axis_map(a, b) for a, b in zip(coarse, fine, strict=True)]
    into.shape[:], into.coarse[:], into.target[:] = tuple(fine), tuple(coarse), tuple(target)
    into.offset = offset
    into.scale[:] = [a / b for a, b in zip(fine, coarse, strict=True)]
    for axis, arrays in zip(into.axes, maps, strict=True):
        for name, array in zip(AXIS, arrays, strict=True):
            setattr(axis, name, array.ctypes.data)
    return maps


def contiguous(volume: Tensor) -> Tensor:
    """Float32 in the usual order, without a graph."""
    return volume.detach().to(torch.float32).contiguous()


def alike(*volumes: Tensor) -> list[Tensor]:
    """Images (1, 1, D, H, W) as the kernels take them, or `ValueError` where they are not of one shape."""
    found = [contiguous(volume) for volume in volumes]
    shape = tuple(found[0].shape)
    if len(shape) != 5 or shape[:2] != (1, 1) or any(tuple(v.shape) != shape for v in found) or not found[0].numel():
        raise ValueError(f"images are (1, 1, D, H, W) and of one shape, not {[tuple(v.shape) for v in volumes]}")
    if found[0].numel() > MOST_VOXELS:
        raise ValueError(f"a volume of {shape} is too large")
    return found


def check_gradient(gradient: Tensor, moved: Tensor) -> None:
    """`ValueError` where a derivative by ``moved`` cannot be added to ``gradient`` in place."""
    if gradient.shape != moved.shape or gradient.dtype != torch.float32 or not gradient.is_contiguous():
        raise ValueError(f"the gradient is contiguous float32 {tuple(moved.shape)}, not {tuple(gradient.shape)}")
