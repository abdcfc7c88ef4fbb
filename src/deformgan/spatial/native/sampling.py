"""Sampling through a field, and the greatest value around every voxel, in compiled code.

The counterparts in PyTorch are `deformgan.spatial.warp.warp` (linear), `deformgan.spatial.labels` and
`torch.nn.functional.max_pool3d`.
"""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import byref, c_int64, c_void_p

import torch
import torch.nn.functional as F
from torch import Tensor

from deformgan.spatial.native.fields import MOST_VOXELS, contiguous, describe
from deformgan.spatial.native.library import kernel
from deformgan.spatial.native.structures import PointsJob, WarpJob
from deformgan.spatial.native.threads import native_threads

_PARTS = 4  # of the work for each thread: one that is held up leaves the rest to the others


def warp(
    image: Tensor,
    field: Tensor,
    padding: str = "zeros",
    shape: Sequence[int] | None = None,
    out: Tensor | None = None,
    level: int | None = None,
    spans: Tensor | None = None,
) -> Tensor:
    """Sample an image linearly at ``x + u(x)``.

    Args:
        image: (1, C, D', H', W'); where its channels lie together in memory (channels last), they are sampled together.
        field: (1, 3, d, h, w), in its voxels, which are the image's if ``shape`` is not given.
        padding: ``zeros`` or ``border``: what lies outside the image.
        shape: (D, H, W) of the grid to sample on, over the field's extent; default: the field's.
        out: (1, C, D, H, W) float32, contiguous, to write to.
        level: See `deformgan.spatial.native.library.kernel`.
        spans: (D, H, 2) int32, contiguous: of each row of the grid where what is sampled begins and ends; the rest of
            ``out`` stays as it is. Default: everything.

    Returns:
        (1, C, D, H, W) float32.
    """
    coarse = tuple(field.shape[2:])
    fine = coarse if shape is None else tuple(shape)
    offset = 1 if padding == "zeros" else 0
    last = image.shape[1] >= 8 and image.is_contiguous(memory_format=torch.channels_last_3d)
    source = F.pad(image.detach().float(), [offset] * 6) if offset else image.detach().float()
    source = source.contiguous(memory_format=torch.channels_last_3d if last else torch.contiguous_format)
    wanted = (1, image.shape[1], *fine)
    out = torch.empty(wanted) if out is None else out
    if image.shape[0] != 1 or tuple(field.shape[:2]) != (1, 3) or tuple(out.shape) != wanted or not min(wanted):
        raise ValueError(f"cannot sample {tuple(image.shape)} through {tuple(field.shape)} into {tuple(out.shape)}")
    if max(source[0, 0].numel(), out[0, 0].numel()) > MOST_VOXELS or not out.is_contiguous():
        raise ValueError(f"a volume of {tuple(source.shape)} or {wanted} is too large, or not contiguous")
    values, job = contiguous(field), WarpJob(channels=image.shape[1], last=int(last))
    alive = describe(job.field, coarse, fine, source.shape[2:], offset)
    lines = None if coarse == fine else torch.empty(3 * coarse[0] * coarse[1] * fine[2])
    job.threads = native_threads(out.numel())
    job.chunk = -(-fine[0] // (_PARTS * job.threads))
    parts = -(-fine[0] // job.chunk)
    scratch = torch.empty(parts * (3 * coarse[1] * fine[2] + 4 * fine[2] + image.shape[1]))
    job.field.values, job.field.lines = values.data_ptr(), None if lines is None else lines.data_ptr()
    job.image, job.out, job.scratch = source.data_ptr(), out.data_ptr(), scratch.data_ptr()
    job.spans = None if spans is None else spans.data_ptr()
    kernel("dg_warp", None, level)(byref(job))
    del alive
    return out


def sample(image: Tensor, at: Tensor, level: int | None = None) -> Tensor:
    """An image at any positions, linearly, its border value outside.

    Args:
        image: (C, W, H, D).
        at: (3, …), as `torch.nn.functional.grid_sample` counts (``align_corners=False``): -1 and 1 are the outer faces
            of the voxels, and the last axis comes first.
        level: See `deformgan.spatial.native.library.kernel`.

    Returns:
        (C, …) float32.
    """
    source, at = contiguous(image), contiguous(at)
    if source.ndim != 4 or at.ndim < 2 or len(at) != 3 or not source.numel() or source[0].numel() > MOST_VOXELS:
        raise ValueError(f"cannot sample {tuple(image.shape)} at {tuple(at.shape)}")
    out = torch.empty(len(source), *at.shape[1:])
    job = PointsJob(channels=len(source), count=at[0].numel(), threads=native_threads(out.numel()))
    job.shape[:] = tuple(source.shape[1:])
    job.image, job.at, job.out = source.data_ptr(), at.data_ptr(), out.data_ptr()
    kernel("dg_points", None, level)(byref(job))
    return out


def vote(labels: Tensor, at: Tensor, level: int | None = None) -> Tensor:
    """Of a label map at any positions: the voxel whose label has the largest share of the eight around.

    A voxel's share is its weight in linear interpolation; of equal ones the nearest voxel's label counts.

    Args:
        labels: (W, H, D) int32.
        at: As `sample` takes it; the border value lies outside.
        level: See `deformgan.spatial.native.library.kernel`.

    Returns:
        (…) int32, indices into the flat map.
    """
    source, at = labels.contiguous(), contiguous(at)
    if source.ndim != 3 or source.dtype != torch.int32 or at.ndim < 2 or len(at) != 3 or not source.numel():
        raise ValueError(f"cannot sample {tuple(labels.shape)} {labels.dtype} at {tuple(at.shape)}")
    if source.numel() > MOST_VOXELS:
        raise ValueError(f"a map of {tuple(labels.shape)} is too large")
    out = torch.empty(at.shape[1:], dtype=torch.int32)
    job = PointsJob(count=out.numel(), threads=native_threads(out.numel()))
    job.shape[:] = tuple(source.shape)
    job.image, job.at, job.out = source.data_ptr(), at.data_ptr(), out.data_ptr()
    kernel("dg_vote", None, level)(byref(job))
    return out


def box_maximum(image: Tensor, radius: int, level: int | None = None) -> Tensor:
    """The greatest value in the cube of ``2 radius + 1`` voxels around every voxel, (1, 1, D, H, W) → the same."""
    source = contiguous(image)
    if tuple(source.shape[:2]) != (1, 1) or radius < 0 or not source.numel():
        raise ValueError(f"an image is (1, 1, D, H, W) and a radius not negative: {tuple(image.shape)}, {radius}")
    between, out = torch.empty_like(source), torch.empty_like(source)
    pointers = [c_void_p(t.data_ptr()) for t in (between, out)]
    sizes, threads = (c_int64 * 3)(*source.shape[2:]), c_int64(native_threads(source.numel()))
    kernel("dg_maximum", None, level)(c_void_p(source.data_ptr()), sizes, c_int64(radius), *pointers, threads)
    return out
