"""Sampling images, labels and points through a displacement field given in voxels.

A field ``u`` of shape (B, 3, D, H, W) is a pull-back: ``warp(image, u)(x) = image(x + u(x))``.
Channel order is axis order, voxel centres are integers, and a grid halved in resolution covers the same extent
(its voxel ``i`` is centred on ``2 i + 1/2``), as `torch.nn.functional.interpolate` has it without aligned corners.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor


@lru_cache(maxsize=16)
def _normalised_identity(shape: tuple[int, int, int], device: torch.device) -> Tensor:
    """Voxel centres in `grid_sample`'s coordinates (last axis first, [-1, 1] at the outer faces), (1, D, H, W, 3)."""
    axes = [(2 * torch.arange(n, device=device, dtype=torch.float32) + 1) / n - 1 for n in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1], dim=-1)[None]


def sampling_grid(field: Tensor, shape: tuple[int, ...] | None = None) -> Tensor:
    """`grid_sample` coordinates of ``x + u(x)`` in an image of ``shape`` voxels (default: the field's own)."""
    own = tuple(field.shape[2:])
    target = own if shape is None else tuple(shape)
    scale = torch.tensor([2.0 / n for n in target[::-1]], device=field.device)
    offset = field.float().flip(1).permute(0, 2, 3, 4, 1) * scale
    identity = _normalised_identity(own, field.device)  # type: ignore[arg-type]
    if target != own:
        # the identity is kept in voxels, so an image of another size is addressed by the same indices
        ratio = torch.tensor([a / b for a, b in zip(own[::-1], target[::-1], strict=True)], device=field.device)
        identity = (identity + 1) * ratio - 1
    return identity + offset


def warp(image: Tensor, field: Tensor, mode: str = "linear", padding: str = "zeros") -> Tensor:
    """Sample ``image`` at ``x + u(x)``.

    Args:
        image: (B, C, D, H, W), any range; B may be 1 for a batch of fields. Labels keep their values with ``nearest``.
        field: (B, 3, d, h, w), voxels of the image's own index space.
        mode: ``linear``, ``nearest`` or ``cubic`` (Catmull-Rom, clipped to nothing: may overshoot).
        padding: outside the image: ``zeros`` or ``border``.

    Returns:
        (B, C, d, h, w), float32 or the image's dtype for labels.
    """
    if mode == "cubic":
        return _warp_cubic(image, field, padding)
    if mode not in ("linear", "nearest"):
        raise ValueError(f"mode is linear, nearest or cubic, not {mode!r}")
    grid = sampling_grid(field, tuple(image.shape[2:]))
    if image.shape[0] != grid.shape[0]:
        image = image.expand(grid.shape[0], *image.shape[1:])
    parts = _parts(grid)
    if parts > 1:
        image = image.expand(parts, *image.shape[1:])
        grid = grid.unflatten(1, (parts, -1))[0]
    out = F.grid_sample(
        image.float(),
        grid,
        mode="bilinear" if mode == "linear" else "nearest",
        padding_mode=padding,
        align_corners=False,
    )
    if parts > 1:
        out = out.transpose(0, 1).flatten(1, 2)[None]
    return out.to(image.dtype) if not image.is_floating_point() else out


def _parts(grid: Tensor) -> int:
    """Into how many slabs a single volume is cut: on the CPU, `grid_sample` works in parallel over the batch alone."""
    if grid.shape[0] > 1 or grid.device.type != "cpu":
        return 1
    return next(n for n in range(min(torch.get_num_threads(), grid.shape[1]), 0, -1) if grid.shape[1] % n == 0)


def _warp_cubic(image: Tensor, field: Tensor, padding: str) -> Tensor:
    """Catmull-Rom sampling as 64 gathered taps; memory is one tap at a time."""
    channels, *shape = image.shape[1:]
    axes = [torch.arange(n, device=field.device, dtype=torch.float32) for n in field.shape[2:]]
    where = torch.stack(torch.meshgrid(*axes, indexing="ij"))[None] + field.float()  # (B, 3, d, h, w)
    base = where.floor()
    t = where - base
    weights = torch.stack(  # (4, B, 3, d, h, w)
        [
            ((-0.5 * t + 1.0) * t - 0.5) * t,
            (1.5 * t - 2.5) * t * t + 1.0,
            ((-1.5 * t + 2.0) * t + 0.5) * t,
            (0.5 * t - 0.5) * t * t,
        ]
    )
    flat = image.float().expand(field.shape[0], channels, *shape).flatten(2)
    out = torch.zeros(field.shape[0], channels, *field.shape[2:], device=field.device)
    base = base.long()
    index, inside = [], []
    for axis, n in enumerate(shape):
        position = torch.stack([base[:, axis] + k for k in (-1, 0, 1, 2)])  # (4, B, d, h, w)
        inside.append((position >= 0) & (position < n))
        index.append(position.clamp(0, n - 1))
    for i in range(4):
        for j in range(4):
            row = (index[0][i] * shape[1] + index[1][j]) * shape[2]
            weight_row = weights[i, :, 0] * weights[j, :, 1]
            for k in range(4):
                weight = weight_row * weights[k, :, 2]
                if padding == "zeros":
                    weight = weight * (inside[0][i] & inside[1][j] & inside[2][k])
                tap = (row + index[2][k]).flatten(1)[:, None].expand(-1, channels, -1)
                out += weight[:, None] * flat.gather(2, tap).view_as(out)
    return out


def warp_points(points: Tensor, field: Tensor) -> Tensor:
    """Where voxel positions of the output grid come from: ``p + u(p)``, linear between voxels, (N, 3) → (N, 3)."""
    shape = torch.tensor(field.shape[2:], device=points.device, dtype=points.dtype)
    grid = ((2 * points + 1) / shape - 1).flip(-1)[None, :, None, None]
    moved = F.grid_sample(field[:1].to(points.dtype), grid, padding_mode="border", align_corners=False)
    return points + moved[0, :, :, 0, 0].T
