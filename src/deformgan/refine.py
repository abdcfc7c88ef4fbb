"""A short optimisation of a low-resolution field at test time, starting from T's; network weights are never touched.

The field is an affine map plus displacements at control points four voxels apart, smoothed like a spline. Level by
level the squared normalised-gradient product of the two images, bias fields corrected (see `deformgan.losses.gradient`
and `deformgan.preprocess.bias_field`), is maximised by Adam; the bending energy of the control points keeps the rest
smooth and costs an affine map nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from deformgan.losses import bending_energy
from deformgan.losses.gradient import GradientSimilarity
from deformgan.native.control import ControlField
from deformgan.native.objective import ControlObjective, Penalty
from deformgan.native.similarity import FieldSimilarity
from deformgan.native.use import usable
from deformgan.options import DEFAULT_STEPS
from deformgan.preprocess.bias_field import correct_bias_field
from deformgan.preprocess.lesions import Lesions, valid_mask
from deformgan.spatial.control_points import (
    REACH,
    centred_positions,
    from_full_voxels,
    linear,
    smoothed,
    to_full_voxels,
)
from deformgan.spatial.field import jacobian_determinant, resize
from deformgan.spatial.warp import box_maximum, warp

_LEAST_JACOBIAN = 0.25
_FULL_RATE_STEPS = 40
# a moving lesion's place is looked up anew after so many steps; with a gradient of its own it would be shrunk by it
_REWEIGHED = 2
_UNIT = torch.eye(3).view(3, 1, 3, 1, 1, 1)


@dataclass(frozen=True)
class RefineSettings:
    """How a field is refined; chosen on the validation cases, see ``docs/log.md``.

    Args:
        levels: For each level, coarse to fine: the factor by which the images are reduced, and its share of the steps.
        spacing: Voxels between control points.
        smoothing: How often the control points are smoothed with a 3³ box.
        margin: Voxels by which the mask is widened: the content's border is an edge, and both its sides must count, or
            the moved image is drawn inwards.
        epsilon: Gradient (intensity in [0, 1] per voxel of the level) below which an edge counts as noise.
        bending: Weight of the bending energy at the end.
        relaxation: How many times heavier it is at the start; it falls geometrically over the first level.
        folding: Weight of the mean squared amount by which the Jacobian determinant falls below `_LEAST_JACOBIAN`.
        rate: Adam's step in voxels, of the control points.
        affine_rate: The same of the affine map; 0 leaves it to the control points.
    """

    levels: tuple[tuple[int, float], ...] = ((4, 0.4), (2, 0.6))
    spacing: int = 4
    smoothing: int = 2
    margin: int = 3
    epsilon: float = 0.015
    bending: float = 0.02
    relaxation: float = 3.0
    folding: float = 5.0
    rate: float = 0.5
    affine_rate: float = 2.0


DEFAULT_SETTINGS = RefineSettings()


def refine(
    fixed: Tensor,
    moving: Tensor,
    field: Tensor,
    steps: int = DEFAULT_STEPS,
    *,
    mask: Tensor | None = None,
    lesions: Lesions | None = None,
    settings: RefineSettings = DEFAULT_SETTINGS,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Improve a field for one pair.

    Args:
        fixed, moving: (1, 1, D, H, W) in [0, 1] on working grids.
        field: (1, 3, d, h, w), the start, in voxels of its own grid over the same extent.
        steps: Steps in all, shared among the levels; 0 returns ``field``.
        mask: (1, 1, D, H, W), where the similarity counts; default: where ``fixed`` is above 0.
        lesions: Where no similarity is taken, in either image, nor within reach of a difference across their borders.
        settings: See there.
        progress: Called after each step with the steps done and their number.

    Returns:
        (1, 3, D/2, H/2, W/2) in voxels of the half-resolution grid, and never worse than the start: where the final
        similarity is lower, or the result folds more (and in over one of 10 000 voxels), the start comes back, resized.
    """
    if steps <= 0:
        return field
    mask = (fixed > 0).to(fixed) if mask is None else mask.to(fixed)
    lesions = Lesions() if lesions is None else lesions
    with torch.inference_mode(False), torch.enable_grad():
        corrected = [correct_bias_field(image.detach(), 4) for image in (fixed, moving)]
        images = [*corrected, box_maximum(mask, settings.margin).detach().clone()]
        parameters = _Parameters.fit(field.detach().clone().float(), images[2], settings)
        done = 0
        for number, (factor, share) in enumerate(settings.levels):
            last = number == len(settings.levels) - 1
            todo = steps - done if last else round(share * steps)
            relaxation = settings.relaxation if number == 0 else 1.0
            f, m, inside = (_reduced(image, factor) for image in images)
            weight = _Weight.of(inside, lesions)
            _optimise(parameters, f, m, weight, todo, settings, relaxation, _shifted(progress, done, steps))
            done += todo
    half = tuple(n // 2 for n in fixed.shape[2:])
    with torch.no_grad():
        refined = parameters.field(half)
        f, m, inside = (_reduced(image, 2) for image in images)
        weight, start = _Weight.of(inside, lesions), resize(field.float(), half)
        # both are compared where both may be
        counted = torch.minimum(weight.at(refined), weight.at(start))
        return _better(f, m, inside, refined, start, settings, counted)


def _reduced(image: Tensor, factor: int) -> Tensor:
    """Box means on a grid with about ``factor`` times fewer voxels along each axis, over the same extent."""
    return F.adaptive_avg_pool3d(image, [max(2, n // factor) for n in image.shape[2:]])  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False)
class _Weight:
    """How much each voxel of a level counts: ``fixed`` by its own place, ``moving`` by where it comes from, if any."""

    fixed: Tensor
    moving: Tensor | None

    @classmethod
    def of(cls, mask: Tensor, lesions: Lesions) -> _Weight:
        shape = tuple(mask.shape[2:])
        own = mask if lesions.fixed is None else mask * valid_mask(lesions.fixed, shape)
        return cls(own, None if lesions.moving is None else valid_mask(lesions.moving, shape))

    def at(self, field: Tensor) -> Tensor:
        return self.fixed if self.moving is None else self.fixed * warp(self.moving, field, padding="border")


class _Parameters:
    """An affine map (3, 4) over positions from the centre in `REACH`, and control points (1, 3, d, h, w); voxels."""

    def __init__(self, shape: tuple[int, ...], affine: Tensor, control: Tensor, smoothing: int) -> None:
        self.shape, self.smoothing = shape, smoothing
        self.affine, self.control = affine.requires_grad_(), control.requires_grad_()
        self._positions = centred_positions(shape, tuple(control.shape[2:]), control.device)

    @classmethod
    def fit(cls, field: Tensor, mask: Tensor, settings: RefineSettings) -> _Parameters:
        """The start: the affine map nearest to the field inside the mask, and what it leaves."""
        shape = tuple(mask.shape[2:])
        coarse = tuple(max(4, n // settings.spacing) for n in shape)
        target = to_full_voxels(resize(field, coarse), shape)
        x = centred_positions(shape, coarse, field.device)
        design = torch.cat([x, torch.ones_like(x[:, :1])], 1)[0].flatten(1).double()
        inside = F.adaptive_avg_pool3d(mask, coarse)  # type: ignore[arg-type]
        weighted = design * inside.flatten().double().add(1e-6)
        affine = torch.linalg.solve(weighted @ design.T, weighted @ target[0].flatten(1).double().T).T.float()
        return cls(shape, affine, target - linear(affine, x), settings.smoothing)

    def coarse(self) -> Tensor:
        """Displacement at the control points, in their voxels."""
        field = smoothed(self.control, self.smoothing) + linear(self.affine, self._positions)
        return from_full_voxels(field, self.shape)

    def field(self, shape: tuple[int, ...], coarse: Tensor | None = None) -> Tensor:
        """Displacement on a grid of ``shape``, in its voxels; ``coarse`` is `coarse` where it is at hand."""
        return resize(self.coarse() if coarse is None else coarse, shape)


def _optimise(
    parameters: _Parameters,
    fixed: Tensor,
    moving: Tensor,
    weight: _Weight,
    steps: int,
    settings: RefineSettings,
    relaxation: float,
    progress: Callable[[int], None],
) -> None:
    """Adam at one level, its rates falling linearly to a tenth; few steps are small, they could not be taken back."""
    shape = tuple(fixed.shape[2:])
    make = _native_objective if usable(fixed, moving) else _Objective
    objective = make(parameters, fixed, moving, weight.at(parameters.field(shape).detach()), settings)
    variables = [parameters.control, parameters.affine]
    moments = [(torch.zeros_like(v), torch.zeros_like(v)) for v in variables]
    for step in range(steps):
        bending = settings.bending * relaxation ** (1 - step / steps)
        if step and weight.moving is not None and step % _REWEIGHED == 0:
            objective.weigh(weight.at(parameters.field(shape).detach()))
        gradients = objective.gradients(bending)
        decay = min(1.0, steps / _FULL_RATE_STEPS) * (1 - 0.9 * step / steps)
        for variable, gradient, moment, rate in zip(
            variables, gradients, moments, (settings.rate, settings.affine_rate), strict=True
        ):
            objective.step(variable, gradient, moment, rate * decay, step + 1)
        progress(step + 1)


class _Objective:
    """What is minimised at one level, with its derivatives from PyTorch's tape."""

    def __init__(
        self, parameters: _Parameters, fixed: Tensor, moving: Tensor, weight: Tensor, settings: RefineSettings
    ):
        self._parameters, self._fixed, self._moving, self._settings = parameters, fixed, moving, settings
        self.weigh(weight)

    def weigh(self, weight: Tensor) -> None:
        self._similarity = GradientSimilarity(self._fixed, self._settings.epsilon, squared=True, mask=weight)

    def gradients(self, bending: float) -> tuple[Tensor, ...]:
        """With respect to the control points and to the affine map."""
        parameters = self._parameters
        coarse = parameters.coarse()
        penalty = bending * bending_energy(parameters.control) + self._settings.folding * _folding(coarse)
        field = parameters.field(tuple(self._fixed.shape[2:]), coarse)
        loss = penalty - self._similarity(warp(self._moving, field))
        return torch.autograd.grad(loss, [parameters.control, parameters.affine])

    @staticmethod
    def step(variable: Tensor, gradient: Tensor, moments: tuple[Tensor, Tensor], rate: float, number: int) -> None:
        _adam(variable, gradient, moments, rate, number)


def _native_objective(
    parameters: _Parameters, fixed: Tensor, moving: Tensor, weight: Tensor, settings: RefineSettings
) -> ControlObjective:
    """`_Objective` in compiled code."""
    control = parameters.control
    field = ControlField(control, parameters.affine, parameters.shape, parameters.smoothing, REACH)
    similarity = FieldSimilarity(fixed, moving, weight, settings.epsilon, tuple(control.shape[2:]))
    return ControlObjective(field, similarity, Penalty(_LEAST_JACOBIAN, settings.folding))


@torch.no_grad()
def _adam(variable: Tensor, gradient: Tensor, moment: tuple[Tensor, Tensor], rate: float, step: int) -> None:
    """One step of Adam (Kingma & Ba 2015). PyTorch's own imports its compiler first: a second that short runs feel."""
    first, second = moment
    first.lerp_(gradient, 0.1)
    second.lerp_(gradient.square(), 0.001)
    scale = (second / (1 - 0.999**step)).sqrt_().add_(1e-8)
    variable.addcdiv_(first, scale, value=-rate / (1 - 0.9**step))


def _folding(field: Tensor) -> Tensor:
    """Mean squared shortfall of the Jacobian determinant, by forward differences: they see what lies between voxels."""
    inner = field[:, :, :-1, :-1, :-1]
    a, b, c = (
        field[:, :, 1:, :-1, :-1] - inner + _UNIT[0].to(field),
        field[:, :, :-1, 1:, :-1] - inner + _UNIT[1].to(field),
        field[:, :, :-1, :-1, 1:] - inner + _UNIT[2].to(field),
    )
    determinant = (a * torch.linalg.cross(b, c, dim=1)).sum(1)
    return (_LEAST_JACOBIAN - determinant).relu().square().mean()


def _better(
    fixed: Tensor,
    moving: Tensor,
    mask: Tensor,
    refined: Tensor,
    start: Tensor,
    settings: RefineSettings,
    counted: Tensor | None = None,
) -> Tensor:
    """The refined field, unless it is less similar than the start or folds where that did not."""
    if not bool(refined.isfinite().all()):  # sampled as background, and no fold
        return start
    similarity = GradientSimilarity(fixed, settings.epsilon, squared=True, mask=mask if counted is None else counted)
    gained = float(similarity(warp(moving, refined))) >= float(similarity(warp(moving, start)))
    folded = [int(((jacobian_determinant(f) <= 0)[:, None] & (mask > 0.5)).sum()) for f in (refined, start)]
    return refined if gained and folded[0] <= max(folded[1], 1e-4 * float(mask.sum())) else start


def _shifted(progress: Callable[[int, int], None] | None, done: int, steps: int) -> Callable[[int], None]:
    return (lambda step: None) if progress is None else (lambda step: progress(done + step, steps))
