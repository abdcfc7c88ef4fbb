"""Grids, displacement fields and sampling: voxel and world coordinates, warping, inversion, Jacobians."""
