"""How the maps of a registration are written: small, and with what that costs measured and recorded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from deformgan.io.atomic import write_nifti_slices
from deformgan.spatial.grid import Grid
from deformgan.transforms.compact import ROUNDING_MM, STEP_MM, box, rounded
from deformgan.transforms.formats import itk
from deformgan.transforms.transform import Transform

JACOBIAN_STEP = 2.0**-8  # volume changes are multiples of it: off by 0.002 at most


def saved_grid(transform: Transform, image: Grid, full: bool) -> Grid:
    """The grid that a map's file gets.

    Args:
        image: The grid of the image in whose space the map begins.
        full: Take that.

    Returns:
        It too where the map's field does not lie as `deformgan.transforms.compact` leaves it; else the field's own, or
        for an affine map the image's outer corners.
    """
    if full:
        return image
    if transform.disp_mm is None or transform.grid is None:
        return box(image)
    return image if transform.added_error_mm is None else transform.grid


def write_field(path: Path, transform: Transform, grid: Grid) -> None:
    """Write the complete map for ITK on ``grid``: a field rounded to `STEP_MM`, or a composite (``.h5``)."""
    if path.suffix == ".h5":
        transform.save(path, grid)
        return
    itk.write_displacement(path, transform.displacement(grid, STEP_MM), grid)


def describe_field(transform: Transform, grid: Grid) -> dict[str, Any]:
    """What the record says of a field's file; JSON-able."""
    added = ROUNDING_MM if transform.added_error_mm is None else transform.added_error_mm
    return {
        "shape": list(grid.shape),
        "spacing_mm": [round(float(one), 4) for one in grid.spacing],
        "added_error_mm": round(float(added), 5),
    }


def write_jacobian(path: Path, transform: Transform, grid: Grid) -> None:
    """Write the map's local volume change on ``grid``, rounded to `JACOBIAN_STEP`, without holding it as a whole."""

    def slices() -> Iterator[np.ndarray]:
        for _, _, block in transform.jacobian_blocks(grid):
            yield rounded(block, JACOBIAN_STEP)

    write_nifti_slices(path, grid.shape, grid.affine, slices())
