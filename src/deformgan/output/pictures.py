"""Pictures of a registration: pairs with outlines, checkerboards, the warped grid, the displacement error.

Every function takes volumes (D, H, W) on one grid along the world axes (RAS+) and returns a figure; `save` writes it.
Dark ground, radiological layout (the patient's right on the left), the same slices and scale in every panel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Colormap, LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from scipy.ndimage import gaussian_filter

GROUND = "#0e1116"
INK = "#e8eaed"
FAINT = "#8b949e"
OUTLINES: Mapping[str, tuple[str, tuple[int, ...]]] = {
    "ventricles": ("#39c5ff", (4, 5, 14, 15, 43, 44)),
    "tumour": ("#ffb02e", (100, 101)),
}
_BRAIN_COLOUR = "#ff5d8f"
_TINT = np.array([0.72, 0.95, 1.0])  # of the fixed image's squares
_DISPLACEMENT_COLOURS = LinearSegmentedColormap.from_list(
    "displacement", ["#3d5a80", "#39c5ff", "#7df5c1", "#ffe66d", "#ff8c42"]
)
_ERROR_COLOURS = LinearSegmentedColormap.from_list(
    "error", ["#0e1116", "#1f3a5f", "#1b7f8c", "#6fc36b", "#f6d743", "#f2713c", "#d11149"]
)
_PLANES = ("axial", "coronal", "sagittal")
_DPI = 110
_MM_PER_INCH = 36.0  # of the page: one scale for all panels
_MARGIN, _GAP, _TOP, _BOTTOM, _BAR = 0.3, 0.18, 0.62, 0.62, 0.95  # inches
_NAME = 0.3  # inches above each row for its name


@dataclass(frozen=True)
class View:
    """Which slices are shown, and how: index of each plane, crop around the content, voxel size in mm."""

    index: tuple[int, int, int]
    crop: tuple[slice, slice, slice]
    spacing: tuple[float, float, float]

    @classmethod
    def through(cls, point: Sequence[float], mask: np.ndarray, spacing: Sequence[float], margin: int = 5) -> View:
        """Slices through voxel ``point``, cropped to ``mask`` and ``margin`` voxels around it."""
        crop = []
        for axis in range(3):
            occupied = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
            crop.append(slice(max(occupied[0] - margin, 0), min(occupied[-1] + margin + 1, mask.shape[axis])))
        index = tuple(round(float(p)) for p in point)
        return cls(index, tuple(crop), tuple(float(s) for s in spacing))  # type: ignore[arg-type]

    def cut(self, volume: np.ndarray, plane: str) -> np.ndarray:
        """The slice of a volume, (rows, columns, …) with the top of the head (or the front) in the first row."""
        axis = 2 - _PLANES.index(plane)
        crop = tuple(self.index[axis] if a == axis else c for a, c in enumerate(self.crop))
        displayed = np.swapaxes(volume[crop], 0, 1)[::-1]
        # axial and coronal: right is left; sagittal: the nose points left
        return displayed[:, ::-1]

    def axes(self, plane: str) -> tuple[int, int]:
        """The two axes a plane shows: across and up."""
        across, up = (a for a in range(3) if a != 2 - _PLANES.index(plane))
        return across, up

    def extent(self, plane: str) -> tuple[float, float, float, float]:
        """Left, right, bottom and top of the slice in mm from its lower left corner, as matplotlib wants it."""
        width, height = ((self.crop[a].stop - self.crop[a].start) * self.spacing[a] for a in self.axes(plane))
        return 0.0, width, 0.0, height


def save(figure: Figure, path: Path) -> None:
    """Write a PNG."""
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=_DPI, facecolor=GROUND)


def draw_pair(
    view: View,
    fixed: np.ndarray,
    other: np.ndarray,
    fixed_labels: np.ndarray,
    other_labels: np.ndarray,
    names: tuple[str, str],
    title: str,
    caption: str,
) -> Figure:
    """Both images in three planes, then the other's outlines on the fixed: lines that follow the anatomy fit.

    Args:
        fixed, other: Intensities in [0, 1].
        fixed_labels, other_labels: FreeSurfer-like ids, 0 outside the brain.
        names: What to call the two.
    """
    rows = [
        (names[0], fixed, fixed_labels),
        (names[1], other, other_labels),
        (f"outlines of {names[1]} on {names[0]}", fixed, other_labels),
    ]
    figure, axes = _sheet(view, [row[0] for row in rows], title, caption)
    for row, (_, image, labels) in enumerate(rows):
        for column, plane in enumerate(_PLANES):
            _grey(axes[row][column], view, image, plane)
            _outlines(axes[row][column], view, labels, plane)
    _scale_bar(axes[-1][0])
    _legend(figure)
    return figure


def draw_checkerboard(
    view: View, fixed: np.ndarray, panels: Mapping[str, np.ndarray], title: str, caption: str, square_mm: float = 18.0
) -> Figure:
    """Squares of the fixed image (tinted) and of each panel's in turn: where they are aligned, edges run on."""
    figure, axes = _sheet(view, list(panels), title, caption)
    squares = [np.arange(n) // max(1, round(square_mm / s)) for n, s in zip(fixed.shape, view.spacing, strict=True)]
    odd = np.add.outer(np.add.outer(squares[0], squares[1]), squares[2]) % 2 == 1
    for row, image in enumerate(panels.values()):
        for column, plane in enumerate(_PLANES):
            grey = view.cut(np.where(odd, fixed, image), plane)[..., None].clip(0, 1)
            tint = np.where(view.cut(odd, plane)[..., None], _TINT, 1.0)
            axes[row][column].imshow(grey * tint, extent=view.extent(plane), interpolation="bicubic")
    _scale_bar(axes[-1][0])
    return figure


def draw_grid(
    view: View, panels: Mapping[str, tuple[np.ndarray, np.ndarray]], mask: np.ndarray, title: str, caption: str
) -> Figure:
    """A regular 6 mm grid of the fixed brain as a map bends it, over the moving image it is mapped into.

    Args:
        panels: For each row the moving image (D, H, W) and the map's displacement from fixed positions in mm along the
            world axes (D, H, W, 3); the part across the slice is seen only in the colour.
        mask: The fixed brain, bool.
    """
    figure, axes = _sheet(view, list(panels), title, caption, bar=True)
    lengths = {name: np.linalg.norm(disp_mm, axis=-1) for name, (_, disp_mm) in panels.items()}
    top = max(float(np.percentile(length[mask], 99.5)) for length in lengths.values())
    for row, (name, (moving, disp_mm)) in enumerate(panels.items()):
        for column, plane in enumerate(_PLANES):
            _grey(axes[row][column], view, moving, plane, gain=0.5)
            lines = _bent_grid(view, disp_mm, lengths[name], mask, plane)
            lines.set_clim(0, max(top, 1e-3))
            axes[row][column].add_collection(lines)
    _colour_bar(figure, _DISPLACEMENT_COLOURS, top, "displacement (mm)")
    _scale_bar(axes[-1][0])
    return figure


def draw_error(view: View, panels: Mapping[str, np.ndarray], mask: np.ndarray, title: str, caption: str) -> Figure:
    """Distance in mm between found and true position of every voxel in the mask, all panels on one scale."""
    figure, axes = _sheet(view, list(panels), title, caption, bar=True)
    top = max(float(np.percentile(error[mask], 99)) for error in panels.values())
    for row, error in enumerate(panels.values()):
        for column, plane in enumerate(_PLANES):
            shown = np.ma.masked_where(~view.cut(mask, plane), view.cut(error, plane))
            colours = {"cmap": _ERROR_COLOURS, "vmin": 0, "vmax": max(top, 1e-3)}
            axes[row][column].imshow(shown, extent=view.extent(plane), interpolation="nearest", **colours)
            _contour(axes[row][column], view, mask, plane, FAINT)
    _colour_bar(figure, _ERROR_COLOURS, top, "error (mm)")
    _scale_bar(axes[-1][0])
    return figure


def _sheet(
    view: View, rows: Sequence[str], title: str, caption: str, bar: bool = False
) -> tuple[Figure, list[list[Axes]]]:
    """A dark page with one row of three panels for each name, every panel to one scale in mm."""
    sizes = [(view.extent(p)[1] / _MM_PER_INCH, view.extent(p)[3] / _MM_PER_INCH) for p in _PLANES]
    tall = max(h for _, h in sizes)
    width = 2 * _MARGIN + sum(w for w, _ in sizes) + 2 * _GAP + (_BAR if bar else 0)
    height = _TOP + _BOTTOM + len(rows) * (tall + _NAME)
    figure = Figure(figsize=(width, height), facecolor=GROUND)
    figure.text(_MARGIN / width, 1 - 0.34 / height, title, color=INK, size=15, weight="bold", va="center")
    figure.text(_MARGIN / width, 0.3 / height, caption, color=FAINT, size=9.5, va="center", linespacing=1.5)
    axes: list[list[Axes]] = []
    for row, name in enumerate(rows):
        low = height - _TOP - (row + 1) * (tall + _NAME)
        figure.text(_MARGIN / width, (low + tall + 0.12) / height, name, color=INK, size=11, va="center")
        axes.append([])
        left = _MARGIN
        for plane, (w, h) in zip(_PLANES, sizes, strict=True):
            at = (left / width, (low + (tall - h) / 2) / height, w / width, h / height)
            axes[-1].append(_panel(figure, at, view, plane))
            left += w + _GAP
    return figure, axes


def _panel(figure: Figure, at: tuple[float, float, float, float], view: View, plane: str) -> Axes:
    axis = figure.add_axes(at)
    axis.set_facecolor("black")
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_visible(False)
    left, right, bottom, top = view.extent(plane)
    axis.set_xlim(left, right)
    axis.set_ylim(bottom, top)
    axis.set_autoscale_on(False)
    first, last = ("A", "P") if plane == "sagittal" else ("R", "L")
    for x, letter, side in ((0.015, first, "left"), (0.985, last, "right")):
        axis.text(x, 0.97, letter, transform=axis.transAxes, color=FAINT, size=8, va="top", ha=side)
    return axis


def _grey(axis: Axes, view: View, image: np.ndarray, plane: str, gain: float = 1.0) -> None:
    shown = view.cut(image, plane)
    axis.imshow(shown, cmap="gray", vmin=0, vmax=1 / gain, extent=view.extent(plane), interpolation="bicubic")


def _outlines(axis: Axes, view: View, labels: np.ndarray, plane: str) -> None:
    _contour(axis, view, labels > 0, plane, _BRAIN_COLOUR)
    for colour, ids in OUTLINES.values():
        _contour(axis, view, np.isin(labels, ids), plane, colour)


def _contour(axis: Axes, view: View, mask: np.ndarray, plane: str, colour: str) -> None:
    """The mask's outline, a little smoothed for the eye."""
    inside = gaussian_filter(view.cut(mask, plane).astype(np.float32), 0.7)
    if inside.max() > 0.5 > inside.min():
        axis.contour(inside, [0.5], colors=[colour], linewidths=1.0, extent=view.extent(plane), origin="upper")


def _bent_grid(
    view: View, disp_mm: np.ndarray, length: np.ndarray, mask: np.ndarray, plane: str, every_mm: float = 6.0
) -> LineCollection:
    """Segments of the bent grid in the panel's coordinates, coloured by the displacement's length."""
    across, up = view.axes(plane)
    size = view.extent(plane)
    inside = view.cut(mask, plane)[::-1, ::-1].T  # (across, up), both in the direction of the world's axes
    moved = view.cut(disp_mm, plane)[::-1, ::-1].transpose(1, 0, 2)
    values = view.cut(length, plane)[::-1, ::-1].T
    i, j = np.indices(inside.shape)
    x = size[1] - ((i + 0.5) * view.spacing[across] + moved[..., across])  # the panel shows right (or front) at left
    y = (j + 0.5) * view.spacing[up] + moved[..., up]
    points = np.stack([x, y], -1)
    segments, colours = [], []
    for axis, gap in ((0, view.spacing[across]), (1, view.spacing[up])):
        pick = slice(None, None, max(1, round(every_mm / gap)))
        line, keep, value = (np.moveaxis(a, axis, 0)[pick] for a in (points, inside, values))
        whole = keep[:, 1:] & keep[:, :-1]
        segments.append(np.stack([line[:, :-1], line[:, 1:]], 2)[whole])
        colours.append(value[:, 1:][whole])
    lines = LineCollection(list(np.concatenate(segments)), cmap=_DISPLACEMENT_COLOURS, linewidths=0.9)
    lines.set_array(np.concatenate(colours))
    return lines


def _colour_bar(figure: Figure, colours: Colormap, top: float, name: str) -> None:
    width = figure.get_figwidth()
    at = (1 - (_MARGIN + 0.62) / width, 0.25, 0.13 / width, 0.5)
    bar = figure.colorbar(ScalarMappable(Normalize(0, max(top, 1e-3)), colours), cax=figure.add_axes(at))
    bar.set_label(name, color=INK, size=10)
    bar.ax.tick_params(colors=FAINT, labelsize=8, length=2)
    bar.outline.set_visible(False)  # type: ignore[operator]


def _scale_bar(axis: Axes, length_mm: float = 50.0) -> None:
    axis.plot([4, 4 + length_mm], [5, 5], color=INK, linewidth=2, solid_capstyle="butt")
    axis.text(4 + length_mm / 2, 8, f"{length_mm:g} mm", color=INK, size=8, ha="center", va="bottom")


def _legend(figure: Figure) -> None:
    width, height = figure.get_size_inches()
    names = [("brain", _BRAIN_COLOUR), *((name, colour) for name, (colour, _) in OUTLINES.items())]
    x = 1 - (_MARGIN + 2.6) / width
    for name, colour in names:
        figure.text(x, 1 - 0.36 / height, f"― {name}", color=colour, size=10, va="center")
        x += (0.28 + 0.085 * len(name)) / width
