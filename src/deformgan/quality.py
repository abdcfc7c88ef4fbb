"""Did it work? Evidence from the images and the field themselves, and a verdict.

No ground truth is needed: folding, the size of the displacement, and how much the two images say about each other
before (as their headers place them) and after. The verdict is a screen, not a proof of accuracy.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from deformgan.conform import Conformed
from deformgan.field import affine_field, jacobian_determinant
from deformgan.grid import Shape
from deformgan.warp import warp

MAX_FOLDING_PERCENT = 1.0
# interpolation alone smooths the moved image and shifts the similarity a little
MIN_SIMILARITY_RATIO = 0.95
# few enough to fill, so that chance agreement stays small on the coarse grid
BINS = 32


@dataclass(frozen=True)
class Quality:
    """Evidence and verdict of one registration; "inside" means inside the fixed image's foreground."""

    folding_percent: float
    """Voxels inside where the map turns space inside out (Jacobian determinant ≤ 0), per cent."""
    jacobian_min: float
    """Smallest local volume change inside, 1 is none."""
    jacobian_max: float
    """Largest local volume change inside."""
    displacement_mean_mm: float
    """Mean length of the displacement inside, beyond the initial alignment by content."""
    displacement_max_mm: float
    """Largest length inside."""
    similarity_before: float
    """Normalised mutual information in [0, 1] of fixed and moving as their headers place them."""
    similarity_after: float
    """The same of fixed and moved."""
    reasons: tuple[str, ...]
    """Why the check failed; empty when it passed."""

    @property
    def passed(self) -> bool:
        """No reason to distrust the result was found."""
        return not self.reasons

    def as_dict(self) -> dict[str, Any]:
        """JSON-able form, with ``passed``; a number that is not finite becomes None."""
        values = {key: _plain(value) for key, value in asdict(self).items() if key != "reasons"}
        return {"passed": self.passed, "reasons": list(self.reasons), **values}


def _plain(value: float) -> float | None:
    return round(value, 5) if abs(value) < float("inf") else None


def normalised_mutual_information(a: Tensor, b: Tensor, mask: Tensor, bins: int = BINS) -> float:
    """``2 I(a; b) / (H(a) + H(b))`` of a joint histogram, in [0, 1]; 0 where either is constant.

    Args:
        a, b: Same shape, intensities in [0, 1].
        mask: Same shape, bool: the voxels that count.
    """
    index_a, index_b = ((image[mask].clamp(0, 1) * (bins - 1)).round().long() for image in (a, b))
    joint = torch.bincount(index_a * bins + index_b, minlength=bins * bins).view(bins, bins).double()
    joint /= joint.sum().clamp_min(1)
    entropy_a, entropy_b = _entropy(joint.sum(1)), _entropy(joint.sum(0))
    if min(entropy_a, entropy_b) < 1e-9:
        return 0.0
    return max(0.0, 2 * (entropy_a + entropy_b - _entropy(joint.flatten())) / (entropy_a + entropy_b))


def _entropy(probability: Tensor) -> float:
    return float(torch.special.entr(probability).sum())


def assess(fixed: Conformed, moving: Conformed, field: Tensor) -> Quality:
    """Judge a field on its own grid, to which the images are averaged: that is where it has detail, and it is quick.

    Args:
        fixed, moving: The conformed pair, (1, 1, D, H, W) in [0, 1].
        field: (1, 3, d, h, w), from fixed to moving, in voxels of its own grid over the same extent.
    """
    if not bool(torch.isfinite(field).all()):
        nan = float("nan")
        return Quality(nan, nan, nan, nan, nan, nan, nan, ("the displacement is not finite everywhere",))
    d, h, w = field.shape[2:]
    fixed, moving = (_averaged(image, (d, h, w)) for image in (fixed, moving))
    inside = fixed.mask[:, 0] > 0.5
    determinant = jacobian_determinant(field)[inside]
    spacing = torch.from_numpy(fixed.grid.spacing).float().view(1, 3, 1, 1, 1)
    length = (field * spacing).square().sum(1).sqrt()[inside]
    header = torch.from_numpy(fixed.grid.index_to(moving.grid)).float()[None]
    before = _similarity(fixed, moving, affine_field(header, (d, h, w)))
    after = _similarity(fixed, moving, field)
    folding = 100.0 * float((determinant <= 0).float().mean())
    return Quality(
        folding_percent=folding,
        jacobian_min=float(determinant.min()),
        jacobian_max=float(determinant.max()),
        displacement_mean_mm=float(length.mean()),
        displacement_max_mm=float(length.max()),
        similarity_before=before,
        similarity_after=after,
        reasons=tuple(_doubts(folding, before, after)),
    )


def _averaged(image: Conformed, shape: Shape) -> Conformed:
    """The image on a coarser grid over the same extent; the mask becomes the share of foreground."""
    tensor, mask = (F.adaptive_avg_pool3d(volume.float(), shape) for volume in (image.tensor, image.mask))
    return Conformed(tensor, image.grid.resized(shape), mask)


def _similarity(fixed: Conformed, moving: Conformed, field: Tensor) -> float:
    moved = warp(torch.cat([moving.tensor, moving.mask], 1), field)
    return normalised_mutual_information(fixed.tensor, moved[:, :1], (fixed.mask > 0.5) | (moved[:, 1:] > 0.5))


def _doubts(folding: float, before: float, after: float) -> list[str]:
    doubts = []
    if folding > MAX_FOLDING_PERCENT:
        doubts.append(f"the map folds in {folding:.1f} % of the image (limit {MAX_FOLDING_PERCENT:g} %)")
    if after < MIN_SIMILARITY_RATIO * before:
        doubts.append(f"the images agree less than before (similarity {before:.3f} → {after:.3f})")
    return doubts
