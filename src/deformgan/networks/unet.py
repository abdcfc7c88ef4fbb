"""The U-Net of the method, and the paper's transformation network T made of it: volumes of any size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from deformgan.networks.base import TransformationNetwork
from deformgan.networks.blocks import ConvBlock, UpBlock, channels_last
from deformgan.spatial.field import integrate, resize

WIDTHS = (16, 32, 64, 128, 256)
FLOW_STD = 1e-5  # of the flow head's first weights: training starts at the identity


class UNet(nn.Module):
    """Two 3³ convolutions a level, skip connections, a linear 3³ head.

    Each level after the first halves the resolution with its first convolution; the decoder mirrors the encoder.

    Args:
        inputs: Input channels.
        outputs: Output channels.
        widths: Channels of each level, finest first.
        norm: Normalisation after each convolution: ``none``, ``instance`` or ``group``.
        stem_stride: Stride of the very first convolution; 2 runs everything after it, and the output, at half
            resolution.
    """

    def __init__(
        self, inputs: int, outputs: int, widths: Sequence[int] = WIDTHS, norm: str = "none", stem_stride: int = 1
    ) -> None:
        super().__init__()
        self.encoder = nn.ModuleList()
        channels = inputs
        for level, width in enumerate(widths):
            first = ConvBlock(channels, width, stride=2 if level else stem_stride, norm=norm)
            self.encoder.append(nn.Sequential(first, ConvBlock(width, width, norm=norm)))
            channels = width
        pairs = list(zip(widths[1:], widths[:-1], strict=True))
        self.decoder = nn.ModuleList(UpBlock(coarse, skip, norm) for coarse, skip in reversed(pairs))
        self.head = nn.Conv3d(widths[0], outputs, 3, padding=1)
        nn.init.xavier_normal_(self.head.weight)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, D, H, W) → (B, outputs, ⌈D/s⌉, ⌈H/s⌉, ⌈W/s⌉) float32, s = stem_stride."""
        x = channels_last(x)
        skips = []
        for level in self.encoder:
            x = level(x)
            skips.append(x)
        skips.pop()
        for level in self.decoder:
            x = level(x, skips.pop())
        # in bf16 a displacement of 20 voxels would be rounded to the next eighth of a voxel
        with torch.autocast(x.device.type, enabled=False):
            return self.head(x.float())


class TransformationUNet(TransformationNetwork):
    """The paper's T: both images, concatenated, through a U-Net to a displacement field.

    Args:
        widths: Channels of each level, finest first.
        velocity: The U-Net's output is a stationary velocity that is integrated (diffeomorphic, no folds); otherwise it
            is the displacement itself, as in the paper.
        integration_steps: Squarings of the integration; only with ``velocity``.
        scale: 1, or 2: the first convolution halves the resolution and the field comes at half resolution.
        norm: Normalisation after each convolution: ``none``, ``instance`` or ``group``.

    Raises:
        ValueError: ``scale`` is neither 1 nor 2.
    """

    def __init__(
        self,
        widths: Sequence[int] = WIDTHS,
        velocity: bool = False,
        integration_steps: int = 7,
        scale: int = 1,
        norm: str = "none",
    ) -> None:
        super().__init__()
        if scale not in (1, 2):
            raise ValueError(f"scale is 1 or 2, not {scale}")
        self.velocity = velocity
        self.integration_steps = integration_steps
        self.scale = scale
        self.unet = UNet(2, 3, widths, norm, stem_stride=scale)
        nn.init.normal_(self.unet.head.weight, std=FLOW_STD)

    def stages(self, fixed: Tensor, moving: Tensor) -> list[Tensor]:
        """Fixed and moving, (B, 1, D, H, W) in [0, 1] → one field (B, 3, ⌈D/scale⌉, ⌈H/scale⌉, ⌈W/scale⌉)."""
        field = self.unet(torch.cat([fixed, moving], 1))
        if self.velocity:
            with torch.autocast(field.device.type, enabled=False):
                field = integrate(field, self.integration_steps)
        return [self._on_the_extent_of(fixed, field)]

    @torch.no_grad()
    def rescale_output(self, factor: float) -> None:
        """The head's vectors are in voxels: on a grid ``factor`` times finer, as many times longer."""
        for parameter in self.unet.head.parameters():
            parameter.mul_(factor)

    def _on_the_extent_of(self, image: Tensor, field: Tensor) -> Tensor:
        """Where an axis is odd the half-resolution grid reaches too far: use one that ends with the image."""
        full = tuple(image.shape[2:])
        half = tuple(field.shape[2:])
        reach = tuple(self.scale * n for n in half)
        if reach == full:
            return field
        d, h, w = full
        return resize(resize(field, reach)[:, :, :d, :h, :w], half)
