"""What a NIfTI header says: where the voxels lie, in which unit, and how their values are scaled."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from deformgan.errors import InputError
from deformgan.spatial.grid import Grid, Shape

_FORMS_AGREE_MM = 0.1
_LONGEST_QUATERNION = 1 + 1e-3  # beyond rounding it is damage
_MM = {1: (1e3, "metres"), 3: (1e-3, "micrometres")}  # codes of xyzt_units


def header_scaling(header: Any) -> tuple[float, float]:
    """Slope and intercept of a NIfTI header's values; 1 and 0 where it sets none."""
    if header is None:
        return 1.0, 0.0
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or not np.isfinite(slope):  # NIfTI: not set
        return 1.0, 0.0
    return slope, intercept if np.isfinite(intercept) else 0.0


def header_affine(header: Any, shape: Shape, name: str) -> np.ndarray:
    """Voxel index to world mm (RAS+) of a NIfTI header, by the policy of `deformgan.io.image.load_image`, unchecked.

    Returns:
        4×4, in millimetres whatever the header's unit, as ITK reads it.
    """
    header = _repaired(header, name)
    factor, unit = _MM.get(int(header["xyzt_units"]) & 7, (1.0, "millimetres"))
    affine = _affine_as_written(header, shape, name)
    if factor == 1.0:
        return affine
    size = np.linalg.norm(affine[:3, :3], axis=0).max() * factor
    warnings.warn(
        f"{name}: its header counts in {unit}, so its voxels are {size:.3g} mm wide, as ITK and ANTs read it; "
        "FSL, nibabel and SPM take the numbers for millimetres",
        stacklevel=4,
    )
    return np.diag([factor, factor, factor, 1.0]) @ affine


def _repaired(header: Any, name: str) -> Any:
    """A header nibabel can take: voxel sizes above 0, a quaternion no longer than 1, right- or left-handed axes.

    Raises:
        InputError: a quaternion far too long, where the affine depends on it.
    """
    header = header.copy()
    if header["pixdim"][0] == 0:  # NIfTI: to be read as 1
        header["pixdim"][0] = 1
    sizes = header["pixdim"][1:4]
    if (sizes < 0).any():
        warnings.warn(f"{name}: voxel sizes below 0 in its header are read without their sign", stacklevel=5)
        header["pixdim"][1:4] = np.abs(sizes)
    parts = [float(header[f"quatern_{axis}"]) for axis in "bcd"]
    length = float(np.linalg.norm(parts))
    if 1 < length <= _LONGEST_QUATERNION:  # rounding; the NIfTI library shortens it too
        # to the next number of this precision towards 0, or rounding would lengthen it again
        for axis, part in zip("bcd", parts, strict=True):
            header[f"quatern_{axis}"] = np.nextafter(header[f"quatern_{axis}"].dtype.type(part / length), 0)
    return header


def _affine_as_written(header: Any, shape: Shape, name: str) -> np.ndarray:
    sform_set, qform_set = int(header["sform_code"]) > 0, int(header["qform_code"]) > 0
    if not (sform_set or qform_set):
        affine = header.get_base_affine()
        away = _apart(shape, affine, _itk_without_forms(affine))
        warnings.warn(
            f"{name} has no orientation (sform and qform codes are 0): axes are assumed LAS and world 0 in its middle, "
            f"as FSL and nibabel do; ITK, ANTs and Slicer place it up to {away:.0f} mm from there",
            stacklevel=5,
        )
        return affine
    qform = _qform(header, sform_set, name) if qform_set else None
    if not sform_set:
        return qform  # type: ignore[return-value]
    sform = header.get_sform()
    if not np.isfinite(sform).all():
        return sform
    if qform is not None and (apart := _apart(shape, sform, qform)) > _FORMS_AGREE_MM:
        warnings.warn(f"{name}: sform and qform disagree by {apart:.1f} mm: the sform is used", stacklevel=5)
    if (sheared := _apart(shape, sform, unsheared(sform))) > _FORMS_AGREE_MM:
        warnings.warn(
            f"{name}: its sform is sheared, which ITK, ANTs and Slicer cannot hold: they refuse it or place voxels up "
            f"to {sheared:.1f} mm elsewhere, and transforms do not fit there; resample it onto an unsheared grid first",
            stacklevel=5,
        )
    return sform


def _qform(header: Any, sform_set: bool, name: str) -> np.ndarray | None:
    from nibabel.spatialimages import HeaderDataError

    try:
        return header.get_qform()
    except (ValueError, HeaderDataError) as error:  # a quaternion longer than 1
        if not sform_set:
            raise InputError(f"{name}: its qform is damaged: {error}", "repair the header") from error
    return None


def _itk_without_forms(affine: np.ndarray) -> np.ndarray:
    """Where ITK places an image without forms: its first voxel at world 0, its axes to the left, back and top (LPS)."""
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    return np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])


def unsheared(affine: np.ndarray) -> np.ndarray:
    """The nearest affine without shear: voxel sizes kept, axes at right angles, the first voxel in place."""
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    if not (np.isfinite(sizes).all() and sizes.min() > 0):
        return affine
    u, _, v = np.linalg.svd(affine[:3, :3] / sizes)
    out = np.array(affine, np.float64)
    out[:3, :3] = (u @ v) * sizes
    return out


def is_sheared(affine: np.ndarray, shape: Shape) -> bool:
    """Whether a qform, which knows no shear, would misplace a voxel of this grid by 0.1 mm or more."""
    return _apart(shape, affine, unsheared(affine)) >= _FORMS_AGREE_MM


def _apart(shape: Shape, one: np.ndarray, other: np.ndarray) -> float:
    """The largest distance in mm between where two affines place a corner of the volume."""
    return Grid(shape, one).farthest_mm(Grid(shape, other))
