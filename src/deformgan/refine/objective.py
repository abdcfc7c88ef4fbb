"""What a refinement with control points minimises at one level, and the step it takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from deformgan.losses import bending_energy
from deformgan.losses.gradient import GradientSimilarity
from deformgan.refine.parameters import Parameters
from deformgan.refine.settings import RefineSettings
from deformgan.spatial.adam import adam
from deformgan.spatial.constants import of_axes
from deformgan.spatial.control_points import REACH
from deformgan.spatial.native.control import ControlField
from deformgan.spatial.native.objective import ControlObjective, Penalty
from deformgan.spatial.native.similarity import FieldSimilarity
from deformgan.spatial.native.use import usable
from deformgan.spatial.recorded import recorded
from deformgan.spatial.warp import warp

_UNITS = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))


def make_objective(
    parameters: Parameters, fixed: Tensor, moving: Tensor, weight: Tensor, settings: RefineSettings
) -> Objective | ControlObjective:
    """In compiled code where that is possible, else with PyTorch."""
    if not usable(fixed, moving):
        kind = CapturedObjective if fixed.device.type == "cuda" else Objective
        return kind(parameters, fixed, moving, weight, settings)
    control = parameters.control
    field = ControlField(control, parameters.affine, parameters.shape, parameters.smoothing, REACH)
    similarity = FieldSimilarity(fixed, moving, weight, settings.epsilon, tuple(control.shape[2:]))
    return ControlObjective(field, similarity, Penalty(settings.least_jacobian, settings.folding), parameters.moments())


class Objective:
    """What is minimised at one level, with its derivatives from PyTorch's tape."""

    def __init__(
        self, parameters: Parameters, fixed: Tensor, moving: Tensor, weight: Tensor, settings: RefineSettings
    ) -> None:
        self._parameters, self._fixed, self._moving, self._settings = parameters, fixed, moving, settings
        self._moments = parameters.moments()
        self.weigh(weight)

    def weigh(self, weight: Tensor) -> None:
        """Give the voxels other weights, (1, 1, D, H, W)."""
        self._similarity = GradientSimilarity(self._fixed, self._settings.epsilon, squared=True, mask=weight)

    def gradients(self, bending: float | Tensor) -> tuple[Tensor, ...]:
        """With respect to the control points and to the affine map."""
        parameters, settings = self._parameters, self._settings
        coarse = parameters.coarse()
        penalty = bending * bending_energy(parameters.control)
        penalty = penalty + settings.folding * folding(coarse, settings.least_jacobian)
        field = parameters.field(tuple(self._fixed.shape[2:]), coarse)
        loss = penalty - self._similarity(warp(self._moving, field))
        return torch.autograd.grad(loss, list(parameters.variables))

    def descend(self, bending: float | Tensor, rates: Sequence[float | Tensor], number: int | Tensor) -> None:
        """Step ``number``, from 1 on, of Adam, at a rate for the control points and one for the affine map."""
        gradients = self.gradients(bending)
        for variable, gradient, moments, rate in zip(
            self._parameters.variables, gradients, self._moments, rates, strict=True
        ):
            adam(variable, gradient, moments, rate, number)


class CapturedObjective(Objective):
    """The same on a GPU, whose step is recorded once and played back: starting the hundreds of small kernels one by one
    takes several times as long as they run.
    """

    _times_weighed = 0
    _recorded: Callable[..., tuple[Tensor, ...]] | None = None

    def weigh(self, weight: Tensor) -> None:
        """See `Objective.weigh`; weights that change again and again do not pay for recording."""
        self._times_weighed += 1
        super().weigh(weight)

    def descend(self, bending: float | Tensor, rates: Sequence[float | Tensor], number: int | Tensor) -> None:
        """See `Objective.descend`."""
        if self._times_weighed > 1:
            super().descend(bending, rates, number)
            return
        # filled there: a copy of numbers would wait until the steps before are done
        values = [torch.full((), float(one), device=self._fixed.device) for one in (bending, *rates, number)]
        if self._recorded is None:
            changed = [*self._parameters.variables, *(one for both in self._moments for one in both)]
            kept = [one.detach().clone() for one in changed]
            self._recorded = recorded(self._played, *values)
            with torch.no_grad():  # recording took a step
                for one, before in zip(changed, kept, strict=True):
                    one.copy_(before)
        self._recorded(*values)

    def _played(self, bending: Tensor, rate: Tensor, affine_rate: Tensor, number: Tensor) -> tuple[Tensor, ...]:
        super().descend(bending, (rate, affine_rate), number)
        return ()


def folding(field: Tensor, least_jacobian: float) -> Tensor:
    """Mean squared shortfall of the Jacobian determinant, by forward differences: they see what lies between voxels."""
    inner = field[:, :, :-1, :-1, :-1]
    further = (field[:, :, 1:, :-1, :-1], field[:, :, :-1, 1:, :-1], field[:, :, :-1, :-1, 1:])
    a, b, c = (one - inner + of_axes(unit, field.device) for one, unit in zip(further, _UNITS, strict=True))
    determinant = (a * torch.linalg.cross(b, c, dim=1)).sum(1)
    return (least_jacobian - determinant).relu().square().mean()
