"""Figures made of slices: methods side by side, and G's images from stage to stage.

White page, one axial slice of each volume in radiological layout (the patient's right on the left), grey values on one
scale from 0 to 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy import ndimage
from torch import Tensor

from deformgan.errors import InputError, UsageError
from deformgan.output.pictures import View
from deformgan.workshop.evaluation.cases import EvaluationCase
from deformgan.workshop.evaluation.charts import mean_and_spread
from deformgan.workshop.evaluation.style import Style, line_of, looks, mark_scales, method_styles, write_png
from deformgan.workshop.evaluation.synthesis import load_snapshot, run_stage, snapshot_steps

Overlay = Literal["none", "edges", "checker"]
TRUE_TUMOUR, SHOWN_TUMOUR, EDGES = "#56B4E9", "#E69F00", "#F0E442"
_PANEL = 1.75  # inches across
_TINT = np.array([0.72, 0.95, 1.0])  # of the fixed image's squares
_SQUARE = 14  # voxels
_FINER = 4  # how much finer than the image its edges are drawn
_STAGES = 4


@dataclass(frozen=True, eq=False)
class Panel:
    """One image of a row.

    Args:
        title: Above it; shown in the first row alone where all rows share it.
        image: (D, H, W) in [0, 1].
        tumour: (D, H, W) bool, outlined; None for no outline.
        caption: Below it, such as its error.
    """

    title: str
    image: np.ndarray
    tumour: np.ndarray | None = None
    caption: str = ""


def slice_through(case: EvaluationCase) -> View:
    """The view through the middle of a case's tumour, or of the brain where it shows none, cropped to the brain."""
    mask = case.mask[0, 0].numpy() > 0
    tumour = tumour_mask(case.fixed_labels, case)
    middle = np.argwhere(tumour if tumour.any() else mask).mean(0)
    return View.through(middle, mask | (case.moving[0, 0].numpy() > 0), [case.meta.get("spacing_mm", 1.0)] * 3, 2)


def tumour_mask(labels: Tensor, case: EvaluationCase) -> np.ndarray:
    """Where labels (1, 1, D, H, W) are one of the case's ``tumour_labels``, (D, H, W) bool."""
    return np.isin(labels[0, 0].numpy(), case.meta["tumour_labels"])


def comparison_figure(rows: Mapping[str, Sequence[Panel]], view: View, path: Path, overlay: Overlay = "none") -> Figure:
    """Fixed, moving and each method's moved image side by side, a row for each state of the case (clean, noisy).

    The first panel of a row is the fixed image: its tumour is outlined in all of the row's panels, blue, beside the
    panel's own, orange. An overlay is drawn on all panels but the first: the fixed image's edges, or squares of the
    fixed image in between.

    Args:
        rows: Name → panels, as many in each row.
        view: Which slice.
        path: Of the PNG.
        overlay: ``none``, ``edges`` or ``checker``.

    Raises:
        UsageError: There are no rows, or they differ in length.
    """
    counts = {len(panels) for panels in rows.values()}
    if len(counts) != 1 or 0 in counts:
        raise UsageError("the rows of a comparison have one number of panels, at least one", "give the same for each")
    wide, high = counts.pop(), len(rows)
    with looks():
        ratio = view.extent("axial")[3] / view.extent("axial")[1]
        figure = Figure(figsize=(_PANEL * wide + 0.35, (_PANEL * ratio + 0.42) * high + 0.5), layout="constrained")
        axes = figure.subplots(high, wide, squeeze=False)
        room = {
            "w_pad": 0.02,
            "h_pad": 0.06,
            "wspace": 0.01,
            "hspace": 0.01,
            "rect": (0, 0, 1, 1 - 0.12 / figure.get_figheight()),
        }
        figure.get_layout_engine().set(**room)  # type: ignore[union-attr, call-arg]
        for number, (line, (name, panels)) in enumerate(zip(axes, rows.items(), strict=True)):
            fixed = panels[0]
            for column, (axis, panel) in enumerate(zip(line, panels, strict=True)):
                image = view.cut(panel.image, "axial")
                if column and overlay == "checker":
                    image = _checkered(view.cut(fixed.image, "axial"), image)
                show(axis, image, view)
                if column and overlay == "edges":
                    _draw_edges(axis, view.cut(fixed.image, "axial"), view)
                if column:
                    _outline(axis, fixed.tumour, view, TRUE_TUMOUR)
                _outline(axis, panel.tumour, view, SHOWN_TUMOUR if column else TRUE_TUMOUR)
                if not number or panel.title != next(iter(rows.values()))[column].title:
                    axis.set_title(panel.title, fontsize=10)
                axis.set_xlabel(panel.caption, fontsize=9, labelpad=3)
            line[0].set_ylabel(name, fontsize=11, fontweight="bold")
        keys = [("tumour in the fixed image", TRUE_TUMOUR), ("tumour of the panel's image", SHOWN_TUMOUR)]
        keys = keys if any(p.tumour is not None for panels in rows.values() for p in panels) else []
        keys += [("edges of the fixed image", EDGES)] if overlay == "edges" else []
        if keys:
            handles = [Line2D([], [], color=colour, linewidth=2) for _, colour in keys]
            figure.legend(handles, [key for key, _ in keys], loc="outside lower center", ncols=len(keys))
    write_png(figure, path)
    return figure


