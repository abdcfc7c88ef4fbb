"""The U-Nets: shapes at any size, the identity at the start, precision of fields, integration, half resolution."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from deformgan.networks.generator import Generator
from deformgan.networks.unet import TransformationUNet, UNet
from deformgan.spatial.field import identity_positions, integrate, jacobian_determinant, resize

pytestmark = pytest.mark.processor

NARROW = (4, 6, 8)


def pair(*size: int, batch: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(batch, 1, *size, generator=generator), torch.rand(batch, 1, *size, generator=generator)


def test_the_default_is_the_network_of_the_paper() -> None:
    net = TransformationUNet()
    kernels = [
        (m.in_channels, m.out_channels) for m in net.modules() if isinstance(m, nn.Conv3d) and m.kernel_size[0] == 3
    ]
    encoder = [(2, 16), (16, 16), (16, 32), (32, 32), (32, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256)]
    decoder = [(256, 128), (128, 128), (128, 64), (64, 64), (64, 32), (32, 32), (32, 16), (16, 16)]
    assert kernels == [*encoder, *decoder, (16, 3)]
    assert sum(m.stride == (2, 2, 2) for m in net.modules() if isinstance(m, nn.Conv3d)) == 4


def test_the_flow_head_starts_at_the_identity() -> None:
    torch.manual_seed(0)
    net = TransformationUNet()
    assert net.unet.head.weight.std().item() == pytest.approx(1e-5, rel=0.1)
    assert net.unet.head.bias is not None
    assert not net.unet.head.bias.any()
    field = TransformationUNet(NARROW)(*pair(9, 8, 10))
    assert 0 < field.abs().max().item() < 1e-2


@pytest.mark.parametrize("scale", [1, 2])
@pytest.mark.parametrize("velocity", [False, True])
@pytest.mark.parametrize("size", [(16, 12, 8), (13, 10, 7), (1, 2, 3)])
def test_any_size_goes_in_and_its_field_comes_out(scale: int, velocity: bool, size: tuple[int, int, int]) -> None:
    net = TransformationUNet(NARROW, scale=scale, velocity=velocity, integration_steps=3)
    field = net(*pair(*size, batch=2))
    assert field.shape == (2, 3, *(-(-n // scale) for n in size))
    assert field.dtype == torch.float32


def test_a_scale_that_is_not_offered_is_refused() -> None:
    with pytest.raises(ValueError, match="scale is 1 or 2, not 3"):
        TransformationUNet(NARROW, scale=3)


def test_arguments_survive_json() -> None:
    config = json.loads(
        json.dumps({"widths": NARROW, "velocity": True, "integration_steps": 2, "scale": 2, "norm": "group"})
    )
    torch.manual_seed(0)
    net = TransformationUNet(**config)
    again = TransformationUNet(**config)
    again.load_state_dict(net.state_dict())
    assert torch.equal(net(*pair(8, 8, 8)), again(*pair(8, 8, 8)))


def test_both_images_matter_and_their_order_does() -> None:
    torch.manual_seed(0)
    net = TransformationUNet(NARROW)
    fixed, moving = pair(8, 8, 8)
    field = net(fixed, moving)
    assert not torch.allclose(field, net(moving, fixed), rtol=1e-3, atol=0)
    assert not torch.allclose(field, net(fixed, moving.flip(2)), rtol=1e-3, atol=0)


def test_a_field_under_autocast_is_not_rounded_to_bf16() -> None:
    torch.manual_seed(0)
    net = TransformationUNet(NARROW)
    nn.init.normal_(net.unet.head.weight, std=2.0)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        field = net(*pair(12, 12, 12))
    assert field.dtype == torch.float32
    assert field.abs().max() > 4
    assert not torch.equal(field, field.bfloat16().float())
    torch.testing.assert_close(field, net(*pair(12, 12, 12)).detach(), atol=0.03 * field.abs().max().item(), rtol=0)


def constant_velocity(net: TransformationUNet, vector: tuple[float, float, float]) -> None:
    nn.init.zeros_(net.unet.head.weight)
    assert net.unet.head.bias is not None
    net.unet.head.bias.data = torch.tensor(vector)


def test_a_velocity_is_integrated() -> None:
    torch.manual_seed(0)
    net = TransformationUNet(NARROW, velocity=True, integration_steps=5)
    nn.init.normal_(net.unet.head.weight, std=0.5)
    images = pair(12, 10, 8)
    velocity = net.unet(torch.cat(images, 1))
    assert velocity.abs().max() > 0.5
    torch.testing.assert_close(net(*images), integrate(velocity, 5))
    net.velocity = False
    torch.testing.assert_close(net(*images), velocity)


def test_a_constant_velocity_is_a_translation_without_folds() -> None:
    net = TransformationUNet(NARROW, velocity=True)
    constant_velocity(net, (1.5, -2.0, 0.25))
    field = net(*pair(8, 8, 8))
    torch.testing.assert_close(field, torch.tensor([1.5, -2.0, 0.25]).view(1, 3, 1, 1, 1).expand_as(field))
    torch.testing.assert_close(jacobian_determinant(field), torch.ones(1, 8, 8, 8))


def test_a_half_resolution_field_covers_an_odd_image_exactly() -> None:
    """A linear field keeps its value at every position (but the border's) on the grid cut to the image."""
    net = TransformationUNet(NARROW, scale=2)
    image = torch.zeros(1, 1, 17, 18, 13)
    half = 0.25 * identity_positions((9, 9, 7))  # half-resolution voxels; at full resolution u(x) = x / 4 - 1/8
    field = net._on_the_extent_of(image, half)
    assert field.shape == half.shape
    full = resize(field, (17, 18, 13))
    expected = 0.5 * (identity_positions((17, 18, 13)) - 0.5) / 2
    inner = (slice(None), slice(None), slice(3, -3), slice(3, -3), slice(3, -3))
    torch.testing.assert_close(full[inner], expected[inner], atol=1e-4, rtol=0)


def test_a_half_resolution_field_of_an_even_image_is_left_alone() -> None:
    field = torch.randn(1, 3, 4, 5, 6)
    assert TransformationUNet(NARROW, scale=2)._on_the_extent_of(torch.zeros(1, 1, 8, 10, 12), field) is field


def test_the_generator_answers_in_its_range_at_any_size() -> None:
    net = Generator(NARROW)
    for size in ((8, 8, 8), (7, 5, 9)):
        image = 2 * pair(*size)[0] - 1
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            out = net(image)
        assert out.shape == image.shape
        assert out.dtype == torch.float32
        assert out.abs().max() <= 1
        assert out.std() > 0.01


def test_gradients_reach_every_parameter() -> None:
    for net, inputs in (
        (TransformationUNet(NARROW, velocity=True, scale=2), pair(12, 12, 12)),
        (Generator(NARROW), pair(12, 12, 12)[:1]),
    ):
        net(*inputs).square().sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
        assert all(m.weight.grad.abs().max() > 0 for m in net.modules() if isinstance(m, nn.Conv3d))


def test_the_u_net_sees_far() -> None:
    """Through its deepest level the network answers to a change far outside the reach of its finest convolutions."""
    torch.manual_seed(0)
    net = UNet(1, 1, (4, 4, 4, 4))
    x = torch.zeros(1, 1, 32, 4, 4)
    spot = x.clone()
    spot[:, :, 30] = 5.0
    change = (net(spot) - net(x)).abs().amax(dim=(0, 1, 3, 4))
    assert change[12] > 0
