"""What refinement minimises at one level, with its derivatives; `deformgan.refine` has the same in PyTorch."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from deformgan.spatial.native.control import ControlField, adam, add_bending, add_folding
from deformgan.spatial.native.similarity import FieldSimilarity


@dataclass(frozen=True)
class Penalty:
    """Mean squared shortfall of the Jacobian determinant below ``least``, times ``weight``."""

    least: float
    weight: float


class ControlObjective:
    """Similarity, folds and bending of control points with an affine map."""

    def __init__(self, field: ControlField, similarity: FieldSimilarity, folding: Penalty) -> None:
        self._field, self._similarity, self._folding = field, similarity, folding

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

    step = staticmethod(adam)
