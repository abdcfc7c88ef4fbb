"""Soft Dice: how well two soft segmentations overlap."""

from __future__ import annotations

import torch
from torch import Tensor


def soft_dice(a: Tensor, b: Tensor, epsilon: float = 1.0) -> Tensor:
    """Dice of every channel, ``2 Σ a b / (Σ a² + Σ b²)``: 1 where both are alike, also where both are soft alike.

    Args:
        a, b: (B, C, D, H, W) in [0, 1].
        epsilon: Voxels added above and below; two empty channels agree.

    Returns:
        (B, C) in [0, 1].
    """
    over = (2, 3, 4)
    both = 2 * (a * b).sum(over) + epsilon
    return both / (torch.sum(a * a, over) + torch.sum(b * b, over) + epsilon)
