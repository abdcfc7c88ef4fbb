"""How well many linear maps at once bring two subsampled images together, with a gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from deformgan.align.placement import Subsampled
from deformgan.spatial.grid import Grid
from deformgan.spatial.native.information import BINS, shared_information
from deformgan.spatial.native.use import usable
from deformgan.spatial.resample import normalising
from deformgan.spatial.warp import box_maximum

_NEEDED = 0.6  # share of the smaller foreground's volume that must be compared; a sliver agrees by chance
_WIDE = 3  # coarse voxels of background around the foreground that are compared too: empty must meet empty
_SHELL = 0.5  # of a coarse voxel, that makes it foreground; the background beside it is compared too


@dataclass(frozen=True, eq=False)
class Level:
    """A pair at one resolution.

    Args:
        points: (N, 3) float32, fixed world positions minus the fixed centre, mm.
        bins: (N,) int64, the fixed intensities there.
        volume: (1, 1, D, H, W) float32 in [0, 1], the moving image.
        to_volume: (3, 4) float32 from moving world mm minus the moving centre to `grid_sample`'s coordinates.
        needed: Points that must fall inside the moving image for the full score.
        excluded: (1, 1, D, H, W) float32 of ``volume``'s voxels, 1 where one about them is excluded, or None.
    """

    points: Tensor
    bins: Tensor
    volume: Tensor
    to_volume: Tensor
    needed: float
    excluded: Tensor | None = None

    def slope(self, matrices: Tensor) -> tuple[Tensor, Tensor]:
        """See `nmi_slope`."""
        return nmi_slope(self, matrices)


def make_level(
    fixed: Subsampled,
    moving: Subsampled,
    spacing_mm: float,
    most: int,
    centres_mm: tuple[np.ndarray, np.ndarray],
    leave_out: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Level:
    """Both images averaged to voxels about ``spacing_mm`` apart; the fixed foreground and a shell around it count.

    Args:
        fixed, moving: From `deformgan.align.placement.subsample`.
        spacing_mm: Between voxels; images that are coarser already stay as they are.
        most: Points; evenly spread where there are more.
        centres_mm: The fixed and the moving image's, (3,) world mm (RAS+).
        leave_out: Of fixed world positions (N, 3), mm, whether they are not compared, (N,) bool.
    """
    (fixed_values, fixed_share, fixed_grid), (values, share, grid) = (_averaged(t, spacing_mm) for t in (fixed, moving))
    # what is thin, as vessels alone, fills no such voxel by half
    shell = min(_SHELL, float(fixed_share.amax()) / 2)
    near = box_maximum((fixed_share >= shell).float(), _WIDE)
    if (excluded := _excluded(fixed, spacing_mm)) is not None and bool((left := near * (excluded == 0)).any()):
        near = left
    index = torch.nonzero(near[0, 0])
    if leave_out is not None:
        index = index[torch.from_numpy(~leave_out(fixed_grid.to_world(index.numpy())))]
    # not every so-many-th: in step with the rows of the grid these leave planes out
    index = index[torch.randperm(len(index), generator=torch.Generator().manual_seed(0))[:most]]
    points = torch.from_numpy(fixed_grid.to_world(index.numpy()) - centres_mm[0]).float()
    bins = (fixed_values[0, 0][index.unbind(1)] * (BINS - 1)).round().long()
    volumes = [
        float(s.sum()) * abs(np.linalg.det(g.affine[:3, :3])) for s, g in ((fixed_share, fixed_grid), (share, grid))
    ]
    return level_of(points, bins, (values, grid), centres_mm[1], volumes, _excluded(moving, spacing_mm))


def level_of(
    points: Tensor,
    bins: Tensor,
    moving: tuple[Tensor, Grid],
    centre_mm: np.ndarray,
    volumes: Sequence[float],
    excluded: Tensor | None,
) -> Level:
    """Points of the fixed image beside a volume of the moving one.

    Args:
        points, bins, excluded: As `Level` has them.
        moving: Its volume, (1, 1, D, H, W), and where that lies.
        centre_mm: Of the moving image, (3,) world mm (RAS+).
        volumes: Of the fixed and the moving foreground, in one unit.
    """
    volume, grid = moving
    needed = _NEEDED * len(points) * min(1.0, volumes[1] / max(volumes[0], 1e-6))
    return Level(points, bins, volume, volume_coordinates(grid, centre_mm), max(needed, 1.0), excluded)


def volume_coordinates(grid: Grid, centre_mm: np.ndarray) -> Tensor:
    """(3, 4) float32 from world mm (RAS+) minus a centre to `grid_sample`'s coordinates in a grid's volume."""
    matrix = normalising(grid.shape) @ grid.world_to_index
    matrix[:, 3] = matrix @ np.append(centre_mm, 1)
    return torch.from_numpy(matrix[2::-1].copy()).float()


def sampling_positions(points: Tensor, to_volume: Tensor, matrices: Tensor) -> Tensor:
    """Where maps (B, 3, 4) take points (N, 3), both about the images' centres, for `grid_sample`, (B, N, 3)."""
    linear = to_volume[:, :3] @ matrices[:, :, :3]
    offset = matrices[:, :, 3] @ to_volume[:, :3].T + to_volume[:, 3]
    return points @ linear.transpose(1, 2) + offset[:, None]


