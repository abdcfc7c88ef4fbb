"""Mutual information against MONAI's, entropies known in closed form, and a bound on what is kept in memory."""

from __future__ import annotations

import math

import pytest
import torch
from derivatives import derivatives_agree
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from deformgan.losses import mutual_information

SHAPE = (6, 5, 7)


def pair(batch: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    a, noise = torch.rand(2, batch, 1, *SHAPE, generator=generator, dtype=torch.float64)
    return a, 1 - 0.8 * a**2 - 0.2 * noise


@pytest.mark.parametrize("bins", [8, 32])
def test_value_and_gradient_equal_monai(bins: int) -> None:
    losses = pytest.importorskip("monai.losses")
    a, b = (image.requires_grad_() for image in pair())
    other = losses.GlobalMutualInformationLoss(num_bins=bins, smooth_nr=1e-12, smooth_dr=1e-12)(a, b)
    expected = torch.autograd.grad(other, (a, b))
    ours = mutual_information(a, b, bins)
    torch.testing.assert_close(ours, -other, rtol=1e-5, atol=1e-6)
    # MONAI keeps its bin centres in float32; gradients are about 3e-4
    torch.testing.assert_close(torch.autograd.grad(-ours, (a, b)), expected, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("share", [0.5, 0.2])
def test_an_image_tells_about_itself_its_entropy(share: float) -> None:
    a = torch.zeros(1, 1, 10, 10, 10, dtype=torch.float64)
    a.view(-1)[: int(1000 * share)] = 1
    entropy = -share * math.log(share) - (1 - share) * math.log(1 - share)
    assert mutual_information(a, a).item() == pytest.approx(entropy, rel=1e-9)
    assert mutual_information(a, 0.7 - 0.6 * a).item() == pytest.approx(entropy, rel=1e-9)


def test_independent_images_share_nothing() -> None:
    levels = torch.linspace(0, 1, 10, dtype=torch.float64)
    a = levels[:, None, None].expand(10, 10, 10)[None, None]
    b = levels[None, :, None].expand(10, 10, 10)[None, None]
    assert mutual_information(a, b).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("masked", [False, True])
def test_derivatives(masked: bool) -> None:
    a, b = (image.requires_grad_() for image in pair())
    mask = torch.rand(2, 1, *SHAPE, dtype=torch.float64).mul(2).sub(0.5).clamp(0, 1) if masked else None
    assert derivatives_agree(lambda x, y: mutual_information(x, y, 8, 50, mask), (a, b))
    assert derivatives_agree(lambda y: mutual_information(a.detach(), y, 8, 50, mask), b)


def test_chunks_change_nothing() -> None:
    a, b = pair()
    results = []
    for chunk in (1 << 16, 64, 1):
        moving = b.clone().requires_grad_()
        value = mutual_information(a, moving, chunk=chunk)
        value.backward()
        results.append((value, moving.grad))
    torch.testing.assert_close(results[0], results[1])
    torch.testing.assert_close(results[0], results[2])


def test_masked_voxels_do_not_count() -> None:
    a, b = pair(batch=1)
    mask = torch.zeros_like(a)
    mask[:, :, 1:5, 1:4, 2:6] = 1
    cut = (slice(None), slice(None), slice(1, 5), slice(1, 4), slice(2, 6))
    b.requires_grad_()
    value = mutual_information(a, b, mask=mask)
    value.backward()
    assert torch.isclose(value, mutual_information(a[cut], b[cut]))
    assert b.grad is not None
    assert (b.grad * (1 - mask)).abs().max() == 0
    assert (b.grad * mask).abs().max() > 0
    assert mutual_information(a, b, mask=torch.zeros_like(mask)) == 0


def test_clipped_intensities_have_no_gradient() -> None:
    a, b = pair()
    b[0, 0, 0], b[0, 0, 1] = 1.5, -0.5
    b.requires_grad_()
    mutual_information(a, b).backward()
    assert b.grad is not None
    assert (b.grad[0, 0, :2] == 0).all()
    assert (b.grad[0, 0, 2:] != 0).all()


class LargestTensor(TorchDispatchMode):
    """Remembers the size of the largest tensor that any operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, tuple | list) else (out,):
            if isinstance(value, Tensor):
                self.elements = max(self.elements, value.numel())
        return out


def test_memory_is_bounded_forward_and_backward() -> None:
    bins, chunk = 32, 256
    a, b = torch.rand(2, 1, 1, 20, 20, 20).unbind()
    b.requires_grad_()
    kept: list[int] = []

    def remember(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with LargestTensor() as largest, torch.autograd.graph.saved_tensors_hooks(remember, lambda t: t):
        mutual_information(a, b, bins, chunk).backward()
    assert largest.elements == max(a.numel(), bins * chunk)
    assert sum(kept) <= 2 * a.numel() + bins**2


def test_settings_that_cannot_be_are_refused() -> None:
    a, b = pair()
    with pytest.raises(ValueError, match="2 bins"):
        mutual_information(a, b, bins=1)
    with pytest.raises(ValueError, match="of one shape"):
        mutual_information(a, b[:1])
