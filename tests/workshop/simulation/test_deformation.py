"""Random deformations: their bounds, their inverse, and that they are what the generator says."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from deformgan.errors import UsageError
from deformgan.spatial.field import compose, identity_positions, jacobian_determinant
from deformgan.workshop.simulation.deformation import (
    REGIMES,
    Deformation,
    DeformationConfig,
    affine_matrix,
    polished_inverse,
    sample_deformation,
)

SHAPE = (32, 40, 36)
SCALE = 0.3  # the regimes are made for a grid of about 112 voxels


def ellipsoid(shape: tuple[int, ...] = SHAPE, radius: float = 0.7) -> Tensor:
    middle = (torch.tensor(shape).view(1, 3, 1, 1, 1) - 1) / 2
    return (((identity_positions(shape) - middle) / (radius * middle)).square().sum(1, keepdim=True) < 1).float()


def draw(regime: str = "large", seed: int = 0, **options: object) -> Deformation:
    generator = torch.Generator().manual_seed(seed)
    options = {"mask": ellipsoid()} | options
    return sample_deformation(SHAPE, REGIMES[regime].scaled(SCALE), generator, **options)  # type: ignore[arg-type]


def lengths(field: Tensor, mask: Tensor) -> Tensor:
    return field.square().sum(1, keepdim=True).sqrt()[mask > 0.5]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("regime", list(REGIMES))
def test_a_deformation_keeps_its_bounds(regime: str, seed: int) -> None:
    config, mask = REGIMES[regime].scaled(SCALE), ellipsoid()
    found = draw(regime, seed)
    assert found.forward.shape == found.inverse.shape == (1, 3, *SHAPE)
    length = lengths(found.forward, mask)
    assert float(length.max()) == pytest.approx(found.max_displacement)
    assert 0.2 < found.max_displacement <= config.max_displacement
    jacobian = jacobian_determinant(found.forward)[:, None][mask > 0.5]
    assert float(jacobian.min()) == pytest.approx(found.min_jacobian)
    assert found.min_jacobian > 0.1
    source = (identity_positions(SHAPE) + found.forward)[mask.expand(1, 3, -1, -1, -1) > 0.5].view(3, -1)
    assert float(source.min()) >= 1
    assert all(float(s.max()) <= n - 2 for s, n in zip(source, SHAPE, strict=True))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("regime", list(REGIMES))
def test_forward_after_inverse_is_the_identity_at_voxels(regime: str, seed: int) -> None:
    """The bounds in the docstring of `sample_deformation`, for every voxel whose source lies inside the grid."""
    worst = []
    for polish in (0, 1, 2, 3):
        found = draw(regime, seed, polish=polish)
        source = identity_positions(SHAPE) + found.inverse
        upper = torch.tensor(SHAPE).view(1, 3, 1, 1, 1) - 1
        inside = ((source >= 0) & (source <= upper)).all(1, keepdim=True) * ellipsoid(radius=0.6)
        worst.append(float(lengths(compose(found.forward, found.inverse), inside).max()))
    assert worst[0] < 0.2
    assert worst[1] < 0.05
    assert worst[2] < 0.02
    assert worst[3] < 0.005


@pytest.mark.parametrize("regime", list(REGIMES))
def test_inverse_after_forward_is_within_what_interpolation_costs(regime: str) -> None:
    found = draw(regime)
    error = lengths(compose(found.inverse, found.forward), ellipsoid())
    assert float(error.max()) == pytest.approx(found.inverse_error)
    assert found.inverse_error < 0.2
    assert float(error.mean()) < 0.06


def test_newton_converges_where_the_fixed_point_does_not() -> None:
    """A rotation by 70 degrees moves neighbours apart by more than a voxel."""
    turned = DeformationConfig(100.0, (0.5, 1.0), (6.0, 7.0), 0.0, (0.0, 0.0, 70.0), 0.0, 0.0)
    mask = ellipsoid(radius=0.4)
    for seed in range(8):
        found = sample_deformation(
            SHAPE, turned, torch.Generator().manual_seed(seed), mask, polish=0, keep_inside=False
        )
        if found.max_displacement > 7:
            break
    assert found.max_displacement > 7
    before = float(lengths(compose(found.forward, found.inverse), mask).max())
    after = float(lengths(compose(found.forward, polished_inverse(found.forward, found.inverse, 3)), mask).max())
    assert after < min(0.01, 0.2 * before)


def test_the_same_generator_gives_the_same_deformation() -> None:
    one, same, other = draw(seed=1), draw(seed=1), draw(seed=2)
    assert torch.equal(one.forward, same.forward)
    assert torch.equal(one.inverse, same.inverse)
    assert not torch.allclose(one.forward, other.forward)


def test_a_deformation_too_strong_is_brought_down_to_its_limit() -> None:
    """Shrinking by a factor is not proportional to its logarithm: one correction is not enough here."""
    squeezed = DeformationConfig(2.0, (0.0, 0.0), (6.0, 6.0), 0.0, (0.0, 0.0, 0.0), 1.2, 0.0)
    for seed in range(4):
        found = sample_deformation(SHAPE, squeezed, torch.Generator().manual_seed(seed), ellipsoid(), keep_inside=False)
        assert 1.0 < found.max_displacement <= 2.0


def test_wild_draws_are_tamed_until_they_do_not_fold() -> None:
    wild = DeformationConfig(100.0, (12.0, 12.0), (3.0, 3.0), 0.0, (0.0, 0.0, 0.0), 0.0, 0.0)
    found = sample_deformation(SHAPE, wild, torch.Generator().manual_seed(0), attempts=2)
    assert 0.1 < found.min_jacobian < 1
    assert found.max_displacement < 12


def test_content_at_the_border_cannot_be_kept_inside() -> None:
    everything = torch.ones(1, 1, *SHAPE)
    with pytest.raises(UsageError, match="larger grid"):
        sample_deformation(SHAPE, REGIMES["small"], torch.Generator(), everything, attempts=1)
    free = sample_deformation(SHAPE, REGIMES["small"].scaled(SCALE), torch.Generator(), everything, keep_inside=False)
    assert free.inverse_error < 0.3  # only where content stays inside


def test_regimes_are_known_by_name_and_content_defaults_to_all_but_a_margin() -> None:
    found = sample_deformation((48, 48, 48), "small", torch.Generator().manual_seed(3))
    assert 1 < found.max_displacement <= REGIMES["small"].max_displacement
    with pytest.raises(KeyError):
        sample_deformation(SHAPE, "huge", torch.Generator())


def test_scaling_a_configuration_scales_its_lengths_alone() -> None:
    config = REGIMES["large"]
    half = config.scaled(0.5)
    assert half == replace(config, max_displacement=20.0, elastic=(3.0, 6.0), smoothness=(4.5, 7.0), shift=6.0)


def test_the_affine_matrix_turns_about_the_centre() -> None:
    centre, shift = torch.tensor([10.0, 20.0, 30.0]), torch.tensor([1.0, -2.0, 3.0])
    matrix = affine_matrix(torch.tensor([0.0, 0.0, math.pi / 2]), torch.zeros(3), torch.zeros(3), shift, centre)[0]
    move = lambda point: matrix[:, :3] @ point + matrix[:, 3]  # noqa: E731
    torch.testing.assert_close(move(centre), centre + shift)
    one = torch.tensor([1.0, 0.0, 0.0])
    torch.testing.assert_close(move(centre + one), centre + shift + torch.tensor([0.0, 1.0, 0.0]))
    scaled = affine_matrix(torch.zeros(3), torch.tensor([math.log(2), 0, 0]), torch.zeros(3), torch.zeros(3), centre)
    torch.testing.assert_close(scaled[0, :, :3], torch.diag(torch.tensor([2.0, 1.0, 1.0])))
