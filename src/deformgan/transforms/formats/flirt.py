"""FLIRT matrices, and the coordinates in which all of FSL counts.

FSL knows nothing of world space. Its coordinates are an image's voxel indices times the voxel sizes, with the first
index counted from the other end where the image's affine has a positive determinant ("neurological" storage). A matrix
therefore means something only together with the two images it was made for.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from deformgan.errors import InputError
from deformgan.io.atomic import atomic
from deformgan.spatial.grid import Grid
from deformgan.transforms.formats.base import Contents, Format, matrix_alone
from deformgan.transforms.formats.checks import checked_matrix, read_text


def scaled_voxels(grid: Grid) -> np.ndarray:
    """4×4 from voxel index to FSL's millimetres in an image on this grid."""
    scaled = np.diag([*grid.spacing, 1.0])
    if np.linalg.det(grid.affine) > 0:
        scaled[0] = -grid.spacing[0], 0, 0, (grid.shape[0] - 1) * grid.spacing[0]
    return scaled


def world_to_fsl(grid: Grid) -> np.ndarray:
    """4×4 from world mm (RAS+) to FSL's millimetres in an image on this grid."""
    return scaled_voxels(grid) @ grid.world_to_index


def write_flirt(path: str | Path, matrix: np.ndarray, fixed: Grid, moving: Grid) -> None:
    """Write a 4×4 fixed-to-moving matrix (world mm, RAS+) as ``flirt -init`` and ``-applyxfm`` take it.

    Args:
        fixed, moving: The images ``-ref`` and ``-in``. FLIRT's matrix goes from the moving to the fixed image.
    """
    flirt = world_to_fsl(fixed) @ np.linalg.inv(world_to_fsl(moving) @ matrix)
    text = "".join("  ".join(repr(float(v)) for v in row) + "\n" for row in flirt)
    with atomic(path) as partial:
        partial.write_text(text, encoding="ascii")


def read_flirt(path: str | Path, fixed: Grid, moving: Grid) -> np.ndarray:
    """Read a FLIRT matrix: 4×4 fixed-to-moving in world mm (RAS+).

    Raises:
        InputError: missing, not four lines of four numbers, not finite, or singular.
    """
    hint = "give a text file of four lines with four numbers, as FLIRT writes it"
    lines = [line.split() for line in read_text(path, "a FLIRT matrix", hint).splitlines() if line.strip()]
    try:
        rows = [[float(v) for v in line] for line in lines]
    except ValueError as error:
        raise InputError(f"{path} is not a FLIRT matrix: {error}", hint) from error
    if [len(row) for row in rows] != [4] * 4:
        raise InputError(f"{path} is not a FLIRT matrix", hint)
    flirt = checked_matrix(np.array(rows), path)
    return np.linalg.inv(world_to_fsl(moving)) @ np.linalg.inv(flirt) @ world_to_fsl(fixed)


def _claims(found: Contents) -> bool:
    # a matrix of FLIRT's starts with a number
    return not found.is_binary and (found.start[:1].isdigit() or found.start[:1] in (b"-", b"+", b"."))


FORMAT = Format(
    name="flirt",
    read=lambda path, of: [read_flirt(path, of.need("fixed"), of.need("moving"))],
    write=lambda path, transform, of: write_flirt(
        path, matrix_alone(path, transform), of.need("fixed"), of.need("moving")
    ),
    reads=(".mat", ".txt", ".tfm", ".fsl"),
    writes=(".mat",),
    asked_as=("fsl",),
    by_itself=False,
    claims=_claims,
    needs=("fixed", "moving"),
)
