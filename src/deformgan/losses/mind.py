"""MIND-SSC: what the surroundings of a voxel look like among themselves, whatever the modality.

Heinrich et al. 2013: twelve distances between patches around those pairs of the six neighbours that are diagonal to
each other, turned into similarities by their own local mean, so that contrast drops out.
"""

from __future__ import annotations

from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor

from deformgan.losses._common import check_pair, full_precision, weights_of
from deformgan.losses.boxes import box_sum

_NEIGHBOURS = [(1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1)]
# opposite neighbours (squared distance 4) are left out
PAIRS = [(p, q) for p, q in combinations(_NEIGHBOURS, 2) if sum((i - j) ** 2 for i, j in zip(p, q, strict=True)) == 2]


@full_precision
def mind_ssc(image: Tensor, radius: int = 1, dilation: int = 2) -> Tensor:
    """The twelve-channel descriptor of every voxel.

    Args:
        image: (B, 1, D, H, W), any scale; beyond its border it keeps its border value.
        radius: Patches are cubes of ``2 radius + 1`` voxels.
        dilation: Distance of the neighbours in voxels.

    Returns:
        (B, 12, D, H, W) in (0, 1], the largest of each voxel's twelve being 1; differentiable.
    """
    if image.ndim != 5 or image.shape[1] != 1:
        raise ValueError(f"an image (B, 1, D, H, W) is needed, not {tuple(image.shape)}")
    window = 2 * radius + 1
    shape = [n + 2 * radius for n in image.shape[2:]]
    padded = F.pad(image, [radius + dilation] * 6, mode="replicate")
    near = {p: _at(padded, p, dilation, shape)[:, 0] for p in _NEIGHBOURS}
    squares = torch.stack([near[p] - near[q] for p, q in PAIRS], 1).square()
    core = tuple(slice(radius, n - radius) for n in shape)
    distances = box_sum(squares, window)[(..., *core)] / window**3
    distances = distances - distances.amin(1, keepdim=True)
    variance = distances.mean(1, keepdim=True)
    # as its authors have it: neither flat nor very busy places decide alone
    middle = float(variance.detach().mean())
    floor = max(1e-3 * middle, torch.finfo(variance.dtype).tiny)
    return torch.exp(-distances / variance.clamp(floor, max(1e3 * middle, floor)))


@full_precision
def mind_similarity(a: Tensor, b: Tensor, radius: int = 1, dilation: int = 2, mask: Tensor | None = None) -> Tensor:
    """One minus the mean squared difference of the two descriptors; larger is better.

    Args:
        a, b: (B, 1, D, H, W).
        radius, dilation: As in `mind_ssc`.
        mask: (B, 1, D, H, W), weights of the mean.

    Returns:
        Scalar in [0, 1], 1 for equal descriptors; differentiable in ``a`` and ``b``.
    """
    check_pair(a, b, mask)
    apart = (mind_ssc(a, radius, dilation) - mind_ssc(b, radius, dilation)).square().mean(1, keepdim=True)
    weight, total = weights_of(mask, apart)
    return 1 - (apart if weight is None else apart * weight).sum() / total


def _at(padded: Tensor, offset: tuple[int, int, int], dilation: int, shape: list[int]) -> Tensor:
    """The padded image seen ``offset × dilation`` voxels away, cut to ``shape``."""
    windows = [slice(dilation * (1 + o), dilation * (1 + o) + n) for o, n in zip(offset, shape, strict=True)]
    return padded[(..., *windows)]
