"""Learning curves: loss and validation error of training runs, against the step and against the time spent."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from deformgan.errors import InputError
from deformgan.workshop.evaluation.style import Style, looks, mark_scales, method_legend, method_styles, write_png

Metrics = Mapping[str, float]
_BINS = 120  # points of a curve of losses


def training_figure(
    runs: Mapping[str, Sequence[Metrics]], path: Path, styles: Mapping[str, Style] | None = None
) -> Figure:
    """Loss of T and validation error of every run, against the step and against the time spent.

    Losses are means over a 120th of the run; each is the run's own loss, of which only the shape can be compared. Where
    runs change their resolution the curves are cut: a loss is another there.

    Args:
        runs: Rows of each run's ``metrics.jsonl`` in order: ``step``, ``t_loss``, ``seconds`` (a step) and, where there
            was a validation pass, ``val_error``; of a run in stages, ``scale``.
        path, styles: As in `robustness_figure`.

    Raises:
        InputError: There is no run, or one has no rows.
    """
    if not runs or not all(runs.values()):
        raise InputError("there is nothing to draw of a training run", "give runs that have a metrics.jsonl")
    styles = styles or method_styles(runs)
    order = [name for name in styles if name in runs]
    with looks():
        figure = Figure(figsize=(9.4, 6.4), layout="constrained")
        axes = figure.subplots(2, 2, sharey="row", sharex="col")
        hours = {name: elapsed_seconds(runs[name]) / 3600 for name in order}
        unit, factor = ("hours", 1) if max(h[-1] for h in hours.values()) > 1 else ("minutes", 60)
        for name in order:
            rows, style = runs[name], styles[name]
            abscissae = (np.array([row["step"] for row in rows], float), factor * hours[name])
            for column, at in enumerate(abscissae):
                _curve(axes[0, column], at, rows, "t_loss", style, bins=_BINS)
                _curve(axes[1, column], at, rows, "val_error", style, marker=style.marker)
        steps = {row["step"]: row["scale"] for rows in runs.values() for row in rows if "scale" in row}
        for axis in axes[:, 0]:
            mark_scales(axis, steps)
        axes[0, 0].set_ylabel("loss of T (each run's own)")
        axes[1, 0].set(ylabel="validation: mean error (voxels)", xlabel="step")
        axes[1, 1].set_xlabel(unit)
        axes[1, 0].set_ylim(0, 1.05 * axes[1, 0].get_ylim()[1])
        method_legend(figure, order, styles)
    write_png(figure, path)
    return figure


def elapsed_seconds(rows: Sequence[Metrics]) -> np.ndarray:
    """Time spent at each row of a run's metrics, (N,): steps times the seconds a step took, summed over resumes."""
    steps = np.array([row["step"] for row in rows], float)
    return np.cumsum(np.diff(steps, prepend=0) * np.array([row.get("seconds", 0.0) for row in rows]))


def _curve(
    axis: Axes, at: np.ndarray, rows: Sequence[Metrics], key: str, style: Style, marker: str = "", bins: int = 0
) -> None:
    """The rows that know ``key`` as one curve for each resolution, averaged to ``bins`` points if there are more."""
    known = [k for k, row in enumerate(rows) if math.isfinite(row.get(key, math.nan))]
    for scale in dict.fromkeys(rows[k].get("scale") for k in known):
        part = [k for k in known if rows[k].get("scale") == scale]
        x, y = at[part], np.array([rows[k][key] for k in part])
        points = max(2, round(bins * len(part) / len(known)))
        if bins and len(x) > points:
            x, y = (np.array([group.mean() for group in np.array_split(values, points)]) for values in (x, y))
        line = style.line if marker else "-"
        axis.plot(x, y, line, color=style.colour, marker=marker, markersize=4, linewidth=1.3)
