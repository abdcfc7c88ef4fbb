"""Smoothing, similarities and the force in compiled code against PyTorch in double precision."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from deformgan.losses.gradient import image_gradient
from deformgan.refine.drive import local_correlation
from deformgan.spatial import native
from deformgan.spatial.field import resize
from deformgan.spatial.native import correlation, fluid, library
from deformgan.spatial.native.correlation import LocalCorrelation
from deformgan.spatial.native.spans import spans_of
from deformgan.spatial.warp import warp

pytestmark = pytest.mark.skipif(not native.is_available(), reason="the kernels are not built")
each_level = pytest.mark.parametrize("level", library.levels() if native.is_available() else [])
SHAPES = [(1, 1, 1), (2, 5, 3), (9, 12, 70), (12, 7, 9)]
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


@pytest.fixture(params=[1, 3], autouse=True)
def threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """So many threads, also for work that is small."""
    for module in (fluid, correlation):
        monkeypatch.setattr(module, "native_threads", lambda size: request.param)
    return request.param


def volumes(shape: tuple[int, ...], count: int) -> list[Tensor]:
    g = torch.Generator().manual_seed(sum(shape))
    return [torch.rand(1, 1, *shape, generator=g) for _ in range(count)]


@each_shape
@each_level
@pytest.mark.parametrize("sigma", [0.4, 1.5, 4.0, 13.0])
def test_gaussian_smoothing(shape: tuple[int, ...], level: int, sigma: float) -> None:
    volume = torch.cat(volumes(shape, 2), 1)
    radius = max(1, round(3 * sigma + 0.5))
    expected = [ndimage.gaussian_filter(v.double().numpy(), sigma, radius=radius, mode="nearest") for v in volume[0]]
    found = fluid.gaussian(volume, sigma, level=level)
    torch.testing.assert_close(found[0], torch.stack([torch.from_numpy(e) for e in expected]).float())
    assert fluid.gaussian(volume, 0.0) is volume


@each_shape
@each_level
@pytest.mark.parametrize("window", [1, 3, 7])
def test_window_sums(shape: tuple[int, ...], level: int, window: int) -> None:
    (volume,) = volumes(shape, 1)
    expected = F.avg_pool3d(F.pad(volume.double(), [window // 2] * 6), window, 1, divisor_override=1)
    torch.testing.assert_close(fluid.box_sum(volume, window, level=level), expected.float())


@each_shape
@each_level
def test_the_force_is_slope_times_gradient(shape: tuple[int, ...], level: int) -> None:
    slope, moved = volumes(shape, 2)
    expected = slope * image_gradient(moved) if min(shape) > 2 else torch.zeros(1, 3, *shape)
    torch.testing.assert_close(fluid.force(slope, moved, level=level), expected)


def check(measure: Callable[[Tensor], Tensor], add: Callable[[Tensor, Tensor], float], moved: Tensor) -> None:
    """Value and derivative of a similarity, the latter added twice over to what is there."""
    exact = moved.double().requires_grad_()
    expected = measure(exact)
    (slope,) = torch.autograd.grad(expected, exact)
    start = torch.rand(moved.shape)
    gradient = start.clone()
    assert add(moved, gradient) == pytest.approx(float(expected.detach()), rel=2e-5, abs=1e-6)
    assert float((gradient - start - 2 * slope).norm()) <= 1e-4 * float(slope.norm()) + 1e-6 * float(start.norm())


@each_shape
@each_level
@pytest.mark.parametrize("radius", [1, 2])
def test_local_correlation(shape: tuple[int, ...], level: int, radius: int) -> None:
    fixed, moved, weight = volumes(shape, 3)

    def measure(m: Tensor) -> Tensor:
        f, window = fixed.double(), 2 * radius + 1
        mean = lambda v: F.avg_pool3d(F.pad(v, [radius] * 6), window, 1)  # noqa: E731
        variance_f, variance_m = (mean(v * v) - mean(v) ** 2 for v in (f, m))
        covariance = mean(f * m) - mean(f) * mean(m)
        return (weight * covariance**2 / ((variance_f + 1e-3) * (variance_m + 1e-3))).sum()

    def add(m: Tensor, gradient: Tensor) -> float:
        return LocalCorrelation(fixed, weight, radius, level=level).add(m, gradient, 2.0)

    check(measure, add, moved)


@each_level
@pytest.mark.parametrize("radius", [1, 2])
def test_what_has_no_weight_is_left_out(level: int, radius: int) -> None:
    """Here and there a voxel counts, at the volume's ends too; what is left out has the derivative that it should have.

    Again and again with other images: nothing of an earlier one is left where nothing is computed.
    """
    fixed, *several = volumes((14, 23, 37), 4)
    weight = torch.zeros_like(fixed)
    for at in ((0, 0, 0), (5, 11, 20), (5, 12, 20), (13, 22, 36), (9, 2, 36)):
        weight[(0, 0, *at)] = 0.5 + at[0]
    compiled = LocalCorrelation(fixed, weight, radius, level=level)
    for moved in several:
        expected, slope = local_correlation(fixed.double(), moved.double(), weight.double(), radius, 1e-3)
        gradient = torch.zeros_like(moved)
        assert compiled.add(moved, gradient) == pytest.approx(float(expected), rel=2e-5)
        torch.testing.assert_close(gradient, slope.float(), rtol=1e-4, atol=1e-4 * float(slope.abs().amax()))
        assert 0 < (gradient == 0).float().mean() < 1


@each_level
def test_mutual_information(level: int) -> None:
    """Of a histogram that smoothing hardly changes; the derivative by steps of one voxel's intensity."""
    g = torch.Generator().manual_seed(1)
    fixed = torch.rand(1, 1, 20, 24, 22, generator=g)
    moved = (1 - fixed) ** 2
    weight = (torch.rand(fixed.shape, generator=g) > 0.3).float()
    gradient = torch.zeros_like(moved)
    value = fluid.add_mutual_information(fixed, moved, weight, gradient, level=level)
    alone = fluid.add_mutual_information(torch.rand(fixed.shape, generator=g), moved, weight, torch.zeros_like(moved))
    assert value > 10 * alone > 0
    assert not gradient[weight == 0].any()
    # along the derivative of the whole the value rises by what the derivative promises, but for the smoothing
    step = 1e-3 * gradient / gradient.abs().max()
    risen = fluid.add_mutual_information(fixed, moved + step, weight, torch.zeros_like(moved), level=level)
    assert risen - value == pytest.approx(float((step.double() * gradient).sum()), rel=0.25)
    assert fluid.add_mutual_information(fixed, moved, torch.zeros_like(weight), gradient, level=level) == 0


