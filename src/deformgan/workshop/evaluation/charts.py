"""Charts of scores: robustness, studies, accuracy against time.

Rows are those of an evaluation, one a method and case (``method``, ``case``, ``error_mean``, ``dice_tumour``, …; of a
sweep also ``sweep`` and ``level``); a value that is None or missing is left out. Every function writes a PNG and
returns the figure.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from deformgan.errors import InputError, UsageError
from deformgan.workshop.evaluation.style import ACCENT, FAINT, Style, looks, method_legend, method_styles, write_png

Row = Mapping[str, Any]
Spread = Literal["se", "sd", "ci"]
METRICS = {
    "error_mean": "mean error (voxels)",
    "error_p95": "95th percentile of the error (voxels)",
    "rmse_volume": "RMSE, volume (% of range)",
    "rmse_brain": "RMSE, brain (% of range)",
    "dice_tumour": "tumour Dice",
    "folding": "folding (% of the brain)",
    "seconds": "seconds",
    "peak_memory_mb": "peak memory (MB)",
}
SWEEP_AXES = {
    "noise": ("Rician noise", "σ / intensity range"),
    "blur": ("Blur", "σ (voxels)"),
    "bias": ("Bias field", "amplitude"),
    "thick-slices": ("Thick slices", "slice thickness (voxels)"),
    "inversion": ("Local contrast inversion", "share of the brain"),
    "deformation": ("Deformation", "largest displacement (voxels)"),
}
_COLUMNS = 3
_SPREADS = {"se": "standard error", "sd": "standard deviation", "ci": "95 % confidence interval of the mean"}


@dataclass(frozen=True)
class Study:
    """One question put to several methods.

    Args:
        title: Of its panel.
        methods: Name of each method in the rows → what it is called here, in order.
    """

    title: str
    methods: Mapping[str, str]


def robustness_figure(
    rows: Sequence[Row],
    path: Path,
    metrics: Sequence[str] = ("error_mean",),
    styles: Mapping[str, Style] | None = None,
) -> Figure:
    """A panel for each sweep and metric: level against the mean over cases, bands of one standard error.

    Args:
        rows: With ``sweep`` and ``level``.
        path: Of the PNG.
        metrics: Of `METRICS`; each fills a block of panels.
        styles: Of the methods, from `method_styles` of all figures; default: of these rows.

    Raises:
        InputError: There are no rows, or none has a metric.
    """
    sweeps = _in_order((row["sweep"] for row in rows), SWEEP_AXES)
    styles = styles or method_styles(_methods(rows))
    with looks():
        high = math.ceil(len(sweeps) / _COLUMNS) * len(metrics)
        wide = min(len(sweeps), _COLUMNS)
        _needed(rows, metrics)
        figure = Figure(figsize=(3.5 * wide + 0.4, 2.9 * high + 0.9), layout="constrained")
        axes = figure.subplots(high, wide, squeeze=False).ravel()
        panels = [(metric, sweep) for metric in metrics for sweep in _padded(sweeps, wide)]
        for axis, (metric, sweep) in zip(axes, panels, strict=True):
            if sweep is None:
                axis.set_axis_off()
                continue
            own = [row for row in rows if row["sweep"] == sweep]
            for name in _methods(own, styles):
                _curve(axis, [row for row in own if row["method"] == name], metric, styles[name])
            title, level = SWEEP_AXES.get(sweep, (sweep, "level"))
            axis.set(title=title, xlabel=level, ylabel=METRICS.get(metric, metric))
            _limit(axis, metric)
        method_legend(figure, _methods(rows, styles), styles)
    write_png(figure, path)
    return figure


def study_figure(
    rows: Sequence[Row],
    path: Path,
    studies: Sequence[Study],
    metrics: Sequence[str] = ("error_mean", "dice_tumour"),
    spread: Spread = "ci",
) -> Figure:
    """A column for each study, a row for each metric: every case as a faint dot, the mean with its spread.

    Raises:
        UsageError: A study names a method that has no row.
        InputError: There are no rows, or none has a metric.
    """
    _needed(rows, metrics)
    unknown = {name for study in studies for name in study.methods} - set(_methods(rows))
    if unknown or not studies:
        raise UsageError(
            f"there are no scores of {', '.join(sorted(unknown)) or 'any study'}", f"use {', '.join(_methods(rows))}"
        )
    with looks():
        widths = [1.0 + len(study.methods) for study in studies]
        figure = Figure(figsize=(0.72 * sum(widths) + 0.8, 2.9 * len(metrics) + 0.5), layout="constrained")
        axes = figure.subplots(
            len(metrics), len(studies), squeeze=False, sharex="col", sharey="row", width_ratios=widths
        )
        for line, metric in zip(axes, metrics, strict=True):
            for axis, study in zip(line, studies, strict=True):
                for at, name in enumerate(study.methods):
                    values = _values([row for row in rows if row["method"] == name], metric)
                    _point(axis, at, values, spread)
                names = list(study.methods.values())
                turn = {"rotation": 25, "ha": "right", "rotation_mode": "anchor"} if max(map(len, names)) > 7 else {}
                axis.set_xticks(range(len(names)), names, **turn)
                axis.set_xlim(-0.6, len(names) - 0.4)
                axis.grid(visible=False, axis="x")
                _limit(axis, metric)
            line[0].set_ylabel(METRICS.get(metric, metric))
        for axis, study in zip(axes[0], studies, strict=True):
            axis.set_title(study.title)
        figure.supxlabel(f"dots: cases; bars: {_SPREADS[spread]}", fontsize=9, color="#4d4d4d")
    write_png(figure, path)
    return figure


def accuracy_time_figure(
    rows: Sequence[Row], path: Path, metric: str = "error_mean", styles: Mapping[str, Style] | None = None
) -> Figure:
    """Time of a registration (logarithmic) against its mean error; bars are standard errors over cases.

    Where rows tell of several devices, a method has a point for each: filled on a CPU, hollow elsewhere.

    Raises:
        InputError: There are no rows, or none with seconds and the metric.
    """
    timed = [row for row in rows if row.get("seconds")]
    _needed(timed, [metric, "seconds"])
    styles = styles or method_styles(_methods(rows))
    devices = list(dict.fromkeys(row.get("device") or "cpu" for row in timed))
    with looks():
        figure = Figure(figsize=(7.6, 4.4), layout="constrained")
        axis = figure.subplots()
        for name in _methods(timed, styles):
            for device in devices:
                own = [r for r in timed if r["method"] == name and (r.get("device") or "cpu") == device]
                if not _values(own, metric).size:
                    continue
                mean, half = mean_and_spread(_values(own, metric), "se")
                style, hollow = styles[name], device not in ("cpu", "external")
                axis.errorbar(
                    float(_values(own, "seconds").mean()), mean, half or None, fmt=style.marker, color=style.colour,
                    markerfacecolor="white" if hollow else style.colour, markersize=9, markeredgewidth=1.6, capsize=3,
                    elinewidth=1.2, label=style.label + (f", {device}" if len(devices) > 1 else ""),
                )  # fmt: skip
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.set(xlabel="seconds a registration", ylabel=METRICS.get(metric, metric))
        axis.margins(x=0.08)
        _limit(axis, metric)
        figure.legend(loc="outside right upper")
    write_png(figure, path)
    return figure


def mean_and_spread(values: np.ndarray, spread: Spread) -> tuple[float, float]:
    """Mean and half length of its bar (0 for one value): standard error, deviation, or Student's 95 % interval."""
    mean, n = float(values.mean()), len(values)
    if n < 2:
        return mean, 0.0
    sd = float(values.std(ddof=1))
    if spread == "sd":
        return mean, sd
    if spread == "se":
        return mean, sd / math.sqrt(n)
    from scipy.stats import t

    return mean, float(t.ppf(0.975, n - 1)) * sd / math.sqrt(n)


