"""Fields against closed forms: flows, inverses, Jacobians, affine parts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deformgan.spatial import field as fields
from deformgan.spatial.native.use import usable
from deformgan.spatial.warp import warp

SHAPE = (16, 14, 12)
INNER = (..., slice(4, -4), slice(4, -4), slice(4, -4))


pytestmark = pytest.mark.usefixtures("either_way")


def _smooth(seed: int, size: float, shape: tuple[int, ...] = SHAPE) -> torch.Tensor:
    coarse = torch.randn(1, 3, 4, 4, 4, generator=torch.Generator().manual_seed(seed))
    field = torch.nn.functional.interpolate(coarse, size=shape, mode="trilinear", align_corners=True)
    return field * size / field.abs().max()


def _centred_affine(linear: torch.Tensor, shape: tuple[int, ...] = SHAPE) -> torch.Tensor:
    centre = (torch.tensor(shape, dtype=torch.float32) - 1) / 2
    return torch.cat([linear, (centre - linear @ centre)[:, None]], 1)[None]


def test_identity_positions() -> None:
    x = fields.identity_positions((3, 4, 5))
    assert x.shape == (1, 3, 3, 4, 5)
    assert x[0, :, 2, 1, 4].tolist() == [2, 1, 4]


def test_affine_field_and_its_fit() -> None:
    matrix = torch.tensor([[[1.1, 0.1, 0.0, 2.0], [-0.1, 0.9, 0.05, -1.0], [0.0, 0.02, 1.0, 0.5]]])
    field = fields.affine_field(matrix, SHAPE)
    index = torch.tensor([3.0, 5.0, 7.0])
    torch.testing.assert_close(field[0, :, 3, 5, 7], matrix[0, :, :3] @ index + matrix[0, :, 3] - index)
    torch.testing.assert_close(fields.fit_affine(field), matrix, atol=1e-4, rtol=1e-4)


def test_fit_affine_looks_only_where_the_weight_is() -> None:
    matrix = _centred_affine(torch.diag(torch.tensor([1.2, 0.9, 1.0])))
    field = fields.affine_field(matrix, SHAPE)
    weight = torch.zeros(1, 1, *SHAPE)
    weight[..., 4:12, 3:11, 2:10] = 1
    corrupted = torch.where(weight > 0, field, torch.full_like(field, 50.0))
    torch.testing.assert_close(fields.fit_affine(corrupted, weight), matrix, atol=1e-4, rtol=1e-4)
    assert (fields.fit_affine(corrupted) - matrix).abs().max() > 1


def test_compose_of_affine_fields_is_the_product() -> None:
    a = _centred_affine(torch.tensor([[1.0, 0.1, 0], [0, 1.05, 0], [0.05, 0, 1.0]]))
    b = _centred_affine(torch.tensor([[0.95, 0, 0], [0.1, 1.0, 0], [0, 0, 1.0]]))
    bottom = torch.tensor([[[0.0, 0, 0, 1]]])
    product = torch.cat([a, bottom], 1) @ torch.cat([b, bottom], 1)
    composed = fields.compose(fields.affine_field(a, SHAPE), fields.affine_field(b, SHAPE))
    torch.testing.assert_close(composed[INNER], fields.affine_field(product, SHAPE)[INNER], atol=1e-4, rtol=0)


def test_compose_order_is_outer_after_inner() -> None:
    """`warp(image, compose(outer, inner))` is `warp(warp(image, outer), inner)` up to interpolation."""
    outer, inner = _smooth(1, 2.0), torch.tensor([1.0, -2.0, 0.0]).view(1, 3, 1, 1, 1).expand(1, 3, *SHAPE)
    image = torch.rand(1, 1, *SHAPE, generator=torch.Generator().manual_seed(3))
    once, twice = warp(image, fields.compose(outer, inner)), warp(warp(image, outer), inner)
    torch.testing.assert_close(once[INNER], twice[INNER], atol=1e-4, rtol=0)
    assert (warp(image, fields.compose(inner, outer)) - twice)[INNER].abs().max() > 0.1


def test_integrating_a_constant_velocity_is_a_shift() -> None:
    velocity = torch.tensor([3.0, -2.0, 0.5]).view(1, 3, 1, 1, 1).expand(1, 3, *SHAPE)
    torch.testing.assert_close(fields.integrate(velocity), velocity, atol=1e-5, rtol=0)


def test_integrating_a_linear_velocity_is_the_matrix_exponential() -> None:
    generator = torch.tensor([[0.1, -0.2, 0.0], [0.2, 0.05, 0.0], [0.0, 0.0, -0.1]])
    shape = (25, 25, 25)
    velocity = fields.affine_field(_centred_affine(torch.eye(3) + generator, shape), shape)
    expected = fields.affine_field(_centred_affine(torch.linalg.matrix_exp(generator), shape), shape)
    inner = (..., *[slice(8, -8)] * 3)
    torch.testing.assert_close(fields.integrate(velocity, 8)[inner], expected[inner], atol=0.01, rtol=0)


def test_opposite_velocities_are_inverse() -> None:
    i, j, k = fields.identity_positions((24, 24, 24))[0] * (2 * math.pi / 24)
    velocity = 1.5 * torch.stack([torch.sin(j) * torch.cos(k), torch.sin(k), torch.cos(i + j)])[None]
    there, back = fields.integrate(velocity), fields.integrate(-velocity)
    # one linear interpolation errs by up to |v″|/8 = 0.013 here, and every squaring adds a little less
    assert fields.compose(there, back)[INNER].abs().max() < 0.05
    assert (there + back)[INNER].abs().max() > 0.3  # the negative alone would not do


@given(st.integers(0, 10_000), st.floats(0.1, 1.5))
def test_inverse_undoes_a_smooth_field(seed: int, size: float) -> None:
    field = _smooth(seed, size)
    inverse, residual = fields.invert(field)
    assert residual < 2e-2
    # what is reported is what one finds: y + w(y) mapped forward is y again, inside the grid
    error = inverse + warp(field, inverse, padding="border")
    assert error[INNER].abs().max() <= residual + 1e-5


def test_inverse_of_a_scaling_in_closed_form() -> None:
    field = fields.affine_field(_centred_affine(torch.diag(torch.tensor([0.8, 0.8, 0.8]))), SHAPE)
    inverse, _ = fields.invert(field)
    expected = fields.affine_field(_centred_affine(torch.diag(torch.tensor([1.25, 1.25, 1.25]))), SHAPE)
    torch.testing.assert_close(inverse[INNER], expected[INNER], atol=2e-3, rtol=0)


def test_what_folds_is_led_to_one_of_its_sources_or_the_miss_is_told() -> None:
    field = torch.zeros(1, 3, *SHAPE)
    field[:, 0] = 6 * torch.sin(torch.arange(SHAPE[0]) * math.pi / 2).view(-1, 1, 1)
    found, residual = fields.invert(field)
    miss = (found + warp(field, found, padding="border")).norm(dim=1)
    assert float(miss[INNER].max()) <= residual + 1e-4
    if not usable(field):  # fixed points alone do not arrive
        assert residual > 0.5


def test_the_residual_is_the_largest_miss_of_sources_inside() -> None:
    """Of a field that folds: sources beyond the grid do not count, however far they miss."""
    field = _smooth(16, 9.0)
    inverse, residual = fields.invert(field)
    source = fields.identity_positions(SHAPE) + inverse
    last = torch.tensor(SHAPE).view(1, 3, 1, 1, 1) - 1
    inside = ((source >= 0) & (source <= last)).all(1, keepdim=True)
    miss = (inverse + warp(field, inverse, padding="border")).norm(dim=1, keepdim=True)
    assert residual == pytest.approx(float(miss[inside].max()), abs=1e-4)
    assert float(miss[~inside].max()) > residual + 0.1


def test_jacobian_of_an_affine_is_its_determinant() -> None:
    linear = torch.tensor([[1.2, 0.1, 0.0], [-0.3, 0.9, 0.2], [0.0, 0.1, 1.1]])
    field = fields.affine_field(_centred_affine(linear), SHAPE)
    torch.testing.assert_close(fields.jacobian_matrix(field)[0, :, :, 5, 6, 7], linear, atol=1e-4, rtol=0)
    determinant = fields.jacobian_determinant(field)
    torch.testing.assert_close(determinant, torch.full((1, *SHAPE), float(torch.linalg.det(linear))), atol=1e-4, rtol=0)


def test_jacobian_of_a_sine_in_closed_form() -> None:
    i = torch.arange(SHAPE[0], dtype=torch.float32).view(-1, 1, 1)
    field = torch.zeros(1, 3, *SHAPE)
    field[:, 0] = 2 * torch.sin(0.3 * i)
    # central differences see the cosine damped by sin(h)/h
    expected = (1 + 2 * torch.cos(0.3 * i) * math.sin(0.3)).expand(SHAPE)
    torch.testing.assert_close(fields.jacobian_determinant(field)[0, 1:-1], expected[1:-1], atol=1e-4, rtol=0)


def test_folding_has_a_negative_jacobian() -> None:
    field = torch.zeros(1, 3, *SHAPE)
    field[:, 0] = -2 * torch.arange(SHAPE[0], dtype=torch.float32).view(-1, 1, 1)  # x → -x
    torch.testing.assert_close(fields.jacobian_determinant(field), torch.full((1, *SHAPE), -1.0))


def test_resize_of_a_linear_field_rescales_vectors() -> None:
    shape = (16, 16, 16)
    field = fields.affine_field(_centred_affine(torch.diag(torch.tensor([1.1, 0.9, 1.0])), shape), shape)
    small = fields.resize(field, (8, 8, 8))
    expected = fields.affine_field(_centred_affine(torch.diag(torch.tensor([1.1, 0.9, 1.0])), (8, 8, 8)), (8, 8, 8))
    torch.testing.assert_close(small, expected, atol=1e-5, rtol=0)
    assert fields.resize(field, shape) is field


def test_everything_is_differentiable() -> None:
    velocity = (0.1 * _smooth(2, 1.0, (6, 6, 6))).requires_grad_()
    field = fields.integrate(velocity, 3)
    inverse, _ = fields.invert(field, iterations=4)
    loss = inverse.square().sum() + fields.jacobian_determinant(fields.resize(field, (8, 8, 8))).square().sum()
    loss.backward()
    assert velocity.grad is not None
    assert torch.isfinite(velocity.grad).all()
    assert float(velocity.grad.abs().max()) > 0


@pytest.mark.parametrize("steps", [0, 1, 7])
def test_integrate_with_zero_velocity(steps: int) -> None:
    np.testing.assert_array_equal(fields.integrate(torch.zeros(1, 3, 4, 4, 4), steps).numpy(), 0)


def test_padded_inverse_reaches_beyond_the_grid() -> None:
    """A shift by five voxels: positions that leave the grid come back, as they do not from the grid's own inverse."""
    field = torch.zeros(1, 3, 10, 9, 8)
    field[:, 0] = 5.0
    field[:, 2] = -2.0
    inverse, residual, margin = fields.invert_padded(field)
    assert margin == (6, 1, 3)
    assert inverse.shape == (1, 3, 22, 11, 14)
    assert residual < 1e-3
    torch.testing.assert_close(inverse[:, 0], torch.full_like(inverse[:, 0], -5.0), atol=1e-4, rtol=0)
    torch.testing.assert_close(inverse[:, 2], torch.full_like(inverse[:, 2], 2.0), atol=1e-4, rtol=0)
