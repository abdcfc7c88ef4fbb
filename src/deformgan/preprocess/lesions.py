"""Lesions on the working grids: which voxels they exclude, and how a field gets across them.

Cost-function masking (Brett et al. 2001): where an image has no counterpart no similarity is taken, and the field there
is what the field around it says.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from deformgan.io.image import Image
from deformgan.spatial.blockwise import resampled
from deformgan.spatial.grid import Grid
from deformgan.spatial.warp import box_maximum, warp

_MARGIN = 2  # voxels of the field's grid by which a lesion is widened before the field is drawn across it
_SHARE = 0.4  # of a voxel's place that makes it lesion; a voxel of twice the size then marks its eight
_MOST = 0.5  # of the field's voxels that may be drawn


@dataclass(frozen=True, eq=False)
class Lesions:
    """Where the images of a pair have no counterpart in each other.

    Args:
        fixed, moving: (1, 1, D, H, W) float32 on the working grids, 1 inside, else 0; None for none.
        borders: The same of what lies outside a mask that cut both: it is left out of the image that is the fixed one,
            but where the moving one leads there it is compared, or else what matches badly would be taken there.
    """

    fixed: Tensor | None = None
    moving: Tensor | None = None
    borders: tuple[Tensor | None, Tensor | None] = (None, None)

    @classmethod
    def on_grids(cls, fixed: Image | None, moving: Image | None, grids: tuple[Grid, Grid]) -> Lesions:
        """From masks on the images' own grids, to the fixed and the moving working grid."""
        pairs = zip((fixed, moving), grids, strict=True)
        one, other = (None if lesion is None else _on_grid(lesion, grid) for lesion, grid in pairs)
        return cls(one, other)

    def unseen(self, fixed: Tensor | None, moving: Tensor | None) -> Lesions:
        """The same with all that either image has no data of, which cannot be compared either.

        Args:
            fixed, moving: (1, 1, D, H, W), 1 where that image has data on its working grid; None for everywhere.
        """
        pairs = zip((self.fixed, self.moving), (fixed, moving), strict=True)
        fixed, moving = (_either(lesion, None if seen is None else 1 - seen) for lesion, seen in pairs)
        return replace(self, fixed=fixed, moving=moving)

    def exchanged(self) -> Lesions:
        """With the moving image as the fixed one."""
        return Lesions(self.moving, self.fixed, (self.borders[1], self.borders[0]))

    def __bool__(self) -> bool:
        return self.fixed is not None or self.moving is not None

    def to(self, device: str | torch.device) -> Lesions:
        """The same on a device."""
        fixed, moving, *borders = (
            None if one is None else one.to(device) for one in (self.fixed, self.moving, *self.borders)
        )
        return Lesions(fixed, moving, (borders[0], borders[1]))

    def along(self, field: Tensor) -> Tensor:
        """Either lesion in fixed space, (1, 1, d, h, w) in {0, 1} on the field's grid: the moving one as it is mapped.

        Args:
            field: (1, 3, d, h, w), voxels of its own grid.
        """
        shape, here = tuple(field.shape[2:]), self.to(field.device)
        inside = field.new_zeros(1, 1, *shape)
        if here.fixed is not None:
            inside = torch.maximum(inside, _most(here.fixed, shape))
        if here.moving is not None:
            inside = torch.maximum(inside, (warp(_most(here.moving, shape), field) > 0.5).to(inside))
        return inside

    def fill_harmonic(self, field: Tensor) -> Tensor:
        """The field with, in and near the lesions, the harmonic continuation of what it is around them.

        It keeps affine maps as they are: a lesion changes its size as its surroundings do.

        Args:
            field: (1, 3, d, h, w), voxels of its own grid.
        """
        if not self:
            return field
        region = box_maximum(self.along(field), _MARGIN)[0, 0] > 0
        if not bool(region.any()) or float(region.float().mean()) > _MOST:
            return field
        values = harmonic(field[0].cpu().numpy(), region.cpu().numpy())
        return torch.from_numpy(values)[None].to(field)


NO_LESIONS = Lesions()


def _either(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    if first is None or second is None:
        return second if first is None else first
    return torch.maximum(first, second)


def valid_mask(lesion: Tensor, shape: tuple[int, ...]) -> Tensor:
    """1 where no voxel of a lesion is near enough to touch a central difference, else 0, on a coarser grid.

    Args:
        lesion: (1, 1, D, H, W) in {0, 1}.
        shape: Of the coarser grid, over the same extent.
    """
    return 1 - box_maximum(_most(lesion, shape), 1)


def harmonic(values: np.ndarray, region: np.ndarray) -> np.ndarray:
    """Fill a region so that each of its voxels is the mean of its neighbours (Laplace's equation).

    Args:
        values: (C, D, H, W); what is outside the region holds, and stays.
        region: (D, H, W) bool, with something outside. Beyond the grid there is no neighbour.
    """
    from scipy import ndimage, sparse  # a fifth of a second that a run without lesions is spared
    from scipy.sparse.linalg import cg

    number = np.full(region.shape, -1)
    count = int(np.count_nonzero(region))
    number[region] = np.arange(count)
    at = np.argwhere(region)
    degree, right = np.zeros(count), np.zeros((len(values), count))
    rows, columns = [], []
    for axis in range(3):
        for step in (-1, 1):
            there = at.copy()
            there[:, axis] += step
            within = np.flatnonzero((there[:, axis] >= 0) & (there[:, axis] < region.shape[axis]))
            index = tuple(there[within].T)
            degree[within] += 1
            linked = number[index] >= 0
            rows.append(within[linked])
            columns.append(number[index][linked])
            known = within[~linked]
            right[:, known] += values[(slice(None), *tuple(there[known].T))]
    row, column = np.concatenate(rows), np.concatenate(columns)
    matrix = sparse.csr_matrix((-np.ones(len(row)), (row, column)), (count, count)) + sparse.diags(degree)
    out = np.array(values, np.float32)
    nearest: Any = ndimage.distance_transform_edt(region, return_distances=False, return_indices=True)
    for channel, wanted in enumerate(right):
        start = values[channel][tuple(nearest[:, region])].astype(np.float64)
        out[channel][region] = cg(matrix, wanted, start, rtol=1e-5, maxiter=2000)[0]
    return out


def _on_grid(lesion: Image, grid: Grid) -> Tensor:
    """Every voxel of the mask marks the one it lies in; those of finer grids in between are found by interpolation."""
    marked = np.argwhere(lesion.data != 0)
    at = np.rint(grid.to_index(lesion.grid.to_world(marked))).astype(int)
    out = resampled(torch.from_numpy(np.ascontiguousarray(lesion.data != 0)).float(), lesion.grid, grid) >= _SHARE
    at = at[((at >= 0) & (at < np.array(grid.shape))).all(1)]
    out[tuple(at.T)] = True
    return torch.from_numpy(np.ascontiguousarray(out)).float()[None, None]


def _most(mask: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The maximum of a mask over each voxel of a coarser grid."""
    return mask if tuple(mask.shape[2:]) == tuple(shape) else F.adaptive_max_pool3d(mask, list(shape))  # type: ignore[arg-type,return-value]
