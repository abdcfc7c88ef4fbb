"""Refinement with control points: a stiff field for two images of one person.

The field is an affine map plus displacements at control points, smoothed like a spline. Level by level the squared
normalised-gradient product of the two images, bias fields corrected (see `deformgan.losses.gradient` and
`deformgan.preprocess.bias_field`), is maximised by Adam; the bending energy of the control points keeps the rest smooth
and costs an affine map nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from deformgan.align.options import DEFAULT_STEPS
from deformgan.losses.gradient import GradientSimilarity
from deformgan.preprocess.lesions import NO_LESIONS, Lesions
from deformgan.refine.folds import count_folds, without_folds
from deformgan.refine.objective import make_objective
from deformgan.refine.parameters import Parameters
from deformgan.refine.progress import shifted
from deformgan.refine.settings import DEFAULT_SETTINGS, RefineSettings
from deformgan.refine.weights import Compared, Weight
from deformgan.spatial.field import resize
from deformgan.spatial.warp import warp

_FULL_RATE_STEPS = 40
# a moving lesion's place is looked up anew after so many steps; with a gradient of its own it would be shrunk by it
_REWEIGHED = 2
_FOLDS = 1e-4  # of the voxels inside the mask, that may fold


def refine(
    fixed: Tensor,
    moving: Tensor,
    field: Tensor,
    steps: int = DEFAULT_STEPS,
    *,
    mask: Tensor | None = None,
    lesions: Lesions = NO_LESIONS,
    compared: Compared | None = None,
    settings: RefineSettings = DEFAULT_SETTINGS,
    enough: Callable[[Tensor], bool] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Improve a field for one pair.

    Args:
        fixed, moving: (1, 1, D, H, W) in [0, 1] on working grids.
        field: (1, 3, d, h, w), the start, in voxels of its own grid over the same extent.
        steps: Steps in all, shared among the levels; 0 returns ``field``.
        mask: (1, 1, D, H, W), where the similarity counts; default: where ``fixed`` is above 0.
        lesions: Where no similarity is taken, in either image, nor within reach of a difference across their borders.
        compared: Images and mask as they are compared, where they are at hand; else made of ``fixed`` and so on.
        settings: See there.
        enough: Asked before the last level with what would be returned; where it says so that level is left out.
        progress: Called after each step with the steps done and their number.

    Returns:
        (1, 3, D/2, H/2, W/2) in voxels of the half-resolution grid, and never worse than the start: folds are repaired
        where they are, and where the similarity is lower in the end the start comes back, resized.
    """
    if steps <= 0:
        return field
    mask = (fixed > 0).to(fixed) if mask is None else mask.to(fixed)
    with torch.inference_mode(False), torch.enable_grad():
        compared = Compared(fixed, moving, mask) if compared is None else compared
        parameters = Parameters.fit(field.detach().clone().float(), compared.mask(1, settings.margin), settings)
        done = 0
        for number, (factor, share) in enumerate(settings.levels):
            last = number == len(settings.levels) - 1
            if (
                last
                and enough is not None
                and enough(found := _checked(parameters, compared, field, lesions, settings))
            ):
                return found
            todo = steps - done if last else round(share * steps)
            relaxation = settings.relaxation if number == 0 else 1.0
            f, m = compared.images(factor)
            weight = Weight.of(compared.mask(factor, settings.margin), lesions)
            _optimise(parameters, f, m, weight, todo, settings, relaxation, shifted(progress, done, steps))
            done += todo
    return _checked(parameters, compared, field, lesions, settings)


@torch.no_grad()
def _checked(
    parameters: Parameters, compared: Compared, field: Tensor, lesions: Lesions, settings: RefineSettings
) -> Tensor:
    """What was found, at half resolution, or the start where that is `better`."""
    (f, m), inside = compared.images(2), compared.mask(2, settings.margin)
    half = tuple(inside.shape[2:])
    refined, start = parameters.field(half), resize(field.float(), half)
    weight = Weight.of(inside, lesions)
    # both are compared where both may be
    counted = torch.minimum(weight.at(refined), weight.at(start))
    return better(f, m, inside, refined, start, settings, counted)


def _optimise(
    parameters: Parameters,
    fixed: Tensor,
    moving: Tensor,
    weight: Weight,
    steps: int,
    settings: RefineSettings,
    relaxation: float,
    progress: Callable[[int], None],
) -> None:
    """Adam at one level, its rates falling linearly to a tenth; few steps are small, they could not be taken back."""
    shape = tuple(fixed.shape[2:])
    objective = make_objective(parameters, fixed, moving, weight.at(parameters.field(shape).detach()), settings)
    for step in range(steps):
        bending = settings.bending * relaxation ** (1 - step / steps)
        if step and weight.moving is not None and step % _REWEIGHED == 0:
            objective.weigh(weight.at(parameters.field(shape).detach()))
        decay = min(1.0, steps / _FULL_RATE_STEPS) * (1 - 0.9 * step / steps)
        objective.descend(bending, (settings.rate * decay, settings.affine_rate * decay), step + 1)
        progress(step + 1)


def better(
    fixed: Tensor,
    moving: Tensor,
    mask: Tensor,
    refined: Tensor,
    start: Tensor,
    settings: RefineSettings = DEFAULT_SETTINGS,
    counted: Tensor | None = None,
) -> Tensor:
    """The refined field, its folds repaired, unless it is less similar than the start or still folds more.

    Args:
        fixed, moving: (1, 1, D, H, W), as they were compared.
        mask: The same, where folds count.
        refined, start: (1, 3, D, H, W) in voxels.
        settings: For the similarity.
        counted: The same as ``mask``, where the similarity counts; default: ``mask``.
    """
    if not bool(refined.isfinite().all()):  # sampled as background, and no fold
        return start
    allowed = max(count_folds(start, mask), _FOLDS * float(mask.sum()))
    if count_folds(refined, mask) > 0:
        refined = without_folds(refined)
    similarity = GradientSimilarity(fixed, settings.epsilon, squared=True, mask=mask if counted is None else counted)
    gained = float(similarity(warp(moving, refined))) >= float(similarity(warp(moving, start)))
    return refined if gained and count_folds(refined, mask) <= allowed else start
