"""Where the working grid lies and how large its voxels are, so that what two images show fits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deformgan.io.image import Image
from deformgan.preprocess.foreground import OUTLIER_FRACTION, Content
from deformgan.spatial.grid import Grid, Shape
from deformgan.spatial.resample import parallel_axes

_SMALL = 0.75  # of the grid's sides that a content fills, below which it is no adult's brain: a child's, or a mouse's
_SMALL_PART = 0.4  # the same where it is cut off, as it may be a part of one: above it no finer than the image itself
_FILLED = 0.9  # of them that it fills then, as an adult's does
_LOOKED_AT = 100_000  # voxels of the foreground, for how far it reaches along axes that are not the image's


@dataclass(frozen=True, eq=False)
class Extent:
    """How far a content reaches from its centre along the working grid's axes, which are the fixed image's world's.

    Args:
        ends: (2, 3) mm, the lowest and the highest place less the centre's.
        voxel: Size of the image's voxels in mm, of one that is cut off; 0 of others.
    """

    ends: np.ndarray
    voxel: float

    @classmethod
    def of(cls, content: Content, grid: Grid, centre_mm: np.ndarray) -> Extent:
        """Of a content around a centre, mm; ``grid`` is its image's, placed in the fixed image's world."""
        voxel = float(np.prod(grid.spacing)) ** (1 / 3) if content.field_of_view.is_limited else 0.0
        return cls(_ends_mm(content, grid) - centre_mm, voxel)

    def growth(self, sides: np.ndarray, spacing: float) -> float:
        """By how much the grid must grow for the content to fit, or shrink where it is small.

        Args:
            sides: (3,) mm, of the grid.
            spacing: Of its voxels, mm.
        """
        filled = float(((self.ends[1] - self.ends[0]) / sides).max())
        if filled >= _SMALL:
            return max(1.0, filled)
        if filled < _SMALL_PART:
            return filled / _FILLED
        return max(filled / _FILLED, min(1.0, round(self.voxel / spacing, 6)))  # equal voxels stay so


def fitted(extents: list[Extent], shape: Shape, spacing: float, *, moves: bool = True) -> tuple[float, np.ndarray]:
    """The spacing with which a grid holds all contents with their centres in one place, and (3,) mm to its own centre.

    Args:
        moves: Whether the grid's centre may lie elsewhere.
    """
    sides = np.array(shape) * spacing
    factor = max(extent.growth(sides, spacing) for extent in extents)
    low = np.min([extent.ends[0] for extent in extents], 0)
    high = np.max([extent.ends[1] for extent in extents], 0)
    reach = (high - low) / 2 if moves else np.maximum(-low, high)
    factor = max(factor, float((2 * reach / sides).max()))
    half = factor * sides / 2
    # where all fits the nearest place to theirs
    return factor * spacing, np.clip(0.0, high - half, low + half) if moves else np.zeros(3)


def _ends_mm(content: Content, grid: Grid) -> np.ndarray:
    """Where the foreground without outliers of an image on ``grid`` begins and ends along the world axes, (2, 3) mm."""
    if parallel_axes(grid.affine, grid.shape) is not None:
        corners = content.corners_mm(grid)
        return np.stack([corners.min(0), corners.max(0)])
    # a box that is turned reaches farther than what it holds
    every = max(1, round((sum(content.areas[0]) / _LOOKED_AT) ** (1 / 3)))
    places = grid.to_world(np.argwhere(content.mask[::every, ::every, ::every]) * every)
    low, high = np.quantile(places, (OUTLIER_FRACTION, 1 - OUTLIER_FRACTION), axis=0)
    half = every * np.abs(grid.affine[:3, :3]).max(1) / 2
    return np.stack([low - half, high + half])


def working_grid(image: Image, shape: Shape, spacing: float, centre_mm: np.ndarray) -> Grid:
    """The grid around a centre; on the image's own voxels where these have the same size and axes, to spare a blur."""
    grid = Grid.centred(shape, spacing, centre_mm)
    axes = parallel_axes(grid.index_to(image.grid), shape)
    if axes is None or not np.allclose([abs(a.scale) for a in axes], 1, atol=1e-4):
        return grid
    index = image.grid.to_index(grid.to_world(np.zeros(3)))
    return Grid.centred(shape, spacing, centre_mm + image.grid.to_world(np.rint(index)) - image.grid.to_world(index))
