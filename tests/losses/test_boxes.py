"""Window sums against sums written out voxel by voxel."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from derivatives import derivatives_agree

from deformgan.losses import box_sum
from deformgan.losses.boxes import _by_pooling, _by_products


def window_sums(volume: np.ndarray, window: int) -> np.ndarray:
    reach = window // 2
    padded = np.pad(volume, reach)
    return np.lib.stride_tricks.sliding_window_view(padded, (window,) * 3).sum(axis=(-3, -2, -1))


@pytest.mark.parametrize("window", [1, 3, 7, 11])
def test_equals_the_sum_over_every_window(window: int) -> None:
    volumes = torch.rand(2, 3, 8, 5, 9, dtype=torch.float64)  # one axis shorter than the widest window
    out = box_sum(volumes, window)
    for i in range(2):
        for j in range(3):
            np.testing.assert_allclose(out[i, j], window_sums(volumes[i, j].numpy(), window), rtol=1e-12)


def test_both_ways_of_summing_agree() -> None:
    volumes = torch.rand(2, 7, 6, 8)
    torch.testing.assert_close(_by_pooling(volumes, 5), _by_products(volumes, 5))


def test_float32_keeps_six_digits_far_from_the_origin_of_the_sum() -> None:
    volume = torch.rand(40, 12, 12) + 10
    exact = box_sum(volume.double(), 7)
    assert ((box_sum(volume, 7) - exact) / exact).abs().max() < 1e-6


def test_half_precision_input_is_summed_in_float32() -> None:
    volume = torch.ones(1, 9, 9, 9, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = box_sum(volume, 7)
    assert out.dtype == torch.float32
    assert out[0, 4, 4, 4] == 343  # bfloat16 has no 343


def test_is_its_own_adjoint_and_differentiates() -> None:
    x, y = torch.rand(2, 6, 7, 5, dtype=torch.float64)[:, None]
    assert torch.isclose((box_sum(x, 3) * y).sum(), (x * box_sum(y, 3)).sum())
    assert derivatives_agree(lambda v: box_sum(v, 3), x.requires_grad_())


@pytest.mark.parametrize("window", [0, 4, -3])
def test_a_window_without_a_middle_is_refused(window: int) -> None:
    with pytest.raises(ValueError, match="odd"):
        box_sum(torch.zeros(1, 4, 4, 4), window)
