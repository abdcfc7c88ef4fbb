"""What goes with the moving image through the map: labels and points in its space."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from deformgan.errors import InputError, callers_level
from deformgan.io.image import Image, load_labels
from deformgan.io.points import Points, read_points
from deformgan.preprocess.scan import require_overlap
from deformgan.spatial.grid import Grid
from deformgan.transforms.transform import Transform

if TYPE_CHECKING:
    from deformgan.io.image import ImageLike


@dataclass(frozen=True, eq=False)
class Carried:
    """A label map and points, each or none.

    Args:
        labels: In the moving image's space, or after `through` on the fixed image's grid.
        points: World mm (RAS+), in the same space.
    """

    labels: Image | None = None
    points: Points | None = None

    @classmethod
    def read(
        cls,
        moving: Image,
        labels: ImageLike | None = None,
        points: Points | np.ndarray | str | os.PathLike[str] | None = None,
    ) -> Carried:
        """What was given, checked against the image it belongs to.

        Raises:
            InputError: The labels do not overlap it, no point lies in it, or a file cannot be read.
        """
        label_map = None if labels is None else load_labels(labels)
        if label_map is not None:
            require_overlap(moving, label_map)
        return cls(label_map, None if points is None else _within(points, moving))

    def through(self, transform: Transform, onto: Grid) -> Carried:
        """In fixed space: labels on a grid, their values kept; points each by itself."""
        labels, points = self.labels, self.points
        return Carried(
            None if labels is None else transform.apply_labels(labels, onto),
            None if points is None else points.at(transform.apply_points(points.positions_mm)),
        )


def _within(points: Points | np.ndarray | str | os.PathLike[str], moving: Image) -> Points:
    """The points, some of them inside the moving image."""
    if isinstance(points, str | os.PathLike):
        points = read_points(points)
    points = points if isinstance(points, Points) else Points(np.asarray(points, np.float64))
    index = moving.grid.to_index(points.positions_mm)
    outside = ((index < -0.5) | (index > np.array(moving.grid.shape) - 0.5)).any(-1)
    name = points.path or "the points"
    if outside.all():
        raise InputError(
            f"{name}: no point lies in {moving.name}", "give world mm, RAS+ (ITK and ANTs write LPS: x and y negated)"
        )
    if outside.any():
        warnings.warn(
            f"{name}: {outside.sum()} of {outside.size} points lie outside {moving.name}", stacklevel=callers_level()
        )
    return points
