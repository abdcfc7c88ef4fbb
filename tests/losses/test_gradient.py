"""Edge similarities against formulas written out in numpy, closed forms and finite differences."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from derivatives import derivatives_agree
from torch import Tensor

from deformgan.losses import GradientSimilarity, image_gradient, local_gradient_similarity, ngf_similarity
from deformgan.losses import _common as common

SHAPE = (7, 8, 6)


def pair(seed: int = 0, batch: int = 2, channels: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.rand(2, batch, channels, *SHAPE, generator=generator, dtype=torch.float64)
    return a, b


def numpy_gradient(image: np.ndarray) -> np.ndarray:
    """(D, H, W) → (3, D, H, W), central differences, zero on the outermost layer."""
    inner = np.zeros(image.shape)
    inner[1:-1, 1:-1, 1:-1] = 1
    return np.stack(np.gradient(image)) * inner


def numpy_similarity(
    a: Tensor, b: Tensor, window: int, epsilon: float, squared: bool = False, mask: np.ndarray | None = None
) -> float:
    """The definition for one pair of volumes, window by window."""
    reach = window // 2
    summed = []
    for image in (a, b):
        padded = np.pad(numpy_gradient(image.numpy()), [(0, 0)] + [(reach, reach)] * 3)
        windows = np.lib.stride_tricks.sliding_window_view(padded, (window,) * 3, axis=(1, 2, 3))
        summed.append(windows.sum(axis=(-3, -2, -1)))
    normalised = [g / np.sqrt((g**2).sum(0) + epsilon**2) for g in summed]
    agreement = np.abs((normalised[0] * normalised[1]).sum(0))
    return float(np.average(agreement**2 if squared else agreement, weights=mask))


def test_gradient_is_central_inside_and_zero_on_the_border() -> None:
    a, _ = pair()
    for image, gradient in zip(a, image_gradient(a), strict=True):
        np.testing.assert_allclose(gradient, numpy_gradient(image[0].numpy()), atol=1e-15)


@pytest.mark.parametrize("squared", [False, True])
def test_ngf_equals_its_definition(squared: bool) -> None:
    a, b = pair()
    expected = np.mean([numpy_similarity(a[i, 0], b[i, 0], 1, 0.1, squared) for i in range(2)])
    assert ngf_similarity(a, b, 0.1, squared).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("window", [3, 7])
def test_local_gradient_equals_its_definition(window: int) -> None:
    a, b = pair()
    expected = np.mean([numpy_similarity(a[i, 0], b[i, 0], window, 0.5) for i in range(2)])
    assert local_gradient_similarity(a, b, window, 0.5).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("degrees", [0, 30, 60, 90])
def test_ramps_give_the_cosine_of_their_angle(degrees: float, squared: bool) -> None:
    x, y, _ = torch.meshgrid(*[torch.arange(n, dtype=torch.float64) for n in SHAPE], indexing="ij")
    angle = math.radians(degrees)
    a, b = x[None, None], -3 * (math.cos(angle) * x + math.sin(angle) * y)[None, None]
    inner = math.prod(n - 2 for n in SHAPE) / math.prod(SHAPE)
    expected = inner * abs(math.cos(angle)) ** (2 if squared else 1)
    assert ngf_similarity(a, b, 1e-6, squared).item() == pytest.approx(expected, abs=1e-9)


def test_inverted_contrast_is_as_good_as_none() -> None:
    a, b = pair()
    assert torch.isclose(local_gradient_similarity(a, b), local_gradient_similarity(a, 1 - b))
    assert local_gradient_similarity(a, 1 - a, epsilon=1e-9).item() == pytest.approx(1, abs=1e-6)


def test_flat_images_score_nothing_and_push_nowhere() -> None:
    a, flat = pair()[0], torch.full((2, 1, *SHAPE), 0.5, dtype=torch.float64, requires_grad=True)
    for similarity in (ngf_similarity, local_gradient_similarity):
        value = similarity(a, flat)
        value.backward()
        assert value == 0
        assert flat.grad is not None
        assert flat.grad.isfinite().all()


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("window", "squared"), [(1, False), (1, True), (3, False), (3, True)])
def test_derivatives(window: int, squared: bool, masked: bool) -> None:
    a, b = (image[:, :, :5, :5, :4].clone().requires_grad_() for image in pair())
    mask = torch.rand(2, 1, 5, 5, 4, dtype=torch.float64) if masked else None

    def similarity(x: Tensor, y: Tensor) -> Tensor:
        if window == 1:
            return ngf_similarity(x, y, 0.1, squared, mask)
        if squared:
            return GradientSimilarity(x, 0.5, window, squared, mask)(y)
        return local_gradient_similarity(x, y, window, 0.5, mask)

    # the prepared form has no derivative with respect to the image it was prepared for
    first = a.detach() if window > 1 and squared else a
    assert derivatives_agree(similarity, (first, b))


def test_either_side_alone_has_the_gradient_it_has_in_company() -> None:
    a, b = (image.requires_grad_() for image in pair())
    together = torch.autograd.grad(ngf_similarity(a, b, squared=True), (a, b))
    of_a = torch.autograd.grad(ngf_similarity(a, b.detach(), squared=True), a)
    of_b = torch.autograd.grad(ngf_similarity(a.detach(), b, squared=True), b)
    torch.testing.assert_close(together, (*of_a, *of_b))


def test_work_in_blocks_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = pair()
    results = []
    for block in (1 << 20, 61, 5):
        monkeypatch.setattr(common, "CPU_BLOCK", block)
        moving = b.clone().requires_grad_()
        value = ngf_similarity(a, moving, squared=True) + local_gradient_similarity(a, moving, 3)
        value.backward()
        results.append((value, moving.grad))
    torch.testing.assert_close(results[0], results[1])
    torch.testing.assert_close(results[0], results[2])


@pytest.mark.parametrize(("window", "squared"), [(1, False), (1, True), (3, False)])
def test_mask_weighs_the_mean(window: int, squared: bool) -> None:
    a, b = pair(batch=1)
    mask = torch.rand(1, 1, *SHAPE, dtype=torch.float64)
    expected = numpy_similarity(a[0, 0], b[0, 0], window, 0.3, squared, mask[0, 0].numpy())
    value = GradientSimilarity(a, 0.3, window, squared, mask)(b)
    assert value.item() == pytest.approx(expected, rel=1e-12)
    assert GradientSimilarity(a, 0.3, window, squared, torch.zeros_like(mask))(b) == 0


def test_channels_are_compared_with_their_namesakes() -> None:
    a, b = pair(channels=2)
    mask = (torch.rand(2, 1, *SHAPE) > 0.5).double()
    each = [ngf_similarity(a[:, [c]], b[:, [c]], mask=mask) for c in (0, 1)]
    assert torch.isclose(ngf_similarity(a, b, mask=mask), sum(each) / 2)


def test_prepared_similarity_takes_many_images() -> None:
    a, b = pair()
    similarity = GradientSimilarity(a, 0.05)
    for moving in (b, a, b):
        assert torch.isclose(similarity(moving), ngf_similarity(a, moving, 0.05, squared=True))


def test_gradient_may_be_asked_for_twice_and_scales() -> None:
    a, b = pair()
    b.requires_grad_()
    value = -3 * ngf_similarity(a, b, squared=True)
    first = torch.autograd.grad(value, b, retain_graph=True)[0]
    second = torch.autograd.grad(value, b)[0]
    plain = torch.autograd.grad(ngf_similarity(a, b, squared=True), b)[0]
    torch.testing.assert_close(first, second)
    torch.testing.assert_close(first, -3 * plain)


def test_autocast_does_not_lower_the_precision() -> None:
    a, b = (image.float() for image in pair())
    plain = local_gradient_similarity(a, b), ngf_similarity(a, b)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = local_gradient_similarity(a, b), GradientSimilarity(a, squared=False)(b)
        halves = ngf_similarity(a.bfloat16(), b=b.bfloat16())
    assert plain == inside
    assert halves.dtype == torch.float32


def test_what_cannot_be_compared_is_refused() -> None:
    a, b = pair()
    with pytest.raises(ValueError, match="of one shape"):
        ngf_similarity(a, b[:1])
    with pytest.raises(ValueError, match="the mask"):
        ngf_similarity(a, b, mask=torch.ones(2, 1, 3, 3, 3))
    with pytest.raises(ValueError, match="epsilon"):
        ngf_similarity(a, b, 0.0)
    with pytest.raises(ValueError, match="prepared"):
        GradientSimilarity(a)(b[:1])
