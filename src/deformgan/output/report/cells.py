"""What the page's template draws of each plane: pictures and lines, slice by slice."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from deformgan.output.report import outlines, views
from deformgan.output.report.encode import QUALITY, data_url
from deformgan.output.report.material import Material
from deformgan.output.report.stacks import LETTERS, NORMAL, SLICES, Stack, cut_stacks

LABEL_COLOURS = (
    "#ff6b6b", "#ffd166", "#06d6a0", "#4cc9f0", "#c77dff", "#ff9f1c", "#90e36b", "#f15bb5", "#00bbf9", "#e0aaff",
    "#f4f1bb", "#ff8fab",
)  # fmt: skip
_FEW_LABELS = 8
_MOST_POINTS = 400
_EDGE_QUALITY = 70  # they are many and fine
_AFFINE_SEEN_MM = 0.5  # of displacement by the affine part alone, below which it is not worth a row


@dataclass(frozen=True, eq=False)
class Drawn:
    """Planes with their cells, and what the legends need.

    Attributes:
        planes: For each plane ``name``, ``width`` and ``height`` in pixels, ``letters`` and ``cells``; a cell has its
            place, pictures by name (``data:`` addresses) and lines (SVG path data).
        rows: Names of the pictures there are.
        tops_mm: The last colour of displacement, its local part and the expected error.
        grid_mm: Between the lines of the warped grid.
        labels: Label values with their colours, few; ``label_count`` counts all of them.
        marks: What can be laid over the pictures, of outline, labels, lesion and points.
    """

    planes: list[dict[str, Any]]
    rows: set[str]
    tops_mm: dict[str, float]
    grid_mm: float
    labels: list[tuple[int, str]]
    label_count: int
    marks: list[str]


def draw(material: Material, slices: int = SLICES) -> Drawn:
    """Cut and draw everything."""
    stacks = cut_stacks(material, slices)
    tops = tops_mm(stacks)
    low, high = material.box_mm
    grid_mm = float(f"{float((high - low).max()) / outlines.GRID_LINES:.1g}")
    rows = _rows(stacks, tops)
    shift = material.before.affine[:3, 3]
    planes = [
        {
            "name": stack.plane,
            "width": stack.cut(stack.mask, 0).shape[1],
            "height": stack.cut(stack.mask, 0).shape[0],
            "letters": LETTERS[stack.plane],
            "cells": [_cell(stack, n, material, rows, tops, grid_mm, shift) for n in range(slices)],
        }
        for stack in stacks
    ]
    values = _values(stacks)
    marks = [
        name
        for name, there in {
            "outline": any(cell["outline"] for plane in planes for cell in plane["cells"]),
            "labels": bool(values),
            "lesion": any(cell["lesion"] for plane in planes for cell in plane["cells"]),
            "points": material.points_mm is not None,
        }.items()
        if there
    ]
    legend = [(v, LABEL_COLOURS[v % len(LABEL_COLOURS)]) for v in values] if len(values) <= _FEW_LABELS else []
    return Drawn(planes, rows, tops, grid_mm, legend, len(values), marks)


def tops_mm(stacks: list[Stack]) -> dict[str, float]:
    """The last colour of each map that is measured in mm: whole numbers where that is fine enough."""

    def top(of: Callable[[Stack], np.ndarray | None]) -> float:
        values = [v[s.mask].ravel() for s in stacks if (v := of(s)) is not None and s.mask.any()]
        return _round_up(float(np.quantile(np.concatenate(values), 0.99))) if values else 1.0

    return {
        "displacement": top(lambda s: s.length_mm),
        "local": top(lambda s: s.local_mm),
        "error": top(lambda s: s.uncertainty),
    }


def _rows(stacks: list[Stack], tops: dict[str, float]) -> set[str]:
    """Names of the pictures that show something."""
    rows = {"fixed", "before", "after", "edges_before", "edges_after"}
    inside = [s for s in stacks if s.mask.any()]
    least = min((float(s.length_mm[s.mask].min()) for s in inside), default=0.0)
    affine = max((float(np.abs(s.affine_mm[s.mask]).max()) for s in inside), default=0.0)
    local = max((float(s.local_mm[s.mask].max()) for s in inside), default=0.0)
    if least < 0.5 * tops["displacement"]:  # else all of it is one colour
        rows |= {"displacement"}
    if local > 1e-3:
        rows |= {"local", "grid"} if affine > _AFFINE_SEEN_MM or "displacement" not in rows else {"grid"}
    if any(np.ptp(s.volume_change[s.mask]) > 1e-3 for s in inside):
        rows |= {"change"}
    if any(s.uncertainty is not None and s.uncertainty.any() for s in stacks):
        rows |= {"error"}
    if any(s.synthesis is not None and s.synthesis.any() for s in stacks):
        rows |= {"synthesis"}
    return rows


def _cell(
    stack: Stack,
    n: int,
    material: Material,
    rows: set[str],
    tops: dict[str, float],
    grid_mm: float,
    shift: np.ndarray,
) -> dict[str, Any]:
    mask = stack.cut(stack.mask, n)
    cell: dict[str, Any] = {
        name: data_url(drawn(), _EDGE_QUALITY if name.startswith("edges") else QUALITY)
        for name, drawn in _pictures(stack, n, tops).items()
        if name in rows
    }
    if "grid" in rows:
        across, up = (a for a in range(3) if a != NORMAL[stack.plane])
        step = max(2, round(grid_mm / stack.pixel_mm))
        inside = (stack.cut(stack.displacement_mm, n) - shift) / stack.pixel_mm
        cell["lines"] = outlines.grid_lines(inside, mask, across, up, step)
    labels = {} if stack.labels is None else outlines.label_outlines(stack.cut(stack.labels, n), len(LABEL_COLOURS))
    return cell | {
        "place": stack.places[n],
        "outline": outlines.outline(mask),
        "labels": labels,
        "lesion": "" if stack.lesion is None else outlines.outline(stack.cut(stack.lesion, n)),
        "points": _points(stack, n, material.points_mm),
    }


def _pictures(stack: Stack, n: int, tops: dict[str, float]) -> dict[str, Callable[[], np.ndarray]]:
    """How each row's picture of slice ``n`` is drawn; those of maps that the stack does not have cannot be."""

    def at(volume: np.ndarray | None) -> np.ndarray:
        if volume is None:
            raise ValueError("a row without its volume")
        return stack.cut(volume, n)

    def half(volume: np.ndarray | None) -> np.ndarray:
        """Every second pixel: enough for maps, which are smooth."""
        return at(volume)[::2, ::2]

    fixed, before, after = at(stack.fixed), at(stack.moving), at(stack.moved)
    edges = [views.edge_strength(image, at(stack.mask), stack.pixel_mm) for image in (fixed, before, after)]
    return {
        "fixed": lambda: views.grey(fixed),
        "before": lambda: views.grey(before),
        "after": lambda: views.grey(after),
        "edges_before": lambda: views.edge_difference(edges[0], edges[1]),
        "edges_after": lambda: views.edge_difference(edges[0], edges[2]),
        "displacement": lambda: _amount(half(stack.length_mm), half(stack.mask), tops["displacement"]),
        "local": lambda: _amount(half(stack.local_mm), half(stack.mask), tops["local"]),
        "change": lambda: views.change_map(half(stack.volume_change), half(stack.mask)),
        "error": lambda: views.amount_map(
            half(stack.uncertainty), half(stack.mask), tops["error"], views.ERROR_COLOURS
        ),
        "synthesis": lambda: views.grey(at(stack.synthesis)),
    }


def _points(stack: Stack, n: int, points_mm: np.ndarray | None) -> list[tuple[float, float, float]]:
    """Points nearer to this slice than to its neighbours: x and y in tenths of a pixel, and how near, 0 to 1."""
    if points_mm is None:
        return []
    xy, number = stack.to_page(points_mm[:_MOST_POINTS])
    nearness = 1 - 2 * np.abs(number - n)
    return [
        (round(float(x) * outlines.UNITS), round(float(y) * outlines.UNITS), round(float(near), 2))
        for (x, y), near in zip(xy, nearness, strict=True)
        if near > 0
    ]


def _values(stacks: list[Stack]) -> list[int]:
    found = [np.unique(s.labels) for s in stacks if s.labels is not None]
    return [int(v) for v in np.unique(np.concatenate(found)) if v != 0] if found else []


def _amount(values: np.ndarray, mask: np.ndarray, top: float) -> np.ndarray:
    return views.amount_map(values, mask, top, views.LENGTH_COLOURS)


def _round_up(value: float) -> float:
    """Up to a number that is easy to read on a colour bar."""
    if not value > 0:
        return 1.0
    unit = 10.0 ** math.floor(math.log10(value) - 0.3)
    return float(math.ceil(round(value / unit, 6)) * unit)
