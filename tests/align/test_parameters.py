"""The parameters of a linear map against the definitions, computed by PyTorch's matrix exponential and autograd."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from deformgan.align.parameters import AFFINE, RADIUS_MM, Maps


def defined(rotations: Tensor, theta: Tensor) -> Tensor:
    """Shift, turn, a common scale, a scale an axis, shears: as the parameters are defined."""
    unit = theta[:, 3:] / RADIUS_MM
    zero, one = torch.zeros_like(unit[:, 0]), torch.ones_like(unit[:, 0])
    x, y, z = unit[:, :3].unbind(1)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], 1).view(-1, 3, 3)
    a, b, c = unit[:, 7:].unbind(1)
    shear = torch.stack([one, a, b, zero, one, c, zero, zero, one], 1).view(-1, 3, 3)
    scales = torch.diag_embed((unit[:, 3:4] + unit[:, 4:7]).exp())
    linear = rotations @ torch.linalg.matrix_exp(cross) @ shear @ scales
    return torch.cat([linear, theta[:, :3, None]], 2)


@pytest.mark.parametrize("size_mm", [60.0, 0.05, 1e-5, 0.0])
def test_maps_and_slopes_are_those_of_the_definition(size_mm: float) -> None:
    generator = torch.Generator().manual_seed(3)
    rotations = torch.linalg.qr(torch.randn(20, 3, 3, generator=generator))[0]
    theta = size_mm * torch.randn(20, AFFINE, generator=generator)
    weights = torch.randn(20, 3, 4, generator=generator)
    leaf = theta.double().requires_grad_()
    expected = defined(rotations.double(), leaf)
    slope = torch.autograd.grad((expected * weights).sum(), leaf)[0]
    maps = Maps(rotations, theta)
    torch.testing.assert_close(maps.matrices, expected.detach().float(), rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(maps.to_parameters(weights), slope.float(), rtol=1e-5, atol=1e-6)


def test_opposite_turns_undo_each_other() -> None:
    theta = torch.zeros(2, AFFINE)
    theta[0, 3:6] = torch.tensor([50.0, -80.0, 30.0])
    theta[1] = -theta[0]
    there, back = Maps(torch.eye(3).repeat(2, 1, 1), theta).matrices[:, :, :3]
    torch.testing.assert_close(there @ back, torch.eye(3), rtol=0, atol=1e-6)
