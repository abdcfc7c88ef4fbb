"""FreeSurfer's ``.lta``: an affine with the geometry of the two volumes it belongs to.

Its matrix goes from the source (moving) to the destination (fixed) volume, in scanner RAS or in voxels: the other way
round from ours, which pulls.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from deformgan.errors import InputError
from deformgan.io.atomic import atomic
from deformgan.spatial.grid import Grid
from deformgan.transforms.formats.base import Format, matrix_alone
from deformgan.transforms.formats.checks import checked_matrix, read_text
from deformgan.transforms.formats.freesurfer import from_grid, to_grid

_VOX_TO_VOX, _RAS_TO_RAS = 0, 1
_NAMES = {2: "LINEAR_PHYSVOX_TO_PHYSVOX", 14: "REGISTER_DAT", 21: "LINEAR_COR_TO_COR"}
_HINT = "give a .lta file as FreeSurfer writes it"


def write_lta(path: str | Path, matrix: np.ndarray, fixed: Grid, moving: Grid, *, voxels: bool = False) -> None:
    """Write a 4×4 fixed-to-moving matrix (world mm, RAS+) as ``mri_vol2vol --lta`` takes it.

    Args:
        fixed, moving: The volumes ``--targ`` and ``--mov``.
        voxels: Write LINEAR_VOX_TO_VOX in place of LINEAR_RAS_TO_RAS.
    """
    stored = np.linalg.inv(matrix)
    if voxels:
        stored = fixed.world_to_index @ stored @ moving.affine
    kind = "0 # LINEAR_VOX_TO_VOX" if voxels else "1 # LINEAR_RAS_TO_RAS"
    lines = [
        f"type      = {kind}",
        "nxforms   = 1",
        "mean      = 0.0000 0.0000 0.0000",
        "sigma     = 1.0000",
        "1 4 4",
        *(_numbers(row) for row in stored),
        "src volume info",
        *_geometry(moving),
        "dst volume info",
        *_geometry(fixed),
        "subject unset",
        "fscale 0.000000",
    ]
    with atomic(path) as partial:
        partial.write_text("\n".join(lines) + "\n", encoding="ascii")


def _numbers(values: np.ndarray) -> str:
    return " ".join(f"{float(v):.15e}" for v in values)


def _geometry(grid: Grid) -> list[str]:
    sizes, directions, middle = from_grid(grid)
    return [
        "valid = 1  # volume info valid",
        "filename = none",
        f"volume = {' '.join(map(str, grid.shape))}",
        f"voxelsize = {_numbers(sizes)}",
        *(f"{axis}ras   = {_numbers(directions[:, n])}" for n, axis in enumerate("xyz")),
        f"cras   = {_numbers(middle)}",
    ]


def read_lta(path: str | Path) -> np.ndarray:
    """Read LINEAR_RAS_TO_RAS or LINEAR_VOX_TO_VOX: 4×4 fixed-to-moving matrix in world mm (RAS+).

    Raises:
        InputError: missing, not such a file, another type or several transforms, voxels of volumes it does not
            describe, not finite, or singular.
    """
    text = read_text(path, "a FreeSurfer .lta transform", _HINT)
    lines = [line for line in (line.split("#")[0].strip() for line in text.splitlines()) if line]
    try:
        header = _entries(lines[:4])
        kind, count = int(header["type"]), int(header["nxforms"])
        if count == 1 and kind in (_VOX_TO_VOX, _RAS_TO_RAS):
            matrix = np.array([[float(v) for v in line.split()] for line in lines[5:9]])
            if lines[4].split() != ["1", "4", "4"] or matrix.shape != (4, 4):
                raise ValueError("no 4×4 matrix")
            volumes = {lines[n].split()[0]: _entries(lines[n + 1 : n + 9]) for n in _starts(lines)}
    except (KeyError, ValueError, IndexError) as error:
        raise InputError(f"{path} is not a FreeSurfer .lta transform, or it is damaged: {error}", _HINT) from error
    if count != 1:
        raise InputError(f"{path} holds {count} transforms, not one", "give them one by one")
    if kind not in (_VOX_TO_VOX, _RAS_TO_RAS):
        hint = f"lta_convert --inlta {path} --outlta ras2ras.lta"
        raise InputError(f"{path} is of type {_NAMES.get(kind, kind)}, not RAS to RAS or voxels to voxels", hint)
    matrix = checked_matrix(matrix, path)
    if kind == _VOX_TO_VOX:
        moving, fixed = (_volume(volumes.get(which), which, path) for which in ("src", "dst"))
        matrix = fixed.affine @ matrix @ moving.world_to_index
    return np.linalg.inv(matrix)


def _starts(lines: list[str]) -> list[int]:
    return [n for n, line in enumerate(lines) if line.split()[1:] == ["volume", "info"]]


def _entries(lines: list[str]) -> dict[str, str]:
    return {key.strip(): value.strip() for key, equals, value in (line.partition("=") for line in lines) if equals}


def _volume(entries: dict[str, str] | None, which: str, path: str | Path) -> Grid:
    if not entries or entries.get("valid") != "1":
        hint = f"write it in RAS: lta_convert --inlta {path} --outlta ras2ras.lta --src MOVING --trg FIXED"
        raise InputError(f"{path} is in voxels and does not say of which {which} volume", hint)
    try:
        shape, sizes, x, y, z, middle = (
            np.array([float(v) for v in entries[key].split()])
            for key in ("volume", "voxelsize", "xras", "yras", "zras", "cras")
        )
        directions = np.stack([x, y, z], 1)
        if any(v.shape != (3,) for v in (shape, sizes, middle)) or directions.shape != (3, 3):
            raise ValueError("three numbers expected")
    except (KeyError, ValueError) as error:
        raise InputError(f"{path} is damaged: its {which} volume: {error}", "write it again") from error
    return to_grid(shape, sizes, directions, middle, str(path))


FORMAT = Format(
    name="lta",
    read=lambda path, _: [read_lta(path)],
    write=lambda path, transform, of: write_lta(
        path, matrix_alone(path, transform), of.need("fixed"), of.need("moving")
    ),
    reads=(".lta",),
    writes=(".lta",),
    asked_as=("freesurfer",),
)
