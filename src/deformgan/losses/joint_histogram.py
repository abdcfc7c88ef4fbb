"""How much two images say about each other, as one number that needs no training: normalised mutual information."""

from __future__ import annotations

import torch
from torch import Tensor

# few enough to fill, so that chance agreement stays small on the coarse grid
BINS = 32


def normalised_mutual_information(a: Tensor, b: Tensor, mask: Tensor, bins: int = BINS) -> float:
    """``2 I(a; b) / (H(a) + H(b))`` of a joint histogram, in [0, 1]; 0 where either is constant.

    Args:
        a, b: Same shape, intensities in [0, 1].
        mask: Same shape, bool: the voxels that count.
    """
    index_a, index_b = ((image[mask].clamp(0, 1) * (bins - 1)).round().long() for image in (a, b))
    joint = torch.bincount(index_a * bins + index_b, minlength=bins * bins).view(bins, bins).double()
    joint /= joint.sum().clamp_min(1)
    entropy_a, entropy_b = _entropy(joint.sum(1)), _entropy(joint.sum(0))
    if min(entropy_a, entropy_b) < 1e-9:
        return 0.0
    return max(0.0, 2 * (entropy_a + entropy_b - _entropy(joint.flatten())) / (entropy_a + entropy_b))


def _entropy(probability: Tensor) -> float:
    return float(torch.special.entr(probability).sum())
