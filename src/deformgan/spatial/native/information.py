"""Normalised mutual information of points and a volume under many linear maps, in compiled code, with a derivative.

What is computed is defined by `deformgan.align.similarity.nmi_score`.
"""

from __future__ import annotations

from ctypes import byref

import torch
from torch import Tensor

from deformgan.spatial.native.library import kernel
from deformgan.spatial.native.structures import InformationJob

BINS = 8  # few: a thousand points must fill their square; as in c/information.c
_KEPT = 5  # numbers for each point
_PART = 32  # maps that one thread takes at a time


def shared_information(
    points: Tensor,
    bins: Tensor,
    volume: Tensor,
    excluded: Tensor | None,
    needed: float,
    matrices: Tensor,
    level: int | None = None,
    *,
    with_slope: bool = True,
    threads: int = 1,
) -> tuple[Tensor, Tensor | None]:
    """The score of each map, in [0, 1], and its derivative with respect to the map.

    Args:
        points: (N, 3) float32.
        bins: (N,) int64 in [0, 8), the fixed intensities there.
        volume: (1, 1, D, H, W) float32 in [0, 1].
        excluded: The same of 0 and 1, or None.
        needed: Points inside the volume for the full score.
        matrices: (B, 3, 4) float32, from points to voxel indices along W, H and D.
        level: See `deformgan.spatial.native.library.kernel`.
        with_slope: Whether the derivative is wanted, which takes as long as the score.
        threads: That share the maps; each is scored by one.

    Returns:
        (B,) and (B, 3, 4), or None.

    Raises:
        ValueError: Shapes or bins do not fit.
    """
    fits = points.shape == (len(bins), 3) and matrices.shape[1:] == (3, 4)
    if not fits or (excluded is not None and excluded.shape != volume.shape):
        raise ValueError("points, bins, volumes and maps do not fit together")
    if len(bins) and not 0 <= int(bins.min()) <= int(bins.max()) < BINS:
        raise ValueError(f"bins are 0 to {BINS - 1}")
    points, bins, volume, matrices = (t.detach().contiguous() for t in (points, bins, volume, matrices))
    excluded = None if excluded is None else excluded.contiguous()
    scores, slope = torch.empty(len(matrices)), torch.empty(len(matrices), 3, 4) if with_slope else None
    parts = max(1, len(matrices) // _PART)
    scratch = torch.empty(parts * _KEPT * len(points))
    job = InformationJob(points=len(points), maps=len(matrices), parts=parts, threads=threads, needed=needed)
    job.shape[:] = volume.shape[2:]
    memory = {"at": points, "fixed": bins, "volume": volume, "matrices": matrices, "scores": scores}
    memory |= {"scratch": scratch, "slope": slope, "excluded": excluded}
    for name, tensor in memory.items():
        setattr(job, name, None if tensor is None else tensor.data_ptr())
    kernel("dg_information", level=level)(byref(job))
    return scores, slope
