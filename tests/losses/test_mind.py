"""MIND-SSC against its definition voxel by voxel, and what it must not notice."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from derivatives import derivatives_agree
from torch import Tensor

from deformgan.losses import mind_similarity, mind_ssc
from deformgan.losses.mind import PAIRS

SHAPE = (8, 7, 9)


def image(seed: int = 0, shape: tuple[int, int, int] = SHAPE, batch: int = 1) -> Tensor:
    return torch.rand(batch, 1, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def numpy_descriptor(volume: np.ndarray, radius: int, dilation: int) -> np.ndarray:
    """Twelve patch distances at every voxel, written out, then the exponential of their ratio to their mean."""
    margin = radius + dilation
    padded = np.pad(volume, margin, mode="edge")

    def patch(index: tuple[int, ...], offset: tuple[int, int, int]) -> np.ndarray:
        return padded[
            tuple(
                slice(i + dilation * (1 + o), i + dilation * (1 + o) + 2 * radius + 1)
                for i, o in zip(index, offset, strict=True)
            )
        ]

    distances = np.empty((12, *volume.shape))
    for k, (p, q) in enumerate(PAIRS):
        for index in np.ndindex(volume.shape):
            distances[(k, *index)] = ((patch(index, p) - patch(index, q)) ** 2).mean()
    distances -= distances.min(0)
    variance = distances.mean(0)
    return np.exp(-distances / variance.clip(1e-3 * variance.mean(), 1e3 * variance.mean()))


@pytest.mark.parametrize(("radius", "dilation"), [(1, 2), (2, 1), (0, 1)])
def test_equals_its_definition(radius: int, dilation: int) -> None:
    volume = image()
    expected = numpy_descriptor(volume[0, 0].numpy(), radius, dilation)
    np.testing.assert_allclose(mind_ssc(volume, radius, dilation)[0], expected, atol=1e-10)


def test_pairs_are_the_twelve_of_the_self_similarity_context() -> None:
    assert len(PAIRS) == 12
    assert all(np.dot(p, q) == 0 for p, q in PAIRS)


def test_contrast_and_brightness_drop_out() -> None:
    volume = image()
    assert mind_similarity(volume, 0.9 - 0.4 * volume).item() == pytest.approx(1, abs=1e-12)


def test_another_image_is_less_similar_and_the_mask_weighs() -> None:
    a, b = image(0), image(1)
    apart = (mind_ssc(a) - mind_ssc(b)).square().mean(1, keepdim=True)
    mask = torch.rand_like(a)
    assert mind_similarity(a, b) < 0.95
    assert torch.isclose(1 - mind_similarity(a, b), apart.mean())
    assert torch.isclose(1 - mind_similarity(a, b, mask=mask), (apart * mask).sum() / mask.sum())


def test_flat_images_are_finite() -> None:
    flat = torch.full((1, 1, *SHAPE), 0.5, requires_grad=True)
    mind_similarity(image().float(), flat).backward()
    assert flat.grad is not None
    assert flat.grad.isfinite().all()
    assert (mind_ssc(flat) == 1).all()


def test_derivatives() -> None:
    a, b = (image(seed, (4, 4, 5)).requires_grad_() for seed in (3, 4))

    def similarity(x: Tensor, y: Tensor) -> Tensor:
        return mind_similarity(x, y, dilation=1)

    assert derivatives_agree(similarity, (a, b))


def test_several_channels_are_refused() -> None:
    with pytest.raises(ValueError, match="1, D, H, W"):
        mind_ssc(torch.zeros(1, 2, 4, 4, 4))