def _curve(axis: Axes, rows: Sequence[Row], metric: str, style: Style) -> None:
    levels, means, halves = [], [], []
    for level in sorted({row["level"] for row in rows}):
        values = _values([row for row in rows if row["level"] == level], metric)
        if values.size:
            mean, half = mean_and_spread(values, "se")
            levels.append(level)
            means.append(mean)
            halves.append(half)
    low, high = np.subtract(means, halves), np.add(means, halves)
    axis.fill_between(levels, low, high, color=style.colour, alpha=0.18, linewidth=0)
    axis.plot(levels, means, style.line, color=style.colour, marker=style.marker, label=style.label)


def _point(axis: Axes, at: int, values: np.ndarray, spread: Spread) -> None:
    if not values.size:
        return
    sideways = at + 0.28 * (np.arange(len(values)) * 0.618034 % 1 - 0.5)  # spread evenly, the same each time
    axis.plot(sideways, values, "o", color=FAINT, alpha=0.35, markersize=3.5, markeredgewidth=0, zorder=1)
    mean, half = mean_and_spread(values, spread)
    axis.errorbar(at, mean, half, fmt="s", color=ACCENT, markersize=6.5, capsize=5, elinewidth=1.8, zorder=3)


def _limit(axis: Axes, metric: str) -> None:
    if metric == "dice_tumour":
        axis.set_ylim(0, 1)
    elif metric != "seconds":
        axis.set_ylim(bottom=0)


def _values(rows: Iterable[Row], metric: str) -> np.ndarray:
    return np.array([row[metric] for row in rows if row.get(metric) is not None and math.isfinite(row[metric])])


def _methods(rows: Iterable[Row], styles: Mapping[str, Style] | None = None) -> list[str]:
    return _in_order((row["method"] for row in rows), styles or {})


def _in_order(names: Iterable[str], order: Mapping[str, object]) -> list[str]:
    """Each name once: those of ``order`` as they stand there, then the others as they come."""
    found = list(dict.fromkeys(names))
    return [*(name for name in order if name in found), *(name for name in found if name not in order)]


def _padded(sweeps: Sequence[str], wide: int) -> list[str | None]:
    return [*sweeps, *([None] * (-len(sweeps) % wide))]


def _needed(rows: Sequence[Row], metrics: Sequence[str]) -> None:
    for metric in metrics:
        if not _values(rows, metric).size:
            raise InputError(f"there are no scores of {metric} to draw", "give the results of an evaluation")
