"""Control points in compiled code: the field they make, its transpose, bending energy, folds and a step of Adam."""

from __future__ import annotations

from ctypes import byref, c_double, c_float, c_int64, c_void_p

import torch
from torch import Tensor

from deformgan.spatial.native.library import kernel
from deformgan.spatial.native.structures import ControlJob
from deformgan.spatial.native.threads import native_threads


def _pointer(tensor: Tensor) -> c_void_p:
    if tensor.dtype != torch.float32 or not tensor.is_contiguous():
        raise ValueError(f"contiguous float32 is needed, not {tensor.dtype} with strides {tensor.stride()}")
    return c_void_p(tensor.data_ptr())


def _shape_of(volume: Tensor) -> tuple[int, int, int]:
    if volume.ndim != 5 or tuple(volume.shape[:2]) != (1, 3):
        raise ValueError(f"a field is (1, 3, d, h, w), not {tuple(volume.shape)}")
    return tuple(volume.shape[2:])  # type: ignore[return-value]


class ControlField:
    """The field of control points and an affine map: ``smooth(points) + affine(x)``.

    Args:
        points: (1, 3, d, h, w) float32, displacements in voxels of the full grid; read anew at each call.
        affine: (3, 4), of positions from the centre in units of ``reach`` voxels of the full grid; likewise.
        full: (D, H, W) of the full grid, over the same extent.
        smoothing: How often the points are smoothed with a 3³ box.
        reach: See there.
        level: See `deformgan.spatial.native.library.kernel`.
    """

    def __init__(
        self,
        points: Tensor,
        affine: Tensor,
        full: tuple[int, ...],
        smoothing: int,
        reach: float,
        level: int | None = None,
    ) -> None:
        shape = _shape_of(points)
        if tuple(affine.shape) != (3, 4):
            raise ValueError(f"an affine map is (3, 4), not {tuple(affine.shape)}")
        self._field, self._pull = kernel("dg_control_field", None, level), kernel("dg_control_pull", None, level)
        self.points, self.affine, self._work = points.detach(), affine.detach(), torch.empty(2, *points.shape)
        job = self._job = ControlJob(smoothing=smoothing, reach=reach, threads=native_threads(points.numel()))
        job.shape[:], job.ratio[:] = shape, [a / b for a, b in zip(full, shape, strict=True)]
        job.points, job.affine, job.work = map(_pointer, (self.points, self.affine, self._work))

    def __call__(self) -> Tensor:
        """(1, 3, d, h, w), displacement at the control points, in their voxels."""
        field = torch.empty(self.points.shape)
        self._job.field = _pointer(field)
        self._field(byref(self._job))
        return field

    def pull(self, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """From the derivative by the field (1, 3, d, h, w) to those by the points and by the affine map."""
        if gradient.shape != self.points.shape:
            raise ValueError(f"the gradient of {tuple(self.points.shape)} cannot be {tuple(gradient.shape)}")
        to_points, to_affine = torch.empty(self.points.shape), torch.empty(3, 4)
        job = self._job
        job.field, job.to_points, job.to_affine = map(_pointer, (gradient, to_points, to_affine))
        self._pull(byref(job))
        return to_points, to_affine


def add_bending(points: Tensor, weight: float, gradient: Tensor, level: int | None = None) -> float:
    """The bending energy of (1, 3, d, h, w), at least 3 points an axis; ``weight`` times its derivative is added."""
    shape = _shape_of(points)
    if min(shape) < 3 or gradient.shape != points.shape:
        raise ValueError(f"bending takes 3 points an axis and a gradient like them, not {shape}, {gradient.shape}")
    bending = kernel("dg_bending", c_double, level)
    sizes, threads = (c_int64 * 3)(*shape), c_int64(native_threads(points.numel()))
    work = torch.empty(3, 2, *shape[1:])
    return bending(_pointer(points), sizes, c_float(weight), _pointer(gradient), _pointer(work), threads)


def add_folding(field: Tensor, least: float, weight: float, gradient: Tensor, level: int | None = None) -> float:
    """Mean squared shortfall of the Jacobian determinant below ``least``; ``weight`` times its derivative is added."""
    shape = _shape_of(field)
    if min(shape) < 2 or gradient.shape != field.shape:
        raise ValueError(f"folding takes 2 points an axis and a gradient like them, not {shape}, {gradient.shape}")
    folding, work = kernel("dg_folding", c_double, level), torch.empty(shape[2])
    sizes = (c_int64 * 3)(*shape)
    return folding(_pointer(field), sizes, c_float(least), c_float(weight), _pointer(gradient), _pointer(work))


def adam(
    variable: Tensor, gradient: Tensor, moments: tuple[Tensor, Tensor], rate: float, step: int, level: int | None = None
) -> None:
    """One step of Adam with decays 0.9 and 0.999, in place; ``step`` counts from 1."""
    arrays = (variable.detach(), gradient, *moments)
    if len({tuple(a.shape) for a in arrays}) > 1:
        raise ValueError(f"Adam takes arrays of one shape, not {[tuple(a.shape) for a in arrays]}")
    scale, unbias = rate / (1 - 0.9**step), 1 / (1 - 0.999**step)
    kernel("dg_adam", None, level)(*map(_pointer, arrays), c_int64(variable.numel()), c_float(scale), c_float(unbias))
