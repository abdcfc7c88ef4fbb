"""The grid: voxel ↔ world, and grids derived from grids."""

from __future__ import annotations

import numpy as np
import pytest
from grids import oblique
from hypothesis import given
from hypothesis import strategies as st

from deformgan.spatial.grid import Grid


@st.composite
def grids(draw: st.DrawFn) -> Grid:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))  # may flip
    affine = np.eye(4)
    affine[:3, :3] = rotation * rng.uniform(0.3, 4, 3)
    affine[:3, 3] = rng.uniform(-200, 200, 3)
    return Grid(tuple(int(n) for n in rng.integers(2, 40, 3)), affine)


@given(grids())
def test_world_and_back(grid: Grid) -> None:
    index = np.random.default_rng(0).uniform(-5, 40, (7, 3))
    np.testing.assert_allclose(grid.to_index(grid.to_world(index)), index, atol=1e-9)
    np.testing.assert_allclose(grid.index_to(grid), np.eye(4), atol=1e-9)


@given(grids(), grids())
def test_index_to_another_grid_keeps_the_world_position(a: Grid, b: Grid) -> None:
    index = np.array([[0.0, 1.5, -2.0], [3.0, 4.0, 5.0]])
    matrix = a.index_to(b)
    np.testing.assert_allclose(b.to_world(index @ matrix[:3, :3].T + matrix[:3, 3]), a.to_world(index), atol=1e-8)


@given(grids(), st.tuples(*[st.integers(1, 50)] * 3))
def test_resized_keeps_the_outer_faces(grid: Grid, shape: tuple[int, int, int]) -> None:
    other = grid.resized(shape)
    assert other.shape == shape
    for faces in ([-0.5] * 3, [0.5] * 3):
        corner = np.array(faces)
        own, new = ((corner + 0.5) * n - 0.5 for n in (np.array(grid.shape), np.array(shape)))
        np.testing.assert_allclose(other.to_world(new), grid.to_world(own), atol=1e-8)


def test_halved_voxel_is_centred_between_two() -> None:
    grid = Grid((8, 8, 8), np.eye(4))
    np.testing.assert_allclose(grid.resized((4, 4, 4)).to_world(np.array([1, 1, 1])), [2.5, 2.5, 2.5])


def test_centred_grid() -> None:
    grid = Grid.centred((11, 20, 7), 1.5, np.array([3.0, -4.0, 5.0]))
    np.testing.assert_allclose(grid.centre_mm, [3, -4, 5])
    np.testing.assert_allclose(grid.spacing, 1.5)


@given(grids())
def test_moved_by_moves_positions(grid: Grid) -> None:
    matrix = np.array([[0, -1, 0, 3], [1, 0, 0, 4], [0, 0, 1, 5], [0, 0, 0, 1]], float)
    index = np.array([[1.0, 2.0, 3.0]])
    there = grid.to_world(index) @ matrix[:3, :3].T + matrix[:3, 3]
    np.testing.assert_allclose(grid.moved_by(matrix).to_world(index), there, atol=1e-9)


def test_equality_and_immutability() -> None:
    affine = np.eye(4)
    grid = Grid((2, 3, 4), affine)
    affine[0, 0] = 9  # the grid has its own copy
    assert grid == Grid((2, 3, 4), np.eye(4))
    assert grid != Grid((2, 3, 5), np.eye(4))
    assert grid != Grid((2, 3, 4), np.diag([2.0, 1, 1, 1]))
    assert hash(grid) == hash(Grid((2, 3, 4), np.eye(4)))
    with pytest.raises(ValueError, match="read-only"):
        grid.affine[0, 0] = 5
    with pytest.raises(ValueError, match="4×4"):
        Grid((2, 3, 4), np.eye(3))


def test_corners_are_the_outer_faces_of_the_voxels() -> None:
    grid = Grid((4, 2, 3), np.diag([2.0, 3.0, 5.0, 1.0]))
    corners = grid.corners_mm()
    assert corners.shape == (8, 3)
    np.testing.assert_allclose(corners.min(0), [-1, -1.5, -2.5])
    np.testing.assert_allclose(corners.max(0), [7, 4.5, 12.5])
    assert len({tuple(corner) for corner in corners}) == 8
    box = grid.corners_mm([(1, 2), (0, 2), (2, 3)])
    np.testing.assert_allclose(box.min(0), [1, -1.5, 7.5])
    np.testing.assert_allclose(box.max(0), [3, 4.5, 12.5])


def test_the_largest_distance_between_two_placings_is_at_a_corner() -> None:
    grid = oblique(20, (1.0, 2.0, 3.0), (5, 6, 7))
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(0.1), -np.sin(0.1)], [np.sin(0.1), np.cos(0.1)]]
    other = grid.moved_by(turn)
    index = np.stack(np.meshgrid(*[np.arange(n) for n in grid.shape], indexing="ij"), -1).reshape(-1, 3)
    everywhere = np.linalg.norm(grid.to_world(index) - other.to_world(index), axis=1)
    assert grid.farthest_mm(other) == pytest.approx(everywhere.max())
    assert grid.farthest_mm(other) == pytest.approx(other.farthest_mm(grid))
    assert grid.farthest_mm(grid) == 0
