"""The discriminator D: does this volume come from a scanner or from the generator?"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from deformgan.networks.base import DiscriminatorNetwork
from deformgan.networks.blocks import ConvBlock, channels_last

WIDTHS = (32, 64, 128, 256, 256)


class Discriminator(DiscriminatorNetwork):
    """Five stride-2 3³ convolutions with normalisation and leaky ReLU, a global average, one logit.

    The default normalisation is by groups: the average over the volume that follows the last one would have almost
    nothing left to tell apart if every channel had been brought to mean zero for itself. The first convolution has
    none, so that intensity and contrast of the volume can be judged.

    Args:
        conditional: D also sees the image the generator was given, as in a conditional GAN.
        widths: Channels of each convolution.
        norm: ``none``, ``instance`` or ``group``.
    """

    def __init__(self, conditional: bool = False, widths: Sequence[int] = WIDTHS, norm: str = "group") -> None:
        super().__init__()
        self.conditional = conditional
        channels = [2 if conditional else 1, *widths]
        self.features = nn.Sequential(
            *(
                ConvBlock(inputs, outputs, stride=2, norm=norm if level else "none")
                for level, (inputs, outputs) in enumerate(pairwise(channels))
            )
        )
        self.logit = nn.Linear(channels[-1], 1)

    def forward(self, image: Tensor, condition: Tensor | None = None) -> Tensor:
        """Judge images.

        Args:
            image: (B, 1, D, H, W) in [-1, 1], any size.
            condition: (B, 1, D, H, W) in [-1, 1], the generator's input; needed if ``conditional``, else ignored.

        Returns:
            (B, 1) float32 logits, large for "real".

        Raises:
            ValueError: ``conditional`` and no condition.
        """
        if self.conditional:
            if condition is None:
                raise ValueError("a conditional discriminator needs the image the generator was given")
            image = torch.cat([image, condition], 1)
        pooled = self.features(channels_last(image)).mean(dim=(2, 3, 4), dtype=torch.float32)
        with torch.autocast(pooled.device.type, enabled=False):
            return self.logit(pooled)
