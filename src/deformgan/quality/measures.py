"""What can be measured of a field without knowing the truth: its shape, its consistency, and how contents overlap."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from deformgan.losses import bending_energy
from deformgan.spatial.field import compose
from deformgan.spatial.grid import Grid
from deformgan.spatial.warp import warp
from deformgan.transforms.transform import Transform

RESIDUAL_POINTS = 20_000


def inconsistency(forward: Tensor, backward: Tensor, spacing_mm: Tensor) -> Tensor:
    """How far each position is off after ``forward`` and then ``backward``, (D, H, W) in mm.

    Args:
        forward, backward: (1, 3, D, H, W) in voxels of one grid; in register, ``backward`` is what T alone says of the
            pair with its images exchanged, so it errs by itself: the measure is for comparing, not for reading off.
        spacing_mm: (1, 3, 1, 1, 1).
    """
    return (compose(backward, forward) * spacing_mm).square().sum(1).sqrt()[0]


def foreground(share: Tensor) -> Tensor:
    """Where the share of foreground, (1, 1, D, H, W) in [0, 1], is above a half; (D, H, W) bool.

    Above half of the most there is, where that is less: a thin shell may fill no voxel of a coarse grid.
    """
    return share[0, 0] > 0.5 * min(1.0, float(share.max()))


def dice(a: Tensor, b: Tensor) -> float:
    """Overlap of two masks, in [0, 1]; 0 where both are empty."""
    return float(2 * (a & b).sum() / (a.sum() + b.sum()).clamp_min(1))


def covered(fixed: Tensor | None, moving: Tensor | None, field: Tensor) -> Tensor:
    """Where both images have data, (D, H, W) bool on the field's grid.

    Args:
        fixed, moving: (1, 1, D', H', W'), 1 where that image has data on its working grid; None for everywhere.
        field: (1, 3, D, H, W).
    """
    d, h, w = field.shape[2:]
    out = torch.ones(d, h, w, dtype=torch.bool, device=field.device)
    if fixed is not None:
        out &= F.adaptive_avg_pool3d(fixed.to(field), (d, h, w))[0, 0] > 0.5
    if moving is not None:
        out &= warp(F.adaptive_avg_pool3d(moving.to(field), (d, h, w)), field, padding="border")[0, 0] > 0.5
    return out


def coverage(field: Tensor, inside: Tensor, known: Tensor) -> float:
    """Share of the positions inside (D, H, W) whose source lies within the moving grid, and where it is known."""
    shape = torch.tensor(field.shape[2:]).view(3, 1)
    at = torch.nonzero(inside).T + field[0][:, inside]
    within = ((at > -0.5) & (at < shape - 0.5)).all(0)
    return float((within & known[inside]).float().mean()) if within.numel() else 0.0


def surface_distance_mm(a: Tensor, b: Tensor, spacing_mm: tuple[float, float, float]) -> float:
    """Mean distance from the surface of either mask (D, H, W) to that of the other; infinite where one is empty."""
    if not (a.any() and b.any()):
        return float("inf")
    box = _box(a | b)
    surfaces = [(mask & ~_eroded(mask))[box] for mask in (a, b)]
    way = [distance_mm(surface, spacing_mm) for surface in surfaces]
    total = way[1][surfaces[0]].sum() + way[0][surfaces[1]].sum()
    return float(total / (surfaces[0].sum() + surfaces[1].sum()))


def _eroded(mask: Tensor) -> Tensor:
    """Where a voxel of (D, H, W) and its six neighbours are all True; beyond the border nothing is."""
    padded = F.pad(mask, (1,) * 6)
    inner = mask
    for axis in range(3):
        for start in (0, 2):
            neighbour = padded.narrow(axis, start, mask.shape[axis])
            for other in range(3):
                if other != axis:
                    neighbour = neighbour.narrow(other, 1, mask.shape[other])
            inner = inner & neighbour
    return inner


def distance_mm(target: Tensor, spacing_mm: tuple[float, float, float]) -> Tensor:
    """Distance from each voxel to the nearest True one, (D, H, W) float32, exact; infinite where there is none.

    The squared distance is a minimum along one axis after the other (Felzenszwalb and Huttenlocher 2012). On the coarse
    grids of a verdict trying every voxel of a line is quick, and SciPy, which has this too, takes longer to import.
    """
    squared = torch.where(target, 0.0, float("inf"))
    for axis, step in enumerate(spacing_mm):
        lines = squared.movedim(axis, -1)
        place = step * torch.arange(lines.shape[-1])
        nearest = [(lines + (place - at).square()).amin(-1) for at in place]
        squared = torch.stack(nearest, -1).movedim(-1, axis)
    return squared.sqrt()


def roughness(field: Tensor, mask: Tensor) -> float:
    """Square root of the bending energy about the content, in voxels: 0 for affine maps.

    Taken over the bounding box of the mask (D, H, W): farther out nothing holds the field.
    """
    if not mask.any():
        return 0.0
    box = field[(..., *_box(mask))]
    if min(box.shape[2:]) < 3:
        return 0.0
    return float(bending_energy(box).sqrt())


def _box(mask: Tensor) -> tuple[slice, ...]:
    """The smallest part of a volume (D, H, W) that holds all of a mask, which is not empty."""
    index = torch.nonzero(mask)
    return tuple(slice(a, b + 1) for a, b in zip(index.amin(0).tolist(), index.amax(0).tolist(), strict=True))


def inverse_residual(transform: Transform, inverse: Transform, content: np.ndarray, grid: Grid) -> float:
    """How far positions are off after the map and back: the 99.9th percentile of the distances in mm.

    Args:
        transform, inverse: Fixed to moving space, and what should lead back.
        content: (D, H, W), 0 where it does not matter.
        grid: Its grid, in fixed space. Positions lie between the voxels, where interpolation does its worst.
    """
    index = spread_voxels(content, RESIDUAL_POINTS)
    if index.size == 0:
        return 0.0
    points = grid.to_world(index + 0.5)
    back = inverse.map_points(transform.map_points(points))
    return float(np.quantile(np.linalg.norm(back - points, axis=1), 0.999))


def spread_voxels(content: np.ndarray, count: int) -> np.ndarray:
    """Voxel indices (N, 3) of about ``count`` of the voxels of (D, H, W) that are not 0, spread evenly over them.

    Slice by slice: a list of all of them would be larger than the image.
    """
    slices = [content[:, :, k].T for k in range(content.shape[2])]  # the first axis runs fastest
    step = max(1, sum(np.count_nonzero(one != 0) for one in slices) // count)  # NumPy counts booleans quickest
    found, skip = [], 0
    for k, one in enumerate(slices):
        here = np.flatnonzero(one != 0)
        chosen = here[skip::step]
        j, i = np.divmod(chosen, content.shape[0])
        found.append(np.stack([i, j, np.full(len(i), k)], -1))
        skip = (skip - len(here)) % step
    return np.concatenate(found)
