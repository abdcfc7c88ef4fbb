"""Volumes between grids with parallel axes, Jacobian determinants and inverse fields, in compiled code.

Volumes are (C, n0, n1, n2). The counterparts in PyTorch are in `deformgan.spatial.blockwise` and
`deformgan.spatial.field`.
"""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import byref

import numpy as np
import torch
from torch import Tensor

from deformgan.spatial.native.fields import MOST_VOXELS, contiguous
from deformgan.spatial.native.library import kernel
from deformgan.spatial.native.structures import InvertJob, JacobianJob, ResampleJob
from deformgan.spatial.native.threads import native_threads

Lines = tuple[np.ndarray, np.ndarray, np.ndarray]  # below, above (int32) and t (float32) of each sample


def resample(
    values: Tensor,
    lines: Sequence[Lines],
    *,
    matrix: np.ndarray | None = None,
    ramp: tuple[Tensor, Tensor] | None = None,
    rounding: float = 0.0,
    out: Tensor | None = None,
    level: int | None = None,
) -> Tensor:
    """Interpolate linearly along each axis.

    Args:
        values: (C, w, h, d) float32 on the CPU.
        lines: For each axis the samples: ``(1 - t) values[below] + t values[above]``.
        matrix: 3×3 that the vectors are multiplied with (C is 3 then).
        ramp: (3, H, D) and (3, W), both added to every vector.
        rounding: Results become multiples of it; 0 leaves them.
        out: Contiguous memory for the result; default: new one.
        level: See `deformgan.spatial.native.library.kernel`.

    Returns:
        (C, W, H, D) float32.
    """
    source = values.detach() if values.stride(-1) == 1 or values.shape[-1] == 1 else values.detach().contiguous()
    shape = tuple(len(below) for below, _, _ in lines)
    if source.ndim != 4 or source.dtype != torch.float32 or not source.numel() or not min(shape):
        raise ValueError(f"cannot resample {tuple(values.shape)} {values.dtype} to {shape}")
    if len(source) != 3 and not (matrix is None and ramp is None):
        raise ValueError(f"a matrix and a ramp are for vectors, not for {len(source)} channels")
    out, size = torch.empty(len(source), *shape) if out is None else out, source.shape[3]
    if tuple(out.shape) != (len(source), *shape) or out.dtype != torch.float32 or not out.is_contiguous():
        raise ValueError(f"the result is contiguous float32 {(len(source), *shape)}, not {tuple(out.shape)}")
    below, _, t = lines[2]
    same = size == shape[2] and bool((below == np.arange(size)).all() and not t.any())
    scratch = torch.empty(2 * shape[0] * len(source) * size)
    mixing = None if matrix is None else torch.from_numpy(np.ascontiguousarray(matrix, np.float32))
    added = [] if ramp is None else [contiguous(part) for part in ramp]
    job = ResampleJob(size=size, channels=len(source), same=int(same), rounding=rounding, apart=out[0].numel())
    job.strides[:], job.shape[:] = source.stride()[:3], shape
    job.threads = native_threads(out.numel())
    for axis, arrays in zip(job.axes, lines, strict=True):
        axis.below, axis.above, axis.t = (array.ctypes.data for array in arrays)
    job.values, job.out, job.scratch = source.data_ptr(), out.data_ptr(), scratch.data_ptr()
    job.matrix = None if mixing is None else mixing.data_ptr()
    if added:
        job.plane, job.steps = (part.data_ptr() for part in added)
    kernel("dg_resample", None, level)(byref(job))
    return out


def jacobian(field: Tensor, base: np.ndarray, factor: float = 1.0, level: int | None = None) -> Tensor:
    """``factor`` times the determinant of a map's derivative: central differences, one-sided at the border.

    Args:
        field: (3, n0, n1, n2) float32, at least 2 voxels along each axis.
        base: 3×3, derivative of the map without its field: component by axis.
        factor: See above.
        level: See `deformgan.spatial.native.library.kernel`.

    Returns:
        (n0, n1, n2) float32.
    """
    source = contiguous(field)
    if source.ndim != 4 or len(source) != 3 or min(source.shape) < 2:
        raise ValueError(f"no derivative is taken of a field of {tuple(field.shape)}")
    out = torch.empty(source.shape[1:])
    job = JacobianJob(factor=factor, threads=native_threads(out.numel()))
    job.shape[:], job.base[:] = tuple(source.shape[1:]), np.asarray(base, np.float32).ravel().tolist()
    job.field, job.out = source.data_ptr(), out.data_ptr()
    kernel("dg_jacobian", None, level)(byref(job))
    return out


def invert(
    field: Tensor,
    shape: Sequence[int],
    place: np.ndarray,
    scale: np.ndarray,
    *,
    iterations: int = 8,
    tolerance: float,
    slack: float,
    level: int | None = None,
) -> tuple[Tensor, float]:
    """For every voxel the vector ``w`` with ``w + field(place · voxel + scale · w) = 0``.

    By Newton's method, which begins where the two rows before lead.

    Args:
        field: (3, m0, m1, m2) float32; beyond its border the border value.
        shape: (n0, n1, n2) of the grid that is wanted.
        place: 4×4 from its voxels to the field's, both in the order of the volumes' axes.
        scale: 3×3 from vectors to the field's voxels.
        iterations: At most, of many voxels at once, and then as many again of each that is left. The best is kept.
        tolerance: What a voxel may miss at which it is left alone, in the vectors' unit.
        slack: Voxels beyond the outermost centres that count as inside.
        level: See `deformgan.spatial.native.library.kernel`.

    Returns:
        (3, n0, n1, n2), and the largest miss where the source lies inside the field.
    """
    source = contiguous(field)
    if source.ndim != 4 or len(source) != 3 or not source.numel() or source[0].numel() > MOST_VOXELS or not min(shape):
        raise ValueError(f"cannot invert {tuple(field.shape)} onto {tuple(shape)}")
    out, miss = torch.empty(3, *shape), torch.empty(shape[0])
    job = InvertJob(iterations=iterations, tolerance=tolerance, slack=slack, threads=native_threads(out.numel()))
    job.source[:], job.shape[:] = tuple(source.shape[1:]), tuple(shape)
    job.place[:] = np.asarray(place, np.float64)[:3].ravel().tolist()
    job.scale[:] = np.asarray(scale, np.float32).ravel().tolist()
    job.field, job.out, job.miss = source.data_ptr(), out.data_ptr(), miss.data_ptr()
    kernel("dg_invert", None, level)(byref(job))
    return out, float(miss.max())
