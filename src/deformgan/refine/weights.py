"""The images as refinement compares them, level by level, and how much each voxel counts."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from deformgan.preprocess.bias_field import correct_bias_field
from deformgan.preprocess.lesions import Lesions, valid_mask
from deformgan.spatial.warp import box_maximum, warp

CELL = 4  # voxels of the working grid, of the cells on which the bias field is estimated


def corrected_pair(fixed: Tensor, moving: Tensor) -> list[Tensor]:
    """Both images, (1, 1, D, H, W) on a working grid, as refinement compares them: with their bias fields corrected."""
    return [correct_bias_field(image, CELL) for image in (fixed, moving)]


def reduced(image: Tensor, factor: int) -> Tensor:
    """Box means on a grid with about ``factor`` times fewer voxels along each axis, over the same extent."""
    if factor == 1:
        return image
    return F.adaptive_avg_pool3d(image, [max(2, n // factor) for n in image.shape[2:]])  # type: ignore[arg-type]


class Compared:
    """A pair as refinement compares it, and where; what a level is made of is made once, however often it is asked for.

    Args:
        fixed, moving: (1, 1, D, H, W) on working grids.
        mask: The same, where the similarity counts.
    """

    def __init__(self, fixed: Tensor, moving: Tensor, mask: Tensor) -> None:
        with torch.inference_mode(False):  # a tensor that is made in it has no gradient
            self._images = [image.clone() for image in corrected_pair(fixed.detach(), moving.detach())]
            self._mask = mask.detach().clone()
        self._reduced: dict[int, tuple[Tensor, Tensor]] = {}
        self._masks: dict[tuple[int, int], Tensor] = {}

    def mirrored(self) -> Compared:
        """The same with the moving image mirrored along its first axis."""
        other = copy(self)
        other._images, other._reduced = [self._images[0], self._images[1].flip(2)], {}
        return other

    def images(self, factor: int = 1) -> tuple[Tensor, Tensor]:
        """Fixed and moving image, `reduced`."""
        if factor not in self._reduced:
            fixed, moving = (reduced(image, factor) for image in self._images)
            self._reduced[factor] = fixed, moving
        return self._reduced[factor]

    def mask(self, factor: int = 1, margin: int = 0) -> Tensor:
        """The mask, widened by so many voxels of the working grid and `reduced`."""
        if factor == 1 and margin == 0:
            return self._mask
        if (factor, margin) not in self._masks:
            made = box_maximum(self._mask, margin) if factor == 1 else reduced(self.mask(1, margin), factor)
            self._masks[factor, margin] = made
        return self._masks[factor, margin]


@dataclass(frozen=True, eq=False)
class Weight:
    """How much each voxel of a level counts: ``fixed`` by its own place, ``moving`` by where it comes from, if any.

    Args:
        fixed: (1, 1, D, H, W) ≥ 0 on the level's grid.
        moving: (1, 1, D, H, W) in [0, 1] on the moving image's grid at that level, or None for 1 everywhere.
    """

    fixed: Tensor
    moving: Tensor | None

    @classmethod
    def of(cls, mask: Tensor, lesions: Lesions) -> Weight:
        """From the mask of a level and what is excluded in either image."""
        shape = tuple(mask.shape[2:])
        own = mask
        for excluded in (lesions.fixed, lesions.borders[0]):
            own = own if excluded is None else own * valid_mask(excluded, shape)
        return cls(own, None if lesions.moving is None else valid_mask(lesions.moving, shape))

    def at(self, field: Tensor) -> Tensor:
        """The weights where a field (1, 3, D, H, W) leads, (1, 1, D, H, W)."""
        return self.fixed if self.moving is None else self.fixed * warp(self.moving, field, padding="border")
