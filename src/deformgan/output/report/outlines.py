"""Lines over the pictures as SVG path data: outlines, points, and the grid that the map bends.

Coordinates are tenths of a pixel from the upper left corner of the slice.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import contourpy
import numpy as np

from deformgan.output.report.slices import smoothed

UNITS = 10  # a pixel
GRID_LINES = 20  # of the warped grid along the content's longest side
_EVERY = 3  # pixels between the corners of the warped grid's lines
_SMOOTH = 0.7  # pixels, for the eye
_LEAST = 5  # vertices; shorter outlines are specks
_APART = 3  # pixels around what is outlined, as far as smoothing reaches
_THIN = 24  # vertices, from which on every second one does


def outline(mask: np.ndarray) -> str:
    """The outline of a mask (rows, columns), a little smoothed; empty for an empty mask."""
    return "".join(_outlines(np.asarray(mask, bool).astype(np.uint8)).values())


def label_outlines(labels: np.ndarray, colours: int) -> dict[int, str]:
    """Outlines of every label in a slice by the number of its colour, label % colours."""
    found: dict[int, str] = {}
    for label, path in _outlines(labels).items():
        if path:
            found[label % colours] = found.get(label % colours, "") + path
    return dict(sorted(found.items()))


def _outlines(labels: np.ndarray) -> dict[int, str]:
    """The outline of each label but 0, which are laid out beside each other and drawn at once.

    A slice may have a hundred of them, and one by one most of the time would go into the calls.
    """
    patches = _patches(labels)
    if not patches:
        return {}
    corners, shape = _laid_out([(bottom - top, right - left) for _, top, bottom, left, right in patches])
    canvas, owner = np.zeros(shape, np.float32), np.zeros(shape, np.int32)
    for number, ((label, top, bottom, left, right), (y, x)) in enumerate(zip(patches, corners, strict=True)):
        part = slice(y, y + bottom - top), slice(x, x + right - left)
        canvas[part] = labels[top:bottom, left:right] == label
        owner[tuple(slice(s.start - 1, s.stop + 1) for s in part)] = number
    generator = contourpy.contour_generator(z=smoothed(canvas, _SMOOTH), line_type="ChunkCombinedOffset")
    chunks, offsets = cast(tuple[list[Any], list[Any]], generator.lines(0.5))  # one chunk
    found: dict[int, list[str]] = {label: [] for label, *_ in patches}
    if chunks[0] is not None:
        shifts = np.array([(p[3] - x + 0.5, p[1] - y + 0.5) for p, (y, x) in zip(patches, corners, strict=True)])
        numbers, paths = _closed(np.asarray(chunks[0]), np.asarray(offsets[0], np.int64), owner, shifts)
        for number, path in zip(numbers, paths, strict=True):
            found[patches[number][0]].append(path)
    return {label: "".join(paths) for label, paths in found.items()}


def _patches(labels: np.ndarray) -> list[tuple[int, int, int, int, int]]:
    """Each label but 0, and its first and last row and column, the last not included."""
    rows, columns = np.nonzero(labels)
    if not len(rows):
        return []
    values = labels[rows, columns]
    order = np.argsort(values, kind="stable")
    values, rows, columns = values[order], rows[order], columns[order]
    starts = np.flatnonzero(np.diff(values, prepend=values[0] - 1))
    limits = [extreme.reduceat(at, starts) for at in (rows, columns) for extreme in (np.minimum, np.maximum)]
    top, bottom, left, right = (limit.tolist() for limit in limits)
    return [
        (int(v), t, b + 1, f, r + 1) for v, t, b, f, r in zip(values[starts], top, bottom, left, right, strict=True)
    ]


def _laid_out(sizes: list[tuple[int, int]]) -> tuple[list[tuple[int, int]], tuple[int, int]]:
    """Corners of rectangles on one canvas, row after row, `_APART` from each other and the rim; and its size."""
    padded = [(height + 2 * _APART, width + 2 * _APART) for height, width in sizes]
    across = max(max(width for _, width in padded), int(sum(h * w for h, w in padded) ** 0.5))
    corners, y, x, highest = [(0, 0)] * len(sizes), 0, 0, 0
    for number in sorted(range(len(sizes)), key=lambda n: padded[n], reverse=True):
        height, width = padded[number]
        if x + width > across:
            y, x, highest = y + highest, 0, 0
        corners[number] = y + _APART, x + _APART
        x, highest = x + width, max(highest, height)
    return corners, (y + highest, across)


def _closed(
    points: np.ndarray, offsets: np.ndarray, owner: np.ndarray, shifts: np.ndarray
) -> tuple[list[int], list[str]]:
    """Closed lines without specks: which rectangle each lies in, and its path.

    Args:
        points: (N, 2), x and y on the canvas, the last of each line being its first.
        offsets: Where the lines begin, and the end of the last.
        owner: The rectangle around each of the canvas's pixels.
        shifts: (R, 2), from each rectangle to the slice.
    """
    lengths = np.diff(offsets)
    kept = lengths >= _LEAST
    starts, lengths = offsets[:-1][kept], lengths[kept]
    first = np.rint(points[starts]).astype(int)
    numbers = owner[first[:, 1], first[:, 0]]
    every = np.where(lengths > _THIN, 2, 1)
    counts = -(-(lengths - 1) // every)
    ends = np.cumsum(counts)
    within = np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - counts, counts)
    chosen = np.repeat(starts, counts) + within * np.repeat(every, counts)
    placed = _whole(points[chosen] + np.repeat(shifts[numbers], counts, 0))
    return numbers.tolist(), [path and path + "z" for path in _paths(placed, ends)]


def grid_lines(displacement: np.ndarray, mask: np.ndarray, across: int, up: int, step: int) -> str:
    """A regular grid of the fixed slice as the map bends it.

    Args:
        displacement: (rows, columns, 3) in pixels along the world axes; only the part in the plane is drawn.
        mask: (rows, columns), where lines are drawn.
        across, up: The world axes of columns and rows.
        step: Pixels between lines.
    """
    rows, columns = np.indices(mask.shape).astype(np.float32) + 0.5
    # both directions of the page run against the axes
    corners = _whole(np.stack([columns - displacement[..., across], rows - displacement[..., up]], -1))
    drawn = [line for both in ((corners, mask), (corners.swapaxes(0, 1), mask.T)) for line in _runs(*both, step)]
    ends = np.cumsum([len(line) for line in drawn])
    return "".join(_paths(np.concatenate(drawn), ends)) if drawn else ""


def _runs(lines: np.ndarray, inside: np.ndarray, step: int) -> Iterator[np.ndarray]:
    """Of every so many lines the stretches inside, (N, 2) each."""
    some = slice((len(inside) % step) // 2, None, step)
    lines, inside = lines[some], inside[some]
    padded = np.zeros((len(inside), inside.shape[1] + 2), np.int8)
    padded[:, 1:-1] = inside
    which, ends = np.nonzero(np.diff(padded))  # where each run of a line begins, and where it has ended
    for line, start, end in zip(which[::2].tolist(), ends[::2].tolist(), ends[1::2].tolist(), strict=True):
        if end - start > 2:
            yield lines[line, [*range(start, end - 1, _EVERY), end - 1]]


def _whole(points: np.ndarray) -> np.ndarray:
    """Pixels as whole tenths."""
    return np.rint(points * UNITS).astype(int)


def _paths(points: np.ndarray, ends: np.ndarray) -> list[str]:
    """``M x y`` and then steps from point to point; empty where all are one, since no step is an error in a page.

    Args:
        points: (N, 2), whole, of all lines.
        ends: Where each line ends.
    """
    starts = np.concatenate([[0], ends[:-1]]).astype(int)
    steps = np.diff(points, axis=0)
    taken = np.asarray(steps.any(1))
    taken[starts[1:] - 1] = False  # from line to line
    words = list(map(str, steps[taken].ravel().tolist()))
    before = np.concatenate([[0], 2 * np.cumsum(taken)])
    return [
        f"M{x} {y}l" + " ".join(words[a:b]) if b > a else ""
        for (x, y), a, b in zip(
            points[starts].tolist(), before[starts].tolist(), before[ends - 1].tolist(), strict=True
        )
    ]
