"""Evidence for T's local stage and the expectation of its global matching, in compiled code.

The counterparts in PyTorch are in `deformgan.networks`: `edges`, `correlation` and `pyramid`.
"""

from __future__ import annotations

from ctypes import byref, c_float, c_int64, c_void_p

import torch
import torch.nn.functional as F
from torch import Tensor

from deformgan.spatial.native.fields import contiguous
from deformgan.spatial.native.library import kernel
from deformgan.spatial.native.structures import MatchJob, ShiftJob
from deformgan.spatial.native.threads import native_threads

_ROWS = 64  # of the matching in one part of the work


def unit_gradients(image: Tensor, epsilon: float, border: int = 0, level: int | None = None) -> Tensor:
    """``∇I / sqrt(‖∇I‖² + ε²)``, (1, 1, D, H, W) → (1, 3, D, H, W), with so many voxels of 0 around as ``border``."""
    source = contiguous(image)
    if tuple(source.shape[:2]) != (1, 1) or not source.numel():
        raise ValueError(f"an image is (1, 1, D, H, W), not {tuple(image.shape)}")
    out = torch.empty(1, 3, *(n + 2 * border for n in source.shape[2:]))
    sizes, threads = (c_int64 * 3)(*source.shape[2:]), c_int64(native_threads(source.numel()))
    run = kernel("dg_unit_gradients", None, level)
    floor = c_float(4 * epsilon**2)
    run(c_void_p(source.data_ptr()), sizes, floor, c_int64(border), c_void_p(out.data_ptr()), threads)
    return out


def shifted_products(
    fixed: Tensor,
    padded: Tensor,
    *,
    factor: int = 1,
    squared: bool = False,
    scale: float = 1.0,
    out: Tensor | None = None,
    level: int | None = None,
) -> Tensor:
    """Products, summed over the channels, with the 27 shifts by up to one voxel, averaged over cubes of voxels.

    Args:
        fixed: (1, C, D, H, W).
        padded: (1, C, D + 2, H + 2, W + 2): what it is multiplied with, with one voxel more at each end.
        factor: Side of these cubes; what does not fill one at the end is left out.
        squared: Whether the sums are squared before.
        scale: What the result is multiplied with.
        out: (1, 27, D / factor, H / factor, W / factor), contiguous, to write to.
        level: See `deformgan.spatial.native.library.kernel`.

    Returns:
        ``out``; shift (i, j, k) - 1 is number ``9 i + 3 j + k``.
    """
    fixed, padded = contiguous(fixed), contiguous(padded)
    shape = tuple(fixed.shape[2:])
    wanted = (1, 27, *(n // factor for n in shape))
    if fixed.shape[0] != 1 or tuple(padded.shape) != (*fixed.shape[:2], *(n + 2 for n in shape)) or not min(wanted):
        raise ValueError(f"cannot multiply {tuple(fixed.shape)} with {tuple(padded.shape)} in cubes of {factor}")
    out = torch.empty(wanted) if out is None else out
    if tuple(out.shape) != wanted or out.dtype != torch.float32 or not out.is_contiguous():
        raise ValueError(f"the products go into a contiguous {wanted}, not {tuple(out.shape)}")
    scratch = torch.empty(wanted[2], 2, shape[2])
    job = ShiftJob(channels=fixed.shape[1], factor=factor, scale=scale, squared=int(squared))
    job.shape[:] = shape
    job.fixed, job.padded, job.out, job.scratch = (t.data_ptr() for t in (fixed, padded, out, scratch))
    kernel("dg_shifted_products", None, level)(byref(job), c_int64(native_threads(27 * fixed.numel())))
    return out


def local_correlation(fixed: Tensor, moved: Tensor, out: Tensor | None = None, level: int | None = None) -> Tensor:
    """Scaled products of features with those of the 3³ neighbourhood, (1, C, D, H, W) twice → (1, 27, D, H, W)."""
    padded = F.pad(contiguous(moved), [1] * 6)
    return shifted_products(fixed, padded, scale=fixed.shape[1] ** -0.5, out=out, level=level)


def match(logits: Tensor, shape: tuple[int, int, int], level: int | None = None) -> tuple[Tensor, Tensor]:
    """The mean displacement under the softmax of every row, and the row's greatest probability.

    Args:
        logits: (1, N, N), of every position against every position, N = d h w.
        shape: (d, h, w).
        level: See `deformgan.spatial.native.library.kernel`.

    Returns:
        (1, 3, d, h, w) in voxels and (1, 1, d, h, w) in (0, 1].
    """
    logits, n = contiguous(logits), shape[0] * shape[1] * shape[2]
    if tuple(logits.shape) != (1, n, n) or not n:
        raise ValueError(f"the logits of {shape} are (1, {n}, {n}), not {tuple(logits.shape)}")
    out, parts = torch.empty(1, 4, *shape), -(-n // _ROWS)
    scratch = torch.empty(parts, n + shape[1] * shape[2])
    job = MatchJob(rows=_ROWS)
    job.shape[:] = shape
    job.logits, job.out, job.scratch = (t.data_ptr() for t in (logits, out, scratch))
    kernel("dg_match", None, level)(byref(job), c_int64(native_threads(logits.numel())))
    return out[:, :3], out[:, 3:]
