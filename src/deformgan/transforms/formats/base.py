"""What a transform format says of itself, so that `deformgan.transforms.formats.exchange` can choose among all.

A new format is a module beside this one with functions to read and write it and its `Format`, and its line in the
registry of `deformgan.transforms.formats.exchange`. Readers give parts in the order in which a fixed position meets
them: 4×4 matrices and displacement fields with their grids, fixed to moving, world mm (RAS+).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from deformgan.errors import UsageError
from deformgan.io.untrusted import read_nifti_header
from deformgan.spatial.grid import Grid
from deformgan.transforms.formats.checks import read_bytes

Part = np.ndarray | tuple[np.ndarray, Grid]

_GEOMETRY = "--{0} IMAGE in convert, {0}= in Python"
_START = 128  # bytes of a file that tell text from binary


class Map(Protocol):
    """What is written: ``x ↦ affine · (x + disp(x))``, a `deformgan.transforms.transform.Transform`."""

    @property
    def affine(self) -> np.ndarray:
        """4×4 ``fixed_to_moving``; the whole map where there is no field."""
        ...

    @property
    def disp_mm(self) -> np.ndarray | None:
        """None where there is no field."""
        ...

    @property
    def grid(self) -> Grid | None:
        """The grid that a field gets if none is named."""
        ...

    @property
    def parts(self) -> list[Part]:
        """Every matrix and field, in the order in which a fixed position meets them."""
        ...

    def displacement(self, onto: Grid) -> np.ndarray:
        """The complete map minus identity, (D, H, W, 3) world mm."""
        ...


@dataclass(frozen=True)
class Geometry:
    """The grids of the two images, for the formats that cannot do without."""

    path: Path
    fixed: Grid | None
    moving: Grid | None

    def need(self, role: str) -> Grid:
        """That of the ``fixed`` or the ``moving`` image.

        Raises:
            UsageError: It was not given.
        """
        grid = getattr(self, role)
        if grid is None:
            message = f"{self.path} needs the geometry of the {role} image, which its format does not hold"
            raise UsageError(message, f"name that image: {_GEOMETRY.format(role)}")
        return grid


@dataclass(frozen=True)
class Contents:
    """A file whose ending leaves a choice, looked into as far as somebody asks."""

    path: str | Path
    asked: str | None

    @cached_property
    def start(self) -> bytes:
        """Its first bytes, without blanks in front."""
        return read_bytes(self.path, "an affine transform", "give an affine of ITK, ANTs or FLIRT").lstrip()[:_START]

    @property
    def is_binary(self) -> bool:
        """Whether it is no text."""
        return b"\0" in self.start

    @cached_property
    def header(self) -> Any:
        """Of a NIfTI file, checked."""
        return read_nifti_header(self.path)

    @property
    def intent(self) -> int:
        """What its NIfTI header says that its numbers are."""
        return int(self.header["intent_code"])


@dataclass(frozen=True)
class Format:
    """One format of transform files.

    Args:
        name: Names it in answers and records.
        read: Takes the path and the images' grids.
        reads, writes: Endings of the files, the usual one first; without any it is only read, or only written.
        asked_as: What the user calls it where an ending leaves a choice: ``--from-format``, ``--to-format``.
        by_itself: Whether its endings say enough for a new file; else it has to be asked for.
        claims: Whether a file is of this format, among all with such an ending.
        write: Takes the path, the map and the images' grids as they were given.
        needs: The images, ``fixed`` or ``moving``, whose grids reading takes.
    """

    name: str
    read: Callable[[str | Path, Geometry], list[Part]]
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    asked_as: tuple[str, ...] = ()
    by_itself: bool = True
    claims: Callable[[Contents], bool] = lambda _: True
    write: Callable[[str | Path, Map, Geometry], None] | None = None
    needs: tuple[str, ...] = ()


def matrix_alone(path: str | Path, transform: Map) -> np.ndarray:
    """The 4×4 of a map without a field, for formats that hold no more.

    Raises:
        UsageError: It has a field.
    """
    if transform.disp_mm is not None:
        hint = "use .nii.gz, .h5 or .mgz, or write its affine part alone: --affine-part, nearest_affine()"
        raise UsageError(f"cannot write {path}: this transform has a field", hint)
    return transform.affine


def field_between(transform: Map, of: Geometry) -> tuple[np.ndarray, Grid, Grid]:
    """The whole map as a displacement on the fixed image's grid, that grid and the moving image's.

    FSL and FreeSurfer take a field for one on the voxels of the image, which the map's own grid need not be.

    Raises:
        UsageError: An image's grid was not given.
    """
    moving, fixed = of.need("moving"), of.need("fixed")
    return transform.displacement(fixed), fixed, moving
