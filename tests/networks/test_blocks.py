"""Convolution blocks: memory layout, normalisations, sizes, and the register of coarse and fine voxels."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from deformgan.networks.blocks import ConvBlock, UpBlock, channels_last, normalisation

pytestmark = pytest.mark.processor


def is_channels_last(x: torch.Tensor) -> bool:
    c, _, h, w = x.shape[1:]
    return x.stride()[1:] == (1, h * w * c, w * c, c)


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_channels_last_changes_only_the_layout(channels: int) -> None:
    x = torch.randn(2, channels, 3, 4, 5)
    y = channels_last(x)
    assert torch.equal(x, y)
    assert is_channels_last(y)


def test_channels_last_of_one_channel_that_is_not_contiguous() -> None:
    x = torch.randn(2, 1, 5, 4, 3).transpose(2, 4)
    y = channels_last(x)
    assert torch.equal(x, y)
    assert is_channels_last(y)


@pytest.mark.parametrize("norm", ["none", "instance", "group"])
@pytest.mark.parametrize("inputs", [1, 2])
def test_a_block_keeps_bf16_and_its_values(norm: str, inputs: int) -> None:
    """The memory layout of the result is PyTorch's own affair and differs between processors."""
    torch.manual_seed(5)
    block, x = ConvBlock(inputs, 16, norm=norm), channels_last(torch.randn(1, inputs, 6, 6, 6))
    with torch.no_grad():
        expected = block(x)
        with torch.autocast("cpu", torch.bfloat16):
            out = block(x)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), expected, atol=0.06, rtol=0.06)


def test_instance_normalisation_equals_its_definition() -> None:
    x = 3 + 2 * torch.randn(2, 4, 5, 6, 7)
    mean = x.mean(dim=(2, 3, 4), keepdim=True)
    variance = x.var(dim=(2, 3, 4), keepdim=True, unbiased=False)
    torch.testing.assert_close(normalisation("instance", 4)(x), (x - mean) / (variance + 1e-5).sqrt())


def test_group_normalisation_keeps_the_relative_strength_of_channels() -> None:
    x = torch.zeros(1, 32, 3, 3, 3)
    x[:, :8] = 1.0  # half of the first group; the second group stays 0
    out = normalisation("group", 32)(x)
    expected = torch.cat([torch.ones(8), -torch.ones(8), torch.zeros(16)])
    torch.testing.assert_close(out, expected.view(1, 32, 1, 1, 1).expand_as(out), atol=1e-3, rtol=0)


def test_a_single_voxel_passes_every_normalisation() -> None:
    x = torch.randn(1, 16, 1, 1, 1)
    assert normalisation("instance", 16)(x).abs().max() < 1e-4
    assert normalisation("group", 16)(x).std() > 0.9


def test_group_normalisation_of_a_width_that_sixteen_does_not_divide() -> None:
    x = torch.randn(1, 6, 4, 4, 4)
    torch.testing.assert_close(normalisation("group", 6)(x), F.layer_norm(x, x.shape[1:]))


def test_an_unknown_normalisation_is_named() -> None:
    with pytest.raises(ValueError, match="'spectral'"):
        normalisation("spectral", 8)


@pytest.mark.parametrize(("size", "half"), [(8, 4), (7, 4), (1, 1)])
def test_a_strided_block_rounds_up(size: int, half: int) -> None:
    assert ConvBlock(2, 4, stride=2)(torch.randn(1, 2, size, size, size)).shape == (1, 4, half, half, half)


def test_a_new_block_keeps_the_scale_of_its_input() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 32, 12, 12, 12)
    for _ in range(6):
        x = ConvBlock(32, 32)(x)
    assert 0.2 < x.square().mean().sqrt().item() < 5.0


@pytest.mark.parametrize("size", [(4, 6, 8), (5, 7, 3)])
def test_an_up_block_doubles_onto_the_skip(size: tuple[int, int, int]) -> None:
    block = UpBlock(8, 4)
    coarse = torch.randn(1, 8, *((n + 1) // 2 for n in size))
    skip = torch.randn(1, 4, *size)
    seen = {}
    block.convolutions.register_forward_pre_hook(lambda _, inputs: seen.update(joined=inputs[0]))
    assert block(coarse, skip).shape == skip.shape
    reduced = block.reduce(coarse)
    x, y, z = (n - 1 for n in size)
    torch.testing.assert_close(seen["joined"][0, :4, x, y, z], reduced[0, :, x // 2, y // 2, z // 2])
    torch.testing.assert_close(seen["joined"][:, 4:], skip)


@pytest.mark.parametrize("size", [(2, 2, 2), (4, 4, 3)])
def test_weight_gradients_in_bf16_are_those_of_fp32(size: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    block = ConvBlock(64, 64).to(memory_format=torch.channels_last_3d)
    x = channels_last(torch.randn(2, 64, *size))
    gradients = []
    for bf16 in (False, True):
        block.zero_grad()
        rubbish = torch.full((64 * 64 * 27,), 1e30)
        del rubbish  # what a kernel leaves unwritten shows
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            block(x).float().square().mean().backward()
        gradients.append(block[0].weight.grad.clone())
    assert torch.allclose(*gradients, rtol=0, atol=0.05 * float(gradients[0].abs().max()))
