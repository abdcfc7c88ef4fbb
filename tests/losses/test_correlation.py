"""Local cross-correlation against MONAI's, against numpy window by window, and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from derivatives import derivatives_agree
from torch import Tensor

from deformgan.losses import LocalCorrelation, local_cross_correlation
from deformgan.losses import _common as common

SHAPE = (9, 8, 7)


def pair(batch: int = 2, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    a, noise = torch.rand(2, batch, 1, *SHAPE, generator=generator, dtype=torch.float64)
    return a.to(dtype), (0.5 * a + 0.5 * noise).to(dtype)


def numpy_map(a: np.ndarray, b: np.ndarray, window: int) -> np.ndarray:
    """Squared correlation coefficient of the zero-padded windows around every voxel."""
    reach = window // 2
    out = np.empty(a.shape)
    a, b = np.pad(a, reach), np.pad(b, reach)
    for index in np.ndindex(out.shape):
        where = tuple(slice(i, i + window) for i in index)
        out[index] = np.corrcoef(a[where].ravel(), b[where].ravel())[0, 1] ** 2
    return out


def test_equals_the_correlation_coefficient_of_every_window() -> None:
    a, b = pair()
    expected = np.mean([numpy_map(a[i, 0].numpy(), b[i, 0].numpy(), 5) for i in range(2)])
    assert local_cross_correlation(a, b, 5).item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("window", [3, 7])
def test_value_and_gradient_equal_monai(window: int) -> None:
    losses = pytest.importorskip("monai.losses")
    a, b = (image.requires_grad_() for image in pair())
    other = losses.LocalNormalizedCrossCorrelationLoss(kernel_size=window)(a, b)
    expected = torch.autograd.grad(other, (a, b))
    # MONAI's floor is on the window's summed variance
    ours = local_cross_correlation(a, b, window, epsilon=1e-5 / window**3)
    torch.testing.assert_close(ours, -other)
    torch.testing.assert_close(torch.autograd.grad(-ours, (a, b)), expected)


def test_rescaled_and_inverted_images_correlate_fully() -> None:
    a, _ = pair()
    assert local_cross_correlation(a, -3 * a).item() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("masked", [False, True])
def test_derivatives(masked: bool) -> None:
    a, b = (image[:, :, :5, :4, :4].clone().requires_grad_() for image in pair())
    mask = torch.rand(2, 1, 5, 4, 4, dtype=torch.float64) if masked else None
    assert derivatives_agree(lambda x, y: local_cross_correlation(x, y, 3, mask=mask), (a, b))


def test_derivatives_where_some_windows_are_flat() -> None:
    a, b = (image[:1, :, :6, :4, :4].clone() for image in pair())
    b[:, :, :3] = 0
    b.requires_grad_()
    # the empty half moves as a whole stays flat: only its other half is varied
    assert derivatives_agree(
        lambda y: local_cross_correlation(a, torch.cat([b[:, :, :3].detach(), y], 2), 3),
        b[:, :, 3:].detach().clone().requires_grad_(),
    )


def test_flat_bright_windows_score_nothing_in_float32() -> None:
    a = pair(dtype=torch.float32)[0]
    flat = torch.full_like(a, 0.9)
    inner = torch.zeros_like(a)
    inner[:, :, 3:-3, 3:-3, 3:-3] = 1  # windows that see no border
    value = local_cross_correlation(flat, flat.clone().requires_grad_(), mask=inner)
    value.backward()
    assert value < 1e-3


def test_float32_agrees_with_float64() -> None:
    a, b = pair()
    expected = local_cross_correlation(a, b).item()
    assert local_cross_correlation(a.float(), b.float()).item() == pytest.approx(expected, rel=1e-4)


def test_work_in_blocks_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = pair()
    results = []
    for block in (1 << 20, 61):
        monkeypatch.setattr(common, "CPU_BLOCK", block)
        moving = b.clone().requires_grad_()
        value = local_cross_correlation(a, moving)
        value.backward()
        results.append((value, moving.grad))
    torch.testing.assert_close(*results)


def test_mask_weighs_the_mean() -> None:
    a, b = pair(batch=1)
    mask = torch.rand(1, 1, *SHAPE, dtype=torch.float64)
    expected = np.average(numpy_map(a[0, 0].numpy(), b[0, 0].numpy(), 3), weights=mask[0, 0].numpy())
    assert local_cross_correlation(a, b, 3, mask=mask).item() == pytest.approx(expected, rel=1e-10)


def test_prepared_similarity_takes_many_images() -> None:
    a, b = pair()
    similarity = LocalCorrelation(a, 5)
    for moving in (b, a, b):
        assert torch.isclose(similarity(moving), local_cross_correlation(a, moving, 5))


def test_autocast_does_not_lower_the_precision() -> None:
    a, b = pair(dtype=torch.float32)
    plain = local_cross_correlation(a, b)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert local_cross_correlation(a, b) == plain
        assert LocalCorrelation(a)(b) == plain
        assert LocalCorrelation(a.bfloat16())(b.bfloat16()).dtype == torch.float32


def test_what_cannot_be_compared_is_refused() -> None:
    a, b = pair()
    with pytest.raises(ValueError, match="epsilon"):
        local_cross_correlation(a, b, epsilon=0)
    with pytest.raises(ValueError, match="odd"):
        local_cross_correlation(a, b, 4)
    with pytest.raises(ValueError, match="prepared"):
        LocalCorrelation(a)(b[:1])
