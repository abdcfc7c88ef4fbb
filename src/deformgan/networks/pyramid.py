"""The default transformation network T: match coarsely everywhere at once, then correct locally, finer and finer.

One encoder, shared by both images, reads them at half resolution and at once goes to a quarter: nearly all the time of
a 3-D network goes into its finest level. At 1/8 every fixed position is matched against every moving position (an
attention over the whole volume, so a displacement of forty voxels is as near as one of four), a small decoder turns the
matches into a smooth velocity, and a stage at 1/4 (see `deformgan.networks.local_stage`) looks again and again at what
is left after warping. Each velocity is integrated and composed with what came before, so the result is smooth and very
nearly free of folds.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deformgan.networks.base import TransformationNetwork, reduced
from deformgan.networks.blocks import Convolution, Layers, enlarged
from deformgan.networks.local_stage import EdgeStage, FixedSide, MovingSide
from deformgan.preprocess.bias_field import correct_bias_field
from deformgan.spatial.constants import of_axes
from deformgan.spatial.field import compose, identity_positions, integrate, resize
from deformgan.spatial.native import edges as native
from deformgan.spatial.native.use import usable
from deformgan.spatial.warp import warp

_MULTIPLE = 8  # every side of the half-resolution input is padded to this: three more halvings


def _conv(inputs: int, outputs: int, stride: int = 1, kernel: int = 3, dilation: int = 1) -> nn.Conv3d:
    return Convolution(inputs, outputs, kernel, stride, dilation * (kernel // 2), dilation)


class _Block(nn.Sequential):
    """Convolution, group normalisation, leaky ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__(_conv(inputs, outputs, stride), nn.GroupNorm(8, outputs), nn.LeakyReLU(0.1))


def _in_full_precision(head: nn.Module, features: Tensor) -> Tensor:
    """bf16 would round a velocity of some voxels to 1/64 of it."""
    with torch.autocast(features.device.type, enabled=False):
        return head(features.float())


