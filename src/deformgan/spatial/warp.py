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

from deformgan.spatial.constants import constant
from deformgan.spatial.native import sampling
from deformgan.spatial.native.use import usable


@lru_cache(maxsize=16)
def _normalised_identity(shape: tuple[int, int, int], device: torch.device) -> Tensor:
    """Voxel centres in `grid_sample`'s coordinates (last axis first, [-1, 1] at the outer faces), (1, D, H, W, 3)."""
    axes = [(2 * torch.arange(n, device=device, dtype=torch.float32) + 1) / n - 1 for n in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1], dim=-1)[None]


def sampling_grid(field: Tensor, shape: tuple[int, ...] | None = None) -> Tensor:
    """`grid_sample` coordinates of ``x + u(x)`` in an image of ``shape`` voxels (default: the field's own)."""
    own = tuple(field.shape[2:])
    target = own if shape is None else tuple(shape)
    scale = constant(tuple(2.0 / n for n in target[::-1]), field.device)
    offset = field.float().flip(1).permute(0, 2, 3, 4, 1) * scale
    identity = _normalised_identity(own, field.device)  # type: ignore[arg-type]
    if target != own:
        # the identity is kept in voxels, so an image of another size is addressed by the same indices
        ratio = constant(tuple(a / b for a, b in zip(own[::-1], target[::-1], strict=True)), field.device)
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
    if mode == "linear" and usable(image, field):
        return sampling.warp(image, field, padding)
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
    """Into how many blocks a single volume is cut: on the CPU, `grid_sample` works in parallel over the batch alone."""
    if grid.shape[0] > 1 or grid.device.type != "cpu":
        return 1
    return next(n for n in range(min(torch.get_num_threads(), grid.shape[1]), 0, -1) if grid.shape[1] % n == 0)


def _warp_cubic(image: Tensor, field: Tensor, padding: str) -> Tensor:
    own = [torch.arange(n, device=field.device, dtype=torch.float32) for n in field.shape[2:]]
    index = torch.stack(torch.meshgrid(*own, indexing="ij"))[None] + field.float()
    volumes = cubic_volumes(image.float(), padding)
    scale = constant(tuple(2.0 / n for n in volumes.shape[:1:-1]), field.device)
    # the volumes have one voxel more at each end
    grid = (index.flip(1).permute(0, 2, 3, 4, 1) + 1.5) * scale - 1
    volumes = volumes.expand(grid.shape[0], *volumes.shape[1:])
    sampled = F.grid_sample(volumes, grid, padding_mode=padding, align_corners=False)
    return cubic_sum(sampled.unflatten(1, (8, -1)).transpose(0, 1), index.transpose(0, 1).unsqueeze(2))


def cubic_volumes(image: Tensor, padding: str) -> Tensor:
    """What `cubic_sum` needs sampled linearly: the image and its half second differences along every set of axes.

    Args:
        image: (B, C, D, H, W).
        padding: outside the image: ``zeros`` or ``border``.

    Returns:
        (B, 8 C, D + 2, H + 2, W + 2): one voxel more at each end; C volumes for each set of axes, the first axis's
        differences in the second half, the last axis's in every other.
    """
    mode = "constant" if padding == "zeros" else "replicate"
    volumes = [F.pad(image, (2,) * 6, mode)]
    for axis in (2, 3, 4):
        n = volumes[0].shape[axis] - 2
        three = [tuple(volume.narrow(axis, k, n) for k in range(3)) for volume in volumes]
        volumes = [one for before, at, after in three for one in (at, torch.lerp(before, after, 0.5) - at)]
    return torch.cat(volumes, 1)


def cubic_sum(sampled: Tensor, index: Tensor) -> Tensor:
    """Catmull-Rom interpolation from linear ones, in which grid samplers are fast.

    Between two voxels the spline is ``L(f) - t (1 - t) L(h)``: L linear interpolation, h half the second difference,
    t the way from one voxel to the next. One axis after the other this makes a volume of eight.

    Args:
        sampled: (8, ...), `cubic_volumes` sampled linearly.
        index: (3, ...) the positions, in voxels and in axis order.
    """
    for way in index.flip(0):
        t = way - way.floor()
        plain, bent = sampled.unflatten(0, (-1, 2)).unbind(1)
        sampled = plain - t * (1 - t) * bent
    return sampled[0]


def box_maximum(image: Tensor, radius: int) -> Tensor:
    """The greatest value in the cube of ``2 radius + 1`` voxels around every voxel, (B, 1, D, H, W) → the same."""
    if usable(image):
        return sampling.box_maximum(image, radius)
    for axis in range(3):
        size = [2 * radius + 1 if a == axis else 1 for a in range(3)]
        image = F.max_pool3d(image, size, 1, [n // 2 for n in size])
    return image


def warp_points(points: Tensor, field: Tensor) -> Tensor:
    """Where voxel positions of the output grid come from: ``p + u(p)``, linear between voxels, (N, 3) → (N, 3)."""
    shape = torch.tensor(field.shape[2:], device=points.device, dtype=points.dtype)
    grid = ((2 * points + 1) / shape - 1).flip(-1)[None, :, None, None]
    moved = F.grid_sample(field[:1].to(points.dtype), grid, padding_mode="border", align_corners=False)
    return points + moved[0, :, :, 0, 0].T
