"""Volumes between grids, Jacobian determinants and inverse fields in compiled code: closed forms and PyTorch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from deformgan.spatial import blockwise, native
from deformgan.spatial.field import affine_field, invert, jacobian_determinant, resize
from deformgan.spatial.grid import Grid
from deformgan.spatial.native import grids, library
from deformgan.spatial.native.use import without_kernels
from deformgan.spatial.resample import axis_lines, axis_matrix
from deformgan.spatial.warp import warp

pytestmark = pytest.mark.skipif(not native.is_available(), reason="the kernels are not built")
each_level = pytest.mark.parametrize("level", library.levels() if native.is_available() else [])
SHAPES = [(1, 1, 1), (1, 5, 1), (2, 3, 4), (7, 1, 9), (5, 8, 70)]
WANTED = [(3, 9, 4), (6, 2, 65)]


@pytest.fixture(params=[1, 3], autouse=True)
def threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """So many threads, also for work that is small."""
    monkeypatch.setattr(grids, "native_threads", lambda size: request.param)
    return request.param


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def lines(target: int, source: int, scale: float, offset: float) -> grids.Lines:
    below, above, t = axis_lines(target, source, scale, offset)
    return below.astype(np.int32), above.astype(np.int32), t.astype(np.float32)


@each_level
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("wanted", WANTED, ids=str)
def test_a_volume_is_resampled_along_each_axis(shape: tuple[int, ...], wanted: tuple[int, ...], level: int) -> None:
    values = random(2, *shape)
    # flipped, finer, beyond both ends, and exactly on voxels
    for scale, offset in ((-0.7, 3.3), (0.37, -0.6), (1.0, 0.0)):
        maps = [lines(a, b, scale, offset) for a, b in zip(wanted, shape, strict=True)]
        found = grids.resample(values, maps, level=level)
        z, y, x = (axis_matrix(a, b, scale, offset).double() for a, b in zip(wanted, shape, strict=True))
        expected = torch.einsum("cdhw,Dd,Hh,Ww->cDHW", values.double(), z, y, x)
        torch.testing.assert_close(found, expected.float(), atol=1e-6, rtol=1e-5)


@each_level
def test_vectors_are_multiplied_shifted_and_rounded(level: int) -> None:
    values, matrix = random(3, 4, 5, 6), np.random.default_rng(0).normal(size=(3, 3))
    ramp = random(3, 8, 6, seed=1), random(3, 7, seed=2)
    maps = [lines(7, 4, 0.5, 0.1), lines(8, 5, 0.5, -0.2), lines(6, 6, 1.0, 0.0)]
    plain = grids.resample(values, maps, level=level)
    expected = torch.einsum("ij,jdhw->idhw", torch.from_numpy(matrix), plain.double())
    expected += ramp[0].double()[:, None] + ramp[1].double()[:, :, None, None]
    found = grids.resample(values, maps, matrix=matrix, ramp=ramp, level=level)
    torch.testing.assert_close(found, expected.float(), atol=1e-5, rtol=1e-5)
    rounded = grids.resample(values, maps, matrix=matrix, ramp=ramp, rounding=2.0**-4, level=level)
    assert torch.equal(rounded, (found * 16).round() / 16)


def test_axes_in_another_order_need_no_copy() -> None:
    values = random(3, 4, 5, 6)
    maps = [lines(n, n, 1.0, 0.0) for n in (5, 6, 4)]
    assert torch.equal(grids.resample(values.permute(0, 2, 3, 1), maps), values.permute(0, 2, 3, 1))


def test_the_result_goes_to_memory_that_is_given() -> None:
    maps, values = [lines(n, n, 1.0, 0.0) for n in (5, 6, 4)], random(2, 5, 6, 4)
    out = torch.full_like(values, float("nan"))
    assert grids.resample(values, maps, out=out) is out
    assert torch.equal(out, values)
    with pytest.raises(ValueError, match="the result is"):
        grids.resample(values, maps, out=out[:1])


def test_what_cannot_be_resampled_is_refused() -> None:
    maps = [lines(2, 2, 1.0, 0.0)] * 3
    with pytest.raises(ValueError, match="cannot resample"):
        grids.resample(random(2, 2, 2), maps)
    with pytest.raises(ValueError, match="for vectors"):
        grids.resample(random(1, 2, 2, 2), maps, matrix=np.eye(3))
    with pytest.raises(ValueError, match="no derivative"):
        grids.jacobian(random(3, 1, 2, 2), np.eye(3))
    with pytest.raises(ValueError, match="cannot invert"):
        grids.invert(random(2, 2, 2, 2), (2, 2, 2), np.eye(4), np.eye(3), tolerance=1e-3, slack=0)


@pytest.mark.parametrize("matrix", [None, np.diag([1.2, 0.9, -1.1])], ids=["plain", "scaled"])
def test_grids_with_parallel_axes_are_resampled_as_with_pytorch(matrix: np.ndarray | None) -> None:
    own = Grid((6, 7, 5), np.array([[0, -2.0, 0, 9], [1.5, 0, 0, -3], [0, 0, 3, -5], [0, 0, 0, 1]]))
    onto, ramp = Grid.centred((9, 8, 11), 1.3, np.array([3.0, 1, 2])), np.diag([0.1, -0.2, 0.3, 1])
    values = random(3, 5, 7, 6)
    found = blockwise.resampled_whole(values, own, onto, ramp, matrix, 2.0**-6)
    with without_kernels():
        expected = blockwise.resampled_whole(values, own, onto, ramp, matrix, 2.0**-6)
    torch.testing.assert_close(found, expected, atol=2.0**-6 + 1e-6, rtol=0)
    assert float((found != expected).float().mean()) < 0.01  # where rounding falls to the other side


@pytest.mark.parametrize("shape", [(9, 4, 6), (1, 20, 3), (5, 8, 7)], ids=str)
def test_a_field_is_resized_as_with_pytorch(shape: tuple[int, int, int]) -> None:
    field = random(1, 3, 5, 8, 6)
    found = resize(field, shape)
    with without_kernels():
        torch.testing.assert_close(found, resize(field, shape), atol=1e-5, rtol=1e-5)


@each_level
@pytest.mark.parametrize("shape", [(2, 2, 2), (3, 5, 4), (6, 2, 33)], ids=str)
def test_the_jacobian_determinant_is_that_of_central_differences(shape: tuple[int, ...], level: int) -> None:
    field, base = random(3, *shape), np.random.default_rng(1).normal(size=(3, 3))
    whole = torch.stack(torch.gradient(field.double(), dim=(1, 2, 3)), 1).permute(2, 3, 4, 0, 1) + torch.from_numpy(
        base
    )
    found = grids.jacobian(field, base, 0.5, level=level)
    torch.testing.assert_close(found, 0.5 * torch.linalg.det(whole).float(), atol=1e-4, rtol=1e-4)
    with without_kernels():
        expected = jacobian_determinant(field[None])
    torch.testing.assert_close(jacobian_determinant(field[None]), expected, atol=1e-4, rtol=1e-4)


@each_level
def test_the_inverse_of_an_affine_field_is_exact(level: int) -> None:
    """x + A x + t = y has x = (1 + A)⁻¹ (y - t)."""
    matrix = torch.tensor([[1.1, 0.05, 0.0, 0.7], [-0.1, 0.9, 0.1, -0.4], [0.0, 0.08, 1.05, 0.3]])
    shape = (12, 14, 70)
    field = affine_field(matrix[None], shape)
    inverse = affine_field(torch.linalg.inv(torch.cat([matrix, torch.tensor([[0.0, 0, 0, 1]])]))[None], shape)
    found, residual = grids.invert(field[0], shape, np.eye(4), np.eye(3), tolerance=1e-4, slack=0, level=level)
    assert residual < 1e-3
    source = inverse[0] + torch.stack(torch.meshgrid(*map(torch.arange, shape), indexing="ij"))
    last = torch.tensor(shape).view(3, 1, 1, 1) - 1
    inside = ((source >= 0) & (source <= last)).all(0)
    assert inside.float().mean() > 0.5
    torch.testing.assert_close(found[:, inside], inverse[0][:, inside], atol=5e-4, rtol=0)


@each_level
def test_an_inverse_on_another_grid_leads_back(level: int) -> None:
    """Vectors in millimetres, a field's voxels of 2 mm along transposed axes, wanted at places of its own."""
    smooth = torch.nn.functional.interpolate(random(1, 3, 4, 4, 4), size=(20, 20, 20), mode="trilinear")[0]
    scale = 0.5 * np.eye(3)[[2, 1, 0]]
    place = np.array([[0.6, 0, 0, 2], [0, 0.5, 0.01, 3], [0, 0, 0.4, 1], [0, 0, 0, 1]])
    w, residual = grids.invert(smooth, (25, 24, 33), place, scale, tolerance=1e-5, slack=0.5, level=level)
    index = np.stack(np.meshgrid(*map(np.arange, (25, 24, 33)), indexing="ij")).reshape(3, -1)
    at = place[:3, :3] @ index + place[:3, 3:] + scale @ w.reshape(3, -1).double().numpy()
    unit = (2 * torch.from_numpy(at).float() + 1) / 20 - 1
    error = w.reshape(3, -1) + blockwise.sample(smooth, unit.flip(0)[:, None])[:, 0]
    inside = (np.abs(at - 9.5) <= 10).all(0)
    assert 0 < inside.mean() <= 1
    assert float(error[:, torch.from_numpy(inside)].norm(dim=0).max()) == pytest.approx(residual, abs=1e-5)
    assert residual < 1e-4


