"""Vectors of a coarse grid over the same extent, in voxels of either grid."""

from __future__ import annotations

import torch

from deformgan.spatial.control_points import from_full_voxels, to_full_voxels


def test_a_voxel_of_the_coarse_grid_is_as_many_of_the_full_one_as_it_covers() -> None:
    field = torch.randn(1, 3, 4, 6, 5, generator=torch.Generator().manual_seed(1))
    full = (8, 18, 20)
    covered = torch.tensor([2.0, 3.0, 4.0]).view(1, 3, 1, 1, 1)
    torch.testing.assert_close(to_full_voxels(field, full), field * covered)
    torch.testing.assert_close(from_full_voxels(field * covered, full), field)
