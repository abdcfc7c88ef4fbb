"""Vectors of a coarse grid over the same extent, in voxels of either grid."""

from __future__ import annotations

import torch

from deformgan.spatial.control_points import REACH, centred_positions, from_full_voxels, linear, to_full_voxels


def test_a_voxel_of_the_coarse_grid_is_as_many_of_the_full_one_as_it_covers() -> None:
    field = torch.randn(1, 3, 4, 6, 5, generator=torch.Generator().manual_seed(1))
    full = (8, 18, 20)
    covered = torch.tensor([2.0, 3.0, 4.0]).view(1, 3, 1, 1, 1)
    torch.testing.assert_close(to_full_voxels(field, full), field * covered)
    torch.testing.assert_close(from_full_voxels(field * covered, full), field)


def test_an_affine_map_acts_from_the_middle_of_the_full_grid() -> None:
    affine = torch.tensor([[0.5, -1.0, 2.0, 7.0], [0.0, 3.0, 0.25, -8.0], [1.0, 0.0, -2.0, 9.0]])
    field = linear(affine, centred_positions((8, 18, 20), (4, 6, 5), torch.device("cpu")))
    # voxel (1, 4, 0) of the coarse grid lies so many voxels of the full one from the middle
    offset = torch.tensor([(1 - 1.5) * 2, (4 - 2.5) * 3, (0 - 2.0) * 4]) / REACH
    torch.testing.assert_close(field[0, :, 1, 4, 0], affine[:, :3] @ offset + affine[:, 3])
