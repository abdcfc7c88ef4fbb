"""The force that mutual information exerts on an image: how it rises as the image flows.

Christensen's fluid is driven by the difference of intensities; D'Agostino, Maes, Vandermeulen & Suetens 2003
(doi:10.1016/S1361-8415(03)00039-2) put the gradient of mutual information in its place, so that contrasts may differ.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from deformgan.losses.information import mutual_information

_CHUNK = 1 << 13  # voxels of a histogram at a time: their kernel weights stay in the cache


class InformationForce:
    """Mutual information of one fixed image with moving ones, and the body force it exerts.

    Args:
        fixed: (1, 1, D, H, W) in [0, 1].
        mask: (1, 1, D, H, W) ≥ 0, weights in the joint histogram; default: every voxel alike.
        bins: Of the histogram.
    """

    def __init__(self, fixed: Tensor, mask: Tensor | None = None, bins: int = 32) -> None:
        self.fixed, self.mask, self.bins = fixed, mask, bins

    def measure(self, moved: Tensor) -> tuple[Tensor, Callable[[], Tensor]]:
        """Mutual information in nats, 0-dim, and a function that gives the force.

        The force is ``∂MI/∂d`` of ``moved(x + d(x))`` at ``d = 0``, (1, 3, D, H, W). It costs as much again as the
        information, and a step that is taken back does not need it.
        """
        with torch.inference_mode(False), torch.enable_grad():
            leaf = moved.detach().clone().requires_grad_()
            information = mutual_information(self.fixed, leaf, self.bins, _CHUNK, self.mask)

        def force() -> Tensor:
            (slope,) = torch.autograd.grad(information, leaf)
            return slope * _central_differences(leaf.detach())

        return information.detach(), force


def _central_differences(image: Tensor) -> Tensor:
    """(1, 1, D, H, W) → (1, 3, D, H, W); 0 lies outside, as `deformgan.spatial.warp.warp` has it."""
    padded = F.pad(image, [1] * 6)
    middle = slice(1, -1)
    parts = []
    for axis in range(3):
        window = [middle] * 3
        ahead, behind = ([*window[:axis], s, *window[axis + 1 :]] for s in (slice(2, None), slice(None, -2)))
        parts.append(padded[:, :, *ahead] - padded[:, :, *behind])
    return torch.cat(parts, 1).mul_(0.5)
