"""The compiled mutual information against PyTorch's, whose derivative is autograd's."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from deformgan.align.similarity import Level, nmi_score, nmi_slope
from deformgan.spatial.native import library
from deformgan.spatial.native.information import shared_information
from deformgan.spatial.native.library import is_available
from deformgan.spatial.native.use import without_kernels

pytestmark = pytest.mark.skipif(not is_available(), reason="the kernels are not built")


def level(shape: tuple[int, int, int], *, excluded: bool = False, steps: bool = False) -> Level:
    """Random points over smooth noise; ``steps``: of few values, so that many lie exactly on a bin's edge."""
    generator = torch.Generator().manual_seed(1)
    volume = F.avg_pool3d(torch.rand(1, 1, *(n + 4 for n in shape), generator=generator), 5, 1)
    volume = (volume - volume.min()) / (volume.max() - volume.min())
    if steps:
        volume = (volume * 7).round() / 7
    points = (torch.rand(700, 3, generator=generator) - 0.5) * 150
    bins = torch.randint(0, 8, (700,), generator=generator)
    left_out = (torch.rand(1, 1, *shape, generator=generator) > 0.9).float() if excluded else None
    to_volume = torch.tensor([[1 / 70, 0.002, 0, 0.1], [0, -1 / 75, 0, 0], [0.001, 0, 1 / 80, -0.05]])
    return Level(points, bins, volume, to_volume, 420.0, left_out)


def maps(count: int) -> torch.Tensor:
    """Around the identity; the last one leads all points outside."""
    generator = torch.Generator().manual_seed(2)
    matrices = torch.eye(3, 4).repeat(count, 1, 1) + 0.1 * torch.randn(count, 3, 4, generator=generator)
    matrices[:, :, 3] *= 60
    matrices[-1, 0, 3] = 1e6
    return matrices


@pytest.mark.parametrize("shape", [(20, 24, 18), (1, 9, 7), (8, 1, 1)])
@pytest.mark.parametrize("excluded", [False, True])
def test_scores_are_those_of_pytorch(shape: tuple[int, int, int], excluded: bool) -> None:
    pair, matrices = level(shape, excluded=excluded), maps(12)
    with without_kernels():
        expected = nmi_score(pair, matrices)
    found = nmi_score(pair, matrices)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert found[-1] == expected[-1] == 0, "nothing is compared"
    torch.testing.assert_close(nmi_slope(pair, matrices)[0], found, rtol=0, atol=0)


@pytest.mark.parametrize("instructions", library.levels() if is_available() else [])
def test_every_variant_gives_the_same(instructions: int) -> None:
    pair = level((20, 24, 18), excluded=True)
    volumes = pair.points, pair.bins, pair.volume, pair.excluded, pair.needed
    to_voxels = torch.tensor([[0.1, 0, 0, 9], [0, 0.12, 0.01, 11], [0, 0, 0.14, 10]])[None]
    found = shared_information(*volumes, to_voxels, instructions)
    expected = shared_information(*volumes, to_voxels)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("count", [1, 31, 33, 200])
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_scores_alone_on_any_number_of_threads(count: int, threads: int) -> None:
    pair, matrices = level((20, 24, 18), excluded=True), maps(count)
    volumes = pair.points, pair.bins, pair.volume, pair.excluded, pair.needed
    expected, slope = shared_information(*volumes, matrices)
    assert slope is not None
    found, none = shared_information(*volumes, matrices, with_slope=False, threads=threads)
    assert none is None
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("excluded", [False, True])
def test_the_slope_is_that_of_autograd(excluded: bool) -> None:
    # at a bin's or a voxel's edge the derivative jumps, and rounding decides on which side a point lies: few points
    pair, matrices = level((20, 24, 18), excluded=excluded), maps(12)
    with without_kernels():
        _, expected = nmi_slope(pair, matrices)
    _, found = nmi_slope(pair, matrices)
    away = (found - expected).abs().amax((1, 2)) / expected.abs().amax().clamp_min(1e-9)
    assert float(away.median()) < 1e-4
    assert float(away.max()) < 0.02


def test_a_step_uphill_scores_more() -> None:
    pair, matrices = level((20, 24, 18)), maps(6)[:-1]
    score, slope = nmi_slope(pair, matrices)
    scale = torch.tensor([1 / 70, 1 / 70, 1 / 70, 1.0])
    step = slope * scale.square()
    step = 0.02 * step / step.norm(dim=(1, 2), keepdim=True)
    assert bool((nmi_score(pair, matrices + step) > score).all())


def test_values_on_the_edges_of_bins_count_once() -> None:
    pair, matrices = level((20, 24, 18), steps=True), torch.eye(3, 4)[None]
    with without_kernels():
        expected = nmi_score(pair, matrices)
    torch.testing.assert_close(nmi_score(pair, matrices), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("bins", [torch.tensor([0, 8]), torch.tensor([-1, 0]), torch.tensor([0])])
def test_what_would_be_read_beyond_memory_is_refused(bins: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"bins"):
        shared_information(torch.zeros(2, 3), bins, torch.zeros(1, 1, 4, 4, 4), None, 1.0, torch.zeros(1, 3, 4))


def test_maps_of_nan_read_nothing() -> None:
    pair = level((6, 7, 8))
    scores, slope = nmi_slope(pair, torch.full((1, 3, 4), torch.nan))
    assert float(scores[0]) == 0
    assert bool((slope == 0).all())
