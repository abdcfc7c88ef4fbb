"""Adversarial losses against torch's own and values known by hand."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from deformgan.losses import AdversarialLoss, bce, least_squares


def test_bce_equals_torch() -> None:
    real, fake = torch.randn(2, 5, 1, generator=torch.Generator().manual_seed(6))
    one, zero = torch.ones_like(real), torch.zeros_like(real)
    expected = 0.5 * (F.binary_cross_entropy_with_logits(real, one) + F.binary_cross_entropy_with_logits(fake, zero))
    torch.testing.assert_close(bce.discriminator(real, fake), expected)
    torch.testing.assert_close(bce.generator(fake), F.binary_cross_entropy_with_logits(fake, one))


def test_an_undecided_discriminator() -> None:
    logits = torch.zeros(4, 1)
    assert bce.discriminator(logits, logits).item() == pytest.approx(math.log(2))
    assert bce.generator(logits).item() == pytest.approx(math.log(2))
    assert least_squares.discriminator(logits + 0.5, logits + 0.5) == 0.25
    assert least_squares.generator(logits + 0.5) == 0.25


def test_least_squares_by_hand() -> None:
    real, fake = torch.tensor([[1.0], [3.0]]), torch.tensor([[0.0], [-1.0]])
    assert least_squares.discriminator(real, fake) == 0.5 * (2.0 + 0.5)
    assert least_squares.generator(fake) == (1 + 4) / 2


@pytest.mark.parametrize("loss", [bce, least_squares])
def test_the_two_pull_apart(loss: AdversarialLoss) -> None:
    real, fake = torch.zeros(2, 3, 1, requires_grad=True).unbind()
    down_real, down_fake = torch.autograd.grad(loss.discriminator(real, fake), (real, fake))
    (generator,) = torch.autograd.grad(loss.generator(fake), fake)
    assert (down_real < 0).all()
    # least squares leaves a fake at its target of 0 alone
    assert (down_fake >= 0).all()
    assert (generator < 0).all()


def test_large_logits_stay_finite_and_halves_are_widened() -> None:
    logits = torch.tensor([[-1e4], [1e4]], dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for value in (bce.discriminator(logits, logits), bce.generator(logits), least_squares.generator(logits)):
            assert value.isfinite()
            assert value.dtype == torch.float32
