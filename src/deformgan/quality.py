"""Did it work? Evidence from the images and the field themselves, and a verdict.

No ground truth is needed: folding, the size of the displacement, and how much the two images say about each other
before (as their headers place them) and after. The verdict is a screen, not a proof of accuracy.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from deformgan.conform import Conformed
from deformgan.field import affine_field, jacobian_determinant
from deformgan.grid import Grid, Shape
from deformgan.similarity import normalised_mutual_information
from deformgan.transform import Transform
from deformgan.warp import warp

MAX_FOLDING_PERCENT = 1.0
MAX_INVERSE_RESIDUAL_MM = 3.0  # a voxel of the half-resolution field: finer than that it cannot say
LARGEST_BRAIN_LITRES = 2.5
RESIDUAL_POINTS = 20_000
# of 11 patients' pairs that were aligned before, none falls below it by a smooth error of 1 mm (root mean square), and
# 9 do by a shift of 2 mm
MIN_SIMILARITY_RATIO = 0.8
# of a coarse voxel, that makes it one of the foreground
FOREGROUND_SHARE = 0.4


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
    """Mean length of the complete displacement inside, the shift of the initial alignment included."""
    displacement_max_mm: float
    """Largest length inside."""
    similarity_before: float
    """Normalised mutual information in [0, 1] of fixed and moving as their headers place them."""
    similarity_after: float
    """The same of fixed and moved."""
    reasons: tuple[str, ...]
    """Why the check failed; empty when it passed."""
    initial_shift_mm: float = 0.0
    """How far the initial alignment moved the contents before any deformation, 0 where the headers were kept."""
    inverse_residual_mm: float | None = None
    """How far a position is off after the map and back, see `inverse_residual`; None where no inverse was made."""

    @property
    def passed(self) -> bool:
        """No reason to distrust the result was found."""
        return not self.reasons

    def with_inverse(self, residual_mm: float) -> Quality:
        """The same with what is known of the inverse; a large residual is a reason to fail."""
        doubts = self.reasons
        if not residual_mm <= MAX_INVERSE_RESIDUAL_MM:
            doubts += (f"the inverse is off by {residual_mm:.1f} mm (limit {MAX_INVERSE_RESIDUAL_MM:g} mm)",)
        return replace(self, inverse_residual_mm=residual_mm, reasons=doubts)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able form, with ``passed``; a number that is not finite becomes None."""
        values = {key: _plain(value) for key, value in asdict(self).items() if key != "reasons"}
        return {"passed": self.passed, "reasons": list(self.reasons), **values}


def _plain(value: float | None) -> float | None:
    return round(value, 5) if value is not None and abs(value) < float("inf") else None


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
    shift = torch.from_numpy(moving.grid.centre_mm - fixed.grid.centre_mm).float().view(1, 3, 1, 1, 1)
    header = torch.from_numpy(fixed.grid.index_to(moving.grid)).float()[None]
    # the moving grid's axes may be turned: from a voxel's place on the fixed grid to that of its source
    linear = torch.from_numpy(moving.grid.affine[:3, :3].copy()).float()
    rest = torch.einsum("ij,bjdhw->bidhw", linear, field - affine_field(header, (d, h, w)))
    length = rest.square().sum(1).sqrt()[inside]
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
        initial_shift_mm=float(shift.norm()),
    )


def _averaged(image: Conformed, shape: Shape) -> Conformed:
    """The image on a coarser grid over the same extent; the mask becomes the share of foreground."""
    tensor, mask = (F.adaptive_avg_pool3d(volume.float(), shape) for volume in (image.tensor, image.mask))
    return Conformed(tensor, image.grid.resized(shape), mask)


def _similarity(fixed: Conformed, moving: Conformed, field: Tensor) -> float:
    """Over the fixed foreground, which no field changes: a region that moved with the field would be a bias of its own.

    The limit lies off the shares 1/2, 1/4, ... that averaged masks take exactly, where rounding would decide.
    """
    return normalised_mutual_information(fixed.tensor, warp(moving.tensor, field), fixed.mask > FOREGROUND_SHARE)


def _doubts(folding: float, before: float, after: float) -> list[str]:
    doubts = []
    if folding > MAX_FOLDING_PERCENT:
        doubts.append(f"the map folds in {folding:.1f} % of the image (limit {MAX_FOLDING_PERCENT:g} %)")
    if after < MIN_SIMILARITY_RATIO * before:
        doubts.append(f"the images agree less than before (similarity {before:.3f} → {after:.3f})")
    return doubts


def inverse_residual(transform: Transform, inverse: Transform, content: np.ndarray, grid: Grid) -> float:
    """How far positions are off after the map and back: the 99.9th percentile of the distances in mm.

    Args:
        transform, inverse: Fixed to moving space, and what should lead back.
        content: (D, H, W), 0 where it does not matter.
        grid: Its grid, in fixed space. Positions lie between the voxels, where interpolation does its worst.
    """
    index = np.flatnonzero(content)
    index = index[:: max(1, len(index) // RESIDUAL_POINTS)]
    if index.size == 0:
        return 0.0
    points = grid.to_world(np.stack(np.unravel_index(index, content.shape), -1) + 0.5)
    back = inverse.map_points(transform.map_points(points))
    return float(np.quantile(np.linalg.norm(back - points, axis=1), 0.999))


def oddities(role: str, image: Conformed, spacing: float) -> list[str]:
    """What makes an image unlike the skull-stripped brains the networks know."""
    own = float(image.grid.spacing[0])
    litres = float(image.mask.sum()) * own**3 / 1e6
    found = []
    if litres > LARGEST_BRAIN_LITRES:
        found.append(f"its foreground measures {litres:.1f} l")
    if not image.flat:
        found.append("its background is not flat")
    if own > 1.25 * spacing:
        found.append(f"it fits the working grid at {own:.2f} mm only, not {spacing:g} mm")
    if not found:
        return []
    return [f"the {role} image may not be a skull-stripped brain: {', '.join(found)}; results may be less accurate"]
