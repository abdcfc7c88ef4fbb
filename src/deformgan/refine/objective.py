"""What a refinement with control points minimises at one level, and the step it takes."""

from __future__ import annotations

import torch
from torch import Tensor

from deformgan.losses import bending_energy
from deformgan.losses.gradient import GradientSimilarity
from deformgan.refine.parameters import Parameters
from deformgan.refine.settings import RefineSettings
from deformgan.spatial.adam import adam
from deformgan.spatial.control_points import REACH
from deformgan.spatial.native.control import ControlField
from deformgan.spatial.native.objective import ControlObjective, Penalty
from deformgan.spatial.native.similarity import FieldSimilarity
from deformgan.spatial.native.use import usable
from deformgan.spatial.warp import warp

_UNIT = torch.eye(3).view(3, 1, 3, 1, 1, 1)


def make_objective(
    parameters: Parameters, fixed: Tensor, moving: Tensor, weight: Tensor, settings: RefineSettings
) -> Objective | ControlObjective:
    """In compiled code where that is possible, else with PyTorch."""
    if not usable(fixed, moving):
        return Objective(parameters, fixed, moving, weight, settings)
    control = parameters.control
    field = ControlField(control, parameters.affine, parameters.shape, parameters.smoothing, REACH)
    similarity = FieldSimilarity(fixed, moving, weight, settings.epsilon, tuple(control.shape[2:]))
    return ControlObjective(field, similarity, Penalty(settings.least_jacobian, settings.folding))


class Objective:
    """What is minimised at one level, with its derivatives from PyTorch's tape."""

    def __init__(
        self, parameters: Parameters, fixed: Tensor, moving: Tensor, weight: Tensor, settings: RefineSettings
    ) -> None:
        self._parameters, self._fixed, self._moving, self._settings = parameters, fixed, moving, settings
        self.weigh(weight)

    def weigh(self, weight: Tensor) -> None:
        """Give the voxels other weights, (1, 1, D, H, W)."""
        self._similarity = GradientSimilarity(self._fixed, self._settings.epsilon, squared=True, mask=weight)

    def gradients(self, bending: float) -> tuple[Tensor, ...]:
        """With respect to the control points and to the affine map."""
        parameters, settings = self._parameters, self._settings
        coarse = parameters.coarse()
        penalty = bending * bending_energy(parameters.control)
        penalty = penalty + settings.folding * folding(coarse, settings.least_jacobian)
        field = parameters.field(tuple(self._fixed.shape[2:]), coarse)
        loss = penalty - self._similarity(warp(self._moving, field))
        return torch.autograd.grad(loss, [parameters.control, parameters.affine])

    step = staticmethod(adam)


def folding(field: Tensor, least_jacobian: float) -> Tensor:
    """Mean squared shortfall of the Jacobian determinant, by forward differences: they see what lies between voxels."""
    inner = field[:, :, :-1, :-1, :-1]
    a, b, c = (
        field[:, :, 1:, :-1, :-1] - inner + _UNIT[0].to(field),
        field[:, :, :-1, 1:, :-1] - inner + _UNIT[1].to(field),
        field[:, :, :-1, :-1, 1:] - inner + _UNIT[2].to(field),
    )
    determinant = (a * torch.linalg.cross(b, c, dim=1)).sum(1)
    return (least_jacobian - determinant).relu().square().mean()