@pytest.mark.parametrize("wild", [float("nan"), float("inf"), -1e30])
def test_wild_intensities_are_survived(wild: float) -> None:
    fixed, moved, weight = volumes((6, 7, 8), 3)
    moved[0, 0, 3, 3, 3] = fixed[0, 0, 1, 1, 1] = wild
    fluid.add_mutual_information(fixed, moved, weight, torch.zeros_like(moved))
    LocalCorrelation(fixed, weight).add(moved, torch.zeros_like(moved))


def test_shapes_that_do_not_fit_are_refused() -> None:
    fixed, moved, weight = volumes((6, 7, 8), 3)
    with pytest.raises(ValueError, match="one shape"):
        LocalCorrelation(fixed[..., 1:], weight)
    with pytest.raises(ValueError, match="the gradient"):
        LocalCorrelation(fixed, weight).add(moved, torch.zeros(1, 1, 6, 7, 7))
    with pytest.raises(ValueError, match="odd number"):
        fluid.box_sum(fixed, 2)


@each_level
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("length", [0.4, 2.5])
@pytest.mark.parametrize("sigmas", [(1.5, 0.3), (0.0, 0.0)], ids=["smoothed", "plain"])
@pytest.mark.parametrize("share", [1.0, 0.9])
def test_steps_are_those_of_their_parts(
    shape: tuple[int, ...], level: int, sigmas: tuple[float, float], length: float, share: float
) -> None:
    moving, slope, *parts = volumes(shape, 5)
    field = 3 * torch.cat(parts, 1) - 1.5
    _follow(fluid.FluidSteps(moving, field, level=level), moving, slope, field, fluid.Step(length, *sigmas, share))


@each_level
def test_steps_of_a_field_coarser_than_the_image(level: int) -> None:
    moving, slope = volumes((12, 15, 21), 2)
    field = 3 * torch.cat(volumes((8, 10, 14), 3), 1) - 1.5
    steps = fluid.FluidSteps(moving, field, (12, 15, 21), level=level)
    _follow(steps, moving, slope, field, fluid.Step(0.4, 0.8, 0.3, 0.9))


