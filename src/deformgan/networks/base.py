"""What a network must offer to be trained, saved, loaded, run and exported like the others.

A new network is a module beside this one, with a class derived from one of these, and its line in the registry
(`deformgan.networks.KINDS`). Arguments of a constructor are plain values (numbers, strings, lists): they are kept as a
configuration beside the weights.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn


class TransformationNetwork(nn.Module, ABC):
    """T: two images → the displacement that pulls the moving one onto the fixed one.

    Only `stages` has to be written. Fields are float32, pull-back, in voxels of their own grid.

    Attributes:
        input_reduction: Voxels of the working grid, along each axis, that become one before the first layer. A network
            that reduces images by itself sees them at that resolution wherever it was trained; one with 1 takes images
            of any resolution, and whoever runs it reduces them to the one it was trained at.
        multiple: Every side of a working grid that it is trained on is a multiple of this.
        first_field: The number of the first of its stages that is a smooth field.
    """

    input_reduction: ClassVar[int] = 1
    multiple: ClassVar[int] = 1
    first_field: ClassVar[int] = 0

    @abstractmethod
    def stages(self, fixed: Tensor, moving: Tensor) -> list[Tensor]:
        """The fields that training may look at, coarse to fine; the last is the result.

        Args:
            fixed, moving: (B, 1, d, h, w) in [0, 1], reduced already.

        Returns:
            Each (B, 3, …) in voxels of its own grid, over the extent of ``fixed``.
        """

    def forward(self, fixed: Tensor, moving: Tensor) -> Tensor:
        """Fixed and moving (B, 1, D, H, W) in [0, 1], not reduced → field (B, 3, d, h, w)."""
        return self.stages(*(reduced(image, self.input_reduction) for image in (fixed, moving)))[-1]

    def rescale_output(self, factor: float) -> None:
        """Make the output ``factor`` times as large, as training goes on on a grid as much finer.

        Nothing to do for a network whose output does not depend on the resolution of its images.
        """


class GeneratorNetwork(nn.Module, ABC):
    """G: an image (B, 1, D, H, W) in [-1, 1] → the same in the fixed image's modality, float32 in [-1, 1]."""

    @abstractmethod
    def forward(self, image: Tensor) -> Tensor:
        """(B, 1, D, H, W) in [-1, 1] → (B, 1, D, H, W) float32 in [-1, 1]."""


class DiscriminatorNetwork(nn.Module, ABC):
    """D: images (B, 1, D, H, W) in [-1, 1], and what they were made of → (B, 1) logits, larger for a fixed image."""

    @abstractmethod
    def forward(self, image: Tensor, condition: Tensor | None = None) -> Tensor:
        """An image, and optionally the image it was translated from, both (B, 1, D, H, W) in [-1, 1] → (B, 1)."""


def reduced(image: Tensor, factor: int) -> Tensor:
    """An image (B, C, D, H, W) averaged over cubes of ``factor`` voxels, in full precision; as it is for 1."""
    return F.avg_pool3d(image.float(), factor) if factor > 1 else image
