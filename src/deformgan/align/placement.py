"""Two quick starts: with the images as their headers place them, or with their contents' centres together.

Headers of one session are right, and centres are then off wherever the two images cover different parts of the body;
headers of unrelated scans can be anywhere, and centres then bring the contents together. The images decide.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from deformgan.io.image import Image
from deformgan.losses.joint_histogram import normalised_mutual_information
from deformgan.preprocess.conform import WHITE
from deformgan.preprocess.scan import Scan
from deformgan.spatial.grid import Grid
from deformgan.spatial.resample import normalising

_APART_MM = 3.0  # between the voxels that are compared
_SMALL_LITRES = 0.15  # of content, below which it is no adult's: lengths are then in proportion to one of
_ADULT_LITRES = 1.2
_COVERAGE = 0.5  # share of the centred pair's common region that the headers must leave in common
_TRUST = 0.97  # share of the centred pair's agreement that suffices for the headers: they come from the scanner


@dataclass(frozen=True, eq=False)
class Subsampled:
    """Every so-many-th voxel of an image.

    Args:
        values: (D, H, W) float32 in [0, 1], 0 outside the foreground.
        mask: (D, H, W) bool, the foreground.
        grid: Where these voxels lie.
        excluded: (D, H, W) bool, where there is nothing to compare, or None.
        is_region: Whether the content is cut off on most sides, so that it does not tell how large it is.
    """

    values: Tensor
    mask: Tensor
    grid: Grid
    excluded: Tensor | None = None
    is_region: bool = False


def subsample(
    image: Image, mask: np.ndarray, background_value: float, excluded: np.ndarray | None = None
) -> Subsampled:
    """Voxels about 3 mm apart, for a quick comparison.

    Args:
        image: Any orientation, spacing and size.
        mask: (D, H, W) bool, its foreground.
        background_value: The value that becomes 0.
        excluded: (D, H, W) bool, where there is nothing to compare.
    """
    apart = _APART_MM * _size(float(np.count_nonzero(mask)) * float(image.grid.spacing.prod()))
    steps = [max(1, round(apart / spacing)) for spacing in image.grid.spacing]
    every = tuple(slice(None, None, step) for step in steps)
    inside = np.ascontiguousarray(mask[every])
    values = (image.data[every].astype(np.float32) - np.float32(background_value)) * inside
    white = np.quantile(values[inside], WHITE) if inside.any() else 0.0
    values = np.clip(values / max(white, np.finfo(np.float32).tiny), 0, 1)
    grid = Grid(inside.shape, image.grid.affine @ np.diag([*steps, 1]))
    marked = None if excluded is None else torch.from_numpy(np.ascontiguousarray(excluded[every]))
    return Subsampled(
        torch.from_numpy(np.ascontiguousarray(values, np.float32)), torch.from_numpy(inside), grid, marked
    )


def subsampled_pair(fixed: Scan, moving: Scan) -> tuple[Subsampled, Subsampled, tuple[np.ndarray, np.ndarray]]:
    """Both images subsampled, and their contents' centres in world mm (RAS+), (3,) each."""
    one, other = (
        replace(
            subsample(s.image, s.content.mask, s.content.background_value, excluded_of(s)),
            is_region=s.content.field_of_view.is_region,
        )
        for s in (fixed, moving)
    )
    return one, other, (fixed.content.centre_mm(fixed.image.grid), moving.content.centre_mm(moving.image.grid))


def adult_sized(
    fixed: Subsampled, moving: Subsampled, centres_mm: tuple[np.ndarray, np.ndarray]
) -> tuple[tuple[Subsampled, Subsampled, tuple[np.ndarray, np.ndarray]], float]:
    """A pair of small brains enlarged about the world's origin, and its size before: 1 for an adult's.

    A 4×4 map found between the enlarged images has a shift that is too long by the inverse of that size.
    """
    litres = [float(t.mask.sum()) * abs(np.linalg.det(t.grid.affine[:3, :3])) for t in (fixed, moving)]
    size = _size(max(litres))
    enlarged = np.diag([1 / size] * 3 + [1.0])
    one, other = (replace(t, grid=t.grid.moved_by(enlarged)) for t in (fixed, moving))
    return (one, other, (centres_mm[0] / size, centres_mm[1] / size)), size


def _size(volume_mm3: float) -> float:
    """Of a brain of that volume, an adult's being 1; anything that may be a part of one counts as an adult's."""
    litres = volume_mm3 / 1e6
    return 1.0 if litres >= _SMALL_LITRES else (litres / _ADULT_LITRES) ** (1 / 3)


def excluded_of(scan: Scan) -> np.ndarray | None:
    """The lesion, and the padding beyond planes that the content was cut along, (D, H, W) bool; None for neither."""
    grid = scan.image.grid
    seen = scan.content.field_of_view.on(grid, grid)
    lesion = None if scan.lesion is None else scan.lesion.data != 0
    if seen is None:
        return lesion
    unseen = seen[0, 0].numpy() == 0
    return unseen if lesion is None else unseen | lesion


def headers_win(fixed: Subsampled, moving: Subsampled, shift_mm: np.ndarray) -> bool:
    """Whether the images agree about as well, or better, where their headers place them as after a shift.

    Agreement is mutual information over the fixed foreground inside the moving image's field of view. Headers that
    leave much less of it than the shift does lose: a sliver agrees by chance.

    Args:
        fixed, moving: From `subsample`.
        shift_mm: (3,), fixed to moving position in world mm (RAS+): what brings the contents' centres together.
    """
    (by_headers, seen_headers), (by_centres, seen_centres) = (
        _similarity(fixed, moving, shift) for shift in (np.zeros(3), np.asarray(shift_mm))
    )
    return seen_headers >= max(1.0, _COVERAGE * seen_centres) and by_headers >= _TRUST * by_centres


def _similarity(fixed: Subsampled, moving: Subsampled, shift_mm: np.ndarray) -> tuple[float, int]:
    """Normalised mutual information, and the number of voxels it was taken over."""
    shift = np.eye(4)
    shift[:3, 3] = shift_mm
    # the axes reversed, as grid_sample counts them
    matrix = (normalising(moving.grid.shape) @ moving.grid.world_to_index @ shift @ fixed.grid.affine)[2::-1]
    index = torch.nonzero(fixed.mask).double()
    at = (index @ torch.from_numpy(matrix[:, :3].T.copy()) + torch.from_numpy(matrix[:, 3].copy())).float()
    inside = (at.abs() <= 1).all(1)
    if moving.excluded is not None:
        inside &= (
            F.grid_sample(moving.excluded.float()[None, None], at[None, None, None], "nearest", align_corners=False)[
                0, 0, 0, 0
            ]
            == 0
        )
    moved = F.grid_sample(moving.values[None, None], at[None, None, None], align_corners=False)[0, 0, 0, 0]
    return normalised_mutual_information(fixed.values[fixed.mask], moved, inside), int(inside.sum())
