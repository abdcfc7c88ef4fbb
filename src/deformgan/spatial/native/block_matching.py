"""How well edges match block by block, as they lie and shifted, in compiled code.

The counterpart in PyTorch is in `deformgan.quality.matching`.
"""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import byref, c_int64

import torch
import torch.nn.functional as F
from torch import Tensor

from deformgan.spatial.native.fields import contiguous
from deformgan.spatial.native.library import kernel
from deformgan.spatial.native.structures import BlockMatchingJob
from deformgan.spatial.native.threads import native_threads

_PLANES = 8  # that one part of the work has at least: those beside them are made again


def block_matching(
    ours: Tensor,
    theirs: Tensor,
    shares: Tensor,
    steps: Sequence[tuple[int, int, int]],
    lengths: Sequence[float],
    *,
    close: int,
    radius: int,
    sharpness: float,
    level: int | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compare the edges of two images in the cubes around every voxel.

    Args:
        ours, theirs: (1, 3, D, H, W), shortened directions (see `deformgan.quality.matching`).
        shares: (D, H, W), what the sum of squared products over a cube is multiplied with to be an agreement in [0, 1].
        steps: Shifts of the other image, in voxels.
        lengths: Of each.
        close: The first so many are those by one voxel.
        radius: A cube has ``2 radius + 1`` voxels along each axis; nothing lies outside the volume.
        sharpness: How sharply a better match is preferred.
        level: See `deformgan.spatial.native.library.kernel`.

    Returns:
        (D, H, W) each: the agreement without a shift, the best of all, the mean of the close ones, and the expected
        length, were shifts as likely as ``exp(sharpness · agreement)``.
    """
    ours, shares, shape = contiguous(ours), contiguous(shares), tuple(shares.shape)
    if tuple(ours.shape) != (1, 3, *shape) or theirs.shape != ours.shape or len(steps) != len(lengths):
        raise ValueError(f"cannot match {tuple(ours.shape)} with {tuple(theirs.shape)} in blocks of {shape}")
    reach = max((abs(s) for step in steps for s in step), default=0)
    theirs = F.pad(contiguous(theirs), [reach] * 6)
    shifts = torch.tensor([*steps, (0, 0, 0)], dtype=torch.int64)  # one more, so that there is one
    distances = torch.tensor([*lengths, 0.0], dtype=torch.float32)
    threads = native_threads(ours.numel())
    chunk = max(_PLANES, -(-shape[0] // threads))
    plane, parts = shape[1] * shape[2], -(-shape[0] // chunk)
    out = torch.zeros(4, *shape)
    scratch = torch.empty(parts, (2 * chunk + 2 * radius + 1) * plane + shape[2])
    job = BlockMatchingJob(
        reach=reach, radius=radius, count=len(steps), close=close, sharpness=sharpness, chunk=chunk
    )  # fmt: skip
    job.shape[:] = shape
    job.ours, job.theirs, job.shares, job.out, job.scratch = (
        t.data_ptr() for t in (ours, theirs, shares, out, scratch)
    )
    job.steps, job.lengths = shifts.data_ptr(), distances.data_ptr()
    kernel("dg_block_matching", None, level)(byref(job), c_int64(threads))
    here, best, near, length = out.unbind()
    return here, best, near, length
