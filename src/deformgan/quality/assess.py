"""Did it work? Evidence from the images and the field themselves, and a verdict.

No ground truth is needed. Some findings fail a result by themselves (not finite, folded, less similar than before);
otherwise a logistic model of a few features says how probable a failure is; it was fitted on registrations of known
error, good ones and deliberately degraded ones. The verdict is a screen, not a proof of accuracy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from deformgan.io.image import Image
from deformgan.losses.joint_histogram import normalised_mutual_information
from deformgan.preprocess.conform import Conformed
from deformgan.preprocess.lesions import Lesions
from deformgan.quality import measures
from deformgan.quality.calibration import Calibration, shipped
from deformgan.quality.matching import Matching, match
from deformgan.quality.result import Quality
from deformgan.quality.verdict import judged
from deformgan.refine.spread import Perturbed
from deformgan.spatial.blockwise import resampled
from deformgan.spatial.field import affine_field, jacobian_determinant, resize
from deformgan.spatial.grid import Grid, Shape
from deformgan.spatial.warp import box_maximum, warp

# of a coarse voxel, that makes it one of the foreground
FOREGROUND_SHARE = 0.4
# what the calibration has seen: adult brains on half-resolution grids
CALIBRATED_SPACING_MM = (2.0, 5.0)
CALIBRATED_LITRES = (0.6, 3.0)


@dataclass(frozen=True, eq=False)
class Evidence:
    """One registration on its field's grid.

    Attributes:
        fixed, moving: Averaged to that grid.
        field: (1, 3, D, H, W) in its voxels.
        moved: (1, 1, D, H, W).
        inside: (D, H, W) bool, the fixed foreground.
        moved_inside: (D, H, W) bool, the moved one.
        matching: How well edges match.
        inconsistency_mm: (D, H, W), of the field and T's prediction the other way round, if that is known.
        compared: (D, H, W) bool, where neither image has a lesion: where it has no counterpart they are not compared.
        spread_mm: (D, H, W), of refinements under small perturbations around the field, if they were made.
        covered: (D, H, W) bool, where both images have data.
    """

    fixed: Conformed
    moving: Conformed
    field: Tensor
    moved: Tensor
    inside: Tensor
    moved_inside: Tensor
    matching: Matching
    inconsistency_mm: Tensor | None
    spread_mm: Tensor | None
    compared: Tensor
    covered: Tensor

    @property
    def is_calibrated(self) -> bool:
        """Whether the calibration has seen anything like this."""
        spacing = self.fixed.grid.spacing
        litres = float(self.inside.sum()) * float(spacing.prod()) / 1e6
        low, high = CALIBRATED_SPACING_MM
        return low <= spacing.min() and spacing.max() <= high and CALIBRATED_LITRES[0] <= litres <= CALIBRATED_LITRES[1]


@torch.no_grad()
def examine(
    fixed: Conformed,
    moving: Conformed,
    field: Tensor,
    backward: Tensor | None = None,
    lesions: Lesions | None = None,
    perturbed: Perturbed | None = None,
) -> Evidence | None:
    """Gather the evidence on the field's own grid, to which the images are averaged: that is where it has detail.

    Args:
        fixed, moving: The conformed pair, (1, 1, D, H, W) in [0, 1].
        field: (1, 3, d, h, w), from fixed to moving, in voxels of its own grid over the same extent.
        backward: T's prediction from moving to fixed, on any grid.
        lesions: Where the images have no counterpart in each other and are not compared.
        perturbed: What refinement gave under small perturbations, on any grid.

    Returns:
        None where the field is not finite everywhere.
    """
    if not bool(torch.isfinite(field).all()):
        return None
    d, h, w = field.shape[2:]
    fixed_seen, moving_seen = fixed.seen, moving.seen
    fixed, moving = (_averaged(image, (d, h, w)) for image in (fixed, moving))
    moved = warp(moving.tensor, field)
    spacing = _vector(fixed.grid.spacing)
    inside = measures.foreground(fixed.mask)
    compared = torch.ones_like(inside) if lesions is None else box_maximum(lesions.along(field), 1)[0, 0] == 0
    if not bool((compared & inside).any()):
        compared = torch.ones_like(inside)
    around = box_maximum(inside.float()[None, None], 1) * compared
    return Evidence(
        fixed=fixed,
        moving=moving,
        field=field,
        moved=moved,
        inside=inside,
        compared=compared,
        covered=measures.covered(fixed_seen, moving_seen, field),
        moved_inside=measures.foreground(warp(moving.mask, field)),
        matching=match(fixed.tensor, moved, around, float(fixed.grid.spacing.mean())),
        inconsistency_mm=None
        if backward is None
        else measures.inconsistency(field, resize(backward, (d, h, w)), spacing),
        spread_mm=None if perturbed is None else perturbed.around(field) * float(fixed.grid.spacing.mean()),
    )


def assess(
    fixed: Conformed,
    moving: Conformed,
    field: Tensor,
    backward: Tensor | None = None,
    lesions: Lesions | None = None,
) -> Quality:
    """Judge a field: `examine`, then `judge`."""
    return judge(examine(fixed, moving, field, backward, lesions))


@torch.no_grad()
def judge(
    evidence: Evidence | None,
    calibration: Calibration | None = None,
    subject: str = "same",
    apart_mm: Callable[[], float | None] | None = None,
) -> Quality:
    """The verdict on what `examine` found.

    Args:
        calibration: Default: the shipped one.
        subject: How the pair was refined, as one person's (``same``) or two people's (``other``).
        apart_mm: As `deformgan.quality.verdict.judged` takes it.
    """
    if evidence is None:
        nan = np.nan
        return Quality(nan, nan, nan, nan, nan, nan, nan, ("the displacement is not finite everywhere",))
    failure = (shipped() if calibration is None else calibration).failure(subject)
    e, inside = evidence, evidence.inside
    determinant = jacobian_determinant(e.field)[0][inside]
    header = affine_field(torch.from_numpy(e.fixed.grid.index_to(e.moving.grid)).float()[None], e.fixed.grid.shape)
    # the moving grid's axes may be flipped or exchanged
    axes = torch.from_numpy(e.moving.grid.affine[:3, :3].copy()).float()
    length = torch.einsum("ij,bjdhw->bidhw", axes, e.field - header).square().sum(1).sqrt()[0][inside]
    aligned = warp(e.moving.tensor, header)
    before, after = (_similarity(e, image) for image in (aligned, e.moved))
    folded = determinant <= 0
    found = features(e)
    probability = failure.probability(found) if e.is_calibrated else None
    covered = 100.0 * measures.coverage(e.field, inside, e.covered)
    quality = Quality(
        folding_percent=100.0 * float(folded.float().mean()),
        jacobian_min=float(determinant.min()),
        jacobian_max=float(determinant.max()),
        displacement_mean_mm=float(length.mean()),
        displacement_max_mm=float(length.max()),
        similarity_before=before,
        similarity_after=after,
        reasons=(),
        initial_shift_mm=float(np.linalg.norm(e.moving.grid.centre_mm - e.fixed.grid.centre_mm)),
        failure_probability=probability,
        folded_voxels=int(folded.sum()),
        displacement_p95_mm=float(length.quantile(0.95)),
        roughness_voxels=measures.roughness(e.field, inside),
        edge_agreement_before=_edge_agreement(e, aligned),
        edge_agreement_after=_mean(e.matching.agreement, inside & e.compared),
        inconsistency_mean_mm=None if e.inconsistency_mm is None else _mean(e.inconsistency_mm, inside),
        foreground_dice=found["dice"] or 0.0,
        coverage_percent=covered,
        surface_distance_mm=measures.surface_distance_mm(
            inside & e.covered, e.moved_inside & e.covered, tuple(e.fixed.grid.spacing.tolist())
        ),
    )
    return judged(quality, found, failure, is_calibrated=e.is_calibrated, apart_mm=apart_mm)


def features(evidence: Evidence) -> dict[str, float | None]:
    """What the logistic model is given: means inside the fixed foreground unless the name says otherwise."""
    e, m, inside = evidence, evidence.matching, evidence.inside
    seen = inside & e.compared
    after = _similarity(e, e.moved)
    jacobian = jacobian_determinant(e.field)[0][inside].clamp_min(0.05).log().std()
    return {
        "agreement": _mean(m.agreement, seen),
        "pinning": _mean(m.pinning, seen),
        "gain": _mean(m.gain, seen),
        "gain_p95": float(m.gain[seen].quantile(0.95)) if bool(seen.any()) else 0.0,
        "shift": _mean(m.shift_mm, seen),
        "log_similarity": _log(after),
        "log_roughness": _log(measures.roughness(e.field, inside)),
        "log_jacobian": _log(float(jacobian)),
        "dice": measures.dice(inside & e.covered, e.moved_inside & e.covered),
    }


def local_features(evidence: Evidence) -> dict[str, Tensor | None]:
    """What the model of the expected error is given, each (D, H, W)."""
    e = evidence
    return {
        "pinning": e.matching.pinning,
        "log_spread": None if e.spread_mm is None else e.spread_mm.clamp_min(1e-2).log(),
    }


@torch.no_grad()
def error_map(evidence: Evidence, onto: Grid) -> Image:
    """Expected length of the error in mm on any grid; 0 outside the fixed foreground, widened by a voxel."""
    expected = shipped().expected_error_mm(local_features(evidence))
    expected = expected * box_maximum(evidence.inside.float()[None, None], 1)[0, 0]
    return Image(resampled(expected, evidence.fixed.grid, onto), onto)


def _vector(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.asarray(values)).float().view(1, 3, 1, 1, 1)


def _mean(values: Tensor, inside: Tensor) -> float:
    return float(values[inside].mean())


def _log(value: float) -> float:
    return float(np.log(max(value, 1e-4)))


def _averaged(image: Conformed, shape: Shape) -> Conformed:
    """The image on a coarser grid over the same extent; the mask becomes the share of foreground."""
    tensor, mask = (F.adaptive_avg_pool3d(volume.float(), shape) for volume in (image.tensor, image.mask))
    return Conformed(tensor, image.grid.resized(shape), mask)


def _similarity(evidence: Evidence, moved: Tensor) -> float:
    """Over the fixed foreground, which no field changes, less lesions: a region that moved along would be a bias.

    The limit lies off the shares 1/2, 1/4, ... that averaged masks take exactly, where rounding would decide.
    """
    fixed = evidence.fixed
    return normalised_mutual_information(fixed.tensor, moved, (fixed.mask > FOREGROUND_SHARE) & evidence.compared)


def _edge_agreement(evidence: Evidence, image: Tensor) -> float:
    around = box_maximum(evidence.inside.float()[None, None], 1) * evidence.compared
    agreement = match(evidence.fixed.tensor, image, around, 1.0, strides=()).agreement
    return _mean(agreement, evidence.inside & evidence.compared)