def synthesis_figure(
    runs: Mapping[str, str | Path],
    case: EvaluationCase,
    path: Path,
    measured: Sequence[Mapping[str, Any]],
    styles: Mapping[str, Style] | None = None,
    stages: int = _STAGES,
) -> Figure:
    """F(φ), G(F(φ)) and the fixed image at stages of training, a block of columns a run; below, edges against the step.

    The curve is cut where a run changes its resolution: a window of voxels is another in millimetres there.

    Args:
        runs: Name → folder, as for `measure_synthesis`.
        case: Whose slice is shown; the number under each panel of G is this case's similarity of edges in the brain.
        path: Of the PNG.
        measured: Rows of `measure_synthesis`, for the chart: means over cases, bands of one standard error.
        styles: Of the runs.
        stages: Columns a run, spread evenly over its snapshots.

    Raises:
        InputError: There are no measurements of a run, or its snapshots cannot be used.
    """
    if not runs or not {row["run"] for row in measured} >= set(runs):
        raise InputError("a run has not been measured", "give measure_synthesis the same runs")
    styles = styles or method_styles(runs)
    columns = {name: _spread(snapshot_steps(folder), stages) for name, folder in runs.items()}
    wide = sum(map(len, columns.values()))
    view = slice_through(case)
    ratio = view.extent("axial")[3] / view.extent("axial")[1]
    across = min(1.45, 13 / wide)
    with looks():
        figure = Figure(figsize=(across * wide + 0.6 * len(runs) + 0.4, 3 * across * ratio + 3.9), layout="constrained")
        pictures, chart = figure.subfigures(2, 1, squeeze=False, height_ratios=[3 * across * ratio + 1.1, 2.8])[:, 0]
        widths = [len(steps) for steps in columns.values()]
        sheets = pictures.subfigures(1, len(runs), squeeze=False, width_ratios=widths)[0]
        for sheet, (name, steps) in zip(sheets, columns.items(), strict=True):
            sheet.suptitle(styles[name].label, fontsize=12, fontweight="bold", color=styles[name].colour)
            axes = sheet.subplots(3, len(steps), squeeze=False)
            for column, step in enumerate(steps):
                stage = run_stage(load_snapshot(runs[name], step), case)
                own = _at_scale(view, case, stage.fixed)
                for axis, image in zip(axes[:, column], (stage.moved, stage.generated, stage.fixed), strict=True):
                    show(axis, own.cut(image[0, 0].numpy(), "axial"), own)
                axes[0, column].set_title(
                    f"step {step}\n{own.spacing[0]:g} mm voxels", fontsize=9.5, fontweight="normal"
                )
                axes[1, column].set_xlabel(f"edges {stage.edges_brain:.2f}", fontsize=10, labelpad=2)
            for axis, label in zip(axes[:, 0], ("F(φ)", "G(F(φ))", "fixed"), strict=True):
                axis.set_ylabel(label, fontsize=11)
        _edges_chart(chart.subplots(), measured, styles, list(runs))
    write_png(figure, path)
    return figure


def show(axis: Axes, image: np.ndarray, view: View) -> None:
    """A slice in grey, or (rows, columns, 3) in colours, without axes but with room for labels."""
    colours = {} if image.ndim == 3 else {"cmap": "gray", "vmin": 0.0, "vmax": 1.0}
    axis.imshow(image, extent=view.extent("axial"), interpolation="bicubic", **colours)
    axis.set(xticks=[], yticks=[])
    axis.grid(visible=False)
    for spine in axis.spines.values():
        spine.set_visible(False)


