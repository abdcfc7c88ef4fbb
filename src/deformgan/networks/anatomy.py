"""S, the network that finds anatomy in an image of any contrast: soft labels, left and right apart, and a brain mask.

It must cost little beside the registration itself, so its input is folded: 2×2×2 voxels become 8 channels, and every
convolution works at half the image's resolution or below. The mask is unfolded again, the labels stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deformgan.networks.blocks import ConvBlock, channels_last

FOLD = 2  # voxels along each axis that become channels
_CHANNELS = FOLD**3


class AnatomyNet(nn.Module):
    """A U-Net on folded voxels whose skips are added, not concatenated.

    Args:
        labels: How many labels there are, background included.
        widths: Channels of each level, finest (half the image's resolution) first.
        norm: Normalisation after each convolution: ``none``, ``instance`` or ``group``.
    """

    def __init__(self, labels: int = 32, widths: Sequence[int] = (24, 48, 96, 96), norm: str = "group") -> None:
        super().__init__()
        self.labels = labels
        self.encoder, channels = nn.ModuleList(), _CHANNELS
        for level, width in enumerate(widths):
            first = ConvBlock(channels, width, stride=2 if level else 1, norm=norm)
            # the finest level is the dearest one by far: one convolution on the way down is enough there
            self.encoder.append(nn.Sequential(first, ConvBlock(width, width, norm=norm)) if level else first)
            channels = width
        pairs = [*pairwise(widths)][::-1]
        self.reduce = nn.ModuleList(nn.Conv3d(coarse, fine, 1) for fine, coarse in pairs)
        self.decoder = nn.ModuleList(ConvBlock(fine, fine, norm=norm) for fine, _ in pairs)
        self.head = nn.Conv3d(widths[0], labels + _CHANNELS, 1)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of labels and mask.

        Args:
            image: (B, 1, D, H, W) in [0, 1], in RAS+ order of axes, D, H and W even.

        Returns:
            Labels (B, labels, D/2, H/2, W/2) for a softmax and the mask (B, 1, D, H, W) for a sigmoid; float32.
        """
        x, skips = channels_last(fold(image)), []
        for level in self.encoder:
            x = level(x)
            skips.append(x)
        skips.pop()
        for reduce, convolve in zip(self.reduce, self.decoder, strict=True):
            skip = skips.pop()
            d, h, w = skip.shape[2:]
            x = convolve(skip + F.interpolate(reduce(x), scale_factor=2, mode="nearest")[:, :, :d, :h, :w])
        with torch.autocast(x.device.type, enabled=False):
            logits = self.head(x.float())
        return logits[:, : self.labels], unfold(logits[:, self.labels :])


def fold(image: Tensor) -> Tensor:
    """(B, 1, D, H, W) → (B, 8, D/2, H/2, W/2): each block of 2×2×2 voxels becomes channels."""
    b, _, d, h, w = image.shape
    blocks = image.reshape(b, d // FOLD, FOLD, h // FOLD, FOLD, w // FOLD, FOLD)
    return blocks.permute(0, 2, 4, 6, 1, 3, 5).reshape(b, _CHANNELS, d // FOLD, h // FOLD, w // FOLD)


def unfold(folded: Tensor) -> Tensor:
    """The inverse of `fold`: (B, 8, D, H, W) → (B, 1, 2 D, 2 H, 2 W)."""
    b, _, d, h, w = folded.shape
    blocks = folded.reshape(b, FOLD, FOLD, FOLD, d, h, w).permute(0, 4, 1, 5, 2, 6, 3)
    return blocks.reshape(b, 1, d * FOLD, h * FOLD, w * FOLD)
