"""What a scanner does to an ideal image: partial volume, thick slices, blur, another intensity curve, Rician noise.

Images are (B, C, D, H, W) float32 in [0, 1]; every function is fast enough to run on each training sample.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from deformgan.workshop.simulation.contrasts import normalise
from deformgan.workshop.simulation.draws import normal, uniform


@dataclass(frozen=True)
class DegradeConfig:
    """How bad a scan may be at strength 1; each effect is drawn anew from 0 up to its value.

    Args:
        noise: Standard deviation of the noise in either channel of the complex image.
        blur: Gaussian σ, voxels.
        log_gamma: Largest absolute logarithm of the exponent of the intensity curve.
        slices: Thickest slice, voxels; the axis is drawn.
        slices_probability: How often a scan has thick slices at all.
    """

    noise: float = 0.05
    blur: float = 0.8
    log_gamma: float = 0.35
    slices: float = 3.5
    slices_probability: float = 0.4


DEFAULT = DegradeConfig()


def gaussian_blur(image: Tensor, sigma: float | tuple[float, float, float]) -> Tensor:
    """Separable Gaussian of ``sigma`` voxels (per axis or for all), cut at 3σ, border replicated; 0 leaves an axis."""
    sigmas = (sigma,) * 3 if isinstance(sigma, (int, float)) else sigma
    batch, channels = image.shape[:2]
    out = image.reshape(batch * channels, 1, *image.shape[2:])
    for axis, s in enumerate(sigmas):
        if s < 0.05:
            continue
        radius = max(1, math.ceil(3 * s))
        offsets = torch.arange(-radius, radius + 1, device=image.device, dtype=image.dtype)
        taps = torch.exp(-0.5 * (offsets / s) ** 2)
        pad = [0] * 6
        pad[2 * (2 - axis)] = pad[2 * (2 - axis) + 1] = radius
        kernel = (taps / taps.sum()).view([-1 if a == axis + 2 else 1 for a in range(5)])
        out = F.conv3d(F.pad(out, pad, mode="replicate"), kernel)
    return out.view(image.shape)


def downsample(image: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Coarser voxels over the same extent; each is a Gaussian-weighted mean of what lies in it (partial volume).

    Args:
        image: (B, C, D, H, W).
        shape: Target size; an axis that grows is only interpolated.
    """
    ratio = [a / b for a, b in zip(image.shape[2:], shape, strict=True)]
    # a box of r voxels has the variance (r² - 1) / 12 beyond that of one voxel; linear sampling adds little more
    sigma = [math.sqrt(max(r * r - 1, 0) / 12) for r in ratio]
    smooth = gaussian_blur(image, (sigma[0], sigma[1], sigma[2]))
    return F.interpolate(smooth, size=tuple(shape), mode="trilinear", align_corners=False)


def thick_slices(
    image: Tensor, axis: int, thickness: float, profile: Literal["gaussian", "box"] = "gaussian"
) -> Tensor:
    """The image as if acquired in slices of ``thickness`` voxels along ``axis`` (0, 1, 2), brought back to its grid.

    Args:
        image: (B, C, D, H, W).
        axis: Across the slices.
        thickness: In voxels, 1 or more; there are at least two slices.
        profile: What a slice is a mean of: ``gaussian`` reaches a little into its neighbours, ``box`` does not.
    """
    coarse = list(image.shape[2:])
    coarse[axis] = max(2, round(coarse[axis] / thickness))
    slices = downsample(image, tuple(coarse)) if profile == "gaussian" else F.adaptive_avg_pool3d(image, coarse)  # type: ignore[arg-type]
    return F.interpolate(slices, size=image.shape[2:], mode="trilinear", align_corners=False)


def rician_noise(image: Tensor, sigma: float, generator: torch.Generator) -> Tensor:
    """Magnitude of the image plus complex Gaussian noise of ``sigma`` in either channel."""
    real, imaginary = (normal(generator, *image.shape).to(image.device) for _ in range(2))
    return torch.hypot(image + sigma * real, sigma * imaginary)


def degrade(
    image: Tensor,
    mask: Tensor,
    generator: torch.Generator,
    strength: float = 1.0,
    config: DegradeConfig = DEFAULT,
) -> Tensor:
    """One random scan of an ideal image.

    Args:
        image: (B, C, D, H, W) in [0, 1]; one drawn scan for the whole batch.
        mask: (B, 1, D, H, W), non-zero where there is something; the result is 0 elsewhere, as after skull-stripping.
        generator: Source of all randomness.
        strength: Scales every effect; 0 only normalises.

    Returns:
        The same shape in [0, 1]; the 99.8th percentile inside the mask is 1.
    """
    draw = uniform(generator, 6).tolist()
    inside = (mask > 0).expand_as(image)
    out = image
    if draw[0] < config.slices_probability and strength > 0:
        thickness = 1 + (config.slices - 1) * draw[1] * strength
        out = thick_slices(out, int(draw[2] * 3), thickness)
    out = gaussian_blur(out, config.blur * draw[3] * strength)
    gamma = math.exp(config.log_gamma * (2 * draw[4] - 1) * strength)
    out = out.clamp(0, 1).pow(gamma) if gamma != 1 else out
    sigma = config.noise * draw[5] * strength
    if sigma > 0:
        out = rician_noise(out, sigma, generator)
    return normalise(out, inside)
