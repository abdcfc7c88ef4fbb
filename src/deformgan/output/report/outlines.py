"""Lines over the pictures as SVG path data: outlines, points, and the grid that the map bends.

Coordinates are tenths of a pixel from the upper left corner of the slice.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import contourpy
import numpy as np

from deformgan.output.report.slices import smoothed

UNITS = 10  # a pixel
GRID_LINES = 20  # of the warped grid along the content's longest side
_EVERY = 3  # pixels between the corners of the warped grid's lines
_SMOOTH = 0.7  # pixels, for the eye
_LEAST = 5  # vertices; shorter outlines are specks
_THIN = 24  # vertices, from which on every second one does


def outline(mask: np.ndarray) -> str:
    """The outline of a mask (rows, columns), a little smoothed; empty for an empty mask."""
    occupied = [np.flatnonzero(mask.any(axis=1 - axis)) for axis in (0, 1)]
    if not len(occupied[0]):
        return ""
    (top, bottom), (left, right) = ((int(o[0]), int(o[-1]) + 1) for o in occupied)
    part = np.pad(mask[top:bottom, left:right].astype(np.float32), 3)
    lines = contourpy.contour_generator(z=smoothed(part, _SMOOTH), line_type="Separate").lines(0.5)
    shift = np.array([left - 3 + 0.5, top - 3 + 0.5])
    return "".join(_closed(np.asarray(line) + shift) for line in lines if len(line) >= _LEAST)


def label_outlines(labels: np.ndarray, colours: int) -> dict[int, str]:
    """Outlines of every label in a slice by the number of its colour, label % colours."""
    found: dict[int, str] = {}
    for label in np.unique(labels):
        if label != 0 and (path := outline(labels == label)):
            colour = int(label) % colours
            found[colour] = found.get(colour, "") + path
    return dict(sorted(found.items()))


def grid_lines(displacement: np.ndarray, mask: np.ndarray, across: int, up: int, step: int) -> str:
    """A regular grid of the fixed slice as the map bends it.

    Args:
        displacement: (rows, columns, 3) in pixels along the world axes; only the part in the plane is drawn.
        mask: (rows, columns), where lines are drawn.
        across, up: The world axes of columns and rows.
        step: Pixels between lines.
    """
    return "".join(_grid_lines(displacement, mask, across, up, step))


def _grid_lines(displacement: np.ndarray, mask: np.ndarray, across: int, up: int, step: int) -> Iterator[str]:
    rows, columns = np.indices(mask.shape).astype(np.float32) + 0.5
    # both directions of the page run against the axes
    x, y = columns - displacement[..., across], rows - displacement[..., up]
    first = [(n % step) // 2 for n in mask.shape]
    corners = _whole(np.stack([x, y], -1))
    lines = [(corners[r], mask[r]) for r in range(first[0], mask.shape[0], step)]
    lines += [(corners[:, c], mask[:, c]) for c in range(first[1], mask.shape[1], step)]
    for line, inside in lines:
        ends = np.flatnonzero(np.diff(np.pad(inside, 1).astype(np.int8))).tolist()
        for start, end in zip(ends[::2], ends[1::2], strict=True):
            if end - start > 2:
                keep = [*range(start, end - 1, _EVERY), end - 1]
                yield _path(line[keep].tolist())


def _closed(line: np.ndarray) -> str:
    thin = line[:-1:2] if len(line) > _THIN else line[:-1]
    return _path(_whole(thin).tolist()) + "z"


def _whole(points: np.ndarray) -> np.ndarray:
    """Pixels as whole tenths."""
    return np.rint(points * UNITS).astype(int)


def _path(points: list[list[int]]) -> str:
    """``M x y`` and then steps from point to point."""
    steps = []
    for (x, y), (next_x, next_y) in pairwise(points):
        if x != next_x or y != next_y:
            steps += [str(next_x - x), str(next_y - y)]
    return f"M{points[0][0]} {points[0][1]}l" + " ".join(steps)
