"""What drives a fluid registration: local correlation and mutual information, and the Gaussians that smooth.

Each is computed in compiled code where that is possible (`deformgan.spatial.native.fluid`), else with PyTorch, alike.
A similarity is a sum over the voxels, each with its weight, and comes with its derivative by the moved image.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from deformgan.losses.boxes import box_sum
from deformgan.refine.settings import FluidSettings
from deformgan.spatial.constants import constant
from deformgan.spatial.native import fluid as native
from deformgan.spatial.native.correlation import LocalCorrelation
from deformgan.spatial.native.use import usable

_REACH = 3.0  # sigmas


class Drive:
    """Local correlation and mutual information with a fixed image, weighted and added.

    Args:
        fixed: (1, 1, D, H, W); the information takes intensities between 0 and 1.
        weight: (1, 1, D, H, W) ≥ 0.
        settings: `correlation`, `information`, `radius`, `epsilon` and `bins` are used.
    """

    def __init__(self, fixed: Tensor, weight: Tensor, settings: FluidSettings) -> None:
        self._fixed, self._weight, self._settings = fixed.contiguous(), weight.contiguous(), settings
        self._compiled = usable(fixed, weight)
        self._slope = torch.empty_like(self._fixed)
        if self._compiled and settings.correlation:
            self._local = LocalCorrelation(self._fixed, self._weight, settings.radius, settings.epsilon)

    def __call__(self, moved: Tensor) -> Tensor:
        """The derivative of the sum by ``moved``, (1, 1, D, H, W); valid until the next call."""
        s = self._settings
        if self._compiled:
            slope = self._slope.zero_()
            if s.correlation:
                self._local.add(moved, slope, s.correlation)
            if s.information:
                native.add_mutual_information(self._fixed, moved, self._weight, slope, s.information, s.bins)
            return slope
        slope = torch.zeros_like(moved)
        if s.correlation:
            slope += s.correlation * local_correlation(self._fixed, moved, self._weight, s.radius, s.epsilon)[1]
        if s.information:
            slope += s.information * mutual_information(self._fixed, moved, self._weight, s.bins)[1]
        return slope


def local_correlation(
    fixed: Tensor, moved: Tensor, weight: Tensor, radius: int, epsilon: float
) -> tuple[Tensor, Tensor]:
    """Squared correlation in cubes of ``2 radius + 1`` voxels, the sum over the weighted voxels and its derivative.

    Args:
        fixed, moved, weight: (1, 1, D, H, W).
        radius: See there; outside the volume lies 0.
        epsilon: Added to both variances.
    """
    window = 2 * radius + 1
    count = float(window**3)
    products = torch.cat([fixed, moved, fixed * fixed, moved * moved, fixed * moved], 1)
    a, b, aa, bb, ab = (box_sum(products, window) / count).split(1, 1)
    variance_a = (aa - a * a).clamp_min(0) + epsilon
    variance_b = (bb - b * b).clamp_min(0) + epsilon
    covariance = ab - a * b
    ratio = weight * covariance / (variance_a * variance_b)
    by_covariance, by_variance = 2 * ratio, -ratio * covariance / variance_b
    parts = torch.cat([by_covariance, by_covariance * a, 2 * by_variance, 2 * by_variance * b], 1)
    c, ca, v, vb = (box_sum(parts, window) / count).split(1, 1)
    return (ratio * covariance).sum(), c * fixed - ca + v * moved - vb


def mutual_information(fixed: Tensor, moved: Tensor, weight: Tensor, bins: int) -> tuple[Tensor, Tensor]:
    """In nats, times the sum of the weights, and its derivative; windows are linear in both images.

    The histogram is smoothed twice with (1, 2, 1) / 4 along both axes; the derivative takes its logarithm as it is.

    Args:
        fixed, moved, weight: (1, 1, D, H, W); intensities are taken between 0 and 1.
        bins: Along each axis of the histogram.
    """
    f, m, w = (t.flatten() for t in (fixed, moved, weight))
    x, y = f.clamp(0, 1) * (bins - 1), m.clamp(0, 1) * (bins - 1)
    i, j = (v.floor().clamp(max=bins - 2) for v in (x, y))
    p, q, cell = x - i, y - j, (i * bins + j).long()
    joint = torch.zeros(bins * bins, dtype=torch.float64, device=f.device)
    for offset, share in ((0, (1 - p) * (1 - q)), (1, (1 - p) * q), (bins, p * (1 - q)), (bins + 1, p * q)):
        joint.index_add_(0, cell + offset, (w * share).double())
    total = joint.sum()
    # where nothing counts the sum is 0, and so is every slope; asking for it would make a GPU wait
    information, rise = native.information_of((joint / total.clamp_min(torch.finfo(joint.dtype).tiny)).view(bins, bins))
    rise = rise.flatten().to(f.dtype)
    slope = (bins - 1) * w * ((1 - p) * rise[cell] + p * rise[cell + bins])
    return information * total, slope.view_as(moved)


def gaussian(volume: Tensor, sigma: float) -> Tensor:
    """Smoothing with a Gaussian of ``sigma`` voxels, (1, C, D, H, W); the border value goes on outside."""
    if sigma <= 0:
        return volume
    if usable(volume):
        return native.gaussian(volume, sigma, _REACH)
    radius = max(1, math.floor(_REACH * sigma + 1))
    bell = [math.exp(-0.5 * (k / sigma) ** 2) for k in range(-radius, radius + 1)]
    weights = constant(tuple(one / sum(bell) for one in bell), volume.device).to(volume.dtype)
    out = volume.transpose(0, 1)
    for axis in range(3):
        size = [1, 1, 1]
        size[axis] = 2 * radius + 1
        pad = [p for n in reversed(size) for p in (n // 2, n // 2)]
        out = F.conv3d(F.pad(out, pad, mode="replicate"), weights.view(1, 1, *size))
    return out.transpose(0, 1)


def force(slope: Tensor, moved: Tensor) -> Tensor:
    """A derivative times the moved image's central differences, (1, 1, D, H, W) each → (1, 3, D, H, W); 0 outermost."""
    if usable(slope, moved):
        return native.force(slope, moved)
    out = moved.new_zeros(1, 3, *moved.shape[2:])
    inner = (slice(1, -1),) * 3
    for axis in range(3):
        upper, lower = list(inner), list(inner)
        upper[axis], lower[axis] = slice(2, None), slice(None, -2)
        difference = 0.5 * (moved[0, 0][tuple(upper)] - moved[0, 0][tuple(lower)])
        out[(0, axis, *inner)] = difference * slope[(0, 0, *inner)]
    return out
