"""Numbers and a small picture of one pair for the group's table and page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from deformgan.io.atomic import atomic
from deformgan.io.image import Image
from deformgan.output.registration import Registration
from deformgan.output.report.stacks import PLANES, cut
from deformgan.output.report.views import edges_over
from deformgan.preprocess.foreground import foreground
from deformgan.spatial.blockwise import to_sample_often
from deformgan.spatial.grid import Grid
from deformgan.transforms.transform import Transform

_FIGURE_MM = 3.0  # as fine as the field of the shipped weights
_PICTURE_PIXELS = 80  # of one plane
_MARGIN = 0.04  # of the content's size
_INSIDE = 0.02  # of the brightest: the fixed image's foreground
_QUALITY = 40  # of the picture, in per cent


def figures(found: Registration, record: dict[str, Any]) -> dict[str, float | None]:
    """One number for each column of the group's table that a registration decides; None where there is none."""
    quality = record["quality"]
    names = {
        "failure_probability": "failure_probability",
        "similarity_before": "similarity_before",
        "similarity_after": "similarity_after",
        "folds_percent": "folding_percent",
        "inverse_error_mm": "inverse_residual_mm",
        "overlap": "foreground_dice",
        "displacement_p95_mm": "displacement_p95_mm",
    }
    values = {name: quality.get(key) for name, key in names.items()}
    values |= _volume_change(found) | _expected_error(found.uncertainty)
    return values | {"peak_memory_mb": record.get("peak_memory_mb")}


def _volume_change(found: Registration) -> dict[str, float | None]:
    """1st and 99th percentile of the Jacobian determinant inside the fixed image's foreground."""
    nothing: dict[str, float | None] = {"jacobian_p01": None, "jacobian_p99": None}
    if found.pair is None:
        return nothing
    fixed = found.pair[0]
    steps = np.maximum(1, np.floor(_FIGURE_MM / fixed.grid.spacing)).astype(int)
    inside = foreground(fixed)[0][tuple(slice(s // 2, None, s) for s in steps)]
    index = np.diag([*steps.astype(float), 1.0])
    index[:3, 3] = steps // 2
    values = found.transform.jacobian(Grid(inside.shape, fixed.grid.affine @ index))[inside]
    if not values.size or not np.isfinite(values).all():
        return nothing
    low, high = np.quantile(values, [0.01, 0.99])
    return {"jacobian_p01": round(float(low), 4), "jacobian_p99": round(float(high), 4)}


def _expected_error(uncertainty: Image | None) -> dict[str, float | None]:
    """Mean and 95th percentile of the map of the expected error."""
    values = np.empty(0) if uncertainty is None else uncertainty.data[uncertainty.data > 0]
    if not values.size:
        return {"expected_error_mm": None, "expected_error_p95_mm": None}
    mean, top = float(values.mean()), float(np.quantile(values, 0.95))
    return {"expected_error_mm": round(mean, 3), "expected_error_p95_mm": round(top, 3)}


def picture(found: Registration) -> np.ndarray | None:
    """The moving image's edges on the fixed image: above before, below after; three planes side by side.

    Returns:
        (2·80, 3·80, 3) uint8; None where the pair is not at hand.
    """
    if found.pair is None:
        return None
    fixed, moving = (Image(to_sample_often(image.data), image.grid) for image in found.pair)
    still = Transform.identity()
    rows = []
    for plane, grid in zip(PLANES, _planes(_around(found.pair[0])), strict=True):
        images = [still.apply(fixed, grid), still.apply(moving, grid), found.transform.apply(moving, grid)]
        ground, *others = [cut(_window(image.data), plane, 0) for image in images]
        rows.append(np.concatenate([edges_over(ground, other, ground > _INSIDE) for other in others], axis=0))
    return np.concatenate(rows, axis=1)


def save_picture(pixels: np.ndarray, path: Path) -> None:
    """Write a picture as WebP, some kilobytes."""
    from PIL import Image as Picture

    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as partial:
        Picture.fromarray(pixels).save(partial, "WEBP", quality=_QUALITY, method=4)


def _around(fixed: Image) -> Grid:
    """A cube of `_PICTURE_PIXELS` voxels along the world axes, around the content of an image."""
    inside = foreground(fixed)[0]
    found = np.nonzero(inside[::2, ::2, ::2])
    index = np.stack([2 * axis for axis in found], -1) if len(found[0]) else np.array([[0, 0, 0], fixed.grid.shape])
    world = fixed.grid.to_world(index)
    low, high = np.quantile(world, [0.005, 0.995], axis=0)
    side = float((high - low).max()) * (1 + 2 * _MARGIN)
    n = _PICTURE_PIXELS
    return Grid.centred((n, n, n), max(side, 1.0) / n, (low + high) / 2)


def _planes(cube: Grid) -> Iterator[Grid]:
    """The middle slices of a cube, one voxel thick, in the order of `PLANES`."""
    n = cube.shape[0]
    for axis in (2, 1, 0):
        index = np.eye(4)
        index[axis, 3] = n // 2
        a, b, c = (1 if other == axis else n for other in range(3))
        yield Grid((a, b, c), cube.affine @ index)


def _window(data: np.ndarray) -> np.ndarray:
    """Intensities in [0, 1], the brightest per cent white."""
    positive = data[data > 0]
    top = float(np.quantile(positive, 0.99)) if positive.size else 1.0
    return (data / max(top, 1e-12)).clip(0, 1).astype(np.float32)
