"""Where an image has data, apart from where there is tissue.

A brain that ends inside its image is surrounded by background, however tight the image is; one that is cut off at a
face goes on beyond it, and there nothing is known: neither background nor edge. The same where an image was padded:
content that ends in a whole plane at once, along a face or at any angle, was cut there.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from deformgan.preprocess.cuts import find_cuts
from deformgan.spatial.grid import Grid

if TYPE_CHECKING:
    from torch import Tensor

WHOLE = 0.95  # of a content that is seen, from which on nothing of consequence is missing

_OCCUPIED = 0.02  # of the largest cross-section, from which on a plane holds content and not outliers
_CUT = 0.15  # of it, that a content's last plane shows where it is cut
_ROUND = 10.0  # the same for thick planes, times their thickness over the content's size: the cap of a ball has 4
_PARALLEL = np.cos(np.radians(10.0))  # between the normals of a plane and of a face that are one cut
_REGION = 4  # planes that cut a region out of what goes on around it
_SLACK = 1e-6  # voxels by which a plane's own voxels may be outside by rounding


@dataclass(frozen=True, eq=False)
class FieldOfView:
    """Between which planes an image has data.

    Args:
        low, high: (3,) voxel index of the outer faces; infinite where the content ends before the image does.
        oblique: (N, 4) planes at other angles: data lie where ``a i + b j + c k + d ≤ 0``, (i, j, k) voxel indices.
    """

    low: np.ndarray
    high: np.ndarray
    oblique: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((0, 4)))

    @property
    def is_limited(self) -> bool:
        """Whether the content is cut off anywhere."""
        return bool(len(self._planes()))

    @property
    def is_region(self) -> bool:
        """Whether the content is cut off on most sides, so that it does not tell how large it is."""
        return len(self._planes()) >= _REGION

    def _planes(self) -> np.ndarray:
        """All of them, (N, 4), as ``oblique``."""
        faces = [
            np.append(sign * np.eye(3)[axis], -sign * at)
            for sign, ends in ((-1.0, self.low), (1.0, self.high))
            for axis, at in enumerate(ends)
            if np.isfinite(at)
        ]
        return np.concatenate([np.array(faces).reshape(-1, 4), self.oblique])

    def on(self, image: Grid, grid: Grid) -> Tensor | None:
        """1 where a grid's voxels lie in it, else 0, (1, 1, D, H, W) float32; None where all do.

        Args:
            image: The image's own grid.
            grid: Any other.
        """
        if not self.is_limited:
            return None
        import torch  # what a scan shows is found while PyTorch is still being imported

        inside = torch.ones(grid.shape, dtype=torch.bool)
        for plane in self._planes() @ (image.world_to_index @ grid.affine):
            x, y, z = (torch.arange(n, dtype=torch.float64) * plane[axis] for axis, n in enumerate(grid.shape))
            inside &= x[:, None, None] + y[:, None] <= _SLACK - plane[3] - z  # no volume of numbers is needed
        return None if bool(inside.all()) else inside.float()[None, None]


def find_field_of_view(
    mask: np.ndarray, areas: list[np.ndarray], spacing: np.ndarray, *, padded: bool = False
) -> FieldOfView:
    """Decide face by face, and look for planes at other angles where there is padding.

    Args:
        mask: (D, H, W) bool, the foreground.
        areas: For each axis, the number of its voxels in each plane across that.
        spacing: (3,) voxel size in mm.
        padded: Whether the background is flat, as padding is.
    """
    occupied = [np.flatnonzero(a >= _OCCUPIED * a.max()) for a in areas]
    sizes = np.array([(o[-1] - o[0] + 1) * s for o, s in zip(occupied, spacing, strict=True)])
    low, high = np.full(3, -np.inf), np.full(3, np.inf)
    for axis, (area, planes) in enumerate(zip(areas, occupied, strict=True)):
        across = np.delete(sizes, axis).mean()
        needed = max(_CUT, _ROUND * spacing[axis] / across) * area.max()
        if area[planes[0]] >= needed:
            low[axis] = planes[0] - 0.5
        if area[planes[-1]] >= needed:
            high[axis] = planes[-1] + 0.5
    return FieldOfView(low, high, _oblique(mask, spacing, low, high) if padded else np.zeros((0, 4)))


def _oblique(mask: np.ndarray, spacing: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The planes (N, 4) that cut the content and are none of the faces found already."""
    planes = find_cuts(mask, spacing, _CUT, _ROUND)
    normals = planes[:, :3] / spacing
    known = ((normals > _PARALLEL) & np.isfinite(high)) | ((normals < -_PARALLEL) & np.isfinite(low))
    return planes[~known.any(1)]


def common(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    """Where both have data; None for everywhere."""
    if first is None or second is None:
        return second if first is None else first
    return first * second
