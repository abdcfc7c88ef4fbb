"""Images in thick slices: the other image is blurred across them, so that like is compared with like."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from deformgan.spatial.resample import axis_matrix

if TYPE_CHECKING:
    from torch import Tensor

    from deformgan.spatial.grid import Grid

_THICK = 2.0  # voxels of the working grid, from which on a slice is thick, and times as thick as the other image's
_BLUR = 0.2  # sigma of the Gaussian over the slices' thickness
_ALONG = 0.95  # cosine of the angle with an axis of the working grid, from which on slices lie across that


def thickness(image: Grid, grid: Grid) -> tuple[float, ...]:
    """How many voxels of a working grid one voxel of an image spans along each of the grid's axes, (3,).

    1 where it is no larger, or lies at an angle.
    """
    out = [1.0, 1.0, 1.0]
    for step in (grid.world_to_index @ image.affine)[:3, :3].T:
        length, axis = float(np.linalg.norm(step)), int(np.abs(step).argmax())
        if abs(step[axis]) >= _ALONG * length:
            out[axis] = max(out[axis], length)
    return tuple(out)


def blurred(image: Tensor, own: tuple[float, ...], other: tuple[float, ...]) -> Tensor:
    """An image as it is compared with one in thicker slices.

    Args:
        image: (1, 1, D, H, W) on its working grid.
        own, other: `thickness` of it, and of the image that it is compared with, on a grid that lies alike.
    """
    for axis, (thin, thick) in enumerate(zip(own, other, strict=True), 2):
        if thick >= _THICK * thin:
            n = image.shape[axis]
            smoothing = axis_matrix(n, n, 1.0, 0.0, sigma=_BLUR * thick).to(image)
            image = (image.transpose(axis, -1) @ smoothing.T).transpose(axis, -1).contiguous()
    return image
