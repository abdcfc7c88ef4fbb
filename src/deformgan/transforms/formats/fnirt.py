"""FSL's warp fields, as ``fnirt --fout`` and ``convertwarp`` write them and ``applywarp -w`` reads them.

A 4-D NIfTI file on the fixed image's grid. At each voxel it holds where the moving image is read, in FSL's coordinates
of the moving image (see `deformgan.transforms.formats.flirt`): either as they are ("absolute"), or less the voxel's own
FSL coordinates in the fixed image ("relative"). Nothing in the file says which, so the numbers must.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from deformgan.errors import InputError
from deformgan.io.atomic import write_nifti
from deformgan.spatial.affine import fitted_affine
from deformgan.spatial.grid import Grid
from deformgan.transforms.formats.base import Contents, Format, field_between
from deformgan.transforms.formats.checks import checked_field, linear_plus_ramp, read_vectors
from deformgan.transforms.formats.flirt import scaled_voxels, world_to_fsl

FIELD_INTENT = 2006
COEFFICIENT_INTENTS = (2007, 2008, 2009, 2016, 2017)
_HINT = "give a 4-D field (D, H, W, 3) as FSL writes it"


def write_warp(path: str | Path, disp_mm: np.ndarray, grid: Grid, moving: Grid, *, absolute: bool = False) -> None:
    """Write a displacement, (D, H, W, 3) in world mm (RAS+) on the fixed ``grid``, as ``applywarp -w`` takes it.

    Args:
        moving: The grid of the moving image, ``applywarp -i``.
        absolute: Coordinates instead of displacements.
    """
    to_fsl = world_to_fsl(moving)
    ramp = to_fsl @ grid.affine
    if not absolute:
        ramp = ramp - scaled_voxels(grid)
    write_nifti(path, linear_plus_ramp(disp_mm, to_fsl[:3, :3], ramp, grid), grid.affine, intent=FIELD_INTENT)


def read_warp(path: str | Path, moving: Grid, *, absolute: bool | None = None) -> tuple[np.ndarray, Grid]:
    """Read a warp field: (D, H, W, 3) float32 in world mm (RAS+), Fortran order, and the fixed grid.

    Args:
        moving: The grid of the moving image.
        absolute: Whether it holds coordinates; default: the reading that changes volumes less, see `_growth`.

    Raises:
        InputError: unreadable, spline coefficients, not a 4-D vector field, or not finite.
    """
    values, grid, intent = read_vectors(path, (), _HINT)
    if intent in COEFFICIENT_INTENTS:
        raise coefficients(path)
    if absolute is None:
        disp_mm = min((_to_world(values, grid, moving, one) for one in (False, True)), key=lambda d: _growth(d, grid))
    else:
        disp_mm = _to_world(values, grid, moving, absolute)
    checked_field(disp_mm, path)
    return disp_mm, grid


def coefficients(path: str | Path) -> InputError:
    """The refusal of spline coefficients."""
    hint = f"turn them into a field first: fnirtfileutils --in={path} --out=field --withaff"
    return InputError(f"{path} holds FNIRT's spline coefficients, not a field", hint)


def _to_world(values: np.ndarray, grid: Grid, moving: Grid, absolute: bool) -> np.ndarray:
    to_world = np.linalg.inv(world_to_fsl(moving))
    ramp = -grid.affine
    ramp[:3, 3] += to_world[:3, 3]
    if not absolute:
        ramp[:3] += to_world[:3, :3] @ scaled_voxels(grid)[:3]
    return linear_plus_ramp(values, to_world[:3, :3], ramp, grid)


def _growth(disp_mm: np.ndarray, grid: Grid) -> float:
    """By what factor a map as a whole changes volumes, as a logarithm without sign.

    Coordinates taken for displacements count position twice, in each axis or in some: volumes grow to 8 or 4 times or
    to nothing. Displacements taken for coordinates: volumes vanish. FSL's own test, of standard deviations, is misled
    where an axis of the one image runs against the other's.
    """
    volume = abs(np.linalg.det(fitted_affine(disp_mm, grid)[:3, :3]))
    return abs(float(np.log(max(volume, 1e-12))))


def is_vectors(found: Contents) -> bool:
    """Whether a file is 4-D with three numbers a voxel, as FSL's fields are and ITK's are not.

    Raises:
        InputError: It holds spline coefficients.
    """
    if found.intent in COEFFICIENT_INTENTS:
        raise coefficients(found.path)
    shape = found.header.get_data_shape()
    return len(shape) == 4 and shape[3] == 3


def _one_of(name: str, asked_as: tuple[str, ...], absolute: bool) -> Format:
    return Format(
        name=name,
        read=lambda path, of: [read_warp(path, of.need("moving"), absolute=absolute)],
        write=lambda path, transform, of: write_warp(path, *field_between(transform, of), absolute=absolute),
        reads=(".nii.gz", ".nii"),
        writes=(".nii.gz", ".nii"),
        asked_as=asked_as,
        by_itself=False,
        claims=lambda found: is_vectors(found) and found.asked == asked_as[-1],
        needs=("moving",),
    )


FORMATS = (
    Format(  # the numbers tell which of the two below it is
        name="fnirt",
        read=lambda path, of: [read_warp(path, of.need("moving"))],
        reads=(".nii.gz", ".nii"),
        claims=lambda found: (
            is_vectors(found) and (found.asked == "fsl" or (found.asked is None and found.intent == FIELD_INTENT))
        ),
        needs=("moving",),
    ),
    _one_of("fnirt-relative", ("fsl", "fsl-relative"), absolute=False),
    _one_of("fnirt-absolute", ("fsl-absolute",), absolute=True),
)
