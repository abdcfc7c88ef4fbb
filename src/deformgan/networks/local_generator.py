"""A generator G that cannot move outlines: it translates each voxel by what lies within a few voxels of it.

A U-Net that sees the whole volume makes up, in the image, for what the transformation network leaves undone in space;
T's wrong field then scores better than the true one. Here the receptive field ends after ``depth`` voxels, so that
an edge that lies farther off cannot be drawn where the fixed image has it. Slow shading comes from a low-pass copy.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deformgan.networks.base import GeneratorNetwork
from deformgan.networks.blocks import ConvBlock, Convolution, channels_last

_SHADING_CELL = 8  # voxels to a cell of the low-pass copy; two cells are wider than any structure that is translated


class LocalGenerator(GeneratorNetwork):
    """(B, 1, D, H, W) → (B, 1, D, H, W): residual 3³ convolutions at one resolution, and a low-pass copy of the input.

    Args:
        width: Channels inside.
        depth: Number of 3³ convolutions before the head; details come from ``2 depth + 1`` voxels along each axis.
        shading: Whether the network also sees the input averaged over 8³ voxels and interpolated, which tells slow
            changes of intensity and cannot tell edges.
        norm: Normalisation after each convolution: ``none``, ``instance`` or ``group``. ``instance`` and ``group`` take
            means over the whole volume, so only ``none`` is local in the strict sense.

    Raises:
        ValueError: ``depth`` is less than 1.
    """

    def __init__(self, width: int = 32, depth: int = 4, shading: bool = True, norm: str = "none") -> None:
        super().__init__()
        if depth < 1:
            raise ValueError(f"a generator has at least one layer, not {depth}")
        self.shading = shading
        self.enter = ConvBlock(2 if shading else 1, width, norm=norm)
        self.body = nn.ModuleList(ConvBlock(width, width, norm=norm) for _ in range(depth - 1))
        self.head = Convolution(width, 1, 1)
        nn.init.normal_(self.head.weight, std=1e-2)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]

    def forward(self, image: Tensor) -> Tensor:
        """(B, 1, D, H, W) in [-1, 1] → (B, 1, D, H, W) float32 in [-1, 1]."""
        seen = torch.cat([image, low_pass(image)], 1) if self.shading else image
        x = self.enter(channels_last(seen))
        for block in self.body:
            x = x + block(x)
        with torch.autocast(x.device.type, enabled=False):
            return torch.tanh(self.head(x.float()))


def low_pass(image: Tensor) -> Tensor:
    """Means over 8³ voxels, interpolated linearly to where they came from, (B, C, D, H, W) → the same."""
    cells = [max(1, n // _SHADING_CELL) for n in image.shape[2:]]
    means = F.adaptive_avg_pool3d(image, cells)  # type: ignore[arg-type]
    return F.interpolate(means, size=image.shape[2:], mode="trilinear", align_corners=False)
