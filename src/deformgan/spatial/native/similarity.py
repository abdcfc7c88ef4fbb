"""The similarity of a fixed and a warped image in compiled code, with its derivative with respect to a coarse field.

What is computed is defined by `deformgan.losses.gradient` and `deformgan.spatial.warp`.
"""

from __future__ import annotations

from ctypes import byref, c_double, c_float, c_int64, c_void_p

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from deformgan.spatial.native.fields import MOST_VOXELS, contiguous, describe
from deformgan.spatial.native.library import kernel
from deformgan.spatial.native.structures import SimilarityJob
from deformgan.spatial.native.threads import native_threads

_BORDER = 2  # voxels of 0 around the moving image: outside it, value and derivative are 0
_COLLECTED = 10  # floats a voxel of a row, behind the lines of each plane's component: similarity.c has the same
_LEAST_PLANES = 8  # in one part of the work: the planes around it are sampled twice


class FieldSimilarity:
    """Squared normalised-gradient similarity of a fixed and a warped moving image, as a function of a coarse field.

    Args:
        fixed: (1, 1, D, H, W), at least 3 voxels along each axis.
        moving: (1, 1, D', H', W'), 0 outside.
        weight: (1, 1, D, H, W) ≥ 0, weights of the mean.
        epsilon: Gradient (intensity per voxel) taken for noise.
        coarse: (d, h, w) of the fields, over the fixed grid's extent.
        level: See `deformgan.spatial.native.library.kernel`.
    """

    def __init__(
        self,
        fixed: Tensor,
        moving: Tensor,
        weight: Tensor,
        epsilon: float,
        coarse: tuple[int, ...],
        level: int | None = None,
    ) -> None:
        shape = tuple(fixed.shape[2:])
        padded = F.pad(contiguous(moving), [_BORDER] * 6)
        if min(shape) < 3 or max(fixed.numel(), padded.numel()) > MOST_VOXELS:
            raise ValueError(f"a grid of {shape} is too small to have a gradient, or too large")
        self._similarity = kernel("dg_similarity", c_double, level)
        self._prepare = kernel("dg_directions", None, level)
        part_floats = kernel("dg_similarity_part_floats", c_int64, level)
        job = self._job = SimilarityJob(threads=native_threads(fixed.numel()), floor=4 * epsilon**2)
        self._fixed, self._maps = contiguous(fixed), describe(job.field, coarse, shape, padded.shape[2:], _BORDER)
        job.chunk = shape[0] if job.threads == 1 else max(_LEAST_PLANES, -(-shape[0] // (2 * job.threads)))
        rows = 3 * coarse[1] * shape[2]
        parts = -(-shape[0] // job.chunk)
        self._memory = {
            "directions": torch.empty(3, *shape),
            "moving": padded,
            "spans": torch.empty(*shape[:2], 2, dtype=torch.int32),
            "reach": torch.empty(*shape[:2], 2, dtype=torch.int32),
            "rows": torch.empty(shape[0] * rows),
            "totals": torch.empty(shape[0], dtype=torch.float64),
            "scratch": torch.empty(parts * part_floats(byref(job))),
        }
        for name, tensor in self._memory.items():
            setattr(job, name, tensor.data_ptr())
        self._lines = torch.empty(coarse[0] * (rows + 3 * _COLLECTED * shape[2]))
        job.field.lines = self._lines.data_ptr()
        self.weigh(weight)

    def weigh(self, weight: Tensor) -> None:
        """Give the voxels other weights, (1, 1, D, H, W)."""
        weight = contiguous(weight)
        job = self._job
        pointers = [c_void_p(t.data_ptr()) for t in (self._fixed, weight)]
        self._prepare(
            *pointers, job.field.shape, c_float(job.floor), *map(c_void_p, (job.directions, job.spans, job.reach))
        )
        self._total = max(float(weight.sum(dtype=torch.float64)), float(np.finfo(np.float32).tiny))

    def __call__(self, field: Tensor) -> tuple[float, Tensor]:
        """The similarity, in [0, 1], and its derivative with respect to the coarse field (1, 3, d, h, w)."""
        field, gradient = field.detach().contiguous(), torch.empty(field.shape)
        if tuple(field.shape) != (1, 3, *self._job.field.coarse) or field.dtype != torch.float32:
            raise ValueError(f"a field is (1, 3, {tuple(self._job.field.coarse)}) float32, not {tuple(field.shape)}")
        self._job.field.values, self._job.gradient = field.data_ptr(), gradient.data_ptr()
        value = self._similarity(byref(self._job))
        return value / self._total, gradient.div_(self._total)
