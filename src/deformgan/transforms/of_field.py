"""From a network's field to the complete map: the affine map nearest to it, and what is left."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from deformgan.spatial.field import fit_affine
from deformgan.spatial.grid import Grid
from deformgan.transforms.formats.checks import linear_plus_ramp
from deformgan.transforms.transform import Transform

_SOUND = (0.2, 5.0)  # singular values of an affine map that can be inverted well


def transform_of_field(fixed: Grid, moving: Grid, field: Tensor, weight: Tensor) -> Transform:
    """The map of a field, split into the affine map nearest to it and the rest.

    Args:
        fixed, moving: The working grids of the pair, of one shape.
        field: (1, 3, d, h, w), in voxels of its own grid over the same extent.
        weight: (1, 1, D, H, W), ≥ 0: where the affine map is to be near.
    """
    d, h, w = field.shape[2:]
    shape = (d, h, w)
    own = fixed.resized(shape)
    matrix = _nearest_affine(field, F.adaptive_avg_pool3d(weight, shape)).numpy()
    # x + u(x) = M (x + r(x)), and r in mm
    back, to_mm = np.linalg.inv(matrix), np.eye(4)
    to_mm[:3, :3] = own.affine[:3, :3]
    vectors = np.moveaxis(field[0].float().numpy(), 0, -1)
    rest = linear_plus_ramp(vectors, (to_mm @ back)[:3, :3], to_mm @ (back - np.eye(4)), own)
    coarse_to_full = fixed.world_to_index @ own.affine
    affine_vox = coarse_to_full @ matrix @ np.linalg.inv(coarse_to_full)
    return Transform(moving.affine @ affine_vox @ fixed.world_to_index, rest, own)


def _nearest_affine(field: Tensor, weight: Tensor) -> Tensor:
    """4×4 float64 in the field's voxels; the identity where a wild field leaves none that can be inverted well."""
    matrix = torch.eye(4, dtype=torch.float64)
    if bool(torch.isfinite(field).all()) and float(weight.sum()) > 0:
        matrix[:3] = fit_affine(field, weight)[0].double()
    singular = torch.linalg.svdvals(matrix[:3, :3])
    sound = float(singular.min()) > _SOUND[0] and float(singular.max()) < _SOUND[1]
    return matrix if sound and float(torch.linalg.det(matrix)) > 0 else torch.eye(4, dtype=torch.float64)
