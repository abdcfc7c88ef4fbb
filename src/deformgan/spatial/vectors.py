"""Displacement vectors on a grid: from its voxels to world millimetres and back."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from deformgan.spatial.grid import Grid


def rotated(vectors: np.ndarray, linear: np.ndarray) -> Tensor:
    """(D, H, W, 3) → (3, W, H, D), each vector multiplied by a 3×3 matrix."""
    return torch.tensordot(torch.from_numpy(linear.astype(np.float32)), torch.from_numpy(vectors.T), 1)


def vox_to_mm(field_vox: Tensor, grid: Grid) -> np.ndarray:
    """(1, 3, D, H, W) in voxels of ``grid`` → (D, H, W, 3) in world mm, Fortran order."""
    transposed = field_vox.detach()[0].float().cpu().permute(0, 3, 2, 1).numpy()
    return rotated(transposed.T, grid.affine[:3, :3]).numpy().T


def mm_to_vox(disp_mm: np.ndarray, grid: Grid) -> Tensor:
    """(D, H, W, 3) in world mm → (1, 3, D, H, W) in voxels of ``grid``."""
    return rotated(disp_mm, grid.world_to_index[:3, :3]).permute(0, 3, 2, 1).contiguous()[None]