def nmi_score(level: Level, matrices: Tensor, threads: int = 1) -> Tensor:
    """Normalised mutual information ``2 I / (H + H)`` of each candidate, less where too little is compared.

    The joint histogram spreads each moving value over the two bins beside it (a Parzen window of order 1), so that it
    has a gradient.

    Args:
        matrices: (B, 3, 4), from fixed position minus fixed centre to moving position minus moving centre, mm.
        threads: That share the candidates in compiled code.

    Returns:
        (B,) in [0, 1].
    """
    if usable(level.volume, matrices[:1]):
        to_voxels = _to_voxels(level, matrices)
        return shared_information(*_sampled(level), to_voxels, with_slope=False, threads=threads)[0]
    at = sampling_positions(level.points, level.to_volume, matrices)
    count = len(matrices)
    inside = (at.detach().abs().amax(2) <= 1).float()
    if level.excluded is not None:
        excluded = level.excluded.expand(count, -1, -1, -1, -1)
        excluded = F.grid_sample(excluded, at.detach()[:, None, None], align_corners=False)
        inside = inside * (1 - excluded[:, 0, 0, 0])
    volume = level.volume.expand(count, -1, -1, -1, -1)
    moved = F.grid_sample(volume, at[:, None, None], padding_mode="border", align_corners=False)[:, 0, 0, 0]
    value = moved * (BINS - 1)
    low = value.detach().floor().clamp(0, BINS - 2)
    part = (value - low) * inside
    cell = level.bins * BINS + low.long()
    joint = torch.zeros(count, BINS * BINS).scatter_add(1, cell, inside - part).scatter_add(1, cell + 1, part)
    seen = inside.sum(1)
    joint = (joint / seen.clamp_min(1)[:, None]).view(count, BINS, BINS)
    alone = _entropy(joint.sum(1)) + _entropy(joint.sum(2))
    information = alone - _entropy(joint)
    return 2 * information / alone.clamp_min(1e-6) * (seen / level.needed).clamp_max(1)


def nmi_slope(level: Level, matrices: Tensor) -> tuple[Tensor, Tensor]:
    """`nmi_score` (B,) and its derivative with respect to each map, (B, 3, 4)."""
    if usable(level.volume):
        score, slope = shared_information(*_sampled(level), _to_voxels(level, matrices))
        return score, _linear_to_voxels(level).T @ cast(Tensor, slope)
    with torch.enable_grad():
        leaf = matrices.detach().requires_grad_()
        score = nmi_score(level, leaf)
        return score.detach(), torch.autograd.grad(score.sum(), leaf)[0]


def _sampled(level: Level) -> tuple[Tensor, Tensor, Tensor, Tensor | None, float]:
    return level.points, level.bins, level.volume, level.excluded, level.needed


def _linear_to_voxels(level: Level) -> Tensor:
    return level.to_volume[:, :3] * (torch.tensor(level.volume.shape[:1:-1]) / 2)[:, None]


def _to_voxels(level: Level, matrices: Tensor) -> Tensor:
    """The maps (B, 3, 4) on to voxel indices along W, H and D."""
    half = torch.tensor(level.volume.shape[:1:-1]) / 2
    out = _linear_to_voxels(level) @ matrices
    out[:, :, 3] += half * (level.to_volume[:, 3] + 1) - 0.5
    return out


def _entropy(probability: Tensor) -> Tensor:
    return torch.special.entr(probability.clamp_min(1e-9)).flatten(1).sum(1)


def _averaged(subsampled: Subsampled, spacing_mm: float) -> tuple[Tensor, Tensor, Grid]:
    """Values and share of foreground, (1, 1, d, h, w), and their grid."""
    factor = _factor(subsampled, spacing_mm)
    values, share = (F.avg_pool3d(v.float()[None, None], factor) for v in (subsampled.values, subsampled.mask))
    index = np.diag([*factor, 1.0])
    index[:3, 3] = (np.array(factor) - 1) / 2
    shape = tuple(values.shape[2:])
    return values, share, Grid(shape, subsampled.grid.affine @ index)  # type: ignore[arg-type]


def _factor(subsampled: Subsampled, spacing_mm: float) -> list[int]:
    axes = zip(subsampled.grid.shape, subsampled.grid.spacing, strict=True)
    return [min(n, max(1, round(spacing_mm / spacing))) for n, spacing in axes]


def _excluded(subsampled: Subsampled, spacing_mm: float) -> Tensor | None:
    """1 in the averaged voxels that hold anything excluded, (1, 1, d, h, w), or None."""
    if subsampled.excluded is None:
        return None
    return F.max_pool3d(subsampled.excluded.float()[None, None], _factor(subsampled, spacing_mm))
