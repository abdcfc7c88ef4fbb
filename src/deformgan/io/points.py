"""Points in CSV files: columns x, y, z in world millimetres (RAS+); other columns are carried along."""

from __future__ import annotations

import csv
import io
import os
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from deformgan.errors import InputError
from deformgan.io.atomic import atomic
from deformgan.io.untrusted import read_small

AXES = ("x", "y", "z")
_MOST_BYTES = 64 << 20
_MOST_MM = 1e6  # from the origin: a kilometre
_SLICERS = (".fcsv", ".mrk.json", ".json")


@dataclass(frozen=True)
class Points:
    """Points with whatever else their file said of them.

    Attributes:
        positions_mm: (N, 3) float64, world mm (RAS+).
        header: Every column's name, x, y and z among them.
        rows: Every row's cells as text.
        path: The file they were read from, if any.
    """

    positions_mm: np.ndarray
    header: tuple[str, ...] = AXES
    rows: tuple[tuple[str, ...], ...] = ()
    path: str | None = None

    def at(self, positions_mm: np.ndarray) -> Points:
        """The same points elsewhere."""
        return replace(self, positions_mm=np.asarray(positions_mm, np.float64))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a CSV; positions to the micrometre."""
        where = [self.header.index(axis) for axis in AXES]
        rows = self.rows or (("",) * len(self.header),) * len(self.positions_mm)
        with atomic(Path(path)) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(self.header)
            for cells, position in zip(rows, self.positions_mm, strict=True):
                row = list(cells)
                for column, value in zip(where, position, strict=True):
                    row[column] = f"{value:.6f}"
                writer.writerow(row)


def require_csv(path: str | os.PathLike[str]) -> None:
    """Raise `InputError` where the name is that of Slicer's points, which may be LPS."""
    if str(path).lower().endswith(_SLICERS):
        hint = "write a CSV with columns x, y, z in world mm, RAS+; of LPS, as Slicer saves them, x and y change sign"
        raise InputError(f"{path} holds points as Slicer keeps them, which are not read", hint)


def read_points(path: str | os.PathLike[str]) -> Points:
    """Read a CSV with a header line that names x, y and z (in any case and order).

    Raises:
        InputError: No such file, longer than 64 MiB, no such columns, no points, or a cell that is not a finite number
            or lies beyond a kilometre.
    """
    require_csv(path)
    try:
        text = read_small(path, _MOST_BYTES).decode("utf-8-sig")
        table = [tuple(cell.strip() for cell in row) for row in csv.reader(io.StringIO(text, newline="")) if any(row)]
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist", "check the path of the points") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}", "check the path and its permissions") from error
    except (ValueError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as CSV: {error}", "give a text file with columns x, y, z") from error
    header = tuple(name.lower() if name.lower() in AXES else name for name in (table[0] if table else ()))
    if twice := [axis for axis in AXES if header.count(axis) > 1]:
        raise InputError(f"{path} has two columns {twice[0]}", "name each of x, y and z once in the first line")
    if any(axis not in header for axis in AXES):
        raise InputError(f"{path} has no columns x, y and z", "name them in its first line; world mm, RAS+")
    rows = tuple(table[1:])
    if not rows:
        raise InputError(f"{path} holds no points", "give at least one line below the header")
    if "t" in header:
        what = f"{path} has a column t, as ANTs' points have, which are LPS; here x and y are taken as RAS+"
        warnings.warn(f"{what}: change their signs if these points are ANTs'", stacklevel=2)
    return Points(
        np.array([_position(path, n, header, row) for n, row in enumerate(rows, 2)]), header, rows, os.fspath(path)
    )


def _position(path: object, line: int, header: tuple[str, ...], row: tuple[str, ...]) -> list[float]:
    try:
        if len(row) != len(header):
            raise ValueError(f"{len(row)} cells under {len(header)} columns")
        position = [float(row[header.index(axis)]) for axis in AXES]
    except ValueError as error:
        raise InputError(f"{path}, line {line}: {error}", "every line needs a number for x, y and z") from error
    if not np.isfinite(position).all():
        raise InputError(f"{path}, line {line}: not a finite position", "remove or correct the line")
    if np.abs(position).max() > _MOST_MM:
        raise InputError(f"{path}, line {line}: a kilometre from the origin or more", "positions are in millimetres")
    return position
