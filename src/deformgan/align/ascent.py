"""The steps by which candidates for the linear map are improved, and what their maps are in world space."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from deformgan.align.parameters import AFFINE, Maps
from deformgan.spatial.adam import adam

_DECAYS = (0.8, 0.95)  # of Adam's moments: there are few steps
CHUNK = 200_000  # samples at once, so that they stay in the cache


@dataclass(frozen=True)
class Round:
    """One round of the halving: at this resolution, candidates, degrees of freedom, steps and their largest size."""

    spacing_mm: float
    points: int
    keep: int
    dof: int
    steps: int
    rate_mm: float


class Measure(Protocol):
    """What a map is judged by."""

    @property
    def points(self) -> Tensor:
        """(N, 3), where the images are compared."""
        ...

    def slope(self, matrices: Tensor) -> tuple[Tensor, Tensor]:
        """How good each of the maps (B, 3, 4) is, (B,), larger being better, and its derivative, (B, 3, 4)."""
        ...


def improved(level: Measure, all_rotations: Tensor, theta: Tensor, one: Round, dof: int) -> tuple[Tensor, Tensor]:
    """Every candidate after gradient ascent (Adam, the rate falling), and its score."""
    free = (torch.arange(theta.shape[1]) < dof).float()
    theta, moments = theta.clone(), (torch.zeros_like(theta), torch.zeros_like(theta))
    size = max(1, CHUNK // len(level.points))
    best, best_score = theta, torch.full((len(theta),), -1.0)
    for step in range(1, one.steps + 2):
        maps = Maps(all_rotations, theta)
        parts = [level.slope(part) for part in maps.matrices.split(size)]
        score, slope = (torch.cat(both) for both in zip(*parts, strict=True))
        slope = maps.to_parameters(slope) * free
        better = score > best_score
        best, best_score = torch.where(better[:, None], theta, best), torch.where(better, score, best_score)
        adam(theta, -slope, moments, one.rate_mm * (1 - (step - 1) / (one.steps + 1)), step, _DECAYS)
    return best, best_score


def world(rotation: Tensor, theta: Tensor, centres_mm: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """4×4 ``fixed_to_moving``, world mm (RAS+), of a rotation (1, 3, 3) and parameters (1, 13) about both centres."""
    out = np.eye(4)
    out[:3] = Maps(rotation, theta).matrices[0].double().numpy()
    out[:3, 3] += centres_mm[1] - out[:3, :3] @ centres_mm[0]
    return out


def centred(matrix: np.ndarray, centres_mm: tuple[np.ndarray, np.ndarray]) -> Tensor:
    """What `world` makes 4×4, (1, 3, 4) about both centres."""
    relative = np.array(matrix)
    relative[:3, 3] = matrix[:3, :3] @ centres_mm[0] + matrix[:3, 3] - centres_mm[1]
    return torch.from_numpy(relative[None, :3]).float()


def mean_shift_mm(points: Tensor, centre_mm: np.ndarray, matrix: np.ndarray) -> float:
    """How far a 4×4 takes positions, (N, 3) about a centre in world mm (RAS+), on average."""
    world = points.numpy() + centre_mm
    return float(np.linalg.norm(world @ matrix[:3, :3].T + matrix[:3, 3] - world, axis=1).mean())


def improved_map(
    level: Measure, matrix: np.ndarray, centres_mm: tuple[np.ndarray, np.ndarray], one: Round, dof: int
) -> np.ndarray:
    """A 4×4 map after one round's ascent at a level of the pair."""
    start = centred(matrix, centres_mm)
    theta = torch.zeros(1, AFFINE)
    theta[:, :3] = start[:, :, 3]
    theta, _ = improved(level, start[:, :, :3], theta, one, dof)
    return world(start[:, :, :3], theta, centres_mm)
