"""The complete map from fixed to moving space in world millimetres: an affine fused with a displacement field.

The only module that turns voxel fields into millimetres and back. Volumes are evaluated in blocks, so memory stays near
the size of what is returned, and without a 64-bit copy of anything large.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from deformgan.io.untrusted import require_memory
from deformgan.spatial import blockwise
from deformgan.spatial import field as fields
from deformgan.spatial.affine import split_affine
from deformgan.spatial.grid import Grid
from deformgan.spatial.native import grids as native
from deformgan.spatial.native.use import usable
from deformgan.spatial.scattered import follow, interpolate
from deformgan.spatial.vectors import mm_to_vox, rotated, vox_to_mm
from deformgan.transforms.formats import exchange
from deformgan.transforms.formats.base import Part
from deformgan.transforms.mapping import Mapping, require_near

if TYPE_CHECKING:
    from deformgan.transforms.chain import Chain

_BYTES = 12  # a voxel of a field
_CHECKED = 25  # positions along an axis at which an inverse is tried
_FINEST = 4  # a composition refines the inner field's grid at most so many times along an axis


class Transform(Mapping):
    """The pull-back ``x ↦ affine · (x + disp(x))`` from fixed to moving world positions.

    Args:
        affine: 4×4 ``fixed_to_moving``, world mm (RAS+), invertible.
        disp_mm: (D, H, W, 3) displacement in world mm, numpy or torch, or None for none; kept as float32. Between
            voxels it is linear, beyond its grid it keeps its border value.
        grid: Where the voxels of ``disp_mm`` lie in fixed space; None if and only if ``disp_mm`` is.
        residual_mm: Of a computed inverse, its largest inverse-consistency error within the field's grid; or None.
        added_error_mm: Of a map moved to another grid (`deformgan.transforms.compact`): what that added at most.
    """

    def __init__(
        self,
        affine: np.ndarray,
        disp_mm: np.ndarray | Tensor | None = None,
        grid: Grid | None = None,
        *,
        residual_mm: float | None = None,
        added_error_mm: float | None = None,
    ) -> None:
        self.affine, self.residual_mm, self.added_error_mm = np.array(affine, np.float64), residual_mm, added_error_mm
        if self.affine.shape != (4, 4) or not abs(np.linalg.det(self.affine)) > 0:
            raise ValueError("a transform's affine is 4×4 and invertible")
        if (disp_mm is None) != (grid is None):
            raise ValueError("a displacement needs its grid, and a grid its displacement")
        if disp_mm is not None and grid is not None:
            disp_mm = disp_mm.detach().cpu().numpy() if isinstance(disp_mm, Tensor) else disp_mm
            if disp_mm.shape != (*grid.shape, 3):
                raise ValueError(f"a displacement of shape {disp_mm.shape} on a grid of shape {grid.shape}")
        self.disp_mm: np.ndarray | None = None if disp_mm is None else np.asfortranarray(disp_mm, np.float32)
        self.grid = grid

    def __repr__(self) -> str:
        shift = ", ".join(f"{one:.1f}" for one in self.affine[:3, 3])
        field = "no field" if self.grid is None else f"a field of {'×'.join(map(str, self.grid.shape))}"
        return f"Transform(fixed → moving mm: affine with shift ({shift}), {field})"

    @classmethod
    def identity(cls) -> Transform:
        """The map that moves nothing."""
        return cls(np.eye(4))

    @classmethod
    def from_field(
        cls, fixed_grid: Grid, moving_grid: Grid, field_vox: Tensor, affine_vox: np.ndarray | None = None
    ) -> Transform:
        """From a network's field: moving index = ``affine_vox · (i + u(i))`` for the fixed index ``i``.

        Args:
            fixed_grid, moving_grid: The working grids of the two images, of one shape.
            field_vox: (1, 3, d, h, w), in voxels of its own grid, which covers the same extent as ``fixed_grid`` and
                may be coarser.
            affine_vox: 4×4 from fixed working index to moving working index (full resolution); default: none.
        """
        if fixed_grid.shape != moving_grid.shape:
            raise ValueError(f"working grids of one shape are needed, not {fixed_grid.shape} and {moving_grid.shape}")
        index_to_index = np.eye(4) if affine_vox is None else np.asarray(affine_vox, np.float64)
        affine = moving_grid.affine @ index_to_index @ fixed_grid.world_to_index
        grid = fixed_grid.resized(tuple(field_vox.shape[2:]))  # type: ignore[arg-type]
        return cls(affine, vox_to_mm(field_vox, grid), grid)

    def map_points(self, points_mm: np.ndarray) -> np.ndarray:
        """Where fixed positions come from, (N, 3) → (N, 3): fixed → moving world mm, the way images are pulled."""
        points = _points(points_mm)
        return _apply_affine(self.affine, points + self._displacement_at(points))

    def apply_points(self, points_mm: np.ndarray) -> np.ndarray:
        """Move points with the image: moving → fixed world mm, (N, 3) → (N, 3); the inverse of `map_points`.

        Solved for each point to 1e-4 mm. Where the map folds there may be no solution: the nearest found is returned.
        """
        target = _apply_affine(np.linalg.inv(self.affine), _points(points_mm))
        return target if self.disp_mm is None else follow(self._displacement_at, target)

    def _displacement_at(self, points: np.ndarray) -> np.ndarray:
        if self.disp_mm is None or self.grid is None:
            return np.zeros_like(points)
        return interpolate(self.disp_mm, self.grid.to_index(points))

    def jacobian(self, onto: Grid) -> np.ndarray:
        """Local volume change of the complete map, (D, H, W) float32: 1 is none, ≤ 0 is folding.

        Central differences on the field's own grid, linear between its voxels. Values describe moving volume over fixed
        volume.
        """
        out = np.empty(onto.shape, np.float32, order="F")
        for start, stop, block in self.jacobian_blocks(onto):
            out.T[start:stop] = block
        return out

    def jacobian_blocks(self, onto: Grid) -> Iterator[tuple[int, int, np.ndarray]]:
        """`jacobian` a few slices at a time: start, stop, (stop - start, H, D), good until the next is asked for."""
        volume = float(np.linalg.det(self.affine[:3, :3]))
        own, values = Grid((2, 2, 2), onto.affine), torch.full((1, 2, 2, 2), volume)
        if self.disp_mm is not None and self.grid is not None:
            own, values = self.grid, (self._own_jacobian * volume)[None]
        for start, stop, block in blockwise.resampled_blocks(values, own, onto):
            yield start, stop, block[0].numpy()

    @cached_property
    def _own_jacobian(self) -> Tensor:
        """Local volume change of ``x + disp(x)`` on the field's own grid, (W, H, D): files and report ask again."""
        assert self.disp_mm is not None
        assert self.grid is not None
        values = torch.from_numpy(self.disp_mm.T)
        if min(self.grid.shape) > 1 and usable(values[None]):
            # derivatives by the index, in the order of the volume's axes
            base = self.grid.affine[:3, 2::-1]
            return native.jacobian(values, base, 1 / float(np.linalg.det(base)))
        return fields.jacobian_determinant(mm_to_vox(self.disp_mm, self.grid))[0].permute(2, 1, 0).contiguous()

    def displacement(self, onto: Grid, step: float = 0.0) -> np.ndarray:
        """As `Mapping.displacement`; ``step``, a power of 2 if it is not 0: values become multiples of it."""
        if self.disp_mm is None or self.grid is None:
            whole = super().displacement(onto)
            return whole if step == 0 else np.multiply(np.rint(whole / step), step, dtype=np.float32)
        values, ramp = torch.from_numpy(self.disp_mm.T), (self.affine - np.eye(4)) @ onto.affine
        return blockwise.resampled_whole(values, self.grid, onto, ramp, self.affine[:3, :3], step).numpy().T

    def mapped_blocks(self, onto: Grid, matrix: np.ndarray, relative: bool = False) -> Iterator[blockwise.Block]:
        """As `Mapping.mapped_blocks`: the affine is part of the matrix, the field linear between its voxels."""
        matrix = matrix @ self.affine
        ramp = (matrix - np.eye(4) if relative else matrix) @ onto.affine
        if self.disp_mm is None or self.grid is None:
            yield from blockwise.ramp_blocks(ramp, onto)
            return
        values = torch.from_numpy(self.disp_mm.T)
        yield from blockwise.resampled_blocks(values, self.grid, onto, ramp, matrix[:3, :3])

    def inverse(self) -> Transform:
        """The map from moving to fixed space; its ``residual_mm`` says how well the field could be inverted.

        Raises:
            InputError: The inverse, which reaches as far as the field displaces, would take too much memory.
        """
        back = np.linalg.inv(self.affine)
        if self.disp_mm is None or self.grid is None:
            return Transform(back)
        field = mm_to_vox(self.disp_mm, self.grid)
        require_memory("the inverse", _BYTES * prod(self.grid.padded(fields.margin(field)).shape))
        inverse_vox, residual, margin = fields.invert_padded(field)
        # x = A⁻¹y + w(A⁻¹y) = A⁻¹(y + A w(A⁻¹y)): the field rides on the moved grid
        moved = self.grid.padded(margin).moved_by(self.affine)
        found = Transform(back, vox_to_mm(inverse_vox, moved), moved)
        found.residual_mm = max(
            residual * float(self.grid.spacing.max()), self._inverse_consistency_error(found, self.grid)
        )
        return found

    def _inverse_consistency_error(self, back: Transform, grid: Grid) -> float:
        """The largest ``|back(self(x)) - x|`` in mm at voxels and between them, up to the border of the grid."""
        axes = [np.linspace(0, n - 1, min(2 * n - 1, _CHECKED)) for n in grid.shape]
        points = grid.to_world(np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3))
        return float(np.linalg.norm(back.map_points(self.map_points(points)) - points, axis=1).max())

    def __matmul__(self, inner: Transform) -> Transform:
        """``(self @ inner)(x) = self(inner(x))``, on a grid that covers both fields at the finer resolution.

        Two fields are resampled onto that grid; `deformgan.transforms.chain.chained` keeps both as they are.

        Raises:
            InputError: That grid would take too much memory.
        """
        affine = self.affine @ inner.affine
        if self.disp_mm is None or self.grid is None:
            return Transform(affine, inner.disp_mm, inner.grid)
        # self(inner(x)) = A_self A_inner (x + d_inner(x) + A_inner⁻¹ d_self(inner(x)))
        reach = self.grid.moved_by(np.linalg.inv(inner.affine))
        grid = reach if inner.grid is None else inner.grid.covering(reach, _FINEST)
        require_memory("the two fields on one grid", _BYTES * prod(grid.shape))
        require_near(grid, self.grid, inner.grid)
        outer = rotated(self.disp_mm, np.linalg.inv(inner.affine[:3, :3]))
        disp = np.empty((*grid.shape, 3), np.float32, order="F")
        transposed = torch.from_numpy(disp.T)
        for start, stop, at in inner.mapped_blocks(grid, blockwise.normalised_index(self.grid)):
            transposed[:, start:stop] = blockwise.sample(outer, at)
        if inner.disp_mm is not None and inner.grid is not None:
            for start, stop, own in blockwise.resampled_blocks(torch.from_numpy(inner.disp_mm.T), inner.grid, grid):
                transposed[:, start:stop] += own
        return Transform(affine, disp, grid)

    @property
    def parts(self) -> list[Part]:
        """The field and the matrix, in the order in which a fixed position meets them."""
        return [self.affine] if self.disp_mm is None or self.grid is None else [(self.disp_mm, self.grid), self.affine]

    def save(
        self,
        path: str | os.PathLike[str],
        onto: Grid | None = None,
        *,
        moving: Grid | None = None,
        file_format: str | None = None,
    ) -> None:
        """Write the map for another tool; the ending of ``path`` says in which format.

        ``.nii.gz``, ``.nii``, ``.mgz``: the complete map (affine fused) as a field, for ITK and ANTs or for FSL; for
        FreeSurfer. ``.h5``: ITK's composite of both. ``.txt``, ``.tfm``, ``.mat``, ``.lta``: an affine without a field.

        Args:
            onto: The fixed image's grid. Fields are written on it; those for ITK by default on the field's own grid.
                Most tools move nothing beyond it.
            moving: The moving image's grid, for FSL and FreeSurfer.
            file_format: ``itk``, ``fsl`` (or ``fsl-absolute``) or ``freesurfer`` where the ending leaves a choice.

        Raises:
            UsageError: a geometry is missing, a field into a format for affines, an unknown ending.
        """
        exchange.write(os.fspath(path), self, file_format=file_format, onto=onto, moving=moving)

    def nearest_affine(self, onto: Grid | None = None) -> Transform:
        """The affine map nearest to this one by least squares over ``onto``, by default over the field's own grid."""
        onto = onto or self.grid
        if self.disp_mm is None or onto is None:
            return Transform(self.affine)
        return Transform(split_affine(self.displacement(onto), onto)[0])


