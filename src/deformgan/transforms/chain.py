"""Several maps in a row, kept as they are: positions go through each in turn, and an image is resampled once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from deformgan.spatial import blockwise
from deformgan.spatial.affine import split_affine
from deformgan.spatial.grid import Grid
from deformgan.transforms.formats import exchange
from deformgan.transforms.formats.base import Part
from deformgan.transforms.mapping import Mapping
from deformgan.transforms.transform import Transform


class Chain(Mapping):
    """The pull-back ``x ↦ last(… second(first(x)))`` from fixed to moving world positions.

    Args:
        maps: Two or more, in the order in which a fixed position meets them.
    """

    def __init__(self, maps: Sequence[Transform]) -> None:
        if len(maps) < 2:
            raise ValueError("a chain is of two maps or more")
        self.maps = tuple(maps)

    @property
    def residual_mm(self) -> float | None:
        """The sum of the inverse-consistency errors of its computed inverses, or None where there are none."""
        found = [one.residual_mm for one in self.maps if one.residual_mm is not None]
        return sum(found) if found else None

    def map_points(self, points_mm: np.ndarray) -> np.ndarray:
        """Where fixed positions come from, (N, 3) → (N, 3): fixed → moving world mm."""
        for one in self.maps:
            points_mm = one.map_points(points_mm)
        return points_mm

    def apply_points(self, points_mm: np.ndarray) -> np.ndarray:
        """Move points with the image: moving → fixed world mm, (N, 3) → (N, 3); the inverse of `map_points`."""
        for one in reversed(self.maps):
            points_mm = one.apply_points(points_mm)
        return points_mm

    def mapped_blocks(self, onto: Grid, matrix: np.ndarray, relative: bool = False) -> Iterator[blockwise.Block]:
        """As `Mapping.mapped_blocks`."""
        first, *others = self.maps
        steps = [(_field(one), one.affine) for one in others]
        starts = blockwise.ramp_blocks(onto.affine, onto) if relative else None
        for start, stop, at in first.mapped_blocks(onto, np.eye(4)):
            for field, affine in steps:
                if field is not None:
                    at = at + blockwise.sample(field[0], _linear(field[1], at))
                at = _linear(affine, at)
            at = _linear(matrix, at)
            yield start, stop, at if starts is None else at - next(starts)[2]

    def jacobian(self, onto: Grid) -> np.ndarray:
        """Local volume change, (D, H, W) float32, by the chain rule: the product of the maps' own where each is met."""
        product = np.ones(onto.shape, np.float32, order="F")
        transposed = torch.from_numpy(product.T)
        for number, one in enumerate(self.maps):
            if one.grid is None:
                transposed *= float(np.linalg.det(one.affine[:3, :3]))
                continue
            values = torch.from_numpy(np.ascontiguousarray(one.jacobian(one.grid).T))[None]
            before = self.maps[:number]
            inner = Chain(before) if len(before) > 1 else before[0] if before else Transform.identity()
            for start, stop, at in inner.mapped_blocks(onto, blockwise.normalised_index(one.grid)):
                transposed[start:stop] *= blockwise.sample(values, at)[0]
        return product

    def inverse(self) -> Chain:
        """The map from moving to fixed space: every map's inverse, in the opposite order."""
        return Chain([one.inverse() for one in reversed(self.maps)])

    def flattened(self) -> Transform:
        """One affine and one field for all; where there are several fields they are resampled onto one grid."""
        total, *others = self.maps
        for one in others:
            total = one @ total
        return total

    # -- files: what `exchange.write` wants to know ------------------------------------------------------------------

    @property
    def affine(self) -> np.ndarray:
        """The product of the affine parts alone."""
        return np.linalg.multi_dot([np.eye(4), *(one.affine for one in reversed(self.maps))])

    @property
    def disp_mm(self) -> np.ndarray | None:
        """None where no map of the chain has a field; else that of the first that has one."""
        return next((one.disp_mm for one in self.maps if one.disp_mm is not None), None)

    @property
    def grid(self) -> Grid | None:
        """The grid that a field of the whole gets if none is named: the first field's, as fixed positions meet it."""
        before = np.eye(4)
        for one in self.maps:
            if one.grid is not None:
                return one.grid.moved_by(np.linalg.inv(before))
            before = one.affine @ before
        return None

    @property
    def parts(self) -> list[Part]:
        """Every matrix and field, in the order in which a fixed position meets them."""
        return [part for one in self.maps for part in one.parts]

    def save(
        self,
        path: str | Path,
        onto: Grid | None = None,
        *,
        moving: Grid | None = None,
        file_format: str | None = None,
    ) -> None:
        """Write the map for another tool, as `Transform.save`; ``.h5`` keeps every part where ``onto`` is None."""
        exchange.write(path, self, file_format=file_format, onto=onto, moving=moving)

    def nearest_affine(self, onto: Grid | None = None) -> Transform:
        """The affine map nearest to this one by least squares over ``onto``, by default over `grid`."""
        onto = onto or self.grid
        if onto is None:
            return Transform(self.affine)
        return Transform(split_affine(self.displacement(onto), onto)[0])


def chained(maps: Sequence[Transform]) -> Transform | Chain:
    """Maps in a row, those without fields made one with their neighbours, which changes nothing."""
    if not maps:
        return Transform.identity()
    found: list[Transform] = []
    for one in maps:
        if found and (found[-1].disp_mm is None or one.disp_mm is None):
            found[-1] = one @ found[-1]
        else:
            found.append(one)
    return found[0] if len(found) == 1 else Chain(found)


def single(found: Transform | Chain) -> Transform:
    """One affine and one field: a chain flattened."""
    return found.flattened() if isinstance(found, Chain) else found


def _field(one: Transform) -> tuple[Tensor, np.ndarray] | None:
    """A map's displacement as (3, w, h, d) and the matrix from world mm to `grid_sample`'s coordinates in it."""
    if one.disp_mm is None or one.grid is None:
        return None
    return torch.from_numpy(one.disp_mm.T), blockwise.normalised_index(one.grid)


def _linear(matrix: np.ndarray, at: Tensor) -> Tensor:
    """A 4×4 matrix applied to (3, …) positions."""
    linear, shift = (torch.from_numpy(part.astype(np.float32)) for part in (matrix[:3, :3], matrix[:3, 3]))
    return torch.tensordot(linear, at, 1) + shift.view(3, *[1] * (at.ndim - 1))
