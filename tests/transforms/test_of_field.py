"""A network's field as an affine map and the rest: which affine maps are taken, and that the map is the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deformgan.spatial.field import affine_field
from deformgan.spatial.grid import Grid
from deformgan.transforms.of_field import transform_of_field
from deformgan.transforms.transform import Transform

SHAPE = (12, 14, 10)
WORKING = Grid.centred(SHAPE, 3.0, np.array([5.0, -7.0, 2.0]))
EVERYWHERE = torch.ones(1, 1, *SHAPE)


def stretched(*factors: float) -> torch.Tensor:
    """The field of a stretch about the grid's middle, (1, 3, D, H, W) in voxels."""
    matrix = torch.eye(4, dtype=torch.float64)[None]
    matrix[0, :3, :3] = torch.diag(torch.tensor(factors, dtype=torch.float64))
    middle = (torch.tensor(SHAPE, dtype=torch.float64) - 1) / 2
    matrix[0, :3, 3] = middle - matrix[0, :3, :3] @ middle
    return affine_field(matrix, SHAPE).float()


def map_of(field: torch.Tensor, weight: torch.Tensor = EVERYWHERE) -> Transform:
    return transform_of_field(WORKING, WORKING, field, weight)


@pytest.mark.parametrize("factors", [(0.25, 1.0, 1.0), (1.0, 0.5, 2.0), (4.5, 1.0, 1.0), (-1.0, -1.0, 1.0)])
def test_a_sound_affine_map_is_taken_out_of_the_field(factors: tuple[float, ...]) -> None:
    found = map_of(stretched(*factors))
    np.testing.assert_allclose(found.affine[:3, :3], np.diag(factors), atol=1e-4)
    assert found.disp_mm is not None
    np.testing.assert_allclose(found.disp_mm, 0, atol=1e-3)


@pytest.mark.parametrize(
    "factors",
    [(0.15, 1.0, 1.0), (1.0, 6.0, 1.0), (-1.0, 1.0, 1.0), (0.0, 1.0, 1.0)],
    ids=["nearly flat", "blown up", "mirrored", "flat"],
)
def test_an_affine_map_that_cannot_be_inverted_well_stays_in_the_field(factors: tuple[float, ...]) -> None:
    field = stretched(*factors)
    found = map_of(field)
    np.testing.assert_allclose(found.affine, np.eye(4), atol=1e-12)
    index = np.stack(np.meshgrid(*[np.arange(1, n - 1) for n in SHAPE], indexing="ij"), -1).reshape(-1, 3)
    expected = 3.0 * field[0].numpy()[:, index[:, 0], index[:, 1], index[:, 2]].T
    points = WORKING.to_world(index)
    np.testing.assert_allclose(found.map_points(points) - points, expected, atol=1e-3)


def test_without_finite_numbers_or_weights_there_is_no_affine_map() -> None:
    field = stretched(0.5, 1.0, 1.0)
    assert not np.allclose(map_of(field).affine, np.eye(4))
    np.testing.assert_allclose(map_of(field, 0 * EVERYWHERE).affine, np.eye(4), atol=1e-12)
    broken = field.clone()
    broken[0, 1, 3, 3, 3] = float("nan")
    np.testing.assert_allclose(map_of(broken).affine, np.eye(4), atol=1e-12)


def test_the_affine_map_is_that_of_where_the_weight_is() -> None:
    """One half of the grid is stretched by one factor, the other half by another."""
    field, other = stretched(0.5, 1.0, 1.0), stretched(2.0, 1.0, 1.0)
    half = torch.zeros(1, 1, *SHAPE)
    half[:, :, :6] = 1
    found = map_of(torch.where(half > 0, field, other), half)
    np.testing.assert_allclose(found.affine[:3, :3], np.diag([0.5, 1, 1]), atol=1e-4)
