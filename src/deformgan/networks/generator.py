"""The paper's G: a U-Net that translates a (warped) moving image into the fixed image's modality."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from deformgan.networks.base import GeneratorNetwork
from deformgan.networks.unet import WIDTHS, UNet


class Generator(GeneratorNetwork):
    """One input and one output channel, tanh at the end.

    Args:
        widths: Channels of each level, finest first.
        norm: Normalisation after each convolution: ``none``, ``instance`` or ``group``.
    """

    def __init__(self, widths: Sequence[int] = WIDTHS, norm: str = "instance") -> None:
        super().__init__()
        self.unet = UNet(1, 1, widths, norm)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 1, D, H, W) in [-1, 1] → (B, 1, D, H, W) float32 in [-1, 1]."""
        return torch.tanh(self.unet(image))
