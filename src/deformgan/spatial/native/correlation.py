"""The squared local correlation of two images with its derivative, in compiled code.

The counterpart in PyTorch is `deformgan.refine.drive.local_correlation`.
"""

from __future__ import annotations

from ctypes import byref, c_double

import torch
from torch import Tensor

from deformgan.spatial.native.fields import alike, check_gradient
from deformgan.spatial.native.library import kernel
from deformgan.spatial.native.structures import CorrelationJob
from deformgan.spatial.native.threads import native_threads

_SHARES = 4  # parts of the planes for each thread
_STRIP = 64  # voxels of a plane that are left out together; as in c/correlation.c


class LocalCorrelation:
    """Squared correlation with a fixed image in cubes of ``2 radius + 1`` voxels.

    Where a cube reaches outside the volume, 0 lies there.

    Args:
        fixed, weight: (1, 1, D, H, W).
        radius: See there.
        epsilon: Added to both variances.
        level: See `deformgan.spatial.native.library.kernel`.
    """

    def __init__(
        self, fixed: Tensor, weight: Tensor, radius: int = 2, epsilon: float = 1e-3, level: int | None = None
    ) -> None:
        self._fixed, self._weight = alike(fixed, weight)
        self._level, (depth, height, width) = level, self._fixed.shape[2:]
        job = self._job = CorrelationJob(radius=radius, epsilon=epsilon, threads=native_threads(fixed.numel()))
        job.shape[:], job.chunk = (depth, height, width), -(-depth // (_SHARES * job.threads))
        strips = -(-height * width // _STRIP)
        # kept: fresh memory of this size costs as much as the work in it
        self._memory = {
            "work": torch.zeros(8 * self._fixed.numel()),
            "scratch": torch.empty(-(-depth // job.chunk) * (3 * height * width + width + height)),
            "totals": torch.empty(depth, dtype=torch.float64),
            "rows": torch.empty(depth * height, dtype=torch.uint8),
            "strips": torch.empty(depth * strips, dtype=torch.uint8),
            "near": torch.empty(depth * strips, dtype=torch.uint8),
            "fixed": self._fixed,
            "weight": self._weight,
        }
        for name, tensor in self._memory.items():
            setattr(job, name, tensor.data_ptr())
        kernel("dg_correlation_fixed", None, level)(byref(job))

    def add(self, moved: Tensor, gradient: Tensor, factor: float = 1.0) -> float:
        """The sum, for ``moved`` (1, 1, D, H, W)."""
        moved = alike(self._fixed, moved)[1]
        check_gradient(gradient, moved)
        job = self._job
        job.factor, job.moved, job.gradient = factor, moved.data_ptr(), gradient.data_ptr()
        return kernel("dg_local_correlation", c_double, self._level)(byref(job))
