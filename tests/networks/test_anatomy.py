"""S: what its folding keeps in place, and what comes out at which size."""

from __future__ import annotations

import pytest
import torch

from deformgan.networks import build
from deformgan.networks.anatomy import AnatomyNet, fold, unfold

SMALL = {"kind": "anatomy", "labels": 5, "widths": [8, 8, 16], "norm": "none"}


def test_unfolding_undoes_folding() -> None:
    image = torch.rand(2, 1, 6, 8, 4)
    assert torch.equal(unfold(fold(image)), image)


def test_a_folded_voxel_holds_its_own_block() -> None:
    image = torch.arange(6 * 4 * 8.0).view(1, 1, 6, 4, 8)
    assert torch.equal(fold(image)[0, :, 1, 0, 2], image[0, 0, 2:4, 0:2, 4:6].reshape(-1))


@pytest.mark.parametrize("shape", [(16, 24, 32), (18, 22, 26), (2, 2, 2)])
def test_outputs_lie_on_the_grid_of_the_image_and_on_half_of_it(shape: tuple[int, ...]) -> None:
    labels, mask = build(SMALL)(torch.rand(2, 1, *shape))
    assert labels.shape == (2, 5, *(n // 2 for n in shape))
    assert mask.shape == (2, 1, *shape)


def test_a_bright_voxel_is_answered_where_it_is() -> None:
    torch.manual_seed(0)
    network = AnatomyNet(3, (8, 8, 16), "none")
    image = torch.zeros(1, 1, 64, 64, 64)
    background = network(image)
    image[0, 0, 41, 12, 30] = 1
    labels, mask = network(image)
    for said, before, place in ((labels, background[0], (20, 6, 15)), (mask, background[1], (41, 12, 30))):
        moved = (said - before).abs().sum(1)[0].detach()
        at = torch.stack(torch.meshgrid(*[torch.arange(float(n)) for n in moved.shape], indexing="ij"))
        centre = (at * moved).sum((1, 2, 3)) / moved.sum()
        assert (centre - torch.tensor(place)).abs().max() < 4


def test_every_weight_learns() -> None:
    network = build(SMALL)
    labels, mask = network(torch.rand(1, 1, 16, 16, 16))
    (labels.square().mean() + mask.square().mean()).backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in network.parameters())


def test_the_default_network_is_small_enough_to_ship() -> None:
    assert sum(4 * p.numel() for p in AnatomyNet().parameters()) < 6e6
