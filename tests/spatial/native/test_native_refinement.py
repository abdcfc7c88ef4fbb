"""A step of refinement in compiled code against PyTorch in double precision, and alike for any number of threads."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from deformgan.losses import bending_energy
from deformgan.losses.gradient import GradientSimilarity
from deformgan.refine.objective import folding
from deformgan.spatial import native
from deformgan.spatial.adam import adam
from deformgan.spatial.control_points import REACH, centred_positions, linear, smoothed
from deformgan.spatial.native import control, library, similarity

pytestmark = pytest.mark.skipif(not native.is_available(), reason="the kernels are not built")
each_level = pytest.mark.parametrize("level", library.levels() if native.is_available() else [])
# the fixed image's grid, the moving one's, the control points'
GRIDS = [
    ((3, 3, 3), (1, 2, 3), (1, 2, 4)),
    ((9, 14, 11), (9, 14, 11), (4, 5, 3)),
    ((20, 17, 22), (25, 12, 30), (5, 17, 6)),
    ((8, 6, 10), (8, 6, 10), (8, 6, 10)),
    ((40, 24, 33), (40, 24, 33), (9, 8, 7)),
]
each_grid = pytest.mark.parametrize("grids", GRIDS, ids=str)


def volume(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.rand(1, 1, *shape, generator=torch.Generator().manual_seed(seed))


def weights(shape: tuple[int, ...], kind: str) -> Tensor:
    some = volume(shape, 3)
    return {"all": torch.ones_like(some), "none": torch.zeros_like(some), "some": (some - 0.5).clamp_min(0)}[kind]


def matrix(source: int, target: int) -> Tensor:
    """Linear interpolation between voxel centres over the same extent, by hat functions."""
    at = ((torch.arange(target).double() + 0.5) * source / target - 0.5).clamp(0, source - 1)
    return (1 - (at[:, None] - torch.arange(source)).abs()).clamp_min(0)


def exact_similarity(fixed: Tensor, moving: Tensor, weight: Tensor, epsilon: float, field: Tensor) -> Tensor:
    """In double precision, in which PyTorch's positions are exact enough."""
    shape, coarse = fixed.shape[2:], field.shape[2:]
    fine = torch.einsum("bcijk,di,hj,wk->bcdhw", field, *[matrix(a, b) for a, b in zip(coarse, shape, strict=True)])
    ratio = torch.tensor([b / a for a, b in zip(coarse, shape, strict=True)]).double().view(1, 3, 1, 1, 1)
    index = torch.stack(torch.meshgrid(*[torch.arange(n).double() for n in shape], indexing="ij"))[None]
    at = (2 * (index + fine * ratio) + 1) / torch.tensor(moving.shape[2:]).double().view(1, 3, 1, 1, 1) - 1
    warped = F.grid_sample(moving.double(), at.flip(1).permute(0, 2, 3, 4, 1), align_corners=False)
    return GradientSimilarity(fixed.double(), epsilon, squared=True, mask=weight.double())(warped)


@each_grid
@each_level
@pytest.mark.parametrize("kind", ["all", "some", "none"])
@pytest.mark.parametrize("amplitude", [0.3, 4.0])
def test_similarity_and_its_derivative(grids: tuple, level: int, kind: str, amplitude: float) -> None:
    shape, other, coarse = grids
    fixed, moving, weight = volume(shape, 1), volume(other, 2), weights(shape, kind)
    field = amplitude * torch.randn(1, 3, *coarse, generator=torch.Generator().manual_seed(4))
    value, gradient = similarity.FieldSimilarity(fixed, moving, weight, 0.02, coarse, level)(field)
    exact = field.double().requires_grad_()
    expected = exact_similarity(fixed, moving, weight, 0.02, exact)
    (slope,) = torch.autograd.grad(expected, exact)
    assert value == pytest.approx(float(expected.detach()), rel=1e-5, abs=1e-9)
    assert float((gradient - slope).norm()) <= 3e-5 * float(slope.norm())
    if kind == "none":
        assert value == 0
        assert not gradient.any()


def test_the_number_of_threads_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    shape, coarse = (41, 24, 33), (9, 8, 7)
    fixed, moving, weight = volume(shape, 1), volume(shape, 2), weights(shape, "some")
    field = torch.randn(1, 3, *coarse, generator=torch.Generator().manual_seed(4))
    found = []
    for threads in (1, 2, 3, 7):
        monkeypatch.setattr(similarity, "native_threads", lambda size, n=threads: n)
        found.append(similarity.FieldSimilarity(fixed, moving, weight, 0.02, coarse)(field))
    for value, gradient in found[1:]:
        assert value == found[0][0]
        assert torch.equal(gradient, found[0][1])


def test_weights_can_be_given_anew() -> None:
    shape, coarse = (20, 12, 14), (5, 4, 4)
    fixed, moving, field = volume(shape, 1), volume(shape, 2), torch.randn(1, 3, *coarse)
    first, second = weights(shape, "all"), weights(shape, "some")
    one = similarity.FieldSimilarity(fixed, moving, first, 0.02, coarse)
    one.weigh(second)
    value, gradient = one(field)
    expected, slope = similarity.FieldSimilarity(fixed, moving, second, 0.02, coarse)(field)
    assert value == expected
    assert torch.equal(gradient, slope)


