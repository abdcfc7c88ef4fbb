"""Fields beyond where they are known."""

from __future__ import annotations

import torch
from torch import Tensor

from deformgan.spatial.continuation import continued, filled
from deformgan.spatial.field import affine_field, fit_affine, identity_positions, jacobian_determinant

SHAPE = (24, 20, 22)


def a_map() -> Tensor:
    return affine_field(torch.tensor([[[1.1, 0.0, 0.05, 1.0], [0.0, 0.95, 0.0, -2.0], [0.02, 0.0, 1.0, 0.5]]]), SHAPE)


def middle() -> Tensor:
    known = torch.zeros(1, 1, *SHAPE)
    known[..., 4:18, 6:18] = 1
    return known


def test_an_affine_map_goes_on_as_it_is() -> None:
    affine, known = a_map(), middle()
    corrupted = affine + 9 * (1 - known)
    torch.testing.assert_close(continued(corrupted, known, torch.ones_like(known)), affine, atol=1e-3, rtol=0)


def test_what_is_known_stays_and_the_rest_is_no_longer_than_that() -> None:
    affine, known = a_map(), middle()
    wavy = affine + 1.5 * torch.sin(identity_positions(SHAPE) / 2)
    wild = torch.where(known > 0, wavy, wavy + 30 * torch.randn(wavy.shape, generator=torch.Generator().manual_seed(0)))
    found = continued(wild, known, torch.ones_like(known))
    inside = (known > 0).expand_as(found)
    assert torch.equal(found[inside], wavy[inside])
    rest = found - affine_field(fit_affine(wavy, known), SHAPE)
    assert float(rest[~inside].abs().max()) <= float(rest[inside].abs().max())
    assert float(jacobian_determinant(found).min()) > 0 > float(jacobian_determinant(wild).min())


def test_where_too_little_or_all_is_known_nothing_changes() -> None:
    field, known = torch.randn(1, 3, *SHAPE, generator=torch.Generator().manual_seed(1)), middle()
    assert continued(field, torch.zeros_like(known), known) is field
    assert continued(field, known, torch.zeros_like(known)) is field
    assert continued(field, torch.ones_like(known), known) is field


def test_gaps_are_filled_smoothly_between_what_is_around() -> None:
    values = torch.arange(24.0).view(1, 1, 24, 1, 1).expand(1, 1, *SHAPE).contiguous()
    known = torch.ones(1, 1, *SHAPE, dtype=torch.bool)
    known[:, :, 9:15] = False
    found = filled(values * known, known)
    torch.testing.assert_close(found, values, atol=0.6, rtol=0)
    assert bool((found.diff(dim=2) > 0).all())
