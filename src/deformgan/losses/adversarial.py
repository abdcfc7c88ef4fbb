"""What the discriminator and the generator minimise, as functions of the discriminator's logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from deformgan.losses._common import full_precision


class AdversarialLoss(NamedTuple):
    """Two losses, ``discriminator(real_logits, fake_logits)`` and ``generator(fake_logits)``, both scalars ≥ 0."""

    discriminator: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor], Tensor]


@full_precision
def bce_discriminator(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """``-log σ(real)`` and ``-log(1 - σ(fake))``, averaged over each batch and over the two; log 2 when undecided."""
    return 0.5 * (F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean())


@full_precision
def bce_generator(fake_logits: Tensor) -> Tensor:
    """The non-saturating ``-log σ(fake)`` (Goodfellow et al. 2014), averaged over the batch."""
    return F.softplus(-fake_logits).mean()


@full_precision
def least_squares_discriminator(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """``(real - 1)²`` and ``fake²`` (Mao et al. 2017), averaged over each batch and over the two."""
    return 0.5 * ((real_logits - 1).square().mean() + fake_logits.square().mean())


@full_precision
def least_squares_generator(fake_logits: Tensor) -> Tensor:
    """``(fake - 1)²``, averaged over the batch."""
    return (fake_logits - 1).square().mean()


bce = AdversarialLoss(bce_discriminator, bce_generator)
least_squares = AdversarialLoss(least_squares_discriminator, least_squares_generator)
