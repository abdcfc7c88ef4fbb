"""What a fluid registration does in every iteration, in compiled code: smoothing, similarities, the driving force.

A similarity is a sum over the voxels, each with its weight. Its derivative with respect to the moved image is
multiplied with ``factor`` and added to ``gradient``; all volumes are (1, C, D, H, W) float32 on the CPU.
"""

from __future__ import annotations

from ctypes import byref, c_int64, c_void_p
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from deformgan.spatial.native.fields import alike, axis_map, check_gradient, contiguous
from deformgan.spatial.native.grids import Lines, resample
from deformgan.spatial.native.library import kernel
from deformgan.spatial.native.sampling import warp
from deformgan.spatial.native.spans import spans_of
from deformgan.spatial.native.structures import ComposeJob, HistogramJob
from deformgan.spatial.native.threads import native_threads

_SHARES = 4  # parts of the planes for each thread
_PARTS = 16  # histograms that are counted side by side; a fixed number, so that threads change no bit
_HISTOGRAM_FLOOR = 1e-7  # of a probability, so that it has a logarithm
_REACH = 3.0  # sigmas
_LOOKED_AT = 30_000  # vectors, for how long they usually are


@lru_cache(maxsize=16)
def _gaussian_weights(sigma: float, reach: float) -> Tensor:
    """The middle and one side of a Gaussian, normalised with both sides."""
    at = torch.arange(max(1, round(reach * sigma + 0.5)) + 1, dtype=torch.float64)
    weights = torch.exp(-0.5 * (at / sigma) ** 2)
    return (weights / (2 * weights.sum() - weights[0])).float()


def gaussian(volume: Tensor, sigma: float, reach: float = _REACH, level: int | None = None) -> Tensor:
    """Smoothing with a Gaussian of ``sigma`` voxels that ends at ``reach`` sigma; the border value goes on outside."""
    return volume if sigma <= 0 else _fir(volume, _gaussian_weights(sigma, reach), True, level)


