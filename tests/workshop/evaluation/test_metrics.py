"""The judges, against values worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from deformgan.workshop.evaluation.metrics import dice, endpoint_error, folding_percent, rmse_percent

SHAPE = (6, 5, 4)


def half_mask() -> torch.Tensor:
    mask = torch.zeros(1, 1, *SHAPE)
    mask[:, :, :3] = 1
    return mask


def test_endpoint_error_is_the_distance_inside_the_mask() -> None:
    field = torch.zeros(1, 3, *SHAPE)
    field[:, 0, :3], field[:, 1, :3], field[:, :, 3:] = 3.0, 4.0, 100.0
    error = endpoint_error(field, torch.zeros_like(field), half_mask())
    assert error.shape == (3 * 5 * 4,)
    assert torch.equal(error, torch.full_like(error, 5.0))


def test_rmse_is_in_percent_of_the_range_of_the_truth() -> None:
    truth = torch.zeros(1, 1, *SHAPE)
    truth[..., 0] = 4.0
    image = truth + 1.0
    image[:, :, 3:] += 1.0
    assert rmse_percent(image, truth, half_mask()) == pytest.approx(25.0)
    assert rmse_percent(image, truth) == pytest.approx(100 * math.sqrt((1 + 4) / 2) / 4)
    assert rmse_percent(truth, truth) == 0.0


def test_rmse_of_a_flat_truth_is_finite() -> None:
    flat = torch.zeros(1, 1, *SHAPE)
    assert math.isfinite(rmse_percent(flat + 1, flat))


def test_dice() -> None:
    a, b = torch.zeros(2, 1, 1, *SHAPE)
    a[..., :2] = 1
    b[..., 1:3] = 0.9
    assert dice(a, b) == pytest.approx(0.5)
    assert dice(a, a) == 1.0
    assert dice(a, torch.zeros_like(a)) == 0.0
    assert math.isnan(dice(0.4 * a, torch.zeros_like(a)))


def test_folding_counts_voxels_that_are_turned_inside_out() -> None:
    field = torch.zeros(1, 3, 8, 8, 8)
    assert folding_percent(field) == 0.0
    position = torch.arange(8.0)
    field[:, 0] = (-2 * position).view(1, 8, 1, 1)  # x -> -x: mirrored everywhere
    assert folding_percent(field) == 100.0
    field[:, 0] = torch.where(position < 4, 0.0, -2 * (position - 4)).view(1, 8, 1, 1)
    mask = torch.zeros(1, 1, 8, 8, 8)
    mask[:, :, :3] = 1
    assert folding_percent(field, mask) == 0.0
    mask[:, :, 6:] = 1
    assert folding_percent(field, mask) == pytest.approx(40.0)  # two layers of five
    assert folding_percent(field, torch.zeros_like(mask)) == 0.0
