"""Takes the folds out of a field where they are, and leaves the rest of it alone."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from deformgan.spatial.field import jacobian_determinant
from deformgan.spatial.warp import box_maximum

_ROUNDS = 60
_LEAST = 0.05  # Jacobian determinant below which the surroundings are smoothed
_REACH = 2  # voxels around a fold that are smoothed with it


@torch.no_grad()
def without_folds(field: Tensor) -> Tensor:
    """Smooth a field around its folds, again and again, until there are none or patience ends.

    Args:
        field: (1, 3, D, H, W) in voxels of its own grid, finite.

    Returns:
        Same shape; voxels farther than a few from every fold keep their values.
    """
    for _ in range(_ROUNDS):
        folded = (jacobian_determinant(field) < _LEAST).to(field)[:, None]
        if not bool(folded.any()):
            break
        near = box_maximum(folded, _REACH)
        share = F.avg_pool3d(near, 3, 1, 1)
        smooth = F.avg_pool3d(F.pad(field, [1] * 6, mode="replicate"), 3, 1)
        field = torch.lerp(field, smooth, share.expand_as(field))
    return field


def count_folds(field: Tensor, mask: Tensor) -> int:
    """Voxels inside a mask (1, 1, D, H, W) > 0.5 whose Jacobian determinant is not positive."""
    return int(((jacobian_determinant(field) <= 0)[:, None] & (mask > 0.5)).sum())