def box_sum(volume: Tensor, window: int, level: int | None = None) -> Tensor:
    """Sum over the ``window``³ cube around every voxel, an odd number of voxels; nothing lies outside."""
    if window < 1 or window % 2 == 0:
        raise ValueError(f"a window is an odd number of voxels, not {window}")
    return _fir(volume, torch.ones(window // 2 + 1), False, level)


def _fir(
    volume: Tensor,
    weights: Tensor,
    repeat: bool,
    level: int | None,
    memory: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """``memory``, if it is there, are two volumes of that shape: what is in between, and the result."""
    source = contiguous(volume)
    if source.ndim != 5 or not source.numel():
        raise ValueError(f"a volume is (B, C, D, H, W), not {tuple(volume.shape)}")
    between, out = memory or (torch.empty_like(source), torch.empty_like(source))
    count, shape = source.shape[0] * source.shape[1], (c_int64 * 3)(*source.shape[2:])
    pointers = [c_void_p(t.data_ptr()) for t in (source, weights, between, out)]
    run, threads = kernel("dg_fir", None, level), native_threads(source.numel())
    options = c_int64(len(weights) - 1), c_int64(int(repeat))
    parts = min(_SHARES * threads, count * source.shape[2])
    rows = torch.empty(parts, source.shape[4])
    sizes = c_void_p(rows.data_ptr()), c_int64(parts), c_int64(threads)
    run(pointers[0], c_int64(count), shape, pointers[1], *options, *pointers[2:], *sizes)
    return out


def force(
    slope: Tensor,
    moved: Tensor,
    level: int | None = None,
    out: Tensor | None = None,
    spans: Tensor | None = None,
) -> Tensor:
    """A similarity's derivative times the moved image's central differences: (1, 1, D, H, W) twice to (1, 3, …).

    Args:
        slope, moved: See there.
        level: See `deformgan.spatial.native.library.kernel`.
        out: To write to.
        spans: As `deformgan.spatial.native.sampling.warp` takes them: what of ``out`` is written.
    """
    slope, moved = alike(slope, moved)
    out, shape = torch.empty(1, 3, *moved.shape[2:]) if out is None else out, (c_int64 * 3)(*moved.shape[2:])
    pointers = [c_void_p(t.data_ptr()) for t in (slope, moved)]
    threads = c_int64(native_threads(moved.numel()))
    where = c_void_p(out.data_ptr()), c_void_p(None if spans is None else spans.data_ptr())
    kernel("dg_force", None, level)(*pointers, shape, *where, threads)
    return out


def looked_at(voxels: int) -> int:
    """Of so many voxels, every which one along each axis tells the usual length."""
    return max(1, round((voxels / _LOOKED_AT) ** (1 / 3)))


def usual_length(update: Tensor, share: float) -> float:
    """The length that ``share`` of the vectors (1, 3, D, H, W) that are not 0 do not exceed, seen from some of them."""
    every = looked_at(update[0, 0].numel())
    squared = update[0, :, ::every, ::every, ::every].square().sum(0)
    squared = squared[squared > 0]
    if not len(squared):
        return float(update.square().sum(1).amax()) ** 0.5
    return float(squared.kthvalue(max(1, round(share * len(squared)))).values) ** 0.5


@dataclass(frozen=True)
class Step:
    """How a field is advanced, in its own voxels.

    Args:
        length: Which no vector of the update exceeds.
        update_sigma, field_sigma: Of the Gaussians that smooth the update and then the field.
        share: Of the vectors that do not reach ``length``, see `usual_length`; the others are shortened to it.
    """

    length: float
    update_sigma: float
    field_sigma: float
    share: float = 1.0


class FluidSteps:
    """Steps of a fluid registration in memory that is taken once: fresh memory costs as much as the work in it.

    Args:
        moving: (1, 1, D', H', W').
        field: (1, 3, d, h, w), in its voxels, from the grid of the steps into ``moving``; it is copied.
        shape: (D, H, W), of the grid over the field's extent that ``moving`` has the voxels of; default: the field's.
        counts: (1, 1, D, H, W): not 0 where the similarity counts; default: everywhere.
        reach: Voxels from there to the farthest that its derivative depends on, or is not 0 at.
        level: See `deformgan.spatial.native.library.kernel`.
    """

    def __init__(
        self,
        moving: Tensor,
        field: Tensor,
        shape: tuple[int, ...] | None = None,
        counts: Tensor | None = None,
        reach: int = 0,
        level: int | None = None,
    ) -> None:
        self.field, self._moving, self._level = contiguous(field).clone(), contiguous(moving), level
        own = tuple(field.shape[2:])
        shape = shape or own
        self._moved, self._force = torch.zeros(1, 1, *shape), torch.zeros(1, 3, *shape)
        self._first, self._second, self._third = (torch.empty_like(self.field) for _ in range(3))
        # a voxel farther, for the moved image's differences; the force is 0 there
        self._spans = None if counts is None else spans_of(counts, reach + 1)
        self._lines: list[Lines] | None = None  # from the image's grid to a coarser one of the field
        if shape != own:
            self._lines = [axis_map(a, b)[:3] for a, b in zip(shape, own, strict=True)]  # type: ignore[misc]
            self._matrix = np.diag([b / a for a, b in zip(shape, own, strict=True)])

    def moved(self) -> Tensor:
        """The moving image through the field, its border value outside, (1, 1, D, H, W); valid until the next call.

        Where nothing depends on it, 0.
        """
        shape = self._moved.shape[2:]
        return warp(self._moving, self.field, "border", shape, out=self._moved, level=self._level, spans=self._spans)

    def advance(self, slope: Tensor, step: Step) -> None:
        """Compose the field with the smoothed force and smooth it.

        Args:
            slope: (1, 1, D, H, W), a similarity's derivative by the image that `moved` gave last.
            step: See there.
        """
        update = self._driven(slope)
        if step.update_sigma > 0:
            weights = _gaussian_weights(step.update_sigma, _REACH)
            update = _fir(update, weights, True, self._level, (self._second, self._third))
        job, planes = ComposeJob(threads=native_threads(update.numel())), torch.empty(update.shape[2])
        job.shape[:], job.length = tuple(update.shape[2:]), planes.data_ptr()
        job.field, job.update = self.field.data_ptr(), update.data_ptr()
        kernel("dg_longest", None, self._level)(byref(job))
        longest = float(planes.max()) ** 0.5
        if not 0 < longest < float("inf"):
            return
        composed = self._second
        job.usual = usual_length(update, step.share) if step.share < 1 else longest
        job.most, job.near, job.out = step.length, int(step.length < 1), composed.data_ptr()
        kernel("dg_compose", None, self._level)(byref(job))
        if step.field_sigma > 0:
            weights = _gaussian_weights(step.field_sigma, _REACH)
            _fir(composed, weights, True, self._level, (self._first, self.field))
        else:
            self.field, self._second = composed, self.field

    def _driven(self, slope: Tensor) -> Tensor:
        """The force on the field's grid, (1, 3, d, h, w)."""
        driven = force(slope, self._moved, self._level, out=self._force, spans=self._spans)
        if self._lines is None:
            return driven
        resample(driven[0], self._lines, matrix=self._matrix, out=self._first[0], level=self._level)
        return self._first


def add_mutual_information(
    fixed: Tensor,
    moved: Tensor,
    weight: Tensor,
    gradient: Tensor,
    factor: float = 1.0,
    bins: int = 32,
    level: int | None = None,
) -> float:
    """Mutual information in nats times the sum of the weights, from a histogram with linear windows in both images.

    Intensities are taken between 0 and 1. The histogram is smoothed twice with (1, 2, 1) / 4 along both axes; the
    derivative takes its logarithm as it is.
    """
    fixed, moved, weight = alike(fixed, moved, weight)
    check_gradient(gradient, moved)
    if bins < 2:
        raise ValueError(f"a histogram has 2 bins or more, not {bins}")
    counts = torch.empty(_PARTS, bins, bins, dtype=torch.float64)
    job, threads = HistogramJob(n=moved.numel(), bins=bins, parts=_PARTS), c_int64(native_threads(moved.numel()))
    job.fixed, job.moved, job.weight = (t.data_ptr() for t in (fixed, moved, weight))
    job.counts = counts.data_ptr()
    kernel("dg_histogram", None, level)(byref(job), threads)
    total = float(counts[0].sum())
    if total == 0:
        return 0.0
    value, rise = information_of(counts[0] / total)
    table = rise.float().contiguous()
    job.table, job.factor, job.gradient = table.data_ptr(), factor * (bins - 1), gradient.data_ptr()
    kernel("dg_look_up", None, level)(byref(job), threads)
    return float(value) * total


def information_of(joint: Tensor) -> tuple[Tensor, Tensor]:
    """The mutual information of a joint distribution, smoothed twice with (1, 2, 1) / 4 along both axes, in nats.

    Args:
        joint: (bins, bins) of the fixed and the moved image, of sum 1.

    Returns:
        The information, a scalar; and how much its logarithm rises from one moved bin to the next, (bins, bins).
    """
    for _ in range(2):
        for axis in (1, 0):
            n = joint.shape[axis]
            before = torch.cat([joint.narrow(axis, 0, 1), joint.narrow(axis, 0, n - 1)], axis)
            after = torch.cat([joint.narrow(axis, 1, n - 1), joint.narrow(axis, n - 1, 1)], axis)
            joint = 0.25 * before + 0.5 * joint + 0.25 * after
    apart = (joint.sum(1, keepdim=True) + 10 * _HISTOGRAM_FLOOR) * (joint.sum(0, keepdim=True) + 10 * _HISTOGRAM_FLOOR)
    ratio = ((joint + _HISTOGRAM_FLOOR) / apart).log()
    rise = torch.zeros_like(joint)
    rise[:, :-1] = ratio.diff(dim=1)
    return (joint * ratio).sum(), rise