class Encoder(nn.Module):
    """Features of one image at 1/4 and 1/8 of the full resolution; the latter see the whole volume's context.

    Args:
        widths: Channels at 1/4, 1/8 and 1/16.
    """

    def __init__(self, widths: tuple[int, int, int]) -> None:
        super().__init__()
        quarter, eighth, sixteenth = widths
        self.level4 = Layers(_conv(1, quarter, 2), nn.LeakyReLU(0.1), _conv(quarter, quarter), nn.LeakyReLU(0.1))
        self.level8 = nn.Sequential(_Block(quarter, eighth, 2), _Block(eighth, eighth))
        self.level16 = nn.Sequential(
            _Block(eighth + 3, sixteenth, 2), _Block(sixteenth, sixteenth), _conv(sixteenth, eighth, kernel=1)
        )
        self.merge = nn.Sequential(_Block(2 * eighth, eighth), _Block(eighth, eighth))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 1, d, h, w) at half resolution in [0, 1] → features at 1/4 and 1/8."""
        quarter = self.level4(image)
        eighth = self.level8(quarter)
        # position in the volume tells the hemispheres apart, which look alike
        shape = tuple(eighth.shape[2:])
        where = identity_positions(shape, image.device) / of_axes(tuple(n / 2 for n in shape), image.device)
        where = (where - 1).to(eighth.dtype).expand(eighth.shape[0], -1, -1, -1, -1)
        context = self.level16(torch.cat([eighth, where], 1))
        return quarter, self.merge(torch.cat([eighth, enlarged(context, shape).to(eighth.dtype)], 1))


class GlobalMatching(nn.Module):
    """Every fixed position against every moving position.

    Args:
        width: Channels of the features.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.project = _conv(width, width, kernel=1)
        self.log_temperature = nn.Parameter(torch.tensor(math.log(10.0)))

    def forward(self, fixed: Tensor, moving: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, C, d, h, w) → expected displacement (B, 3, …) in voxels, confidence (B, 1, …) in (0, 1]."""
        batch, _, *shape = fixed.shape
        query = F.normalize(self.project(fixed).flatten(2).float(), dim=1)
        key = F.normalize(self.project(moving).flatten(2).float(), dim=1)
        logits = torch.bmm((query * self.log_temperature.exp()).transpose(1, 2), key)  # (B, N, N)
        if usable(logits):
            return native.match(logits, tuple(shape))  # type: ignore[arg-type]
        probability = logits.float().softmax(-1)
        positions = identity_positions(tuple(shape), fixed.device)
        with torch.autocast(fixed.device.type, enabled=False):
            expected = probability @ positions.flatten(2)[0].T  # (B, N, 3)
            confidence = probability.detach().amax(-1)
        displacement = expected.transpose(1, 2).reshape(batch, 3, *shape) - positions
        return displacement, confidence.view(batch, 1, *shape)


class MatchDecoder(nn.Module):
    """Matches, their confidence and the fixed features → a smooth velocity at 1/8."""

    def __init__(self, width: int, deep_width: int) -> None:
        super().__init__()
        self.enter = _Block(width + 4, width)
        self.down = nn.Sequential(
            _Block(width, deep_width, 2), _Block(deep_width, deep_width), _conv(deep_width, width, kernel=1)
        )
        self.merge = nn.Sequential(_Block(2 * width, width), _Block(width, width))
        self.head = _conv(width, 3)
        nn.init.normal_(self.head.weight, std=1e-3)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]

    def forward(self, fixed: Tensor, displacement: Tensor, confidence: Tensor) -> Tensor:
        matches = torch.cat([displacement / 4, confidence], 1).to(fixed.dtype)
        x = self.enter(torch.cat([fixed, matches], 1))
        deep = enlarged(self.down(x), tuple(x.shape[2:]))
        return _in_full_precision(self.head, self.merge(torch.cat([x, deep.to(x.dtype)], 1)))


class PyramidNetwork(TransformationNetwork):
    """T(fixed, moving) → displacement.

    Args:
        widths: Channels of the encoder at 1/4, 1/8 and 1/16 of the full resolution.
        stage_width, stage_depth: Channels inside the local stage, at 1/4 and at 1/8.
        iterations: How often the local stage is applied (shared weights).
        passes: How often the whole network is applied to its own output at inference.
    """

    input_reduction, multiple, first_field = 2, 2 * _MULTIPLE, 1

    def __init__(
        self,
        widths: tuple[int, int, int] = (32, 64, 128),
        stage_width: int = 32,
        stage_depth: int = 64,
        iterations: int = 5,
        passes: int = 1,
    ) -> None:
        super().__init__()
        self.encoder = Encoder(tuple(widths))  # type: ignore[arg-type]
        self.matching = GlobalMatching(widths[1])
        self.decoder = MatchDecoder(widths[1], widths[2])
        self.stage = EdgeStage(widths[0], stage_width, stage_depth)
        self.iterations, self.passes = iterations, passes

    def forward(self, fixed: Tensor, moving: Tensor) -> Tensor:
        """Fixed and moving (B, 1, D, H, W) in [0, 1] → field (B, 3, D/2, H/2, W/2) in half-resolution voxels."""
        if any(n % 2 for n in fixed.shape[2:]):
            raise ValueError(
                f"a grid needs even sides for its half to cover the same extent, not {tuple(fixed.shape[2:])}"
            )
        fixed, moving = (reduced(image, self.input_reduction) for image in (fixed, moving))
        field = self._at_half(fixed, moving)
        for _ in range(self.passes - 1):
            field = compose(field, self._at_half(fixed, warp(moving, field)))
        return field

    def _at_half(self, fixed: Tensor, moving: Tensor) -> Tensor:
        """The last stage's field on the grid of the (half-resolution) images."""
        d, h, w = fixed.shape[2:]
        padded = tuple(n + -n % _MULTIPLE for n in (d, h, w))
        return resize(self.stages(*(_padded(i) for i in (fixed, moving)))[-1], padded)[:, :, :d, :h, :w]

    def stages(self, fixed: Tensor, moving: Tensor) -> list[Tensor]:
        """Half-resolution images → the raw match and the decoded field at 1/8, then each iteration's field at 1/4.

        The images' sides must be multiples of 8 for the fields to cover the same extent; others are padded at the end,
        and the fields cover the padded extent.
        """
        fixed, moving = (correct_bias_field(_padded(image), 2) for image in (fixed, moving))
        both = torch.cat([fixed, moving]).contiguous(memory_format=torch.channels_last_3d)
        quarter, eighth = (features.chunk(2) for features in self.encoder(both))
        match, confidence = self.matching(*eighth)
        field = integrate(self.decoder(eighth[0], match, confidence), 5)
        fields = [match, field]
        field = resize(field, tuple(quarter[0].shape[2:]))
        sides = FixedSide(fixed, quarter[0]), MovingSide(moving, quarter[1])
        for _ in range(self.iterations):
            # each step answers for itself, whatever led to it, as one of an optimisation does
            field = self.stage(*sides, field.detach())
            fields.append(field)
        return fields


def _padded(image: Tensor) -> Tensor:
    return F.pad(image, [p for n in reversed(image.shape[2:]) for p in (0, -n % _MULTIPLE)])
