"""Planes, at any angle, that content was cut along: an oblique slab in the padding it was resampled into.

A body bounds content by curved surfaces; where many of its voxels lie in one outermost plane, it was cut there. The
side of a thin slab is curved along one direction only, so that much of it lies in one layer too; but it grows quickly
from one layer to the next, which what was cut does not.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

_ACROSS = 56  # cells along the content's longest side, on which it is looked at
_FEWEST = 200  # of them, below which there is nothing to fit a plane to
_DIRECTIONS = 642  # that are looked along at first, some 8° from each other
_APART = np.cos(np.radians(15.0))  # between two of them that are looked at closely
_ALIKE = np.cos(np.radians(5.0))  # between the normals that are found of one plane
_MOST = 12  # planes that are looked at closely: those that hold most
_LAYERS = (3.0, 2.0, 1.5, 1.5)  # cells, thickness of what counts as outermost, step by step
_LAYER = 1.5  # cells, thickness of the outermost layer whose cross-section is measured
_STRAYS = 1e-3  # share of the cells that may lie outside a plane
_FINE = 150  # voxels along the content's longest side at most, among which a plane is looked at in the end
_FINE_STRAYS = 1e-4  # the same of these
# voxels' thickness of the outermost layer and how far in the one it is compared with begins; what the outermost must
# show of that: where content was cut 0.6 and more, down to caps of 6 mm, elsewhere 0.5 at most
_THICK, _INNER, _FLAT = 1.0, 2.0, 0.55


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
    at, surface, cell = _cells(mask, spacing)
    if len(at) < _FEWEST:
        return np.zeros((0, 4))
    planes = []
    for normal in _normals(surface, cell):
        along = at @ normal
        top = float(np.quantile(along, 1 - _STRAYS))
        edges = np.arange(top, along.min() - _LAYER * cell, -_LAYER * cell)[::-1]
        layers = np.histogram(along, edges)[0]
        share = max(needed, rounded * _LAYER * cell / float(np.mean(_sizes_across(at, normal, cell))))
        if layers[-1] + np.count_nonzero(along > top) >= share * layers.max():
            planes.append(normal)
    return np.array(list(_flat(mask, spacing, planes))).reshape(-1, 4)


def _flat(mask: np.ndarray, spacing: np.ndarray, normals: list[np.ndarray]) -> Iterator[np.ndarray]:
    """The planes (4,) that stand on these normals and are flat to a voxel, fitted to single voxels."""
    if not normals:
        return
    occupied = _occupied(mask)
    low = np.array([o[0] for o in occupied])
    step = 1 + max(int(o[-1] - o[0]) for o in occupied) // _FINE
    part = mask[tuple(slice(int(o[0]), int(o[-1]) + 1, step) for o in occupied)]
    at = ((np.argwhere(part) * step + low) * spacing).astype(np.float32)
    for normal in normals:
        thick = step * float(np.abs(normal) @ spacing)  # of a voxel, across the plane
        for _ in range(2):
            along = at @ normal
            outermost = at[along > np.quantile(along, 1 - _FINE_STRAYS) - _THICK * thick]
            normal = _across(outermost, normal)
        along = at @ normal
        top = float(np.quantile(along, 1 - _FINE_STRAYS))
        deep = (top - along) / thick
        outer = np.count_nonzero(deep < _THICK)
        inner = np.count_nonzero((deep >= _INNER) & (deep < _INNER + _THICK))
        if outer >= _FLAT * inner:
            yield np.array([*(normal * spacing), -top])


def _occupied(mask: np.ndarray) -> list[np.ndarray]:
    """Along each axis, the planes that hold anything."""
    return [np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]


def _cells(mask: np.ndarray, spacing: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Where the content's cells lie, and those of its surface, index times spacing in mm, (N, 3) each; their size."""
    occupied = _occupied(mask)
    cell = max((o[-1] - o[0] + 1) * s for o, s in zip(occupied, spacing, strict=True)) / _ACROSS
    steps = [max(1, round(cell / s)) for s in spacing]
    low = [int(o[0]) for o in occupied]
    part = np.pad(mask[tuple(slice(i, int(o[-1]) + 1, n) for i, o, n in zip(low, occupied, steps, strict=True))], 2)
    part = ~_eroded(~_eroded(part))  # opened: single voxels beside the content are none of it
    surface = part & ~_eroded(part)
    places = [(np.argwhere(one[2:-2, 2:-2, 2:-2]) * steps + low) * spacing for one in (part, surface)]
    return places[0], places[1], float(max(n * s for n, s in zip(steps, spacing, strict=True)))


def _eroded(mask: np.ndarray) -> np.ndarray:
    """Without the cells that have an empty one beside a face; beyond the volume there are none."""
    out = mask.copy()
    for axis in range(3):
        one, other = (
            tuple(part if a == axis else slice(None) for a in range(3)) for part in (slice(1, None), slice(-1))
        )
        out[one] &= mask[other]
        out[other] &= mask[one]
    return out


def _normals(surface: np.ndarray, cell: float) -> list[np.ndarray]:
    """Outward normals of the planes that hold most of a surface's outermost layer, one for each plane."""
    directions = _directions()
    along = surface @ directions.T
    held = (along > along.max(0) - _LAYER * cell).sum(0)
    found: list[np.ndarray] = []
    while len(found) < _MOST and held.max() > 0:
        best = int(held.argmax())
        held[directions @ directions[best] >= _APART] = 0
        normal = _fitted(surface, directions[best], cell)
        if all(normal @ other < _ALIKE for other in found):
            found.append(normal)
    return found


def _fitted(surface: np.ndarray, normal: np.ndarray, cell: float) -> np.ndarray:
    """A direction turned until it stands on what lies outermost: on the plane nearest to that, again and again."""
    for layers in _LAYERS:
        along = surface @ normal
        normal = _across(surface[along > np.quantile(along, 1 - _STRAYS) - layers * cell], normal)
    return normal


def _across(points: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """The normal of the plane nearest to points (N, 3), on the side of a given one."""
    across = np.linalg.eigh(np.cov((points - points.mean(0)).T))[1][:, 0]
    return across if across @ normal > 0 else -across


def _directions() -> np.ndarray:
    """Evenly over the sphere, (`_DIRECTIONS`, 3): Fibonacci's spiral."""
    at = np.arange(_DIRECTIONS) + 0.5
    z, turn = 1 - 2 * at / _DIRECTIONS, at * np.pi * (3 - 5**0.5)
    return np.stack([np.sqrt(1 - z**2) * np.cos(turn), np.sqrt(1 - z**2) * np.sin(turn), z], 1)


def _sizes_across(at: np.ndarray, normal: np.ndarray, cell: float) -> list[float]:
    """Extent of the content along two directions in the plane, mm."""
    one = np.cross(normal, np.eye(3)[np.abs(normal).argmin()])
    one /= np.linalg.norm(one)
    return [float(np.ptp(at @ direction)) + cell for direction in (one, np.cross(normal, one))]
