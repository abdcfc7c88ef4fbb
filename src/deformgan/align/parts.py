"""What is known of a pair of which an image shows a part: how much less it shows, and what speaks against a map of it.

A part of one image fits many places of the other one if it may be drawn out or made smaller.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from deformgan.align.placement import Subsampled

_PARTIAL = 1.25  # ratio of the foregrounds' volumes, at a scale, from which on one image shows less of the brain
_DISTORTION = 1.0  # share of the score that a map loses for the sum of squares of its log stretches
_AWAY = 1.0  # and for the square of its distance from the headers' place, over a region's size


@dataclass(frozen=True)
class Region:
    """What is known of a pair of which an image is a region, cut out on most sides, that is like parts of any size.

    Args:
        shift_mm: (3,), where the headers take the fixed centre, less the moving one.
        size_mm: How large the smaller of the two is.
    """

    shift_mm: Tensor
    size_mm: float

    @classmethod
    def of(cls, fixed: Subsampled, moving: Subsampled, centres_mm: tuple[np.ndarray, np.ndarray]) -> Region | None:
        """None where both images show what ends within them."""
        if not has_region(fixed, moving):
            return None
        smaller = min(_volume_mm3(fixed), _volume_mm3(moving))
        return cls(torch.from_numpy(centres_mm[0] - centres_mm[1]).float(), max(smaller, 1e-6) ** (1 / 3))


def rated(score: Tensor | float, matrices: Tensor, region: Region | None) -> Tensor:
    """Scores (B,) less what maps (B, 3, 4) distort but for one common scale, and of a region that and its way too."""
    stretches = torch.linalg.svdvals(matrices[:, :, :3]).clamp_min(1e-6).log()
    if region is None:
        stretches = stretches - stretches.mean(1, keepdim=True)
        return score * (1 - _DISTORTION * stretches.square().sum(1))
    away = (matrices[:, :, 3] - region.shift_mm).norm(dim=1) / region.size_mm
    return score * (1 - _DISTORTION * stretches.square().sum(1)) * (1 - _AWAY * away.square()).clamp_min(0.5)


def volume_ratio(fixed: Subsampled, moving: Subsampled) -> float:
    """Volume of the moving foreground over the fixed one's."""
    return _volume_mm3(moving) / max(_volume_mm3(fixed), 1e-6)


def _volume_mm3(subsampled: Subsampled) -> float:
    return float(subsampled.mask.sum()) * abs(np.linalg.det(subsampled.grid.affine[:3, :3]))


def compares_parts(fixed: Subsampled, moving: Subsampled) -> bool:
    """Whether an image shows a part of what the other does, or both show parts that may differ."""
    return is_partial(volume_ratio(fixed, moving)) or has_region(fixed, moving)


def has_region(fixed: Subsampled, moving: Subsampled) -> bool:
    """Whether an image is cut off on most sides, so that nothing tells the pair's relative size."""
    return fixed.is_region or moving.is_region


def is_partial(ratio: float) -> bool:
    """Whether volumes of this ratio say that one image shows less of the brain."""
    return max(ratio, 1 / max(ratio, 1e-6)) > _PARTIAL
