"""Separable resampling, blocks and scattered points: against SciPy and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage as ndi
import torch
from hypothesis import given
from hypothesis import strategies as st

from deformgan.spatial import blockwise
from deformgan.spatial.grid import Grid
from deformgan.spatial.resample import (
    affine_coordinates,
    antialiasing_sigma,
    axis_matrix,
    normalising,
    parallel_axes,
    separable,
)
from deformgan.spatial.scattered import follow, interpolate

pytestmark = pytest.mark.usefixtures("either_way")


def _turn(degrees: float) -> np.ndarray:
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return np.array([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


@st.composite
def parallel_maps(draw: st.DrawFn) -> np.ndarray:
    order = draw(st.permutations([0, 1, 2]))
    matrix = np.zeros((4, 4))
    matrix[order, range(3)] = [draw(st.floats(0.3, 3)) * draw(st.sampled_from([-1, 1])) for _ in range(3)]
    matrix[:3, 3] = [draw(st.floats(-5, 15)) for _ in range(3)]
    matrix[3, 3] = 1
    return matrix


@given(parallel_maps())
def test_separable_resampling_agrees_with_scipy(matrix: np.ndarray) -> None:
    target, source = (7, 5, 6), (8, 9, 10)
    data = np.random.default_rng(0).random(source).astype(np.float32)
    axes = parallel_axes(matrix, target)
    assert axes is not None
    turned = torch.from_numpy(data.T.copy())[None].permute(0, *(3 - axes[t].axis for t in (2, 1, 0)))
    matrices = [axis_matrix(n, source[a.axis], a.scale, a.offset) for n, a in zip(target, axes, strict=True)]
    out = separable(turned, matrices)[0].numpy().T
    index = np.stack(np.meshgrid(*[np.arange(n) for n in target], indexing="ij"), -1) @ matrix[:3, :3].T + matrix[:3, 3]
    expected = ndi.map_coordinates(data, np.moveaxis(index, -1, 0), order=1, mode="nearest")
    np.testing.assert_allclose(out, expected, atol=1e-5)


def test_parallel_axes_tells_oblique_from_rounding() -> None:
    assert parallel_axes(_turn(90), (100, 100, 100)) is not None
    assert parallel_axes(_turn(1e-4), (100, 100, 100)) is not None
    assert parallel_axes(_turn(0.1), (100, 100, 100)) is None
    assert parallel_axes(_turn(45), (100, 100, 100)) is None


def test_what_obliqueness_is_neglected_is_exact_in_the_middle() -> None:
    matrix = np.eye(4)
    matrix[:3] = [[0, 1e-4, 2.0, 3.0], [-1.5, 0, 1e-4, 40.0], [1e-4, 0.5, 0, -1.0]]
    shape = (31, 41, 21)
    axes = parallel_axes(matrix, shape)
    assert axes is not None
    middle = (np.array(shape) - 1) / 2
    source = matrix[:3, :3] @ middle + matrix[:3, 3]
    for axis, place in zip(axes, middle, strict=True):
        assert axis.scale * place + axis.offset == pytest.approx(source[axis.axis], abs=1e-12)


def test_smoothing_matrix_is_a_gaussian() -> None:
    values = np.random.default_rng(0).random(60).astype(np.float32)
    ours = axis_matrix(60, 60, 1, 0, sigma=1.7).numpy() @ values
    scipys = ndi.gaussian_filter1d(values, 1.7, truncate=4)
    np.testing.assert_allclose(ours[8:-8], scipys[8:-8], atol=1e-4)
    np.testing.assert_allclose(axis_matrix(9, 60, 6.5, 3, sigma=2).sum(1).numpy(), 1, atol=1e-6)


def test_axis_of_one_voxel() -> None:
    np.testing.assert_array_equal(axis_matrix(4, 1, 0.5, -1).numpy(), np.ones((4, 1)))


def test_antialiasing_adds_widths_in_squares() -> None:
    assert antialiasing_sigma(1.0, 1.0) == 0
    assert antialiasing_sigma(1.0, 2.0) == 0
    # a source voxel of 1 and a blur of this sigma have together the width of a voxel of 3
    assert np.hypot(antialiasing_sigma(3.0, 1.0) * 2.3548, 1.0) == pytest.approx(3.0, abs=1e-3)


def test_coordinates_are_those_of_grid_sample() -> None:
    data = torch.rand(1, 1, 4, 5, 6)
    at = affine_coordinates(np.eye(4), (6, 5, 4), (6, 5, 4)).permute(1, 2, 3, 0)[None]
    out = torch.nn.functional.grid_sample(data, at, align_corners=False)
    torch.testing.assert_close(out, data, atol=1e-5, rtol=0)
    corner = normalising((6, 5, 4)) @ [-0.5, -0.5, 3.5, 1]
    np.testing.assert_allclose(corner, [-1, -1, 1, 1])
    torch.testing.assert_close(
        blockwise.unit_to_index(torch.tensor([-1.0, 1.0, 0.0]).view(3, 1), (6, 5, 4))[:, 0],
        torch.tensor([-0.5, 4.5, 1.5]),
    )


@pytest.mark.parametrize("degrees", [0, 90, 20])
@pytest.mark.parametrize("slope", [None, 0.0, 1.0], ids=["no ramp", "constant", "ramp"])
def test_blocks_agree_with_scipy(monkeypatch: pytest.MonkeyPatch, degrees: float, slope: float | None) -> None:
    monkeypatch.setattr(blockwise, "_BLOCK_VOXELS", 100)  # several blockwise, the last one shorter
    own = Grid((7, 8, 9), np.diag([2.0, 1.5, 1, 1]))
    onto = Grid((9, 6, 11), _turn(degrees) @ np.diag([1.0, -1, 1.2, 1])).moved_by(
        np.array([[1, 0, 0, 2.5], [0, 1, 0, 6], [0, 0, 1, -1], [0, 0, 0, 1]])
    )
    data = np.random.default_rng(0).random((7, 8, 9, 3)).astype(np.float32)
    ramp = None if slope is None else np.random.default_rng(1).normal(size=(4, 4)) * [slope, slope, slope, 1]
    out = np.full((*onto.shape, 3), np.nan, np.float32)
    for start, stop, block in blockwise.resampled_blocks(torch.from_numpy(data.T.copy()), own, onto, ramp):
        out[:, :, start:stop] = block.numpy().T
    voxels = np.stack(np.meshgrid(*[np.arange(n) for n in onto.shape], indexing="ij"), -1)
    where = np.moveaxis(own.to_index(onto.to_world(voxels)), -1, 0)
    expected = np.stack([ndi.map_coordinates(data[..., c], where, order=1, mode="nearest") for c in range(3)], -1)
    if ramp is not None:
        expected = expected + voxels @ ramp[:3, :3].T + ramp[:3, 3]
    np.testing.assert_allclose(out, expected, atol=1e-4)


def test_ramp_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blockwise, "_BLOCK_VOXELS", 50)
    onto, matrix = Grid((4, 5, 7), np.eye(4)), np.random.default_rng(1).normal(size=(4, 4))
    out = np.concatenate([block.numpy() for _, _, block in blockwise.ramp_blocks(matrix, onto)], 1)
    voxels = np.stack(np.meshgrid(*[np.arange(n) for n in onto.shape], indexing="ij"), -1)
    np.testing.assert_allclose(out.T, voxels @ matrix[:3, :3].T + matrix[:3, 3], atol=1e-5)


def test_interpolate_agrees_with_scipy() -> None:
    rng = np.random.default_rng(3)
    values, index = rng.random((5, 6, 4, 2)), rng.uniform(-2, 8, (50, 3))
    expected = np.stack([ndi.map_coordinates(values[..., c], index.T, order=1, mode="nearest") for c in (0, 1)], 1)
    np.testing.assert_allclose(interpolate(values, index), expected, atol=1e-12)
    flat = rng.random((5, 1, 4, 2))  # an axis of one voxel
    np.testing.assert_allclose(interpolate(flat, index), interpolate(np.repeat(flat, 3, 1), index), atol=1e-12)


@given(st.floats(-0.85, 2.5))
def test_follow_finds_the_way_back_through_a_scaling(slope: float) -> None:
    """Plain fixed-point steps diverge where the slope is above 1: shortened ones do not."""
    target = np.array([[1.0, -2.0, 3.0], [0.0, 0.0, 0.0]])
    found = follow(lambda x: slope * x + 1, target)
    np.testing.assert_allclose(found * (1 + slope) + 1, target, atol=2e-4)


def test_follow_returns_the_nearest_where_there_is_no_way() -> None:
    found = follow(lambda x: -x, np.array([[1.0, 2.0, 2.0]]), iterations=20)  # everything goes to the origin
    assert np.isfinite(found).all()