@each_level
@pytest.mark.parametrize("coarse", [(12, 15, 21), (8, 10, 14)], ids=["as fine", "coarser"])
@pytest.mark.parametrize("sigma", [1.5, 0.0])
def test_what_does_not_count_is_left_out(level: int, coarse: tuple[int, int, int], sigma: float) -> None:
    shape, reach = (12, 15, 21), 2
    fixed, moving = volumes(shape, 2)
    weight = torch.zeros(1, 1, *shape)
    weight[:, :, 4:6, 5:9, 8:12], weight[:, :, 6, 9, 3] = 1, 0.5
    field = 3 * torch.cat(volumes(coarse, 3), 1) - 1.5
    similarity = LocalCorrelation(fixed, weight, reach, level=level)
    found = []
    for counts in (None, weight):
        steps = fluid.FluidSteps(moving, field, shape, counts, reach, level)
        for _ in range(3):
            moved, slope = steps.moved(), torch.zeros_like(moving)
            similarity.add(moved, slope)
            steps.advance(slope, fluid.Step(0.7, sigma, 0.3, 0.9))
        found.append((steps.field, moved.clone()))
    (every, whole), (some, part) = found
    torch.testing.assert_close(some, every, atol=1e-5, rtol=1e-5)
    near = F.max_pool3d(weight, 2 * reach + 3, 1, reach + 1) > 0
    torch.testing.assert_close(part[near], whole[near], atol=1e-4, rtol=1e-4)
    assert int((part == 0).sum()) > 0.2 * part.numel(), "and is not sampled"


@pytest.mark.parametrize("reach", [0, 1, 3, 30])
def test_stretches_hold_what_is_near(reach: int) -> None:
    generator = torch.Generator().manual_seed(reach)
    counts = (torch.rand(1, 1, 9, 12, 17, generator=generator) < 0.01).float()
    near = counts[0, 0] > 0
    if reach:
        near = F.max_pool3d(counts, 2 * reach + 1, 1, reach)[0, 0] > 0
    spans = spans_of(counts, reach)
    assert spans.dtype == torch.int32
    for row, (first, last) in zip(near.flatten(0, 1), spans.flatten(0, 1).tolist(), strict=True):
        at = row.nonzero().flatten().tolist()
        assert (first, last) == ((at[0], at[-1] + 1) if at else (0, 0))
    assert not spans_of(torch.zeros(1, 1, 3, 4, 5), reach).any()


def _follow(steps: fluid.FluidSteps, moving: Tensor, slope: Tensor, field: Tensor, step: fluid.Step) -> None:
    """Two steps against what they are made of."""
    expected, shape = field.clone(), tuple(slope.shape[2:])
    for _ in range(2):
        moved = steps.moved()
        leading = resize(expected, shape)
        torch.testing.assert_close(moved, warp(moving, leading, padding="border"), atol=1e-4, rtol=1e-4)
        update = fluid.gaussian(resize(fluid.force(slope, moved), tuple(field.shape[2:])), step.update_sigma)
        longest = float(update.square().sum(1).amax().sqrt())
        if longest > 0:
            lengths = update.square().sum(1, keepdim=True).sqrt()
            update = update * (step.length / lengths.clamp_min(fluid.usual_length(update, step.share)))
            assert float(update.square().sum(1).amax()) <= 1.001 * step.length**2
            expected = fluid.gaussian(update + warp(expected, update, padding="border"), step.field_sigma)
        steps.advance(slope, step)
        torch.testing.assert_close(steps.field, expected, atol=1e-5, rtol=1e-4)


def test_the_usual_length_is_a_quantile_of_those_that_move() -> None:
    update = torch.zeros(1, 3, 10, 20, 30)
    update[:, :, :5] = 2 * torch.randn(1, 3, 5, 20, 30, generator=torch.Generator().manual_seed(0))
    lengths = update.square().sum(1).sqrt()
    assert fluid.usual_length(update, 1) == pytest.approx(float(lengths.amax()))
    assert fluid.usual_length(update, 0.9) == pytest.approx(float(lengths[lengths > 0].quantile(0.9)), rel=0.01)
    large = update.repeat_interleave(5, 2).repeat_interleave(4, 3).repeat_interleave(4, 4)
    assert fluid.usual_length(large, 0.9) == pytest.approx(fluid.usual_length(update, 0.9), rel=0.1)
    assert fluid.usual_length(torch.zeros(1, 3, 4, 4, 4), 0.9) == 0


@pytest.mark.parametrize("wild", [float("nan"), float("inf")])
def test_a_step_with_a_broken_derivative_is_not_taken(wild: float) -> None:
    moving, slope, *parts = volumes((6, 7, 20), 5)
    slope[0, 0, 3, 3, 3] = wild
    steps = fluid.FluidSteps(moving, torch.cat(parts, 1))
    steps.moved()
    steps.advance(slope, fluid.Step(0.4, 1.5, 0.3))
    assert torch.equal(steps.field, torch.cat(parts, 1))