@pytest.mark.parametrize("wild", [float("nan"), float("inf"), -1e30])
def test_wild_fields_and_images_are_survived(wild: float) -> None:
    shape, coarse = (20, 12, 14), (5, 4, 4)
    fixed, moving, weight = volume(shape, 1), volume(shape, 2), weights(shape, "all")
    field = torch.zeros(1, 3, *coarse)
    field[:, :, 2] = wild
    assert similarity.FieldSimilarity(fixed, moving, weight, 0.02, coarse)(field)[0] <= 1
    moving[0, 0, 3, 3, 3] = wild
    similarity.FieldSimilarity(fixed, moving, weight, 0.02, coarse)(torch.zeros(1, 3, *coarse))


def test_shapes_that_do_not_fit_are_refused() -> None:
    image = volume((5, 5, 5), 1)
    with pytest.raises(ValueError, match="too small"):
        similarity.FieldSimilarity(image[:, :, :2], image, image[:, :, :2], 0.02, (2, 2, 2))
    one = similarity.FieldSimilarity(image, image, image, 0.02, (2, 2, 2))
    for wrong in (torch.zeros(1, 3, 2, 2, 3), torch.zeros(1, 3, 2, 2, 2, dtype=torch.float64)):
        with pytest.raises(ValueError, match="a field is"):
            one(wrong)
    with pytest.raises(ValueError, match="3 points"):
        control.add_bending(torch.zeros(1, 3, 2, 3, 3), 1.0, torch.zeros(1, 3, 2, 3, 3))
    with pytest.raises(ValueError, match="one shape"):
        control.adam(torch.zeros(3), torch.zeros(4), (torch.zeros(3), torch.zeros(3)), 0.1, 1)
    with pytest.raises(ValueError, match="contiguous"):
        control.adam(*[torch.zeros(4, 4).T[:2]] * 2, (torch.zeros(4, 4).T[:2],) * 2, 0.1, 1)  # type: ignore[arg-type]


@each_level
@pytest.mark.parametrize("coarse", [(3, 4, 5), (1, 2, 1), (6, 5, 9)], ids=str)
@pytest.mark.parametrize("smoothing", [0, 1, 2])
def test_the_field_of_control_points_and_its_transpose(coarse: tuple, level: int, smoothing: int) -> None:
    full = tuple(4 * n + 1 for n in coarse)
    points, affine = torch.randn(1, 3, *coarse).requires_grad_(), torch.randn(3, 4).requires_grad_()
    where = centred_positions(full, coarse, torch.device("cpu"))
    ratio = torch.tensor([a / b for a, b in zip(full, coarse, strict=True)]).view(1, 3, 1, 1, 1)
    expected = (smoothed(points, smoothing) + linear(affine, where)) / ratio
    one = control.ControlField(points, affine, full, smoothing, REACH, level)
    torch.testing.assert_close(one(), expected.detach(), atol=1e-5, rtol=1e-5)
    gradient = torch.randn(1, 3, *coarse)
    for found, slope in zip(one.pull(gradient), torch.autograd.grad(expected, [points, affine], gradient), strict=True):
        torch.testing.assert_close(found, slope, atol=2e-5, rtol=1e-5)


@each_level
@pytest.mark.parametrize("coarse", [(3, 3, 3), (4, 7, 5), (6, 3, 40)], ids=str)
def test_bending_and_folds(coarse: tuple, level: int) -> None:
    points = torch.randn(1, 3, *coarse, generator=torch.Generator().manual_seed(1))
    for reference, add in (
        (bending_energy, lambda p, g: control.add_bending(p, 0.3, g, level)),
        (lambda p: folding(p, 0.25), lambda p, g: control.add_folding(p, 0.25, 0.3, g, level)),
    ):
        exact = points.double().requires_grad_()
        expected = reference(exact)
        (slope,) = torch.autograd.grad(expected, exact)
        start = torch.randn(1, 3, *coarse)
        gradient = start.clone()
        assert add(points, gradient) == pytest.approx(float(expected.detach()), rel=1e-5)
        torch.testing.assert_close(gradient.double(), start + 0.3 * slope, atol=1e-5, rtol=1e-4)


@each_level
def test_adam(level: int) -> None:
    variable, other = (torch.full((1, 3, 4, 5, 6), 0.7) for _ in range(2))
    moments, others = ([torch.zeros_like(variable) for _ in range(2)] for _ in range(2))
    for step in range(1, 6):
        gradient = torch.randn(variable.shape, generator=torch.Generator().manual_seed(step))
        control.adam(variable, gradient, tuple(moments), 0.1, step, level)
        adam(other, gradient, tuple(others), 0.1, step)
    torch.testing.assert_close(variable, other, atol=1e-6, rtol=1e-5)
