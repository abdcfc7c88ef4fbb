"""How far apart the structures are that S sees in both images."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deformgan.io.image import Image
from deformgan.models import structures
from deformgan.models.structures import structures_apart_mm
from deformgan.spatial.grid import Grid
from deformgan.workshop.simulation.anatomy import load_anatomy
from deformgan.workshop.simulation.cases import make_case


@pytest.fixture(scope="module")
def pair() -> list[Image]:
    """T2 and T1 of one brain, in place."""
    generator = torch.Generator().manual_seed(5)
    case = make_case(load_anatomy(), "small", generator, fixed="t2", moving="t1", shape=(112, 128, 96))
    return [Image(image[0, 0].numpy(), case.grid, "brain") for image in (case.fixed, case.moving_true)]


def test_they_meet_under_the_true_map_and_not_under_another(pair: list[Image]) -> None:
    apart = structures_apart_mm(*pair, lambda points: points, "cpu")
    assert apart is not None
    assert apart < 3
    astray = structures_apart_mm(*pair, lambda points: points + np.array([0.0, 12.0, 16.0]), "cpu")
    assert astray == pytest.approx(20, abs=3)


def test_nothing_is_said_of_what_is_no_brain(pair: list[Image], monkeypatch: pytest.MonkeyPatch) -> None:
    data = np.random.default_rng(0).random((60, 60, 60)).astype(np.float32)
    noise = Image(data, Grid.centred(data.shape, 3.0, np.zeros(3)), "noise")
    assert structures_apart_mm(pair[0], noise, lambda points: points, "cpu") is None
    monkeypatch.setattr(structures, "shipped_models", lambda role: [])
    assert structures_apart_mm(*pair, lambda points: points, "cpu") is None
