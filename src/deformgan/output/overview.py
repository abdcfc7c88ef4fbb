"""One registration on one sheet: before and after, edges, displacement and volume change in three planes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure

from deformgan.output.report import views
from deformgan.output.report.cells import tops_mm
from deformgan.output.report.figures import verdict
from deformgan.output.report.material import Material
from deformgan.output.report.page import material_of
from deformgan.output.report.stacks import LETTERS, Stack, cut_stacks

if TYPE_CHECKING:
    from deformgan.output.registration import Registration

_GROUND, _INK, _FAINT = "#0e1116", "#e8eaed", "#8b949e"
_VERDICT_INK = {"pass": "#6fdc9b", "look": "#f2c14e", "fail": "#ff9184"}
_PANEL = 1.9  # inches
_COLUMNS = ("fixed", "moving, before", "moved, after", "edges before", "edges after", "displacement", "volume change")
_PLACES = ((0.02, 0.5, "left", "center"), (0.98, 0.5, "right", "center"), (0.5, 0.98, "center", "top"))
_PLACES += ((0.5, 0.02, "center", "bottom"),)


def draw_registration(found: Registration) -> Figure:
    """The middle slices of a registration: 3 planes by 7 pictures, radiological, with letters of side and colour bars.

    Raises:
        ValueError: The registration does not carry its pair.
    """
    record = {**found.provenance, "quality": found.quality.as_dict()}
    return draw_material(material_of(found, record), record)


def draw_material(material: Material, record: dict[str, Any]) -> Figure:
    """The same of what a report is drawn from."""
    stacks = cut_stacks(material, slices=1)
    local = _moves_all_alike(stacks)
    top = tops_mm(stacks)["local" if local else "displacement"]
    width, height = _PANEL * len(_COLUMNS) + 0.4, _PANEL * len(stacks) + 1.5
    figure = Figure(figsize=(width, height), facecolor=_GROUND, dpi=100)
    axes = figure.subplots(len(stacks), len(_COLUMNS), squeeze=False)
    figure.subplots_adjust(0.01, 0.75 / height, 0.99, 1 - 0.75 / height, 0.03, 0.03)
    for row, stack in zip(axes, stacks, strict=True):
        for axis, picture in zip(row, _pictures(stack, top, local), strict=True):
            _show(axis, picture, stack.plane)
    for axis, name in zip(axes[0], _COLUMNS, strict=True):
        axis.set_title(name, color=_INK, size=10, pad=4)
    _heading(figure, record, height)
    _bars(figure, axes[-1], top, local)
    return figure


def _moves_all_alike(stacks: list[Stack]) -> bool:
    """Whether the images lay so far apart that the whole displacement would be one colour."""
    lengths = [stack.length_mm[stack.mask] for stack in stacks if stack.mask.any()]
    return bool(lengths) and min(v.min() for v in lengths) > 0.5 * max(v.max() for v in lengths) > 0


def _pictures(stack: Stack, top: float, local: bool) -> list[np.ndarray]:
    fixed, before, after, mask = (stack.cut(v, 0) for v in (stack.fixed, stack.moving, stack.moved, stack.mask))
    edges = [views.edge_strength(image, mask, stack.pixel_mm) for image in (fixed, before, after)]
    length = stack.cut(stack.local_mm if local else stack.length_mm, 0)
    return [
        *(np.repeat(views.grey(image)[..., None], 3, -1) for image in (fixed, before, after)),
        views.edge_difference(edges[0], edges[1]),
        views.edge_difference(edges[0], edges[2]),
        views.amount_map(length, mask, top, views.LENGTH_COLOURS),
        views.change_map(stack.cut(stack.volume_change, 0), mask),
    ]


def _show(axis: Axes, picture: np.ndarray, plane: str) -> None:
    axis.imshow(picture, interpolation="bilinear")
    axis.set_axis_off()
    for letter, (x, y, across, up) in zip(LETTERS[plane], _PLACES, strict=True):
        where: dict[str, Any] = {"ha": across, "va": up, "transform": axis.transAxes}
        axis.text(x, y, letter, color=_FAINT, size=7, **where)


def _heading(figure: Figure, record: dict[str, Any], height: float) -> None:
    found = verdict(record)
    ink = _VERDICT_INK[found.word]
    figure.text(0.01, 1 - 0.28 / height, f"{found.sign} {found.word}", color=ink, size=14, weight="bold", va="center")
    cause = found.because[0].text if found.because else found.sentence
    figure.text(0.075, 1 - 0.28 / height, cause, color=_INK, size=10, va="center")


def _bars(figure: Figure, row: np.ndarray, top: float, local: bool) -> None:
    length = "displacement without its affine part (mm)" if local else "displacement (mm)"
    _bar(
        figure, row[5], views.LENGTH_COLOURS, (0, top), length, [0, top / 2, top], [f"{v:g}" for v in (0, top / 2, top)]
    )
    change = ["shrank to ½", "unchanged", "grew to 2 ×"]
    _bar(figure, row[6], views.CHANGE_COLOURS, (-1, 1), "volume change", [-1, 0, 1], change)
    x, y = row[3].get_position().x0, row[3].get_position().y0 - 0.02
    for n, (text, ink) in enumerate((("fixed alone", views.EDGE_FIXED), ("other alone", views.EDGE_OTHER))):
        figure.text(x + 0.07 * n, y, text, color=np.array(ink) / 255, size=8, va="top")
    figure.text(x + 0.14, y, "both: white", color="white", size=8, va="top")


def _bar(
    figure: Figure,
    below: Axes,
    stops: np.ndarray,
    limits: tuple[float, float],
    name: str,
    ticks: list[float],
    words: list[str],
) -> None:
    place = below.get_position()
    height = figure.get_figheight()
    axis = figure.add_axes((place.x0 + 0.012, place.y0 - 0.2 / height, place.width - 0.024, 0.1 / height))
    colours = LinearSegmentedColormap.from_list(name, stops / 255)
    bar = figure.colorbar(ScalarMappable(Normalize(*limits), colours), cax=axis, orientation="horizontal")
    bar.set_ticks(ticks, labels=words)
    bar.set_label(name, color=_INK, size=8, labelpad=1)
    bar.ax.tick_params(colors=_FAINT, labelsize=6.5, length=2, pad=1)
    bar.outline.set_visible(False)  # type: ignore[operator]
