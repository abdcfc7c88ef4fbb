"""Random numbers of a generator, on the device it lives on: the CPU, or a GPU where samples are made on one."""

from __future__ import annotations

import torch
from torch import Tensor


def uniform(generator: torch.Generator, *shape: int) -> Tensor:
    """Uniform numbers in [0, 1), of ``shape``."""
    return torch.rand(shape, generator=generator, device=generator.device)


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    """Numbers of the standard normal distribution, of ``shape``."""
    return torch.randn(shape, generator=generator, device=generator.device)


def number(generator: torch.Generator) -> float:
    """One uniform number in [0, 1)."""
    return float(uniform(generator, 1))


def signed(generator: torch.Generator, n: int = 1) -> Tensor:
    """``n`` uniform numbers in [-1, 1), on the CPU, where what few numbers decide is worked out."""
    return 2 * uniform(generator, n).cpu() - 1


def choice(generator: torch.Generator, n: int) -> int:
    """One of ``n`` things, each as likely."""
    return int(torch.randint(n, (1,), generator=generator, device=generator.device))


def weighted(generator: torch.Generator, weights: Tensor, n: int = 1) -> list[int]:
    """``n`` different ones of the things that ``weights`` (on the CPU) has the relative frequencies of."""
    return torch.multinomial(weights.to(generator.device), n, generator=generator).tolist()
