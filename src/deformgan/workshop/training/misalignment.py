"""Fields that are a known amount off: what a generator is first trained on, and what a loss is tested with."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from deformgan.workshop.simulation.draws import normal, uniform

_CELL = 12  # voxels between the knots of a smooth error: as coarse as what a transformation network leaves undone


def smooth_error(shape: tuple[int, ...], size: float, generator: torch.Generator) -> Tensor:
    """A smooth random field.

    Args:
        shape: Of the grid, (D, H, W).
        size: Its mean length in voxels of that grid, ≥ 0.
        generator: Of the random numbers.

    Returns:
        (1, 3, D, H, W) float32, on the generator's device.
    """
    knots = [max(3, n // _CELL + 1) for n in shape]
    field = normal(generator, 1, 3, *knots)
    field = F.interpolate(field, size=shape, mode="trilinear", align_corners=True)
    return field * (size / field.square().sum(1).sqrt().mean().clamp_min(1e-6))


def nearly_true(true_field: Tensor, most: float, generator: torch.Generator) -> Tensor:
    """The true field (B, 3, D, H, W) plus a smooth error of a mean length drawn from [0, ``most``] voxels, each."""
    shape = tuple(true_field.shape[2:])
    sizes = most * uniform(generator, len(true_field))
    errors = [smooth_error(shape, float(size), generator) for size in sizes]
    return true_field + torch.cat(errors).to(true_field)
