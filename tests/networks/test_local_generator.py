"""The generator with a small receptive field: what it sees, and what it cannot."""

from __future__ import annotations

import pytest
import torch

from deformgan.networks import build
from deformgan.networks.local_generator import LocalGenerator, low_pass

pytestmark = pytest.mark.processor


def seen(network: LocalGenerator, size: int = 25) -> torch.Tensor:
    """The voxels that the middle one of the output depends on."""
    image = torch.rand(1, 1, size, size, size).mul(2).sub(1).requires_grad_()
    network(image)[0, 0, size // 2, size // 2, size // 2].backward()
    return image.grad[0, 0] != 0


@pytest.mark.parametrize("depth", [1, 3, 5])
def test_details_come_from_as_far_as_the_depth_says(depth: int) -> None:
    torch.manual_seed(0)
    where = seen(LocalGenerator(8, depth, shading=False)).nonzero()
    assert (where.amin(0) >= 12 - depth).all()
    assert (where.amax(0) <= 12 + depth).all()
    assert (where.amax(0) - where.amin(0) == 2 * depth).all()


def test_an_edge_that_lies_farther_off_does_not_change_a_voxel() -> None:
    torch.manual_seed(0)
    network = LocalGenerator(8, 4, shading=False)
    flat = torch.zeros(1, 1, 25, 25, 25)
    edge = flat.clone()
    edge[..., :7] = 1.0
    with torch.no_grad():
        assert torch.equal(network(flat)[..., 12, 12, 12], network(edge)[..., 12, 12, 12])
        assert not torch.equal(network(flat)[..., 12, 12, 9], network(edge)[..., 12, 12, 9])


def test_the_low_pass_copy_tells_shading_and_hardly_edges() -> None:
    """An edge that moves by a voxel changes one cell of eight, so by an eighth of its height at most."""
    ramp = torch.linspace(0, 1, 64).expand(1, 1, 64, 64, 64).contiguous()
    torch.testing.assert_close(low_pass(ramp)[..., 8:-8], ramp[..., 8:-8], atol=1e-5, rtol=0)
    edges = [torch.zeros(1, 1, 32, 32, 32) for _ in range(2)]
    edges[0][..., :16], edges[1][..., :17] = 1.0, 1.0
    assert float((low_pass(edges[1]) - low_pass(edges[0])).abs().max()) <= 1 / 8 + 1e-6


def test_values_and_shapes() -> None:
    network = build({"kind": "local-generator", "width": 8, "depth": 2})
    with torch.no_grad():
        out = network(torch.rand(2, 1, 9, 11, 7) * 2 - 1)
    assert out.shape == (2, 1, 9, 11, 7)
    assert out.dtype == torch.float32
    assert float(out.abs().max()) <= 1


def test_a_generator_has_a_layer() -> None:
    with pytest.raises(ValueError, match="at least one layer"):
        LocalGenerator(depth=0)
