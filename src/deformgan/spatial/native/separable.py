"""A matrix along each axis of a volume, in compiled code: of each row only what lies between its first and last weight.

The counterpart in PyTorch is `deformgan.spatial.resample.separable`.
"""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import Structure, byref, c_int64, c_void_p

import numpy as np
import torch
from torch import Tensor

from deformgan.spatial.native.fields import contiguous
from deformgan.spatial.native.library import kernel
from deformgan.spatial.native.threads import native_threads

_PARTS = 4  # of the work for each thread


class BandMap(Structure):
    """A matrix whose rows are short, see ``band_map``."""

    _fields_ = [
        ("size", c_int64),
        ("count", c_int64),
        ("taps", c_int64),
        ("first", c_void_p),
        ("weights", c_void_p),
    ]


class SeparableJob(Structure):
    """See ``separable_job``."""

    _fields_ = [
        ("channels", c_int64),
        ("threads", c_int64),
        ("chunk", c_int64),
        ("axes", BandMap * 3),
        ("volume", c_void_p),
        ("out", c_void_p),
        ("scratch", c_void_p),
    ]


def separable(volume: Tensor, matrices: Sequence[Tensor], level: int | None = None) -> Tensor:
    """Apply one matrix along each axis.

    Args:
        volume: (C, W, H, D) float32 on the CPU.
        matrices: For axes W, H, D in this order, each (n_target, n_source).
        level: See `deformgan.spatial.native.library.kernel`.

    Returns:
        (C, w, h, d) float32, contiguous.
    """
    source = contiguous(volume)
    sizes, shape = tuple(m.shape[1] for m in matrices), tuple(m.shape[0] for m in matrices)
    if source.ndim != 4 or tuple(source.shape[1:]) != sizes or not source.numel() or not min(shape):
        raise ValueError(f"cannot apply matrices {[tuple(m.shape) for m in matrices]} to {tuple(volume.shape)}")
    bands, out = [_band(matrix) for matrix in matrices], torch.empty(len(source), *shape)
    job = SeparableJob(channels=len(source), threads=native_threads(source.numel()))
    planes = len(source) * shape[0]
    job.chunk = -(-planes // (_PARTS * job.threads))
    scratch = torch.empty(-(-planes // job.chunk) * (sizes[1] + 1) * sizes[2])
    for axis, matrix, (first, weights) in zip(job.axes, matrices, bands, strict=True):
        axis.count, axis.size = matrix.shape
        axis.taps, axis.first, axis.weights = weights.shape[1], first.ctypes.data, weights.ctypes.data
    job.volume, job.out, job.scratch = source.data_ptr(), out.data_ptr(), scratch.data_ptr()
    kernel("dg_separable", None, level)(byref(job))
    return out


def _band(matrix: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """For each row where its weights begin, and so many of them as reach over the longest row's."""
    weights = matrix.detach().numpy().astype(np.float32)
    used = weights != 0
    first = used.argmax(1)
    taps = max(1, int((weights.shape[1] - used[:, ::-1].argmax(1) - first)[used.any(1)].max(initial=1)))
    first = np.minimum(first, weights.shape[1] - taps)
    band = np.take_along_axis(weights, first[:, None] + np.arange(taps), 1)
    return first.astype(np.int32), np.ascontiguousarray(band)
