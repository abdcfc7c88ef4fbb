"""How well the edges of two images match where a field puts them, and how much better they would a little farther on.

Block by block the squared normalised-gradient product (see `deformgan.losses.gradient`) of fixed and moved image is
compared with what it would be with the moved image shifted by one, two and four voxels in 26 directions each. Edges
that match pin the field: any shift is worse. Where shifts are better the field is off; where they make no difference,
the images cannot say.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from deformgan.losses.boxes import box_sum
from deformgan.losses.gradient import image_gradient
from deformgan.spatial.native.block_matching import block_matching
from deformgan.spatial.native.use import usable

STRIDES = (1, 2, 4)
WINDOW = 9  # voxels of the half-resolution grid: 27 mm
EPSILON = 0.03
# how sharply a better match is preferred
SHARPNESS = 20.0
_FEWEST_EDGES = 1e-3  # share of a block's voxels that must be edge for its match to mean anything


@dataclass(frozen=True, eq=False)
class Matching:
    """Of each voxel's block; all (D, H, W).

    Attributes:
        agreement: Squared cosine between the edges of fixed and moved, weighted by the fixed ones' strength, in [0, 1].
        gain: By how much the best shift betters it, ≥ 0.
        pinning: By how much a shift of one voxel worsens it on average; about 0 where nothing holds the field.
        shift_mm: Expected length of the shift, were shifts as likely as their matches are good.
    """

    agreement: Tensor
    gain: Tensor
    pinning: Tensor
    shift_mm: Tensor


@torch.no_grad()
def match(
    fixed: Tensor, moved: Tensor, mask: Tensor, spacing_mm: float, strides: tuple[int, ...] = STRIDES
) -> Matching:
    """Compare two images on one grid, edge by edge.

    Args:
        fixed, moved: (1, 1, D, H, W) in [0, 1].
        mask: (1, 1, D, H, W), 1 where the fixed image's edges count; its border should lie a voxel outside the content.
        spacing_mm: Voxel size.
        strides: Shifts that are tried, in voxels; none: only the agreement means anything.
    """
    ours, theirs = _directions(fixed) * mask, _directions(moved)
    blocks = box_sum(ours.square().sum(1), WINDOW)[0].clamp_min(_FEWEST_EDGES * WINDOW**3)
    around = [step for step in product((-1, 0, 1), repeat=3) if any(step)]
    steps = [(n * a, n * b, n * c) for n in sorted(strides) for a, b, c in around]
    lengths, close = [spacing_mm * math.hypot(*step) for step in steps], len(around) if 1 in strides else 0
    found = block_matching if usable(ours, theirs) else _block_matching
    here, best, near, length = found(
        ours, theirs, 1 / blocks, steps, lengths, close=close, radius=WINDOW // 2, sharpness=SHARPNESS
    )
    return Matching(here, best - here, here - near, length)


def _block_matching(
    ours: Tensor,
    theirs: Tensor,
    shares: Tensor,
    steps: list[tuple[int, int, int]],
    lengths: list[float],
    *,
    close: int,
    radius: int,
    sharpness: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See `deformgan.spatial.native.block_matching`."""
    d, h, w = shares.shape
    reach = max((abs(s) for step in steps for s in step), default=0)
    theirs = F.pad(theirs, [reach] * 6)[0]

    def agreement(step: tuple[int, int, int]) -> Tensor:
        a, b, c = (reach + s for s in step)
        dot = (ours[0] * theirs[:, a : a + d, b : b + h, c : c + w]).sum(0)
        return box_sum(dot.square()[None], 2 * radius + 1)[0] * shares

    here = agreement((0, 0, 0))
    best, near = here.clone(), torch.zeros_like(here)
    total, length = torch.ones_like(here), torch.zeros_like(here)
    for k, (step, mm) in enumerate(zip(steps, lengths, strict=True)):
        there = agreement(step)
        torch.maximum(best, there, out=best)
        if k < close:
            near += there / close
        likely = (sharpness * (there - here)).exp_()
        total += likely
        length.add_(likely, alpha=mm)
    return here, best, near, length / total


def _directions(image: Tensor) -> Tensor:
    """Gradients, shortened where they are noise, (1, 3, D, H, W)."""
    gradient = image_gradient(image)
    return gradient * (gradient.square().sum(1, keepdim=True) + EPSILON**2).rsqrt()
