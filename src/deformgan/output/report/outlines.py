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
    corners = _whole(np.stack([columns - displacement[..., across], rows - displacement[..., up]], -1))
    for lines, inside in ((corners, mask), (corners.swapaxes(0, 1), mask.T)):
        some = slice((len(inside) % step) // 2, None, step)
        lines, inside = lines[some], inside[some]
        padded = np.zeros((len(inside), inside.shape[1] + 2), np.int8)
        padded[:, 1:-1] = inside
        which, ends = np.nonzero(np.diff(padded))  # where each run of a line begins, and where it has ended
        for line, start, end in zip(which[::2].tolist(), ends[::2].tolist(), ends[1::2].tolist(), strict=True):
            if end - start > 2:
                yield _path(lines[line, [*range(start, end - 1, _EVERY), end - 1]].tolist())


def _closed(line: np.ndarray) -> str:
    thin = line[:-1:2] if len(line) > _THIN else line[:-1]
    path = _path(_whole(thin).tolist())
    return path and path + "z"


def _whole(points: np.ndarray) -> np.ndarray:
    """Pixels as whole tenths."""
    return np.rint(points * UNITS).astype(int)


def _path(points: list[list[int]]) -> str:
    """``M x y`` and then steps from point to point; empty where all are one, since no step is an error in a page."""
    steps = []
    for (x, y), (next_x, next_y) in pairwise(points):
        if x != next_x or y != next_y:
            steps += [str(next_x - x), str(next_y - y)]
    return f"M{points[0][0]} {points[0][1]}l" + " ".join(steps) if steps else ""
