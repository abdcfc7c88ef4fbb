"""How the figures look: a method has one colour, marker and place in all of them; a PNG is the same each time.

Colours are those of Okabe and Ito and of Tol, told apart by colour-blind readers; markers and dashes tell them apart in
grey as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from deformgan.io.atomic import atomic

_FRACTIONS = {0.25: "¼", 0.5: "½", 1.0: "full"}
INK, FAINT, ACCENT = "#1a1a1a", "#8c8c8c", "#0072B2"
DPI = 150
_SETTINGS = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.labelsize": 10,
    "axes.edgecolor": "#4d4d4d",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e3e3e3",
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "legend.fontsize": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "lines.linewidth": 1.6,
    "lines.markersize": 5.5,
    "figure.facecolor": "white",
    "savefig.dpi": DPI,
}


@dataclass(frozen=True)
class Style:
    """Of one method: what it is called in legends, its colour, marker and line."""

    label: str
    colour: str
    marker: str
    line: str = "-"


# in the order in which methods are listed
_KNOWN: dict[str, Style] = {
    "identity": Style("no registration", FAINT, ".", ":"),
    "mi-fluid": Style("MI, fluid", "#000000", "s", "--"),
    "voxelmorph-mi": Style("VoxelMorph-MI", "#56B4E9", "v", "-."),
    "voxelmorph-ngf": Style("VoxelMorph-NGF", "#009E73", "^", "-."),
    "voxelmorph-lcc": Style("VoxelMorph-LCC", "#CC79A7", "D", "-."),
    "voxelmorph-lg": Style("VoxelMorph-LG", "#0072B2", "P", "-."),
    "deform-gan-1": Style("Deform-GAN-1", "#E69F00", "<", "--"),
    "deform-gan-2": Style("Deform-GAN-2", "#D55E00", "o"),
    "deformgan-net": Style("deformgan, T alone", "#999933", "X"),
    "deformgan": Style("deformgan", "#332288", "*"),
}
_SYNONYMS = {"vm-": "voxelmorph-", "vxm-": "voxelmorph-", "dg-": "deform-gan-", "deformgan-1": "deform-gan-1"}
_SYNONYMS |= {"deformgan-2": "deform-gan-2"}
_OTHERS = [("#882255", "H"), ("#44AA99", ">"), ("#AA4499", "h"), ("#661100", "d"), ("#6699CC", "p"), ("#DDCC77", "8")]


def method_styles(names: Iterable[str]) -> dict[str, Style]:
    """The style of each method, in the order in which they are drawn and listed.

    Methods of the comparison have a style of their own, whatever the spelling (``VM_LG``, ``voxelmorph-lg``). Any other
    gets the next of six, in alphabetical order: give the names of all figures at once, and they agree.
    """
    names = dict.fromkeys(names)
    keys = {name: _key(name) for name in names}
    known = sorted((n for n in names if keys[n] in _KNOWN), key=lambda n: list(_KNOWN).index(keys[n]))
    styles = {name: _KNOWN[keys[name]] for name in known}
    lines = ("--", "-", ":")
    for number, name in enumerate(sorted(n for n in names if keys[n] not in _KNOWN)):
        colour, marker = _OTHERS[number % len(_OTHERS)]
        styles[name] = Style(name, colour, marker, lines[number // len(_OTHERS) % len(lines)])
    return styles


def _key(name: str) -> str:
    key = name.lower().replace("_", "-").replace(" ", "-")
    for start, whole in _SYNONYMS.items():
        if key.startswith(start):
            return whole + key.removeprefix(start)
    return key


@contextmanager
def looks() -> Iterator[None]:
    """Within, figures are made with these settings and no others: a user's matplotlibrc changes nothing."""
    with matplotlib.style.context(["default", _SETTINGS]):  # type: ignore[attr-defined]
        yield


def write_png(figure: Figure, path: Path) -> None:
    """Write a figure, whole, with neither date nor version in it.

    Raises:
        UsageError, InputError: As `deformgan.io.atomic.atomic`.
    """
    FigureCanvasAgg(figure)
    with looks(), atomic(path) as partial:
        figure.savefig(partial, format="png", dpi=DPI, metadata={"Software": None})


def line_of(style: Style) -> Line2D:
    """A line for a legend."""
    return Line2D([], [], color=style.colour, marker=style.marker, ls=style.line)


def method_legend(figure: Figure, names: Iterable[str], styles: Mapping[str, Style], columns: int = 4) -> None:
    """One legend of methods for the whole figure, below its panels (constrained layout makes room for it)."""
    shown = [styles[name] for name in names]
    handles = [line_of(style) for style in shown]
    figure.legend(handles, [s.label for s in shown], loc="outside lower center", ncols=min(columns, max(len(shown), 1)))


def mark_scales(axis: Axes, scales: Mapping[float, float]) -> None:
    """Dotted lines where runs change their resolution, with its name; nothing where they do not.

    Args:
        axis: With steps along x.
        scales: Step → resolution of training relative to the working grid.
    """
    steps = sorted(scales)
    for before, after in pairwise(steps):
        if scales[before] != scales[after]:
            at = (before + after) / 2
            axis.axvline(at, color=FAINT, linestyle=":", linewidth=1.2)
            name = f"{_FRACTIONS.get(scales[after], f'{scales[after]:g}')} resolution"
            across = axis.get_xaxis_transform()
            axis.text(at, 0.98, name, transform=across, rotation=90, size=8, color="#4d4d4d", ha="right", va="top")