def test_a_field_is_inverted_as_with_pytorch_and_what_folds_keeps_a_residual() -> None:
    gentle = 0.4 * torch.nn.functional.interpolate(random(1, 3, 5, 5, 5), size=(24, 20, 22), mode="trilinear")
    found, residual = invert(gentle)
    with without_kernels():
        expected, _ = invert(gentle)
    assert residual < 1e-3
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=0)
    assert float((found + warp(gentle, found, padding="border")).abs().max()) < 1e-3
    assert invert(8 * random(1, 3, 12, 12, 12))[1] > 0.1


@each_level
def test_where_fixed_points_repel_the_inverse_arrives_all_the_same(level: int) -> None:
    """A field that stretches by up to 3.4 and folds nowhere: its fixed-point iteration diverges."""
    x = torch.arange(60.0)
    slope = 2.9 * torch.exp(-(((x % 20) - 10) ** 2) / 8) - 0.5
    line = slope.cumsum(0) - slope.cumsum(0).mean()
    field = torch.zeros(3, 60, 6, 70)
    field[0] = line.view(60, 1, 1)
    assert float(line.diff().min()) > -0.9
    assert float(line.diff().max()) > 2
    found, residual = grids.invert(field, (60, 6, 70), np.eye(4), np.eye(3), tolerance=1e-4, slack=0, level=level)
    assert residual < 2e-4
    again = found + warp(field[None], found[None], padding="border")[0]
    at = x.view(60, 1, 1) + found[0]
    inside = (at > 0) & (at < 59)
    assert float((again[0].abs() * inside).max()) < 2e-4
    assert float(inside.float().mean()) > 0.8


def test_threads_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    field, maps = random(3, 9, 8, 70), [lines(11, 9, 0.7, 0.2), lines(9, 8, 0.9, 0), lines(70, 70, 1, 0)]

    def all_three() -> list[Tensor]:
        inverse = grids.invert(0.2 * field, (9, 8, 70), np.eye(4), np.eye(3), tolerance=1e-3, slack=0)[0]
        return [grids.resample(field, maps), grids.jacobian(field, np.eye(3)), inverse]

    first = all_three()
    monkeypatch.setattr(grids, "native_threads", lambda size: 2)
    assert all(torch.equal(a, b) for a, b in zip(first, all_three(), strict=True))
