"""Bias field correction: takes slow changes of intensity out of an image.

Coils see one end of a head brighter than the other, and a brain's top is often dark: its edges are then low, and by a
measure of edges they count for less or not at all. The images that networks and refinement compare are corrected first.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from deformgan.spatial.warp import box_maximum

_ADDED = 0.2  # of the mean, to numerator and denominator: without it the noise of dark regions would be amplified


@torch.no_grad()
def correct_bias_field(image: Tensor, cell: int) -> Tensor:
    """Divide by the mean intensity nearby, as a homomorphic filter does.

    Args:
        image: (B, 1, D, H, W), 0 in the background, else positive.
        cell: Voxels along each axis to one cell of the grid on which the mean is taken; it reaches about two cells
            (6 mm in working grids: 4 voxels of theirs, 2 of half their resolution).

    Returns:
        Same shape; the background stays 0 and what is of mean intensity all around stays as it is. It may exceed 1.
    """
    image = image.float()
    cells = [max(3, n // cell) for n in image.shape[2:]]
    # voxels at the border are partly background; they would pass for a dark rim
    inside = -box_maximum(-(image > 0).to(image), 1)
    both = torch.cat([image * inside, inside], 1)
    if all(n == cell * m for n, m in zip(image.shape[2:], cells, strict=True)):
        sums = F.avg_pool3d(both, cell)  # the same, and known to ONNX
    else:
        sums = F.adaptive_avg_pool3d(both, cells)  # type: ignore[arg-type]
    total, count = sums.mean((2, 3, 4), keepdim=True).split(1, 1)
    for _ in range(2):
        sums = F.avg_pool3d(sums, 3, 1, 1)
    mean = (total / count.clamp_min(1e-6)).clamp_min(1e-6)
    nearby = torch.where(sums[:, 1:] < 1e-3, mean, sums[:, :1] / sums[:, 1:].clamp_min(1e-3))
    nearby = F.interpolate(nearby, size=image.shape[2:], mode="trilinear", align_corners=False)
    return image * (1 + _ADDED) / (nearby / mean + _ADDED)
