"""What the viewer of a report shows: volumes on one grid along the world axes, in 8 bits, as NIfTI files in text."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from isal import igzip

from deformgan.io.atomic import header_bytes, nifti_header
from deformgan.output.report.material import Material
from deformgan.spatial.grid import Grid
from deformgan.transforms.transform import Transform

_MOST_VOXELS = 1_000_000  # keeps the page below 6 MB: 1.6 mm for a brain
_LENGTHS = {"displacement": "Displacement", "local": "Displacement without its affine part"}
_MAP_SHARE = 2  # maps are smooth: every second voxel along each axis


def viewer_volumes(
    material: Material, grid: Grid, displacement: str, top_mm: float, error_mm: float
) -> list[dict[str, Any]]:
    """Volumes for the viewer's two sides and for what is laid over them.

    Args:
        grid: `viewer_grid`.
        displacement: ``displacement`` of the whole map, or ``local``: without its affine part.
        top_mm, error_mm: The last colours of displacement and expected error.

    Returns:
        For each volume: ``name``, ``title``, ``low`` and ``high`` of its window, and ``data``, a gzipped NIfTI in
        base64.
    """
    m, here = material, Transform.identity()
    coarse = grid.resized(tuple(max(2, n // _MAP_SHARE) for n in grid.shape))  # type: ignore[arg-type]
    inside = here.apply(m.content, coarse).data > 0.5
    white = [_rounded(m.windows[role]) for role in ("fixed", "moving")]
    fixed, moved = here.apply(m.fixed, grid).data, here.apply(m.moved, grid).data
    change = np.where(inside, np.log2(np.maximum(m.volume_change(coarse), 1e-6)), 0.0)
    moved_by = m.transform.displacement(coarse)
    if displacement == "local":
        moved_by = moved_by - m.affine_displacement(coarse)
    length = np.sqrt(np.einsum("...i,...i->...", moved_by, moved_by)) * inside
    found = [
        _volume("fixed", "Fixed", fixed, grid, *white[0]),
        _volume("moved", "Moved", moved, grid, *white[1]),
        _volume("change", "Volume change", change, coarse, -1.0, 1.0),
        _volume(displacement, _LENGTHS[displacement], length, coarse, 0.0, top_mm),
    ]
    if m.uncertainty is not None:
        error = here.apply(m.uncertainty, coarse).data * inside
        found.append(_volume("error", "Expected error", error, coarse, 0.0, error_mm))
    if m.labels is not None and m.labels.data.any():
        found.append(_labels(here.apply(m.labels, grid, "nearest").data, grid))
    if (lesion := m.lesion_on(grid)) is not None and lesion.any():
        found.append(_volume("lesion", "Lesion", lesion.astype(np.float32), grid, 0.0, 1.0))
    return found


def viewer_grid(material: Material) -> Grid:
    """Cubic voxels along the world axes around the content, about as fine as the fixed image."""
    low, high = material.box_mm
    finest = float(material.fixed.grid.spacing.min())
    spacing = max(finest, float((np.prod(high - low) / _MOST_VOXELS) ** (1 / 3)))
    d, h, w = (max(4, int(n)) for n in np.ceil((high - low) / spacing))
    return Grid.centred((d, h, w), spacing, (low + high) / 2)


def nifti_base64(data: np.ndarray, grid: Grid, slope: float = 1.0, intercept: float = 0.0) -> str:
    """A gzipped NIfTI of voxels as they are stored, as base64; times of making are left out."""
    data = np.asfortranarray(data)
    header = nifti_header(data.shape, data.dtype, grid.affine)
    header.set_slope_inter(slope, intercept)
    packed = igzip.compress(header_bytes(header) + data.tobytes(order="F"), compresslevel=2, mtime=0)
    return base64.b64encode(packed).decode("ascii")


def _volume(name: str, title: str, values: np.ndarray, grid: Grid, low: float, high: float) -> dict[str, Any]:
    scaled = ((values - low) / (high - low)).clip(0, 1) * 255
    data = nifti_base64(scaled.round().astype(np.uint8), grid, (high - low) / 255, low)
    return {"name": name, "title": title, "low": low, "high": high, "data": data}


def _labels(labels: np.ndarray, grid: Grid) -> dict[str, Any]:
    labels = labels.astype(np.int32)
    fits = labels.min() >= -(2**15) and labels.max() < 2**15
    data = nifti_base64(labels.astype(np.int16) if fits else labels, grid)
    return {"name": "labels", "title": "Moved labels", "low": 0, "high": int(labels.max()), "data": data}


def _rounded(window: tuple[float, float]) -> tuple[float, float]:
    """Three digits: what the page tells of a window."""
    low, high = (float(f"{value:.3g}") for value in window)
    return low, high if high > low else low + 1
