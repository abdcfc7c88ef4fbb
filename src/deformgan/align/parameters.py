"""The numbers that a linear map is searched by, and how its slope becomes one with respect to them.

All are in mm at the surface of a brain, so that a step of one size does about the same along each.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

RIGID, SIMILARITY, AFFINE = 6, 7, 13  # shift, rotation, one scale, a scale an axis (the first is free too), shears
RADIUS_MM = 70.0  # of a brain: a turn or stretch of 1/70 moves its surface by 1 mm
_SMALL = 1e-3  # rad: below, series take the place of quotients of zeros


class Maps:
    """Maps of parameters, and the way back for a slope; by NumPy, which is quicker than PyTorch for so few numbers.

    Args:
        rotations: (B, 3, 3) float32, where the search starts.
        theta: (B, 13) float32, the parameters.
    """

    def __init__(self, rotations: Tensor, theta: Tensor) -> None:
        self._rotations, values = rotations.double().numpy(), theta.double().numpy()
        self._turn, self._jacobian = _turn(values[:, 3:6] / RADIUS_MM)
        unit = values[:, 6:] / RADIUS_MM
        self._scales = np.exp(unit[:, :1] + unit[:, 1:4])
        shear = np.zeros((len(values), 3, 3)) + np.eye(3)
        shear[:, [0, 0, 1], [1, 2, 2]] = unit[:, 4:]
        self._stretch = shear * self._scales[:, None]
        self._shift = values[:, :3]

    @property
    def matrices(self) -> Tensor:
        """(B, 3, 4) float32: shears after scales, then the turn, then the start's rotation; and the shift."""
        linear = self._rotations @ self._turn @ self._stretch
        return torch.from_numpy(np.concatenate([linear, self._shift[:, :, None]], 2)).float()

    def to_parameters(self, slope: Tensor) -> Tensor:
        """The derivative with respect to the parameters, (B, 13) float32.

        With the linear part R E Q the derivative of the turn E is ``[J dw]× E``, where J is SO(3)'s left Jacobian
        (Solà, Deray and Atchuthan, "A micro Lie theory", 2018, eq. 145).

        Args:
            slope: (B, 3, 4) float32, with respect to the matrices.
        """
        given = slope.double().numpy()
        linear = self._rotations.transpose(0, 2, 1) @ given[:, :, :3]
        of_stretch = self._turn.transpose(0, 2, 1) @ linear
        of_turn = linear @ (self._turn @ self._stretch).transpose(0, 2, 1)
        around = of_turn[:, [2, 0, 1], [1, 2, 0]] - of_turn[:, [1, 2, 0], [2, 0, 1]]
        rotation = (around[:, None] @ self._jacobian)[:, 0]
        along = (of_stretch * self._stretch).sum(1)
        sheared = of_stretch[:, [0, 0, 1], [1, 2, 2]] * self._scales[:, [1, 2, 2]]
        unit = np.concatenate([rotation, along.sum(1, keepdims=True), along, sheared], 1)
        return torch.from_numpy(np.concatenate([given[:, :, 3], unit / RADIUS_MM], 1)).float()


def _turn(vector: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rotation about a vector (B, 3), rad, by Rodrigues, and its left Jacobian; (B, 3, 3) each."""
    angle = np.sqrt((vector**2).sum(1))[:, None, None]
    near, square = angle < _SMALL, angle**2
    angle = np.where(near, 1.0, angle)
    first = np.where(near, 1 - square / 6, np.sin(angle) / angle)
    second = np.where(near, 0.5 - square / 24, 2 * (np.sin(angle / 2) / angle) ** 2)
    third = np.where(near, 1 / 6 - square / 120, (1 - first) / angle**2)
    cross = np.zeros((len(vector), 3, 3))
    cross[:, [2, 0, 1], [1, 2, 0]] = vector
    cross[:, [1, 2, 0], [2, 0, 1]] = -vector
    twice, one = cross @ cross, np.eye(3)
    return one + first * cross + second * twice, one + second * cross + third * twice
