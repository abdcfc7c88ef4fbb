"""The stage that sees edges: its evidence against plain computations, and that it can learn from it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from deformgan.losses.gradient import image_gradient, ngf_similarity
from deformgan.networks.local_stage import EPSILON, EdgeStage, FixedSide, MovingSide, edge_agreement, unit_gradients

pytestmark = pytest.mark.processor


def image(seed: int, shape: tuple[int, ...] = (16, 16, 16)) -> Tensor:
    coarse = torch.rand(1, 1, *(n // 2 for n in shape), generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, size=shape, mode="trilinear", align_corners=False)


def test_unit_gradients_are_short_where_it_is_flat() -> None:
    found = unit_gradients(image(1))
    gradient = image_gradient(image(1))
    torch.testing.assert_close(found, gradient / (gradient.square().sum(1, keepdim=True) + EPSILON**2).sqrt())
    assert float(found.norm(dim=1).max()) < 1
    assert not unit_gradients(torch.full((1, 1, 4, 4, 4), 0.7)).any()


def test_agreement_without_a_shift_is_the_squared_ngf() -> None:
    a, b = image(1), image(2)
    agreement = edge_agreement(unit_gradients(a), unit_gradients(b), 1)
    assert agreement.shape == (1, 27, 16, 16, 16)
    torch.testing.assert_close(agreement[:, 13].mean(), ngf_similarity(a, b, EPSILON, squared=True))
    coarse = edge_agreement(unit_gradients(a), unit_gradients(b), 2)
    torch.testing.assert_close(coarse, F.avg_pool3d(agreement, 2))


def test_agreement_is_best_at_the_shift_that_was_made() -> None:
    """fixed(x) = moved(x - shift), so the edges agree where the shift is taken back, whatever the contrast's sign."""
    moved = image(3)
    fixed = 1 - moved.roll((1, -1, 0), (2, 3, 4))
    inner = (..., *[slice(3, -3)] * 3)
    agreement = edge_agreement(unit_gradients(fixed), unit_gradients(moved), 1)[inner].mean((0, 2, 3, 4))
    assert int(agreement.argmax()) == 9 * 0 + 3 * 2 + 1


def test_a_stage_learns_to_take_back_small_shifts() -> None:
    torch.manual_seed(0)
    stage = EdgeStage(features=8, width=16, deep_width=16)
    adam = torch.optim.Adam(stage.parameters(), 2e-3)
    features = torch.zeros(4, 8, 8, 8, 8)
    errors = []
    for step in range(120):
        moving = torch.cat([image(4 * step + k) for k in range(4)])
        shifts = torch.randint(-1, 2, (4, 3))
        fixed = torch.stack([m.roll(s.tolist(), (1, 2, 3)) for m, s in zip(moving, shifts, strict=True)])
        truth = -shifts.view(4, 3, 1, 1, 1) / 2  # half-resolution voxels → voxels of 1/4
        found = stage(FixedSide(fixed, features), MovingSide(moving, features), torch.zeros(4, 3, 8, 8, 8))
        error = (found - truth)[..., 2:-2, 2:-2, 2:-2].square().sum(1).add(1e-6).sqrt().mean()
        adam.zero_grad()
        error.backward()
        adam.step()
        errors.append(float(error.detach()))
    assert sum(errors[-10:]) < 0.6 * sum(errors[:10])
