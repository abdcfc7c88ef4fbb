"""ITK and ANTs transform files: 5-D vector NIfTI displacements and text affines.

Both are pull-backs (fixed → moving) in LPS millimetres; this is the only module that knows it. Everything it takes and
returns is RAS+.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from deformgan.errors import InputError
from deformgan.files import atomic, read_nifti, write_nifti
from deformgan.grid import Grid
from deformgan.image import checked_affine, header_affine

_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_VECTOR_INTENT = 1007
_MAGIC = "#Insight Transform File V1.0"
_LINEAR = ("AffineTransform", "MatrixOffsetTransformBase")


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

    Raises:
        InputError: unreadable (see `deformgan.files.read_nifti`), not a 5-D vector field, or not finite.
    """
    name = str(path)
    data, header = read_nifti(path)
    if data.ndim != 5 or data.shape[3:] != (1, 3) or data.dtype.kind != "f":
        raise InputError(
            f"{name} is not a displacement field: its shape is {data.shape}",
            "give a 5-D vector field (D, H, W, 1, 3) as ITK and ANTs write it",
        )
    field = data[:, :, :, 0].astype(np.float32, copy=False)
    if not np.isfinite([field.min(), field.max()]).all():
        raise InputError(f"{name} holds NaN or infinite displacements", "make the transform again")
    np.negative(field[..., :2], out=field[..., :2])
    shape = (field.shape[0], field.shape[1], field.shape[2])
    return field, Grid(shape, checked_affine(header_affine(header, shape, name), name))


def write_affine(path: str | Path, matrix: np.ndarray) -> None:
    """Write a 4×4 fixed-to-moving matrix (world mm, RAS+) as an ITK text transform."""
    lps = _LPS @ np.asarray(matrix, np.float64) @ _LPS
    numbers = " ".join(repr(float(v)) for v in [*lps[:3, :3].ravel(), *lps[:3, 3]])
    text = (
        f"{_MAGIC}\n#Transform 0\nTransform: AffineTransform_double_3_3\n"
        f"Parameters: {numbers}\nFixedParameters: 0 0 0\n"
    )
    with atomic(path) as partial:
        partial.write_text(text, encoding="ascii")


def read_affine(path: str | Path) -> np.ndarray:
    """Read an ITK text transform of one affine: 4×4 fixed-to-moving matrix in world mm (RAS+).

    Raises:
        InputError: missing, not an ITK text transform, more than one transform, not affine, or singular.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist", "check the path") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not an ITK text transform", "give a text file as ITK writes it") from error
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines or lines[0] != _MAGIC:
        raise InputError(f"{path} is not an ITK text transform", f"its first line should be {_MAGIC!r}")
    split = [line.partition(":") for line in lines if ":" in line]
    entries = [(key.strip(), value.strip()) for key, _, value in split]
    kinds = [value for key, value in entries if key == "Transform"]
    if len(kinds) != 1:
        raise InputError(f"{path} holds {len(kinds)} transforms, not one", "give them one by one")
    if not kinds[0].startswith(_LINEAR) or not kinds[0].endswith("_3_3"):
        raise InputError(f"{path} holds a {kinds[0]}, not a 3-D affine", f"supported: {', '.join(_LINEAR)}")
    return _matrix(path, dict(entries))


def _matrix(path: Path, entries: dict[str, str]) -> np.ndarray:
    try:
        numbers = np.array([float(v) for v in entries["Parameters"].split()])
        centre = np.array([float(v) for v in entries["FixedParameters"].split()])
    except (KeyError, ValueError) as error:
        raise InputError(f"{path} is damaged: {error}", "write it again") from error
    if numbers.shape != (12,) or centre.shape != (3,) or not np.isfinite([*numbers, *centre]).all():
        raise InputError(f"{path} is damaged: 12 parameters and 3 fixed parameters expected", "write it again")
    lps = np.eye(4)
    lps[:3, :3] = numbers[:9].reshape(3, 3)
    lps[:3, 3] = numbers[9:] + centre - lps[:3, :3] @ centre  # y = M (x - c) + c + t
    return checked_affine(_LPS @ lps @ _LPS, str(path))
