"""Vectors between voxels of a grid and world mm: the grid's matrix, without its shift."""

from __future__ import annotations

import numpy as np
import torch

from deformgan.spatial.grid import Grid
from deformgan.spatial.vectors import mm_to_vox, vox_to_mm


def test_a_vector_goes_through_the_grids_matrix_and_back() -> None:
    matrix = np.array([[0.0, -2.0, 0.1, 9.0], [1.5, 0.2, 0.0, -4.0], [0.0, 0.3, 3.0, 5.0], [0, 0, 0, 1.0]])
    grid = Grid((4, 5, 6), matrix)
    field = torch.randn(1, 3, *grid.shape, generator=torch.Generator().manual_seed(2))
    found = vox_to_mm(field, grid)
    expected = np.einsum("ij,jdhw->dhwi", matrix[:3, :3], field[0].double().numpy())
    np.testing.assert_allclose(found, expected, atol=1e-5)
    torch.testing.assert_close(mm_to_vox(found, grid), field, atol=1e-5, rtol=1e-5)
