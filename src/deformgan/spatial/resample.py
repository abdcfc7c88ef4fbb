"""Separable resampling between grids whose axes are parallel: one small matrix product an axis.

Volumes here are (C, W, H, D): the reverse of an image's axes, so that memory runs as NIfTI files do (first axis
fastest) and the coordinates `grid_sample` wants are in the images' own axis order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from deformgan.spatial.native import separable as native
from deformgan.spatial.native.use import usable

_SAME_VOXELS = 1e-6  # positions nearer to a voxel's centre are there
_PARALLEL_VOXELS = 0.01  # axes count as parallel when treating them so misplaces no voxel by more


@dataclass(frozen=True)
class AxisMap:
    """How indices of one grid's axis run along one axis of another: ``source = scale · target + offset``.

    Args:
        axis: The source's axis.
        scale, offset: In source voxels; a negative scale is a flip.
    """

    axis: int
    scale: float
    offset: float


def parallel_axes(target_to_source: np.ndarray, shape: tuple[int, ...]) -> list[AxisMap] | None:
    """One `AxisMap` for each target axis, or None where the two grids' axes are not parallel.

    Args:
        target_to_source: 4×4, voxel index to voxel index.
        shape: Of the target.
    """
    linear = target_to_source[:3, :3]
    source_axis = np.abs(linear).argmax(axis=0)
    if sorted(source_axis) != [0, 1, 2]:
        return None
    rest = np.abs(linear)
    rest[source_axis, range(3)] = 0
    if (rest @ (np.array(shape) / 2)).max() > _PARALLEL_VOXELS:
        return None
    # what little obliqueness there is acts from the middle outwards
    middle = (np.array(shape) - 1) / 2
    offset = target_to_source[:3, 3] + linear @ middle
    scales = linear[source_axis, range(3)]
    return [
        AxisMap(int(source_axis[t]), float(scales[t]), float(offset[source_axis[t]] - scales[t] * middle[t]))
        for t in range(3)
    ]


def axis_lines(n_target: int, n_source: int, scale: float, offset: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Linear interpolation along an axis: the voxel below each position, the one above, and the share of the latter.

    Positions beyond the source's voxels read its border value; one that is a voxel but for rounding is that voxel.
    """
    position = np.clip(scale * np.arange(n_target) + offset, 0, n_source - 1)
    whole = np.rint(position)
    position = np.where(np.abs(position - whole) < _SAME_VOXELS, whole, position)
    below = np.minimum(position.astype(int), n_source - 1)
    return below, np.minimum(below + 1, n_source - 1), position - below


def axis_matrix(n_target: int, n_source: int, scale: float, offset: float, *, sigma: float = 0.0) -> Tensor:
    """Weights of linear interpolation along an axis, after smoothing with a Gaussian of ``sigma`` source voxels.

    Positions beyond the source's voxels read its border value, so every row sums to 1.

    Returns:
        (n_target, n_source) float32.
    """
    below, above, share = axis_lines(n_target, n_source, scale, offset)
    weights = np.zeros((n_target, n_source))
    rows = np.arange(n_target)
    weights[rows, below] = 1 - share
    weights[rows, above] += share
    if sigma > 0:
        weights = weights @ _gaussian_matrix(n_source, sigma)
    return torch.from_numpy(weights.astype(np.float32))


def _gaussian_matrix(n: int, sigma: float) -> np.ndarray:
    """Smoothing along an axis of ``n`` voxels as a matrix; the kernel ends at 4 sigma, renormalised at the border."""
    apart = np.arange(n)[:, None] - np.arange(n)[None]
    kernel = np.exp(-0.5 * (apart / sigma) ** 2) * (np.abs(apart) <= max(1.0, 4 * sigma))
    return kernel / kernel.sum(1, keepdims=True)


def antialiasing_sigma(target_spacing: float, source_spacing: float) -> float:
    """Gaussian sigma, in source voxels, that turns one voxel size's blur into another's (Cardoso et al., MICCAI 2015).

    The full widths at half maximum, taken to be the voxel sizes, add in squares; 0 when not downsampling.
    """
    ratio = target_spacing / source_spacing
    return float(np.sqrt(max(ratio**2 - 1.0, 0.0)) / (2 * np.sqrt(2 * np.log(2))))


def separable(volume: Tensor, matrices: list[Tensor]) -> Tensor:
    """Apply one matrix along each axis.

    Args:
        volume: (C, W, H, D) float32.
        matrices: For axes D, H, W in this order (the image's own), each (n_target, n_source).

    Returns:
        (C, w, h, d) float32, contiguous.
    """
    along_d, along_h, along_w = matrices
    if usable(volume[None]):
        return native.separable(volume, (along_w, along_h, along_d))
    channels, w, h, d = volume.shape
    # the slowest axis first: it is one product of a small with a wide matrix
    out = torch.matmul(along_w, volume.reshape(channels, w, h * d)).view(-1, h, d)
    out = torch.matmul(along_h, out)
    out = torch.matmul(out.view(-1, d), along_d.T)
    return out.view(channels, along_w.shape[0], along_h.shape[0], along_d.shape[0])


def affine_coordinates(target_to_source: np.ndarray, shape: tuple[int, ...], source_shape: tuple[int, ...]) -> Tensor:
    """Where each target voxel lies in the source, as `grid_sample` (``align_corners=False``) counts, (3, W, H, D)."""
    matrix = normalising(source_shape) @ target_to_source
    i, j, k = (np.arange(n) for n in shape)
    at = np.empty((3, shape[2], shape[1], shape[0]), np.float32)
    for c in range(3):
        plane = matrix[c, 0] * i[None] + matrix[c, 1] * j[:, None] + matrix[c, 3]
        np.add(plane, (matrix[c, 2] * k)[:, None, None], out=at[c], casting="unsafe")
    return torch.from_numpy(at)


def normalising(shape: tuple[int, ...]) -> np.ndarray:
    """4×4 from voxel index to `grid_sample`'s coordinates: -1 and 1 at the outer voxel faces."""
    matrix = np.diag([*(2.0 / np.array(shape)), 1.0])
    matrix[:3, 3] = 1.0 / np.array(shape) - 1.0
    return matrix
