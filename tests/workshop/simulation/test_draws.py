"""Random numbers of a generator: their range, and that each call is the next of one series."""

from __future__ import annotations

import torch

from deformgan.workshop.simulation.draws import choice, normal, number, signed, uniform, weighted


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(4)


def test_numbers_are_those_of_the_generator() -> None:
    drawn = generator()
    assert torch.equal(uniform(generator(), 2, 3), torch.rand(2, 3, generator=drawn))
    assert torch.equal(normal(drawn, 5), torch.randn(5, generator=_after(6)))
    assert number(generator()) == float(torch.rand(1, generator=generator()))
    assert torch.equal(signed(generator(), 3), 2 * torch.rand(3, generator=generator()) - 1)


def _after(n: int) -> torch.Generator:
    moved = generator()
    torch.rand(n, generator=moved)
    return moved


def test_choices_are_of_what_there_is_and_as_frequent_as_they_are_said_to_be() -> None:
    drawn = generator()
    assert {choice(drawn, 3) for _ in range(50)} == {0, 1, 2}
    counts = torch.bincount(torch.tensor([weighted(drawn, torch.tensor([0.0, 3.0, 1.0]))[0] for _ in range(400)]))
    assert counts[0] == 0
    assert 240 < counts[1] < 360
    assert sorted(weighted(drawn, torch.tensor([1.0, 0.0, 1.0]), 2)) == [0, 2]
