"""Slow changes of intensity go, structure stays."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from deformgan.preprocess.bias_field import correct_bias_field
from deformgan.refine import refine
from deformgan.spatial.warp import warp

SHAPE = (40, 48, 32)


def ball(radius: float = 0.85) -> Tensor:
    axes = torch.meshgrid(*[torch.linspace(-1, 1, n) for n in SHAPE], indexing="ij")
    return (sum(x**2 for x in axes) < radius**2).float()[None, None]


def ramp(strength: float) -> Tensor:
    """Brightness that falls along the first axis by ``exp(2 strength)`` in all."""
    return torch.exp(-strength * torch.linspace(-1, 1, SHAPE[0])).view(1, 1, -1, 1, 1).expand(1, 1, *SHAPE)


def texture(seed: int = 0) -> Tensor:
    return 0.5 + 0.2 * torch.rand(1, 1, *SHAPE, generator=torch.Generator().manual_seed(seed))


def test_a_ramp_goes_and_texture_stays() -> None:
    inside = ball()
    corrected = correct_bias_field(0.4 * inside * ramp(1.0), 4)
    values = corrected[inside > 0]
    assert float(values.std() / values.mean()) < 0.2  # before: 0.38
    plain, lit = (correct_bias_field(texture() * inside * light, 4) for light in (torch.ones(()), ramp(0.5)))
    correlation = torch.corrcoef(torch.stack([plain[inside > 0], lit[inside > 0]]))[0, 1]
    before = torch.corrcoef(torch.stack([texture()[inside > 0], (texture() * ramp(0.5))[inside > 0]]))[0, 1]
    assert correlation > 0.75 > 0.6 > before


def test_even_images_stay_as_they_are() -> None:
    image = 0.7 * ball()
    torch.testing.assert_close(correct_bias_field(image, 4), image)


def test_background_and_scale() -> None:
    image = texture() * ball() * ramp(1.0)
    corrected = correct_bias_field(image, 4)
    assert (corrected[image == 0] == 0).all()
    torch.testing.assert_close(correct_bias_field(3 * image, 4), 3 * corrected)
    assert correct_bias_field(torch.zeros(1, 1, 8, 8, 8), 4).abs().max() == 0
    both = correct_bias_field(torch.cat([image, 2 * image.flip(2)]), 4)
    torch.testing.assert_close(both[:1], corrected)


@pytest.mark.parametrize("strength", [0.0, 1.2])
def test_refinement_finds_edges_in_the_dark(strength: float) -> None:
    inside = ball()
    coarse = torch.rand(1, 1, *(n // 4 for n in SHAPE), generator=torch.Generator().manual_seed(1))
    structure = torch.nn.functional.interpolate(coarse, size=SHAPE, mode="trilinear", align_corners=False)
    fixed = (0.15 + 0.4 * structure) * inside * ramp(strength).clamp(max=3)
    shift = torch.zeros(1, 3, *SHAPE)
    shift[:, 1] = 2.0
    moving = warp((0.75 - 0.4 * structure) * inside, -shift) * ramp(strength).clamp(max=3)
    found = refine(fixed, moving, torch.zeros(1, 3, *(n // 2 for n in SHAPE)), 60, mask=inside)
    error = (2 * found - shift[:, :, ::2, ::2, ::2]).square().sum(1).sqrt()[0]
    assert float(error[inside[0, 0, ::2, ::2, ::2] > 0].mean()) < 0.4
