"""Sampling and edges in compiled code against PyTorch: any shape, border, memory layout, number of threads, variant."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from deformgan.losses.gradient import image_gradient
from deformgan.networks.correlation import neighbours
from deformgan.spatial import native
from deformgan.spatial.field import resize
from deformgan.spatial.labels import vote
from deformgan.spatial.native import edges, library, sampling
from deformgan.spatial.warp import warp

pytestmark = pytest.mark.skipif(not native.is_available(), reason="the kernels are not built")
SHAPES = [(1, 1, 1), (1, 5, 1), (2, 3, 4), (7, 1, 9), (5, 8, 17), (9, 10, 33), (16, 12, 20)]
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
each_level = pytest.mark.parametrize("level", library.levels() if native.is_available() else [])


@pytest.fixture(params=[1, 3], autouse=True)
def threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """So many threads, also for work that is small."""
    for module in (edges, sampling):
        monkeypatch.setattr(module, "native_threads", lambda size: request.param)
    return request.param


def generator(shape: tuple[int, ...]) -> torch.Generator:
    return torch.Generator().manual_seed(sum(n * 10**i for i, n in enumerate(shape)))


def exact_warp(image: Tensor, field: Tensor, padding: str) -> Tensor:
    """In double precision: in single precision PyTorch's own positions are rounded to 1e-5 of a voxel."""
    shape = field.shape[2:]
    index = torch.stack(torch.meshgrid(*[torch.arange(n, dtype=torch.float64) for n in shape], indexing="ij"))
    at = (2 * (index + field[0].double()) + 1) / torch.tensor(image.shape[2:]).view(3, 1, 1, 1) - 1
    grid = at.flip(0).permute(1, 2, 3, 0)[None]
    return F.grid_sample(image.double(), grid, padding_mode=padding, align_corners=False).float()


@each_shape
@each_level
@pytest.mark.parametrize("padding", ["zeros", "border"])
@pytest.mark.parametrize("channels", [1, 3, 9])
def test_an_image_is_sampled(shape: tuple[int, int, int], level: int, padding: str, channels: int) -> None:
    g = generator(shape)
    target = tuple(reversed(shape))
    image = torch.randn(1, channels, *target, generator=g)
    field = 3 * torch.randn(1, 3, *shape, generator=g)
    expected = exact_warp(image, field, padding)
    for memory in (torch.contiguous_format, torch.channels_last_3d):
        found = sampling.warp(image.contiguous(memory_format=memory), field, padding, level=level)
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(found, warp(image, field, padding=padding), atol=1e-3, rtol=1e-3)


@each_level
@pytest.mark.parametrize("fine", [(9, 12, 15), (3, 30, 5), (8, 6, 10)])
def test_a_coarse_field_is_widened_on_the_way(level: int, fine: tuple[int, int, int]) -> None:
    g = generator(fine)
    image, field = torch.randn(1, 2, *fine, generator=g), torch.randn(1, 3, 4, 6, 5, generator=g)
    expected = exact_warp(image, resize(field, fine), "border")
    torch.testing.assert_close(sampling.warp(image, field, "border", fine, level=level), expected, atol=2e-4, rtol=1e-4)


@each_shape
@each_level
def test_an_image_at_any_positions(shape: tuple[int, int, int], level: int) -> None:
    g = generator(shape)
    image, at = torch.randn(2, *shape, generator=g), 1.5 * torch.randn(3, 4, 5, 37, generator=g)
    where = at.double().permute(1, 2, 3, 0)[None]
    expected = F.grid_sample(image[None].double(), where, padding_mode="border", align_corners=False)[0]
    found = sampling.sample(image, at, level=level)
    torch.testing.assert_close(found, expected.float(), atol=1e-4, rtol=1e-4)
    assert sampling.sample(image, at[:, :0], level=level).shape == (2, 0, 5, 37)
    at[:, 1] = float("nan")
    at[:, 2] = 1e30
    assert bool(sampling.sample(image, at, level=level).isfinite().all())
    with pytest.raises(ValueError, match="cannot sample"):
        sampling.sample(image[0], at)


@each_level
@pytest.mark.parametrize("wild", [float("nan"), float("inf"), -float("inf"), 1e30, -1e30, 2.0**31])
def test_wild_fields_stay_inside_the_image(level: int, wild: float) -> None:
    image, field = torch.rand(1, 2, 5, 6, 7), torch.zeros(1, 3, 5, 6, 7)
    field[:, :, 2] = wild
    for padding in ("zeros", "border"):
        found = sampling.warp(image, field, padding, level=level)
        assert torch.equal(found[:, :, 0], image[:, :, 0])
        assert bool(((found >= 0) & (found <= 1)).all())


