"""A transform file that another tool writes from `some_map`: written now, or kept here from a time it was at hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from grids import CASES, oblique

from deformgan.spatial.grid import Grid
from deformgan.transforms.transform import load_transform
from peers.maps import AFFINE, moved, some_map, voxels
from peers.outcome import Case, same_points

THEY_WRITE, THEY_READ = "transforms that it writes, we read", "transforms that we write, it reads"
KEPT = Path(__file__).parent / "kept"
FIRST = {"identity grids": CASES["identity grids"]}
# the grids of the files that are kept: few voxels, slanted against each other
SMALL = (oblique(12, (14.0, 15.0, 16.0), (6, 5, 4)), oblique(-20, (13.0, 16.0, 15.0), (5, 6, 5)))

Pairs = Mapping[str, tuple[Grid, Grid]]


@dataclass(frozen=True)
class Written:
    """A kind of file that a tool writes.

    Args:
        module, peer: What the tool is imported as, and called.
        name: What the file holds.
        file: Its name.
        write: Takes the fixed and the moving grid and a folder.
        is_field: Whether it holds the whole map, or its matrix alone.
        words: How it is loaded, where its ending leaves a choice.
        pairs: The grids to try.
        kept: Whether one is kept here.
    """

    module: str
    peer: str
    name: str
    file: str
    write: Callable[[Grid, Grid, Path], None]
    is_field: bool = False
    words: Mapping[str, str] = field(default_factory=dict)
    pairs: Pairs = field(default_factory=lambda: CASES)
    kept: bool = False

    @property
    def kept_as(self) -> Path:
        """Where the file lies that is kept."""
        return KEPT / f"{self.peer}-{self.name.replace(' ', '-').replace('.', '')}-{self.file}"

    def cases(self) -> Iterator[Case]:
        """A case for each pair of grids, where the tool is installed, and one for the file that is kept."""
        if find_spec(self.module) is not None:
            for grid, (fixed, moving) in self.pairs.items():
                yield Case(
                    self.peer, THEY_WRITE, f"{self.name} in {self.file}, {grid}", partial(self._now, fixed, moving)
                )
        if self.kept:
            yield Case(f"{self.peer} (kept)", THEY_WRITE, f"{self.name} in {self.file}", self._then)

    def _now(self, fixed: Grid, moving: Grid, folder: Path) -> None:
        self.write(fixed, moving, folder)
        self._agree(folder / self.file, fixed, moving)

    def _then(self, folder: Path) -> None:
        (folder / self.file).write_bytes(self.kept_as.read_bytes())
        self._agree(folder / self.file, *SMALL)

    def _agree(self, path: Path, fixed: Grid, moving: Grid) -> None:
        ours = load_transform(path, fixed=fixed, moving=moving, **self.words)
        points = voxels(fixed)
        expected = some_map().map_points(points) if self.is_field else moved(AFFINE, points)
        same_points(ours.map_points(points), expected)


@dataclass(frozen=True)
class Read:
    """A kind of file that we write and a tool reads; ``read`` raises where it understands something else."""

    module: str
    peer: str
    name: str
    read: Callable[[Grid, Grid, Path], None]
    pairs: Pairs = field(default_factory=lambda: CASES)

    def cases(self) -> Iterator[Case]:
        """A case for each pair of grids, where the tool is installed."""
        if find_spec(self.module) is not None:
            for grid, (fixed, moving) in self.pairs.items():
                yield Case(self.peer, THEY_READ, f"{self.name}, {grid}", partial(self.read, fixed, moving))


def whole_map(fixed: Grid) -> np.ndarray:
    """`some_map` as displacements on a grid's voxels, (D, H, W, 3) float32, world mm."""
    return some_map().displacement(fixed)
