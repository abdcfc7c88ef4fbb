"""Voxel values as files hold them: scaled, exact where they are labels, and NaN where there is nothing."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from deformgan.errors import InputError
from deformgan.io.label_maps import EXACT, is_whole
from deformgan.io.nifti_header import header_scaling

MOST = 1e18  # squares of larger values are beyond 32-bit floats
_ROUNDING = 1e-2  # a scaled whole number may miss it by: the factor of a header has seven digits
_BACKGROUND = 0.2  # share of the voxels that makes the lowest value the background


def scaled(data: np.ndarray, header: Any, *, exact: bool = False) -> np.ndarray:
    """Values as a NIfTI header says.

    Args:
        data: As stored; returned as it is where there is nothing to do.
        header: With slope and intercept, or None.
        exact: In 64-bit floats, and 64-bit floats stay; else those become 32-bit.
    """
    slope, intercept = header_scaling(header)
    if (slope, intercept) != (1.0, 0.0):
        kind = np.float64 if exact else np.float32
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows turns infinite and is reported as such
            return data.astype(kind) * kind(slope) + kind(intercept)
    return data if exact else rounded(data)


def rounded(data: np.ndarray) -> np.ndarray:
    """64-bit floats, and longer ones, as 32-bit; everything else as it is."""
    if data.dtype.kind != "f" or data.dtype == np.float32:
        return data
    with np.errstate(over="ignore"):
        return data.astype(np.float32)


def finite(data: np.ndarray, name: str) -> np.ndarray:
    """The values, NaN outside the content (statistics programs write it there) replaced by the background.

    Outside is what can be reached from the volume's faces through NaN alone. The background is the lowest value where
    a fifth of the voxels have it, else 0.

    Raises:
        InputError: infinite values, NaN inside the content, or nothing else.
    """
    low, high = data.min(), data.max()
    # min and max carry NaN and infinity with them: one pass, no temporary
    if np.isfinite(low) and np.isfinite(high):
        return data
    nothing = np.isnan(data)
    known = data[~nothing]
    if not known.size or not np.isfinite([known.min(), known.max()]).all():
        what = "infinite values" if known.size else "NaN alone"
        raise InputError(f"{name} holds {what}", "NaN or infinite values cannot be computed with; replace them")
    inside = int(np.count_nonzero(nothing & ~_reached_from_faces(nothing)))
    if inside:
        raise InputError(f"{name} holds NaN inside its content ({inside} voxels)", "replace them, for example by 0")
    lowest = known.min()
    value = lowest if np.count_nonzero(known == lowest) >= _BACKGROUND * known.size else data.dtype.type(0)
    warnings.warn(
        f"{name}: NaN outside its content ({100 * nothing.mean():.0f} % of the voxels) is read as {value:g}",
        stacklevel=4,
    )
    return np.where(nothing, value, data)


def _reached_from_faces(mask: np.ndarray) -> np.ndarray:
    from scipy import ndimage

    regions = np.zeros(mask.shape, np.int32)
    ndimage.label(mask, output=regions)
    outside = np.zeros(int(regions.max()) + 1, bool)
    for axis in range(mask.ndim):
        for end in (0, -1):
            outside[np.unique(np.take(regions, end, axis))] = True
    outside[0] = False
    return outside[regions]


def as_labels(data: np.ndarray, name: str) -> np.ndarray:
    """Whole numbers, exact: integers in their own type, floats as int32 or, where that is too small, as float64.

    Args:
        data: Finite, not rounded to 32-bit floats (see `scaled`).

    Raises:
        InputError: fractions, or numbers so large that they cannot be told from their neighbours.
    """
    if data.dtype.kind in "iu":
        return data
    whole = np.rint(data)
    if not np.abs(data - whole).max(initial=0) <= _ROUNDING:
        raise InputError(f"{name} is not a label map: it holds fractions", "give whole-numbered labels")
    most = float(np.abs(whole).max(initial=0))
    if most >= EXACT or (data.dtype == np.float32 and most > 2**24):
        exact = "2^24 in 32-bit" if data.dtype == np.float32 else "2^53 in 64-bit"
        hint = f"whole numbers are exact below {exact} floats; store the ids as integers, or give them smaller numbers"
        raise InputError(f"{name}: ids up to {most:.0f} may have been rounded in its file", hint)
    return whole.astype(np.int32 if most < 2**31 else np.float64)


def exact_or_rounded(data: np.ndarray) -> np.ndarray:
    """Values to be kept as they are, in the smallest type that holds them."""
    if data.dtype.kind != "f" or data.dtype == np.float32:
        return data
    if np.abs(data).max(initial=0) < 2**31 and is_whole(data):
        return data.astype(np.int32)
    with np.errstate(over="ignore"):
        short = data.astype(np.float32)
    return short if np.array_equal(short, data) else data.astype(np.float64)
