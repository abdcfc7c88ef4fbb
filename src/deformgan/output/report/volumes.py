"""What a report shows, on one grid along the world axes: images in [0, 1], the map's displacement and volume change."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from isal import igzip

from deformgan.io.atomic import header_bytes, nifti_header
from deformgan.io.image import Image
from deformgan.spatial.grid import Grid
from deformgan.transforms.transform import Transform

SPACING_MM = 1.5
_MARGIN_MM = 6.0
_MOST_VOXELS = 1_500_000  # keeps page and time small; larger contents are shown more coarsely


@dataclass(frozen=True, eq=False)
class Shown:
    """Volumes (D, H, W) on ``grid``; ``mask`` is the fixed image's foreground, displacement (D, H, W, 3) in voxels.

    ``uncertainty`` is in mm, ``synthesis`` G's image in [0, 1]; None where there is none.
    """

    grid: Grid
    fixed: np.ndarray
    moving: np.ndarray
    moved: np.ndarray
    mask: np.ndarray
    displacement: np.ndarray
    jacobian: np.ndarray
    uncertainty: np.ndarray | None = None
    synthesis: np.ndarray | None = None

    @property
    def spacing(self) -> float:
        """Of the grid's cubic voxels in mm."""
        return float(self.grid.spacing[0])

    @cached_property
    def centre(self) -> tuple[int, int, int]:
        """The voxel nearest to the foreground's middle."""
        middle = []
        for axis, size in enumerate(self.mask.shape):
            weight = np.count_nonzero(self.mask, axis=tuple(a for a in range(3) if a != axis))
            middle.append(np.average(np.arange(size), weights=weight) if weight.any() else (size - 1) / 2)
        d, h, w = (round(float(m)) for m in middle)
        return d, h, w


def gather(
    fixed: Image,
    moving: Image,
    moved: Image,
    transform: Transform,
    *,
    jacobian: Image | None = None,
    uncertainty: Image | None = None,
    synthesis: Image | None = None,
) -> Shown:
    """Bring everything to the report's grid, which encloses what the fixed image shows.

    Args:
        fixed, moving, moved, transform: As in `deformgan.output.report.page.write_report`.
        jacobian, uncertainty, synthesis: On any grid in fixed space; without the first it is the transform's own.
    """
    grid = _grid(fixed)
    shown, before, after = (_brought(image, grid) for image in (fixed, moving, moved))
    change, doubt, made = (
        None if image is None else Transform.identity().apply(image, grid).data
        for image in (jacobian, uncertainty, synthesis)
    )
    change = transform.jacobian(grid) if change is None else change
    displacement = transform.displacement(grid) / grid.spacing
    mask = shown > 0.02
    return Shown(grid, shown, before, after, mask, displacement, change, doubt, made)


def nifti_base64(volume: np.ndarray, grid: Grid, low: float, high: float) -> str:
    """A gzipped NIfTI of ``volume`` in 8 bits, values between ``low`` and ``high``, as base64."""
    scaled = ((volume - low) / (high - low)).clip(0, 1) * 255
    data = np.asfortranarray(scaled.round().astype(np.uint8))
    header = nifti_header(data.shape, data.dtype, grid.affine)
    header.set_slope_inter((high - low) / 255, low)
    packed = igzip.compress(header_bytes(header) + data.tobytes(order="F"), compresslevel=1, mtime=0)
    return base64.b64encode(packed).decode("ascii")


def _grid(fixed: Image) -> Grid:
    """Along the world axes, around the voxels that differ from the fixed image's lowest value."""
    content = fixed.data > fixed.data.min()
    ends = []
    for axis in range(3):
        occupied = np.flatnonzero(content.any(axis=tuple(a for a in range(3) if a != axis)))
        ends.append((occupied[0] - 0.5, occupied[-1] + 0.5))
    corners = np.stack(np.meshgrid(*ends, indexing="ij"), -1).reshape(-1, 3)
    world = fixed.grid.to_world(corners)
    low, high = world.min(0) - _MARGIN_MM, world.max(0) + _MARGIN_MM
    spacing = max(SPACING_MM, float((np.prod(high - low) / _MOST_VOXELS) ** (1 / 3)))
    d, h, w = (max(2, int(n)) for n in np.ceil((high - low) / spacing))
    return Grid.centred((d, h, w), spacing, (low + high) / 2)


def _brought(image: Image, grid: Grid) -> np.ndarray:
    """On the grid, the lowest value 0 and nearly the highest 1."""
    volume = Transform.identity().apply(image, grid).data.astype(np.float32)
    # outside the image there is 0, which need not be its lowest value
    low = float(image.data[::4, ::4, ::4].min())
    inside = volume[volume > max(low, 0.0)]
    high = float(np.quantile(inside[::7], 0.998)) if inside.size > 7 else low + 1
    return ((volume - low) / max(high - low, 1e-12)).clip(0, 1)
