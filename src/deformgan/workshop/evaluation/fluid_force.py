"""The force that a similarity exerts on an image: how it rises as the image flows.

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


# fixed, moved (1, 1, D, H, W) in [0, 1] and the mask of the voxels that count → 0-dim, larger is better
Similarity = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def information(bins: int = 32) -> Similarity:
    """Mutual information in nats, of a joint histogram with so many bins along each axis."""
    return lambda fixed, moved, mask: mutual_information(fixed, moved, bins, _CHUNK, mask)


class SimilarityForce:
    """The similarity of one fixed image with moving ones, and the body force it exerts.

    Args:
        fixed: (1, 1, D, H, W) in [0, 1].
        mask: (1, 1, D, H, W) ≥ 0, where images are compared; default: everywhere alike.
        similarity: Differentiable with respect to the moved image; see `Similarity`.
    """

    def __init__(self, fixed: Tensor, mask: Tensor | None = None, similarity: Similarity | None = None) -> None:
        self.fixed, self.mask, self.similarity = fixed, mask, similarity or information()

    def measure(self, moved: Tensor) -> tuple[Tensor, Callable[[], Tensor]]:
        """The similarity S, 0-dim, and a function that gives the force.

        The force is ``∂S/∂d`` of ``moved(x + d(x))`` at ``d = 0``, (1, 3, D, H, W). It costs as much again as the
        similarity, and a step that is taken back does not need it.
        """
        with torch.inference_mode(False), torch.enable_grad():
            leaf = moved.detach().clone().requires_grad_()
            similar = self.similarity(self.fixed, leaf, self.mask)

        def force() -> Tensor:
            (slope,) = torch.autograd.grad(similar, leaf)
            return slope * _central_differences(leaf.detach())

        return similar.detach(), force


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
