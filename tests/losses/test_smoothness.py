"""Energies of fields whose derivatives are known, and of random fields against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from derivatives import derivatives_agree
from torch import Tensor

from deformgan.losses import bending_energy, gradient_energy
from deformgan.spatial.field import affine_field


def random_field(shape: tuple[int, int, int] = (5, 4, 6), batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, *shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def test_a_translation_has_no_energy() -> None:
    shift = torch.tensor([3.0, -2.0, 0.5]).view(1, 3, 1, 1, 1).expand(1, 3, 6, 5, 4)
    assert gradient_energy(shift) == 0
    assert bending_energy(shift) == 0


def test_an_affine_map_has_the_mean_square_of_its_matrix_and_does_not_bend() -> None:
    matrix = torch.cat(
        [torch.eye(3) + torch.tensor([[0.1, 0.2, 0.0], [0.0, -0.3, 0.1], [0.4, 0.0, 0.2]]), torch.ones(3, 1)], 1
    )
    field = affine_field(matrix[None], (7, 6, 8))
    assert gradient_energy(field).item() == pytest.approx(
        (matrix[:, :3] - torch.eye(3)).square().mean().item(), rel=1e-5
    )
    assert bending_energy(field).item() == pytest.approx(0, abs=1e-10)


def test_gradient_energy_is_the_mean_of_squared_forward_differences() -> None:
    field = random_field()
    expected = np.mean([np.mean(np.diff(field.numpy(), axis=axis) ** 2) for axis in (2, 3, 4)])
    assert gradient_energy(field).item() == pytest.approx(expected, rel=1e-12)


def test_quadratics_bend_by_their_second_derivatives() -> None:
    x, y, _ = torch.meshgrid(*[torch.arange(n, dtype=torch.float64) for n in (6, 7, 5)], indexing="ij")
    zero = torch.zeros_like(x)
    # ∂²/∂x² = 2 in the first component; ∂²/∂x∂y = 3, twice, in the second; the mean is over three components
    field = torch.stack([x**2, 3 * x * y, zero])[None]
    assert bending_energy(field).item() == pytest.approx((2**2 + 2 * 3**2) / 3, rel=1e-12)


@pytest.mark.parametrize("energy", [gradient_energy, bending_energy])
def test_derivatives(energy) -> None:  # type: ignore[no-untyped-def]
    assert derivatives_agree(energy, random_field((4, 3, 5), 1).requires_grad_())


@pytest.mark.parametrize("energy", [gradient_energy, bending_energy])
def test_transposed_and_half_precision_fields(energy) -> None:  # type: ignore[no-untyped-def]
    field = random_field().float()
    swapped = field.transpose(2, 4)  # not contiguous, as channels_last networks return them
    torch.testing.assert_close(energy(swapped), energy(swapped.contiguous()))
    assert energy(field.bfloat16()).dtype == torch.float32


def test_gradient_may_be_asked_for_twice() -> None:
    field = random_field().requires_grad_()
    value = gradient_energy(field)
    first = torch.autograd.grad(value, field, retain_graph=True)
    torch.testing.assert_close(first, torch.autograd.grad(value, field))