def edge_lines(image: np.ndarray) -> np.ndarray:
    """Thin edges of a slice (rows, columns), bool, four times finer: where curvature changes sign and it is steep."""
    fine = ndimage.zoom(image.astype(np.float32), _FINER, order=1, mode="nearest", grid_mode=True)
    smooth = ndimage.gaussian_filter(fine, 1.1 * _FINER)
    curved = ndimage.laplace(smooth) > 0
    crossing = np.zeros(fine.shape, bool)
    crossing[:-1] |= curved[:-1] != curved[1:]
    crossing[:, :-1] |= curved[:, :-1] != curved[:, 1:]
    steep = np.hypot(*np.gradient(smooth))
    return crossing & (steep > max(np.percentile(steep, 75), 0.02 / _FINER))


def _draw_edges(axis: Axes, image: np.ndarray, view: View) -> None:
    lines = ndimage.binary_dilation(edge_lines(image))
    rgba = np.zeros((*lines.shape, 4))
    rgba[..., :3] = [int(EDGES[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    rgba[..., 3] = 0.75 * lines
    axis.imshow(rgba, extent=view.extent("axial"), interpolation="nearest")


def _checkered(fixed: np.ndarray, image: np.ndarray) -> np.ndarray:
    squares = np.add.outer(*(np.arange(n) // _SQUARE for n in image.shape)) % 2 == 1
    return (np.where(squares, fixed, image)[..., None] * np.where(squares[..., None], _TINT, 1.0)).clip(0, 1)


def _outline(axis: Axes, tumour: np.ndarray | None, view: View, colour: str) -> None:
    if tumour is None:
        return
    inside = ndimage.gaussian_filter(view.cut(tumour, "axial").astype(np.float32), 0.7)
    if inside.max() > 0.5 > inside.min():
        axis.contour(inside, [0.5], colors=[colour], linewidths=1.3, extent=view.extent("axial"), origin="upper")


def _spread(steps: Sequence[int], count: int) -> list[int]:
    """At most ``count`` of the steps, the first and the last among them, evenly spread by their number."""
    if len(steps) <= count:
        return list(steps)
    return [steps[round(i)] for i in np.linspace(0, len(steps) - 1, count)]


def _at_scale(view: View, case: EvaluationCase, image: Tensor) -> View:
    """The view on a coarser grid of the same extent."""
    ratio = [a / b for a, b in zip(image.shape[2:], case.fixed.shape[2:], strict=True)]
    index = tuple(min(int((i + 0.5) * r), n - 1) for i, r, n in zip(view.index, ratio, image.shape[2:], strict=True))
    crop = tuple(slice(int(s.start * r), round(s.stop * r)) for s, r in zip(view.crop, ratio, strict=True))
    spacing = tuple(s / r for s, r in zip(view.spacing, ratio, strict=True))
    return View(index, crop, spacing)  # type: ignore[arg-type]


def _edges_chart(
    axis: Axes, measured: Sequence[Mapping[str, Any]], styles: Mapping[str, Style], names: Sequence[str]
) -> None:
    for name in names:
        style = styles[name]
        for scale in dict.fromkeys(row["scale"] for row in measured if row["run"] == name):
            own = [row for row in measured if row["run"] == name and row["scale"] == scale]
            steps = sorted({row["step"] for row in own})
            values = [np.array([row["edges_brain"] for row in own if row["step"] == step]) for step in steps]
            means, halves = np.array([mean_and_spread(v, "se") for v in values]).T
            axis.fill_between(steps, means - halves, means + halves, color=style.colour, alpha=0.18, linewidth=0)
            axis.plot(steps, means, style.line, color=style.colour, marker=style.marker)
    axis.margins(y=0.2)
    mark_scales(axis, {row["step"]: row["scale"] for row in measured})
    cases = len({row["case"] for row in measured})
    axis.set(xlabel="step", ylabel="similarity of edges")
    told = f"mean of {cases} cases" if cases > 1 else "one case"
    axis.set_title(f"Local gradient similarity of F(φ) and G(F(φ)) in the brain, {told}", fontsize=11)
    handles = [line_of(styles[name]) for name in names]
    axis.legend(handles, [styles[name].label for name in names], loc="center left", bbox_to_anchor=(1.01, 0.5))
