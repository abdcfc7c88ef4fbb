"""Sums over cubic windows, along one axis after the other, for any number of stacked volumes in one call."""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from deformgan.losses._common import check_window, full_precision


@lru_cache(maxsize=64)
def _band(length: int, window: int, dtype: torch.dtype) -> Tensor:
    """The matrix whose product with a line of voxels is the line of window sums, (length, length)."""
    index = torch.arange(length)
    return ((index[:, None] - index[None, :]).abs() <= window // 2).to(dtype)


@full_precision
def box_sum(volumes: Tensor, window: int) -> Tensor:
    """Sum over the ``window``³ cube around every voxel; nothing lies outside the volume.

    The operator is its own adjoint (windows are odd), and exact: no running sum whose rounding grows along the axis.

    Args:
        volumes: (…, D, H, W), any number of leading axes; 16-bit input is summed in float32.
        window: Odd number of voxels.

    Returns:
        Same shape as ``volumes``.
    """
    check_window(window)
    if window == 1:
        return volumes
    return _by_products(volumes, window) if volumes.device.type == "cpu" else _by_pooling(volumes, window)


def _by_products(volumes: Tensor, window: int) -> Tensor:
    """Band matrices times lines: on a CPU a dense product of this size is cheaper than strided sliding sums."""
    depth, height, width = volumes.shape[-3:]
    bands = [_band(n, window, volumes.dtype) for n in (depth, height, width)]
    lines = volumes.reshape(-1, width) @ bands[2]
    planes = lines.view(-1, height, width)
    blocks = torch.bmm(bands[1].expand(planes.shape[0], -1, -1), planes).view(-1, depth, height * width)
    last = bands[0].expand(blocks.shape[0], -1, -1)
    if blocks.requires_grad:
        return torch.bmm(last, blocks).view(volumes.shape)
    # nobody needs the first product any more: its memory is warm and a third buffer is not
    return torch.bmm(last, blocks, out=lines.view_as(blocks)).view(volumes.shape)


def _by_pooling(volumes: Tensor, window: int) -> Tensor:
    """Pooling: memory-bound on a GPU, and untouched by the reduced-precision modes of its matrix products."""
    depth, height, width = volumes.shape[-3:]
    reach = window // 2
    planes = volumes.reshape(-1, 1, height, width)
    out = F.avg_pool2d(planes, window, 1, reach, divisor_override=1)
    blocks = out.view(-1, 1, depth, height * width)
    out = F.avg_pool2d(blocks, (window, 1), 1, (reach, 0), divisor_override=1)
    return out.view(volumes.shape)