def test_what_does_not_fit_is_refused() -> None:
    image, field = torch.rand(1, 2, 5, 6, 7), torch.zeros(1, 3, 5, 6, 7)
    for wrong in [(image[0], field), (image, field[:, :2]), (image.expand(2, -1, -1, -1, -1), field)]:
        with pytest.raises((ValueError, RuntimeError)):
            sampling.warp(*wrong)
    with pytest.raises(ValueError, match="into"):
        sampling.warp(image, field, out=torch.empty(1, 2, 5, 6, 6))
    with pytest.raises(ValueError, match="multiply"):
        edges.shifted_products(image, image)
    with pytest.raises(ValueError, match="logits"):
        edges.match(torch.rand(1, 8, 7), (2, 2, 2))


@each_shape
@each_level
@pytest.mark.parametrize("radius", [0, 1, 3])
def test_the_greatest_value_around(shape: tuple[int, int, int], level: int, radius: int) -> None:
    image = torch.randn(1, 1, *shape, generator=generator(shape))
    expected = F.max_pool3d(image, 2 * radius + 1, 1, radius)
    assert torch.equal(sampling.box_maximum(image, radius, level=level), expected)


@each_shape
@each_level
def test_unit_gradients(shape: tuple[int, int, int], level: int) -> None:
    image = torch.rand(1, 1, *shape, generator=generator(shape))
    expected = torch.zeros(1, 3, *shape)
    if min(shape) > 2:
        gradient = image_gradient(image)
        expected = gradient * (gradient.square().sum(1, keepdim=True) + 0.03**2).rsqrt()
    torch.testing.assert_close(edges.unit_gradients(image, 0.03, level=level), expected, atol=1e-6, rtol=1e-5)
    padded = edges.unit_gradients(image, 0.03, border=1, level=level)
    torch.testing.assert_close(padded, F.pad(expected, [1] * 6), atol=1e-6, rtol=1e-5)


@each_shape
@each_level
@pytest.mark.parametrize("factor", [1, 2])
def test_products_with_what_lies_around(shape: tuple[int, int, int], level: int, factor: int) -> None:
    g = generator(shape)
    fixed, moved = (torch.randn(1, 3, *shape, generator=g) for _ in range(2))
    padded = F.pad(moved, [1] * 6)
    dots = torch.cat([(fixed * padded[window]).sum(1, keepdim=True) for window in neighbours(shape)], 1)
    if min(shape) < factor:
        with pytest.raises(ValueError, match="multiply"):
            edges.shifted_products(fixed, padded, factor=factor, level=level)
        return
    found = edges.shifted_products(fixed, padded, factor=factor, squared=True, level=level)
    torch.testing.assert_close(found, F.avg_pool3d(dots.square(), factor), atol=1e-5, rtol=1e-5)
    if factor == 1:
        found = edges.local_correlation(fixed, moved, level=level)
        torch.testing.assert_close(found, dots * 3**-0.5, atol=1e-5, rtol=1e-5)


@each_level
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 4), (5, 4, 7), (7, 8, 6)], ids=str)
@pytest.mark.parametrize("sharpness", [0.1, 10.0, 300.0])
def test_the_mean_match(shape: tuple[int, int, int], level: int, sharpness: float) -> None:
    n = shape[0] * shape[1] * shape[2]
    logits = sharpness * torch.randn(1, n, n, generator=generator(shape))
    probability = logits.double().softmax(-1)
    index = torch.stack(torch.meshgrid(*[torch.arange(m) for m in shape], indexing="ij")).flatten(1).double()
    mean = (probability[0] @ index.T).T - index
    displacement, confidence = edges.match(logits, shape, level=level)
    torch.testing.assert_close(displacement.flatten(2)[0], mean.float(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(confidence.flatten(), probability[0].amax(-1).float(), atol=1e-5, rtol=1e-4)


@each_shape
@each_level
def test_labels_vote(shape: tuple[int, int, int], level: int) -> None:
    g = generator(shape)
    labels = torch.randint(0, 4, shape, generator=g).int()
    at = 2.6 * torch.rand(3, 5, 7, 9, generator=g) - 1.3
    at[:, 0, 0, 0] = torch.nan
    found = sampling.vote(labels, at, level=level)
    torch.testing.assert_close(found, vote(labels, at), atol=0, rtol=0)
    # a single label around is found where it lies; shares are those of linear interpolation
    masks = torch.stack([(labels == label).float() for label in range(4)])
    shares = sampling.sample(masks, at[:, 1:])
    chosen = shares.gather(0, labels.flatten()[found[1:].long()].long()[None])[0]
    assert bool((chosen >= shares.amax(0) - 1e-5).all())


def test_what_cannot_be_voted_on() -> None:
    at = torch.zeros(3, 2, 2, 2)
    with pytest.raises(ValueError, match="cannot sample"):
        sampling.vote(torch.zeros(4, 4, 4), at)
    with pytest.raises(ValueError, match="cannot sample"):
        sampling.vote(torch.zeros(4, 4, 0, dtype=torch.int32), at)
    with pytest.raises(ValueError, match="cannot sample"):
        sampling.vote(torch.zeros(4, 4, 4, dtype=torch.int32), at[:2])
