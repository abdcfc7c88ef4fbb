"""A local stage of T that sees, besides learned features, how well edges agree for every small shift.

Learned features of few patients fit these patients; that edges lie on edges holds for any contrast. So the stage is
shown, for each of the 27 shifts by one voxel, the squared product of the normalised gradients of both images (Haber &
Modersitzki 2006) at 1/4 and at 1/2 of the full resolution, and learns where to go from there. It is applied several
times with the same weights, like an unrolled optimisation whose steps and regulariser are learned.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deformgan.losses.gradient import image_gradient
from deformgan.networks.blocks import Convolution, Layers, channels_last, enlarged
from deformgan.networks.correlation import local_correlation, shifted_products
from deformgan.spatial.field import compose, integrate, resize
from deformgan.spatial.native import convolution as features
from deformgan.spatial.native import edges as native
from deformgan.spatial.native import sampling
from deformgan.spatial.native.use import usable
from deformgan.spatial.warp import warp

SHIFTS = 27
EPSILON = 0.03  # gradient (intensity in [0, 1] per voxel) below which an edge counts as noise
_SLOPE = 0.1  # of every leaky ReLU


def unit_gradients(image: Tensor, epsilon: float = EPSILON) -> Tensor:
    """``∇I / sqrt(‖∇I‖² + ε²)``, (B, 1, d, h, w) in [0, 1] → (B, 3, d, h, w), shorter than 1."""
    gradient = image_gradient(image.float())
    return gradient * (gradient.square().sum(1, keepdim=True) + epsilon**2).rsqrt()


def edge_agreement(fixed: Tensor, moved: Tensor, factor: int, out: Tensor | None = None) -> Tensor:
    """Squared products of unit gradients with those one voxel away, averaged over cubes of ``factor`` voxels.

    Args:
        fixed, moved: (B, 3, d, h, w), from `unit_gradients`.
        factor: Divides d, h and w.
        out: (B, 27, d, h, w), memory to work in: where much of it is used again and again, fresh pages cost more than
            what is written into them.

    Returns:
        (B, 27, d / factor, h / factor, w / factor) in [0, 1]; shift (i, j, k) - 1 is number ``9 i + 3 j + k``.
    """
    if out is None:
        out = fixed.new_empty(fixed.shape[0], SHIFTS, *fixed.shape[2:])
    out = shifted_products(fixed, F.pad(moved, [1] * 6), out).square_()
    return out if factor == 1 else F.avg_pool3d(out, factor)


def _conv(inputs: int, outputs: int, stride: int = 1, kernel: int = 3) -> Convolution:
    return Convolution(inputs, outputs, kernel, stride, kernel // 2)


class EdgeStage(nn.Module):
    """What is left after warping: features, their correlation and the agreement of edges → a velocity at 1/4.

    Args:
        features: Channels of the encoder's features at 1/4.
        width: Channels inside, at 1/4.
        deep_width: Channels inside, at 1/8.
        correlated: Channels the features are projected to for the 3³ correlation.
    """

    def __init__(self, features: int, width: int = 32, deep_width: int = 64, correlated: int = 12) -> None:
        super().__init__()
        self.project = _conv(features, correlated, kernel=1)
        self._channels = [features, features, SHIFTS, SHIFTS, SHIFTS, 1, 3]
        self.enter = _conv(sum(self._channels), width, kernel=1)
        self.body = Layers(_conv(width, width), nn.LeakyReLU(_SLOPE))
        self.down = Layers(
            _conv(width, deep_width, 2),
            nn.LeakyReLU(_SLOPE),
            _conv(deep_width, deep_width),
            nn.LeakyReLU(_SLOPE),
            _conv(deep_width, deep_width),
            nn.LeakyReLU(_SLOPE),
            _conv(deep_width, width, kernel=1),
        )
        self.merge = Layers(_conv(width, width), nn.LeakyReLU(_SLOPE))
        self.head = _conv(width, 3)
        nn.init.normal_(self.head.weight, std=1e-3)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]

    def forward(self, fixed: FixedSide, moving: MovingSide, field: Tensor) -> Tensor:
        """Both images prepared, and the field so far at 1/4 → the field after this stage."""
        in_one_go = usable(fixed.features, moving.features, fixed.edges, field) and not torch.is_grad_enabled()
        velocity = (self._velocity_in_one_go if in_one_go else self._velocity)(fixed, moving, field)
        return compose(field, integrate(velocity, 3))

    def _velocity(self, fixed: FixedSide, moving: MovingSide, field: Tensor) -> Tensor:
        evidence = self._evidence(fixed, moving, field)
        # as a matrix product, which takes the evidence as it lies; a convolution would turn all of it channels last
        weight = self.enter.weight.flatten(1).to(evidence.dtype)
        x = (weight @ evidence.flatten(2)).unflatten(2, evidence.shape[2:]).to(self.enter.weight.dtype)
        x = F.leaky_relu(channels_last(x + self.enter.bias.view(-1, 1, 1, 1)), _SLOPE)  # type: ignore[union-attr]
        x = x + self.body(x)
        x = x + self.merge(x + enlarged(self.down(x), tuple(x.shape[2:])).to(x.dtype))
        with torch.autocast(x.device.type, enabled=False):  # bf16 would round a velocity of some voxels to 1/64 of it
            return self.head(x.float())

    def _velocity_in_one_go(self, fixed: FixedSide, moving: MovingSide, field: Tensor) -> Tensor:
        """`_velocity` by the compiled kernels."""
        evidence = self._evidence_in_place(fixed, moving, field)
        x = features.mix(evidence, self.enter.weight, self.enter.bias, _SLOPE)  # type: ignore[arg-type]
        x = self.body[0].activated(x, _SLOPE, added=x)  # type: ignore[operator]
        joined = features.add_enlarged(x, self.down(x))
        x = self.merge[0].activated(joined, _SLOPE, added=x)  # type: ignore[operator]
        return self.head.activated(x, planar=True)

    def _evidence(self, fixed: FixedSide, moving: MovingSide, field: Tensor) -> Tensor:
        dtype = fixed.features.dtype
        with torch.no_grad(), torch.autocast(field.device.type, enabled=False):
            moved_half = warp(moving.image, resize(field, tuple(moving.image.shape[2:])), padding="border")
            fine = edge_agreement(fixed.edges, unit_gradients(moved_half), 2, fixed.scratch)
            coarse = edge_agreement(fixed.coarse_edges, unit_gradients(F.avg_pool3d(moved_half, 2)), 1)
        moved = warp(moving.features, field, padding="border").to(dtype)
        correlation = local_correlation(self.project(fixed.features), self.project(moved))
        seen = [fixed.features, moved, correlation, fine, coarse, fixed.strength, field / 8]
        return torch.cat([one.to(dtype) for one in seen], 1)

    def _evidence_in_place(self, fixed: FixedSide, moving: MovingSide, field: Tensor) -> Tensor:
        """`_evidence` by the compiled kernels, each of which writes where the others' evidence lies."""
        seen = fixed.evidence(self._channels)
        parts = seen.split(self._channels, 1)
        half = tuple(moving.image.shape[2:])
        moved_half = sampling.warp(moving.image, field, "border", half)
        gradients = (native.unit_gradients(image, EPSILON, 1) for image in (moved_half, F.avg_pool3d(moved_half, 2)))
        sampling.warp(moving.features, field, "border", out=parts[1])
        native.local_correlation(fixed.projected(self.project), self.project(parts[1]), out=parts[2])
        both = (fixed.edges, fixed.coarse_edges)
        for edges, padded, factor, out in zip(both, gradients, (2, 1), parts[3:5], strict=True):
            native.shifted_products(edges, padded, factor=factor, squared=True, out=out)
        torch.div(field, 8, out=parts[6])
        return seen


