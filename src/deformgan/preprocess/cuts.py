"""Planes, at any angle, that content was cut along: an oblique slab in the padding it was resampled into.

A body bounds content by curved surfaces; where many of its voxels lie in one outermost plane, it was cut there.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import binary_opening
from scipy.spatial import ConvexHull, QhullError

_ACROSS = 56  # cells along the content's longest side, on which it is looked at
_FEWEST = 200  # of them, below which there is nothing to fit a plane to
_ALIKE = np.cos(np.radians(8.0))  # between the normals of two facets of one plane
_MOST = 16  # planes that are looked at: those of the largest facets
_LAYER = 1.5  # cells, thickness of the outermost layer whose cross-section is measured
_STRAYS = 1e-3  # share of the cells that may lie outside a plane


def find_cuts(mask: np.ndarray, spacing: np.ndarray, needed: float, rounded: float) -> np.ndarray:
    """The planes that cut a content.

    Args:
        mask: (D, H, W) bool, the foreground.
        spacing: (3,) voxel size in mm.
        needed: Share of the largest cross-section that the outermost layer of a cut content shows at least.
        rounded: The same, times the layer's thickness over the content's size: round content shows that much.

    Returns:
        (N, 4): the content lies where ``a i + b j + c k + d ≤ 0``, (i, j, k) voxel indices; abc / spacing has length 1.
    """
    at, cell = _cells(mask, spacing)
    if len(at) < _FEWEST:
        return np.zeros((0, 4))
    planes = []
    for normal in _normals(at):
        along = at @ normal
        top = float(np.quantile(along, 1 - _STRAYS))
        edges = np.arange(top, along.min() - _LAYER * cell, -_LAYER * cell)[::-1]
        layers = np.histogram(along, edges)[0]
        size = (top - along.min() + cell, *_sizes_across(at, normal, cell))
        share = max(needed, rounded * _LAYER * cell / float(np.mean(size[1:])))
        if layers[-1] + np.count_nonzero(along > top) >= share * layers.max():
            planes.append([*(normal * spacing), -top])
    return np.array(planes).reshape(-1, 4)


def _cells(mask: np.ndarray, spacing: np.ndarray) -> tuple[np.ndarray, float]:
    """Where the content's cells lie, index times spacing in mm, (N, 3), and their size."""
    occupied = [np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    cell = max((o[-1] - o[0] + 1) * s for o, s in zip(occupied, spacing, strict=True)) / _ACROSS
    steps = [max(1, round(cell / s)) for s in spacing]
    low = [int(o[0]) for o in occupied]
    part = mask[tuple(slice(first, int(o[-1]) + 1, n) for first, o, n in zip(low, occupied, steps, strict=True))]
    part = binary_opening(np.pad(part, 1))[1:-1, 1:-1, 1:-1]
    return (np.argwhere(part) * steps + low) * spacing, float(max(n * s for n, s in zip(steps, spacing, strict=True)))


def _normals(at: np.ndarray) -> list[np.ndarray]:
    """Outward normals of the largest facets of the convex hull, those of one plane taken together."""
    try:
        hull = ConvexHull(at)
    except QhullError:
        return []  # flat content
    corners = hull.points[hull.simplices]
    areas = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1) / 2
    normals, found = hull.equations[:, :3], []
    left = areas.copy()
    while len(found) < _MOST and left.max() > 0:
        together = (normals @ normals[left.argmax()] >= _ALIKE) & (left > 0)
        mean = (areas * together) @ normals
        found.append((left @ together, mean / np.linalg.norm(mean)))
        left[together] = 0
    return [normal for _, normal in sorted(found, key=lambda one: -one[0])]


def _sizes_across(at: np.ndarray, normal: np.ndarray, cell: float) -> list[float]:
    """Extent of the content along two directions in the plane, mm."""
    one = np.cross(normal, np.eye(3)[np.abs(normal).argmin()])
    one /= np.linalg.norm(one)
    return [float(np.ptp(at @ direction)) + cell for direction in (one, np.cross(normal, one))]
