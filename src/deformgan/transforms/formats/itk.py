"""ITK and ANTs transform files: 5-D vector NIfTI displacements and text affines.

Both are pull-backs (fixed → moving) in LPS millimetres; everything this module takes and returns is RAS+.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from deformgan.errors import InputError, UsageError
from deformgan.io.atomic import atomic, write_nifti
from deformgan.spatial.grid import Grid
from deformgan.transforms.formats.base import Contents, Format, Geometry, Map, matrix_alone
from deformgan.transforms.formats.checks import read_text, read_vectors
from deformgan.transforms.formats.fnirt import FIELD_INTENT, is_vectors
from deformgan.transforms.formats.itk_linear import COMPOSITE, WRITTEN_AS, in_order, to_parameters

DISPLACEMENT_INTENT = 1006  # RAS: NIfTI's own code for displacements, which ITK 5.4 and FreeSurfer write
_VECTOR_INTENT = 1007  # LPS: as ITK and ANTs have always written their own
_MAGIC = "#Insight Transform File V1.0"


def write_displacement(path: str | Path, disp_mm: np.ndarray, grid: Grid) -> None:
    """Write a displacement field as ANTs reads it: shape (D, H, W, 1, 3), intent 1007 (vector), LPS mm.

    Args:
        path: Ends in ``.nii`` or ``.nii.gz``.
        disp_mm: (D, H, W, 3) float32, world mm (RAS+); quickest in Fortran order.
        grid: Where its voxels lie.
    """
    write_nifti(path, disp_mm[..., None, :], grid.affine, intent=_VECTOR_INTENT, sign=(-1, -1, 1))


def read_displacement(path: str | Path) -> tuple[np.ndarray, Grid]:
    """Read a 5-D vector NIfTI displacement: (D, H, W, 3) float32 in world mm (RAS+), Fortran order, and its grid.

    The vectors are LPS, unless the file's intent is 1006 (displacement): then they are RAS, for ITK and for us.

    Raises:
        InputError: unreadable (see `deformgan.io.untrusted.read_nifti`), not a 5-D vector field, or not finite.
    """
    hint = "give a 5-D vector field (D, H, W, 1, 3) as ITK and ANTs write it"
    field, grid, intent = read_vectors(path, (1,), hint)
    if intent != DISPLACEMENT_INTENT:
        np.negative(field[..., :2], out=field[..., :2])
    return field, grid


def write_affine(path: str | Path, matrix: np.ndarray) -> None:
    """Write a 4×4 fixed-to-moving matrix (world mm, RAS+) as an ITK text transform."""
    numbers = " ".join(repr(float(v)) for v in to_parameters(matrix))
    text = f"{_MAGIC}\n#Transform 0\nTransform: {WRITTEN_AS}\nParameters: {numbers}\nFixedParameters: 0 0 0\n"
    with atomic(path) as partial:
        partial.write_text(text, encoding="ascii")


def read_affine(path: str | Path) -> np.ndarray:
    """Read an ITK text transform of matrices, one or a composite: 4×4 fixed-to-moving in world mm (RAS+).

    Raises:
        InputError: missing, not an ITK text transform, several that are no composite, not affine, or singular.
    """
    text = read_text(path, "an ITK text transform", "give a text file as ITK writes it")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines or lines[0] != _MAGIC:
        raise InputError(f"{path} is not an ITK text transform", f"its first line should be {_MAGIC!r}")
    parts: list[tuple[str, dict[str, str]]] = []
    for line in lines[1:]:
        key, colon, value = (word.strip() for word in line.partition(":"))
        if colon and key == "Transform":
            parts.append((value, {}))
        elif colon and parts:
            parts[-1][1][key] = value
    try:
        found = [
            (kind, _numbers(kind, values, "Parameters"), _numbers(kind, values, "FixedParameters"))
            for kind, values in parts
        ]
    except (KeyError, ValueError) as error:
        raise InputError(f"{path} is damaged: {error}", "write it again") from error
    return in_order(found, path)


def _numbers(kind: str, values: dict[str, str], key: str) -> np.ndarray:
    """An entry's numbers; a composite has none of its own."""
    if kind.startswith(COMPOSITE):
        return np.zeros(0)
    return np.array([float(v) for v in values[key].split()])


def _claims_field(found: Contents) -> bool:
    if not is_vectors(found):
        return True
    if (found.asked or "").startswith("fsl") or (found.asked is None and found.intent == FIELD_INTENT):
        return False
    hint = "if it is a warp field of FSL, say so: --from-format fsl in convert, file_format= in Python"
    shape = tuple(found.header.get_data_shape())
    raise InputError(f"{found.path} is not a displacement field of ITK: its shape is {shape}", hint)


def _write_field(path: str | Path, transform: Map, of: Geometry) -> None:
    grid = of.fixed or transform.grid
    if grid is None:
        hint = "name the fixed image (onto= in Python, --fixed in convert), or use .txt"
        raise UsageError(f"cannot write {path}: an affine has no grid of its own", hint)
    write_displacement(path, transform.displacement(grid), grid)


FIELD = Format(
    name="itk-field",
    read=lambda path, _: [read_displacement(path)],
    write=_write_field,
    reads=(".nii.gz", ".nii"),
    writes=(".nii.gz", ".nii"),
    asked_as=("itk",),
    claims=_claims_field,
)
TEXT = Format(
    name="itk-text",
    read=lambda path, _: [read_affine(path)],
    write=lambda path, transform, _: write_affine(path, matrix_alone(path, transform)),
    reads=(".txt", ".tfm", ".mat"),
    writes=(".txt", ".tfm"),
    asked_as=("itk",),
)