class FixedSide:
    """What the stage needs of the fixed image, prepared once.

    Args:
        image: (B, 1, d, h, w) at half resolution in [0, 1].
        features: Of the encoder, at 1/4.
    """

    def __init__(self, image: Tensor, features: Tensor) -> None:
        self.features = features
        with torch.no_grad(), torch.autocast(image.device.type, enabled=False):
            self.edges = unit_gradients(image)
            self.coarse_edges = unit_gradients(F.avg_pool3d(image.float(), 2))
            self.scratch = image.new_empty(image.shape[0], SHIFTS, *image.shape[2:], dtype=torch.float32)
            self.strength = F.avg_pool3d(self.edges.square().sum(1, keepdim=True), 2)
        self._evidence: Tensor | None = None
        self._projected: Tensor | None = None

    def projected(self, project: nn.Module) -> Tensor:
        """The features as the stage projects them, computed once: every iteration takes the same."""
        projected = self._projected
        if projected is None:
            projected = self._projected = project(self.features)
        return projected

    def evidence(self, channels: list[int]) -> Tensor:
        """(B, sum of ``channels``, …) at 1/4, the fixed image's own channels filled in; the same memory every time."""
        if self._evidence is None:
            self._evidence = self.features.new_empty(len(self.features), sum(channels), *self.features.shape[2:])
            parts = self._evidence.split(channels, 1)
            parts[0].copy_(self.features)
            parts[5].copy_(self.strength)
        return self._evidence


class MovingSide:
    """What the stage needs of the moving image: (B, 1, d, h, w) at half resolution, and its features at 1/4."""

    def __init__(self, image: Tensor, features: Tensor) -> None:
        self.image, self.features = image.float(), features
