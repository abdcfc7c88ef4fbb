"""Pairs perturbed step by step: noise, blur, bias field, thick slices, contrast that is no function of intensity.

A perturbed case is what a registration *sees*: `perturbed` changes ``fixed`` and ``moving`` and nothing else. It is
*scored* with the case it was made from: the field found on the disturbed pair warps the undisturbed moving image and
labels. So RMSE and Dice say how well the anatomy was aligned, not how noisy the image is that was carried along::

    field = method(perturbed(case, "noise", 0.1, seed))
    scores = score(case, field)

Each image is disturbed inside its own content (what is not 0, holes filled), stays 0 outside, as where the brain is cut
out after the scan, and is then normalised as every image is when it is read: the 99.8th percentile becomes 1. A larger
deformation is no such perturbation: it needs a new field, see `deformgan.workshop.evaluation.make_cases.redeformed`.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from deformgan.errors import UsageError
from deformgan.workshop.evaluation.cases import EvaluationCase
from deformgan.workshop.simulation.artefacts import gaussian_blur, rician_noise, thick_slices
from deformgan.workshop.simulation.contrasts import depth, normalise

# the first level of each leaves the images as they are
SWEEPS: dict[str, tuple[float, ...]] = {
    "noise": (0.0, 0.05, 0.1, 0.2),
    "blur": (0.0, 1.0, 2.0, 3.0),
    "bias": (0.0, 0.25, 0.5, 0.75),
    "thick-slices": (1.0, 2.0, 4.0, 8.0),
    "inversion": (0.0, 0.15, 0.3, 0.5),
}
_BIAS_WAVES, _REGION_WAVES = 2, 4  # half waves along each axis of the content
_TRANSITION = 4.0  # voxels from one contrast to the other
_LIMITS = {"noise": (0, 1), "blur": (0, 10), "bias": (0, 0.95), "thick-slices": (1, 32), "inversion": (0, 1)}

Effect = Callable[[Tensor, Tensor, float, torch.Generator], Tensor]


def perturbed(case: EvaluationCase, sweep: str, level: float, seed: int) -> EvaluationCase:
    """The case as a registration is to see it; score with ``case`` itself (see the module).

    Fixed and moving image are disturbed independently of one another, and of those of other cases; the levels of one
    sweep share what is drawn, so that a higher level is the same disturbance, stronger.

    Args:
        case: Stays as it is.
        sweep: ``noise``: standard deviation of Rician noise, relative to the intensity range. ``blur``: Gaussian σ,
            voxels. ``bias``: amplitude of `bias_field`. ``thick-slices``: voxels that one slice averages along the last
            axis. ``inversion``: share of the moving image's content whose contrast is inverted (`inverted`); the fixed
            image stays.
        level: How much; 0 (1 for ``thick-slices``) is nothing.
        seed: Of everything drawn.

    Raises:
        UsageError: There is no such sweep, or the level is out of its range.
    """
    if sweep not in SWEEPS:
        raise UsageError(f"there is no sweep {sweep!r} of images", f"use one of: {', '.join(SWEEPS)}")
    low, high = _LIMITS[sweep]
    if not low <= level <= high:
        raise UsageError(f"{level:g} is no level of {sweep}", f"use {low:g} to {high:g}")
    if level == SWEEPS[sweep][0]:
        return case
    names = ("moving",) if sweep == "inversion" else ("fixed", "moving")
    images = {}
    for name in names:
        generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {sweep} {case.name} {name}".encode()))
        image: Tensor = getattr(case, name)
        mask = content(image)
        images[name] = normalise(_EFFECTS[sweep](image, mask, level, generator), mask)
    return replace(case, **images)


def content(image: Tensor) -> Tensor:
    """Where an image (1, 1, D, H, W) shows something: what is above 0, holes filled, bool."""
    filled = np.asarray(ndimage.binary_fill_holes((image[0, 0] > 0).cpu().numpy()))
    return torch.from_numpy(filled)[None, None].to(image.device)


def bias_field(mask: Tensor, amplitude: float, generator: torch.Generator) -> Tensor:
    """A smooth factor with mean 1 and largest distance ``amplitude`` from 1 inside a mask, (1, 1, D, H, W)."""
    wave = _smooth_random(mask, _BIAS_WAVES, generator)
    wave = wave - wave[mask].mean()
    return 1 + amplitude * wave / wave[mask].abs().max().clamp(min=1e-6)


def inversion_weight(mask: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Smooth random regions that take up a share of a mask, (1, 1, D, H, W) in [0, 1].

    The weight is above ½ in just that share, and 1 or 0 outside transitions of some four voxels.
    """
    wave = _smooth_random(mask, _REGION_WAVES, generator)
    if share >= 1:
        return torch.ones_like(wave)
    inside = wave[mask]
    threshold = inside.kthvalue(max(1, round((1 - share) * inside.numel()))).values
    region = (wave[0, 0] > threshold).cpu().numpy()
    # voxels to the face between the two contrasts, positive in the region
    distance = torch.from_numpy(np.where(region, depth(region) - 0.5, 0.5 - depth(~region))).to(wave)[None, None]
    ramp = (distance / _TRANSITION + 0.5).clamp(0, 1)
    return ramp * ramp * (3 - 2 * ramp)


def inverted(image: Tensor, mask: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """The image with its contrast inverted (``1 - I``) in smooth random regions of a mask.

    Bright is then dark in one place and bright in another: what the other image shows is no function of this one's
    intensity, which mutual information supposes.
    """
    weight = inversion_weight(mask, share, generator)
    return torch.where(mask, torch.lerp(image, 1 - image, weight), 0)


def _smooth_random(mask: Tensor, waves: int, generator: torch.Generator) -> Tensor:
    """A random sum of cosines with up to ``waves`` half waves along each axis of a mask's box, (1, 1, D, H, W)."""
    shape = mask.shape[2:]
    order = torch.arange(waves + 1, dtype=torch.float32)
    coefficients = torch.randn((waves + 1,) * 3, generator=generator)
    coefficients[0, 0, 0] = 0
    bases = []
    for axis, n in enumerate(shape):
        occupied = mask[0, 0].any(dim=tuple(a for a in range(3) if a != axis)).nonzero()
        start, stop = (int(occupied[0]), int(occupied[-1]) + 1) if len(occupied) else (0, n)
        at = ((torch.arange(n) + 0.5 - start) / (stop - start)).clamp(0, 1)
        bases.append(torch.cos(torch.pi * order[:, None] * at))
    return torch.einsum("abc,ad,be,cf->def", coefficients, *bases)[None, None].to(mask.device)


def _noise(image: Tensor, mask: Tensor, level: float, generator: torch.Generator) -> Tensor:
    return rician_noise(image, level * float(image.amax() - image.amin()), generator)


def _blur(image: Tensor, mask: Tensor, level: float, generator: torch.Generator) -> Tensor:
    return gaussian_blur(image, level)


def _bias(image: Tensor, mask: Tensor, level: float, generator: torch.Generator) -> Tensor:
    return image * bias_field(mask, level, generator)


def _slices(image: Tensor, mask: Tensor, level: float, generator: torch.Generator) -> Tensor:
    return thick_slices(image, 2, level, profile="box")


_EFFECTS: dict[str, Effect] = {
    "noise": _noise,
    "blur": _blur,
    "bias": _bias,
    "thick-slices": _slices,
    "inversion": inverted,
}
