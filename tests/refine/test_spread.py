"""Refinements under small perturbations lie together where the images hold them, and far from a field that is off."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from deformgan.preprocess.lesions import Lesions
from deformgan.refine import perturbed, refine
from deformgan.spatial.field import identity_positions
from deformgan.spatial.warp import warp

SHAPE, HALF = (48, 48, 48), (24, 24, 24)
ZERO = torch.zeros(1, 3, *HALF)


@pytest.fixture(scope="module")
def images() -> tuple[Tensor, Tensor, Tensor]:
    """Two contrasts of one ball, and its mask; the half with the higher first index shows nothing."""
    noise = torch.rand(1, 1, 14, 14, 14, generator=torch.Generator().manual_seed(1))
    image = 0.2 + 0.8 * F.interpolate(noise, size=SHAPE, mode="trilinear", align_corners=False)
    image[:, :, 26:] = 0.6
    mask = ((identity_positions(SHAPE) - 23.5).norm(dim=1, keepdim=True) < 20).float()
    bumps = torch.rand(1, 3, 4, 4, 4, generator=torch.Generator().manual_seed(2)) - 0.5
    field = 3.0 * F.interpolate(bumps, size=SHAPE, mode="trilinear", align_corners=True)
    return image * mask, warp((1.2 - image) * mask, field), mask


@pytest.mark.parametrize(("subject", "times"), [("same", 1.15), ("other", 1.5)])
def test_where_nothing_is_shown_they_lie_farther_apart(
    images: tuple[Tensor, Tensor, Tensor], subject: str, times: float
) -> None:
    fixed, moving, mask = images
    found = perturbed(fixed, moving, ZERO, ZERO, masks=(mask, mask), steps=40, subject=subject)
    around = found.around(torch.stack(found.forward).mean(0))
    assert around.shape == HALF
    assert found.around(torch.zeros(1, 3, *SHAPE)).shape == SHAPE
    inside = found.inside[0, 0] > 0.9
    shown, empty = around[:11][inside[:11]].mean(), around[15:][inside[15:]].mean()
    assert float(empty) > times * float(shown) > 0


def test_a_field_that_is_elsewhere_is_far_from_them_there(images: tuple[Tensor, Tensor, Tensor]) -> None:
    fixed, moving, mask = images
    found = perturbed(fixed, moving, ZERO, ZERO, masks=(mask, mask), steps=40)
    good = refine(fixed, moving, ZERO, 40, mask=mask)
    off = good.clone()
    off[:, 1, 4:8, 10:14, 10:14] += 2.0
    gained = found.around(off) - found.around(good)
    assert float(gained[6, 12, 12]) > 0.8
    assert float(gained[18:].abs().max()) == 0


def test_the_same_twice_and_lesions_are_left_out(images: tuple[Tensor, Tensor, Tensor]) -> None:
    fixed, moving, mask = images
    first, again = (perturbed(fixed, moving, ZERO, ZERO, masks=(mask, mask), steps=4) for _ in range(2))
    assert torch.equal(first.around(ZERO), again.around(ZERO))
    lesion = torch.zeros_like(mask)
    lesion[:, :, 10:20, 15:30, 15:30] = 1
    without = perturbed(
        fixed, moving, ZERO, ZERO, masks=(mask, mask), lesions=Lesions(lesion, None), steps=4, subject="same"
    )
    assert not torch.equal(first.around(ZERO), without.around(ZERO))
