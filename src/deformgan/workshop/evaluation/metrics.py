"""What a registration is judged by: field error, intensity RMSE, overlap, folding."""

from __future__ import annotations

import torch
from torch import Tensor

from deformgan.spatial.field import jacobian_determinant


def endpoint_error(field: Tensor, truth: Tensor, mask: Tensor) -> Tensor:
    """Distance in voxels between two (1, 3, D, H, W) fields at each voxel of a (1, 1, D, H, W) mask, (N,)."""
    return (field - truth).square().sum(1, keepdim=True).sqrt()[mask > 0.5]


def rmse_percent(image: Tensor, truth: Tensor, mask: Tensor | None = None) -> float:
    """Root mean squared difference in percent of the truth's range, over the mask or the whole volume."""
    difference = (image - truth).square()
    mean = difference.mean() if mask is None else difference[mask > 0.5].mean()
    return float(100 * mean.sqrt() / (truth.amax() - truth.amin()).clamp(min=1e-6))


def dice(a: Tensor, b: Tensor) -> float:
    """Overlap ``2 |A ∩ B| / (|A| + |B|)`` of two masks (> 0.5), in [0, 1]; not a number where both are empty."""
    a, b = a > 0.5, b > 0.5
    total = int(a.sum()) + int(b.sum())
    return 2 * int((a & b).sum()) / total if total else float("nan")


def folding_percent(field: Tensor, mask: Tensor | None = None) -> float:
    """Share of voxels (of the mask) where the Jacobian determinant of ``x + u(x)`` is not positive, percent."""
    folded = (jacobian_determinant(field) <= 0)[:, None]
    inside = torch.ones_like(folded) if mask is None else mask > 0.5
    return float(100 * (folded & inside).sum() / inside.sum().clamp(min=1))
