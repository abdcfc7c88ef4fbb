"""What refinement minimises at one level, with its derivatives; `deformgan.refine` has the same in PyTorch."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from deformgan.spatial.native.control import ControlField, adam, add_bending, add_folding
from deformgan.spatial.native.similarity import FieldSimilarity

Moments = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Penalty:
    """Mean squared shortfall of the Jacobian determinant below ``least``, times ``weight``."""

    least: float
    weight: float


class ControlObjective:
    """Similarity, folds and bending of control points with an affine map."""

    def __init__(
        self, field: ControlField, similarity: FieldSimilarity, folding: Penalty, moments: tuple[Moments, ...]
    ) -> None:
        self._field, self._similarity, self._folding, self._moments = field, similarity, folding, moments

    def weigh(self, weight: Tensor) -> None:
        """Give the voxels other weights, (1, 1, D, H, W)."""
        self._similarity.weigh(weight)

    def gradients(self, bending: float) -> tuple[Tensor, Tensor]:
        """Derivatives of ``bending · energy + folds - similarity`` with respect to the points and to the affine map."""
        field = self._field()
        gradient = self._similarity(field)[1].neg_()
        add_folding(field, self._folding.least, self._folding.weight, gradient)
        to_points, to_affine = self._field.pull(gradient)
        add_bending(self._field.points, bending, to_points)
        return to_points, to_affine

    def descend(self, bending: float, rates: tuple[float, float], number: int) -> None:
        """Step ``number``, from 1 on, of Adam, at a rate for the control points and one for the affine map."""
        variables = self._field.points, self._field.affine
        for variable, gradient, moments, rate in zip(
            variables, self.gradients(bending), self._moments, rates, strict=True
        ):
            adam(variable, gradient, moments, rate, number)
