"""The discriminator: one logit at any size, its five convolutions, the condition."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from deformgan.networks.discriminator import Discriminator

pytestmark = pytest.mark.processor

NARROW = (16, 16, 16, 16, 16)


def test_the_default_has_the_convolutions_of_the_paper() -> None:
    convolutions = [m for m in Discriminator().modules() if isinstance(m, nn.Conv3d)]
    assert [m.out_channels for m in convolutions] == [32, 64, 128, 256, 256]
    assert all(m.stride == (2, 2, 2) and m.kernel_size == (3, 3, 3) for m in convolutions)
    blocks = list(Discriminator().features)
    assert [any(isinstance(m, nn.GroupNorm) for m in block) for block in blocks] == [False, True, True, True, True]
    assert all(m.negative_slope == 0.2 for m in Discriminator().modules() if isinstance(m, nn.LeakyReLU))


@pytest.mark.parametrize("size", [(32, 32, 32), (17, 9, 5), (2, 2, 2)])
def test_one_logit_at_any_size(size: tuple[int, int, int]) -> None:
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        logit = Discriminator(widths=NARROW)(torch.rand(3, 1, *size))
    assert logit.shape == (3, 1)
    assert logit.dtype == torch.float32


def test_images_of_a_batch_do_not_see_each_other() -> None:
    torch.manual_seed(0)
    net = Discriminator(widths=NARROW)
    images = torch.rand(2, 1, 16, 16, 16)
    torch.testing.assert_close(net(images), torch.cat([net(images[:1]), net(images[1:])]))


def test_contrast_is_told_apart() -> None:
    """Normalisation must leave something to judge: an image at half its contrast has another logit."""
    torch.manual_seed(0)
    net = Discriminator(widths=NARROW)
    image = torch.rand(1, 1, 32, 32, 32)
    assert (net(2 * image - 1) - net(2 * (0.5 * image) - 1)).abs() > 1e-3


def test_the_condition_matters_only_to_a_conditional_discriminator() -> None:
    torch.manual_seed(0)
    image, one, other = (torch.rand(1, 1, 16, 16, 16) for _ in range(3))
    free, bound = Discriminator(widths=NARROW), Discriminator(conditional=True, widths=NARROW)
    assert torch.equal(free(image, one), free(image))
    assert not torch.allclose(bound(image, one), bound(image, other))
    with pytest.raises(ValueError, match="conditional discriminator needs"):
        bound(image)


def test_it_learns_to_tell_noise_from_a_smooth_image() -> None:
    torch.manual_seed(0)
    net = Discriminator(widths=NARROW)
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    noise = torch.rand(4, 1, 16, 16, 16)
    smooth = torch.nn.functional.avg_pool3d(torch.rand(4, 1, 16, 16, 16), 5, 1, 2, count_include_pad=False)
    for _ in range(25):
        loss = nn.functional.softplus(net(noise)).mean() + nn.functional.softplus(-net(smooth)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.5
