"""The linear map once more on the images' own voxels: what the search found is off by a part of the voxels it saw.

The search compares voxels 3 mm apart, and few steps leave an affine map where it happens to be: within one person 0.3
to 2.9 mm from the truth. Thirty thousand voxels of the fixed image and the moving image as it is take it to 0.1 mm
where the images show that much.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from deformgan.align.ascent import Round, centred, improved_map, mean_shift_mm
from deformgan.align.parameters import AFFINE, RIGID
from deformgan.align.placement import excluded_of
from deformgan.align.similarity import Level, level_of, nmi_score
from deformgan.preprocess.conform import WHITE
from deformgan.preprocess.scan import Scan
from deformgan.spatial.grid import Grid
from deformgan.spatial.native.information import BINS
from deformgan.spatial.native.threads import one_thread

_APART_MM = 1.0  # between the voxels of an adult's brain, at least: finer ones are not all looked at
_POINTS = 30_000
_SHELL = 3  # voxels of background around the foreground that are compared too: empty must meet empty
_MARGIN = 8  # voxels of background around the moving content that are kept
_ROUND = Round(_APART_MM, _POINTS, 1, AFFINE, 24, 0.5)
_DRAWN = 4  # times as many voxels are drawn, of which those near the foreground stay
_EVERY = 7  # voxel of the foreground tells how bright white is


@dataclass(frozen=True, eq=False)
class Finest:
    """A pair on its own voxels, for maps that are nearly right.

    Args:
        level: As `deformgan.align.similarity` has it.
        centres_mm: Where the contents of the two have their centres, (3,) world mm (RAS+) each.
        voxel_mm: Of the fixed image, the mean of its three sides.

    Attributes:
        trust: Share of the best map's score from which on images stay where they are: half a millimetre costs a
            hundredth.
    """

    trust: ClassVar[float] = 0.99

    level: Level
    centres_mm: tuple[np.ndarray, np.ndarray]
    voxel_mm: float

    @classmethod
    def of(cls, fixed: Scan, moving: Scan, size: float = 1.0) -> Finest:
        """Of two scans.

        Args:
            size: Of the brains, an adult's being 1; lengths are in proportion to it, and so is the world that maps are
                in (see `deformgan.align.placement.adult_sized`).
        """
        scale = np.diag([1 / size] * 3 + [1.0])
        centres = [s.content.centre_mm(s.image.grid) / size for s in (fixed, moving)]
        index = _drawn(fixed, scale)
        points = torch.from_numpy(fixed.image.grid.moved_by(scale).to_world(index) - centres[0]).float()
        volume, excluded, grid = _volume(moving, scale)
        volumes = [s.content.volume_mm3(s.image.grid) for s in (fixed, moving)]
        bins = torch.from_numpy(_bins(fixed, index))
        level = level_of(points, bins, (volume, grid), centres[1], volumes, excluded)
        return cls(level, (centres[0], centres[1]), float(fixed.image.grid.spacing.mean()) / size)

    def moves(self, matrix: np.ndarray) -> float:
        """How far a 4×4 takes the points from where they are, on average, in voxels of the fixed image."""
        return mean_shift_mm(self.level.points, self.centres_mm[0], matrix) / self.voxel_mm

    @one_thread()
    def score(self, matrix: np.ndarray) -> float:
        """The `nmi_score` of a 4×4 ``fixed_to_moving``, in [0, 1]."""
        return float(nmi_score(self.level, centred(matrix, self.centres_mm))[0])

    @one_thread()
    def improved(self, matrix: np.ndarray, *, rigid: bool) -> np.ndarray:
        """The map after an ascent; a rigid one leaves the scales and shears as they are."""
        return improved_map(self.level, matrix, self.centres_mm, _ROUND, RIGID if rigid else AFFINE)


def _steps(grid: Grid, scale: np.ndarray) -> list[int]:
    return [max(1, round(_APART_MM / float(spacing * scale[0, 0]))) for spacing in grid.spacing]


def _unit(scan: Scan, values: np.ndarray) -> np.ndarray:
    """Values of the image's foreground as shares of its white."""
    content = scan.content
    some = scan.image.data[::2, ::2, ::2][content.mask[::2, ::2, ::2]].astype(np.float32)[::_EVERY]
    white = float(np.quantile(some, WHITE)) - content.background_value if some.size else 0.0
    values = values.astype(np.float32) - np.float32(content.background_value)
    return np.clip(values / max(white, np.finfo(np.float32).tiny), 0, 1)


def _drawn(scan: Scan, scale: np.ndarray) -> np.ndarray:
    """Voxels in and around the foreground, (N, 3); none that is excluded."""
    mask, excluded = scan.content.mask, excluded_of(scan)
    reach = _SHELL * np.array(_steps(scan.image.grid, scale))
    low, high = _box(mask, reach)
    index = np.random.default_rng(0).integers(low, high, (_DRAWN * _POINTS, 3))
    near, last = np.zeros(len(index), bool), np.array(mask.shape) - 1
    for offset in (np.zeros(3, int), *np.diag(reach), *-np.diag(reach)):
        near |= mask[tuple(np.clip(index + offset, 0, last).T)]
    if excluded is not None:
        near &= ~excluded[tuple(index.T)]
    return index[near][:_POINTS]


def _bins(scan: Scan, index: np.ndarray) -> np.ndarray:
    """Of the image's values there, the background 0, (N,) int64."""
    at = tuple(index.T)
    values = np.where(scan.content.mask[at], _unit(scan, scan.image.data[at]), 0)
    return np.rint(values * (BINS - 1)).astype(np.int64)


def _volume(scan: Scan, scale: np.ndarray) -> tuple[torch.Tensor, torch.Tensor | None, Grid]:
    """The content with a margin, and what of it is excluded, (1, 1, D, H, W) float32; and their grid."""
    steps = np.array(_steps(scan.image.grid, scale))
    low, high = _box(scan.content.mask, steps * _MARGIN)
    box = tuple(slice(a, b, s) for a, b, s in zip(low, high, steps, strict=True))
    inside = np.ascontiguousarray(scan.content.mask[box])
    values = _unit(scan, scan.image.data[box]) * inside
    to_box = np.diag([*steps, 1.0])
    to_box[:3, 3] = low
    grid = Grid(inside.shape, scale @ scan.image.grid.affine @ to_box)
    excluded = excluded_of(scan)
    marked = None if excluded is None else torch.from_numpy(np.ascontiguousarray(excluded[box])).float()[None, None]
    return torch.from_numpy(np.ascontiguousarray(values, np.float32))[None, None], marked, grid


def _box(mask: np.ndarray, margin: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first voxel of a mask's box with a margin, and the first beyond it, (3,) each."""
    ends = []
    for axis in range(3):
        there = np.flatnonzero(mask.any(tuple(a for a in range(3) if a != axis)))
        ends.append((there[0], there[-1] + 1) if len(there) else (0, mask.shape[axis]))
    low, high = np.array(ends).T
    return np.maximum(low - margin, 0), np.minimum(high + margin, mask.shape)
