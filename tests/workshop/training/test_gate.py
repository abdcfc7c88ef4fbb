"""The gate: a loss that can tell the truth passes, one that cannot does not; errors are as large as they say."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from deformgan.errors import QualityError
from deformgan.spatial.field import compose, jacobian_determinant
from deformgan.spatial.warp import warp
from deformgan.workshop.training.gate import ERRORS, gate, require, transformation_loss
from deformgan.workshop.training.misalignment import nearly_true, smooth_error
from deformgan.workshop.training.objective import LossWeights, Networks

SHAPE = (24, 28, 20)


def pairs(number: int = 2) -> list[dict[str, Tensor]]:
    """A textured volume and itself, deformed by a field that is known."""
    found = []
    for seed in range(number):
        generator = torch.Generator().manual_seed(seed)
        fixed = torch.nn.functional.avg_pool3d(torch.rand(1, 1, *SHAPE, generator=generator), 3, 1, 1)
        fixed = (fixed - fixed.min()) / (fixed.max() - fixed.min())
        field = smooth_error(SHAPE, 1.0, generator)
        inverse = -field
        for _ in range(20):
            inverse = -warp(field, inverse, padding="border")
        found.append({"fixed": fixed[0], "moving": warp(fixed, inverse)[0], "field": field[0]})
    return found


@pytest.mark.parametrize("size", [0.0, 1.0, 6.0])
def test_a_smooth_error_is_as_long_as_it_says_and_smooth(size: float) -> None:
    error = smooth_error((36, 40, 32), size, torch.Generator().manual_seed(3))
    assert float(error.square().sum(1).sqrt().mean()) == pytest.approx(size, abs=1e-5)
    steps = torch.stack([d.square().sum(1).sqrt().mean() for d in torch.gradient(error, dim=(2, 3, 4))])
    assert float(steps.max()) <= 0.35 * size


def test_nearly_true_fields_are_within_what_was_allowed() -> None:
    truth = torch.randn(5, 3, *SHAPE)
    near = nearly_true(truth, 2.0, torch.Generator().manual_seed(1))
    lengths = (near - truth).square().sum(1).sqrt().mean((1, 2, 3))
    assert float(lengths.max()) <= 2.0
    assert float(lengths.max()) > float(lengths.min()) > 0


def test_a_loss_that_knows_the_truth_passes() -> None:
    held_out = pairs()
    truths = {id(pair): pair["field"] for pair in held_out}

    def distance(fixed: Tensor, moving: Tensor, field: Tensor) -> float:
        return min(float((field[0] - truth).square().mean()) for truth in truths.values())

    found = gate(distance, held_out, 1.0)
    assert found == {"gate": 1.0, **{f"gate_{size:g}": 1.0 for size in ERRORS}}
    require(found, 1.0)


def test_a_loss_that_prefers_wrong_fields_fails_and_is_told_why() -> None:
    found = gate(lambda fixed, moving, field: -float(field.square().mean()), pairs(), 1.0)
    assert found["gate"] < 0.5
    with pytest.raises(QualityError, match=r"in \d+% of comparisons, not in 95%: 1 voxels"):
        require(found, 0.95)


def test_the_loss_of_t_tells_small_errors_where_contrasts_are_alike() -> None:
    weights = LossWeights(similarity="lcc+lg", smoothness=0.1, window=5)
    networks = Networks(torch.nn.Conv3d(1, 1, 1))
    assert gate(transformation_loss(networks, weights), pairs(), 0.5)["gate"] == 1.0


def test_the_same_errors_at_every_call() -> None:
    seen: list[float] = []
    loss = lambda fixed, moving, field: seen.append(float(field.sum())) or 0.0  # noqa: E731
    held_out = pairs(1)
    gate(loss, held_out, 1.0)
    gate(loss, held_out, 1.0)
    assert seen[: len(seen) // 2] == seen[len(seen) // 2 :]
    assert len(seen) == 2 * (1 + len(ERRORS))


def test_no_pairs_no_gate() -> None:
    with pytest.raises(ValueError, match="needs pairs"):
        gate(lambda *_: 0.0, [], 1.0)


def test_composing_with_a_smooth_error_does_not_fold() -> None:
    error = smooth_error((36, 40, 32), 2.0, torch.Generator().manual_seed(0))
    assert float(jacobian_determinant(compose(error, error)).min()) > 0