def load_transform(
    path: str | os.PathLike[str],
    *,
    fixed: Grid | None = None,
    moving: Grid | None = None,
    file_format: str | None = None,
) -> Transform | Chain:
    """Read a transform of ITK, ANTs, FSL or FreeSurfer; ending and contents say which.

    A field is split into the affine map nearest to it and the displacement that is left: within its grid that is the
    same map, beyond it the affine goes on, and the inverse gets a grid that lies where the moving content is. Several
    fields in one file stay apart, as a `Chain`.

    Args:
        fixed, moving: The grids of the images it was made for; FSL's files do not say them.
        file_format: ``fsl`` (or ``fsl-relative``, ``fsl-absolute``) for 4-D fields that do not say so themselves.

    Raises:
        UsageError: the file needs a geometry that is not given, or h5py, which is not installed.
        InputError: the file is missing, damaged or holds something else.
    """
    from deformgan.transforms.chain import chained  # which is made of what this module defines

    maps = []
    for part in exchange.read(os.fspath(path), file_format=file_format, fixed=fixed, moving=moving):
        if isinstance(part, np.ndarray):
            maps.append(Transform(part))
        else:
            affine, rest = split_affine(*part)
            maps.append(Transform(affine, rest, part[1]))
    return chained(maps)


def _points(points_mm: np.ndarray) -> np.ndarray:
    points = np.asarray(points_mm, np.float64)
    if points.ndim != 2 or points.shape[1] != 3:
        raise ValueError(f"points are (N, 3), these are {points.shape}")
    return points


def _apply_affine(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ matrix[:3, :3].T + matrix[:3, 3]
