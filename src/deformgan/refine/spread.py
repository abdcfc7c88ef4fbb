"""How far refinements under small perturbations lie apart: where the images hold a field, all of them find it.

The pair is refined again with softer and stiffer fields, with fainter edges taken for noise, with noise added to the
images, and with the images exchanged.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from deformgan.align.options import DEFAULT_STEPS
from deformgan.losses.boxes import box_sum
from deformgan.preprocess.lesions import NO_LESIONS, Lesions
from deformgan.refine.fluid import refine_fluid
from deformgan.refine.optimise import refine
from deformgan.refine.settings import DEFAULT_FLUID, DEFAULT_SETTINGS, FLUID_SHARE
from deformgan.spatial.field import resize
from deformgan.spatial.warp import warp

_NOISE, _NOISY, _SEED = 0.04, 2, 0  # of the range of intensities; how many pairs get some
_WINDOW = 5  # voxels, over which distances are averaged
# how one person's pair, and two people's, are refined again
_SAME = tuple(
    replace(DEFAULT_SETTINGS, **change)
    for change in (
        {"bending": DEFAULT_SETTINGS.bending / 4},
        {"bending": DEFAULT_SETTINGS.bending * 4},
        {"epsilon": 0.04},
    )
)
_OTHER = (replace(DEFAULT_FLUID, field_sigma=0.7), replace(DEFAULT_FLUID, information=3.0))


@dataclass(frozen=True, eq=False)
class Perturbed:
    """What a pair's refinement gave under small perturbations, on one grid.

    Attributes:
        forward: (1, 3, d, h, w) each, from fixed to moving, in voxels.
        backward: The same with the images exchanged.
        inside: (1, 1, d, h, w), the share of foreground.
    """

    forward: tuple[Tensor, ...]
    backward: Tensor
    inside: Tensor

    def cpu(self) -> Perturbed:
        """The same on the CPU."""
        return Perturbed(tuple(one.cpu() for one in self.forward), self.backward.cpu(), self.inside.cpu())

    def around(self, field: Tensor) -> Tensor:
        """Mean distance of a field on any grid over the same extent from all of these, averaged nearby.

        (1, 3, D, H, W) to (D, H, W), in the field's voxels.
        """
        shape = tuple(field.shape[2:])
        inside = F.interpolate(self.inside, size=shape)
        apart = [_length(field - resize(other, shape)) for other in self.forward]
        apart.append(_length(field + warp(resize(self.backward, shape), field, padding="border")))
        total = box_sum(torch.stack(apart).mean(0) * inside, _WINDOW)
        return (total / box_sum(inside, _WINDOW).clamp_min(1e-3))[0, 0]


@torch.no_grad()
def perturbed(
    fixed: Tensor,
    moving: Tensor,
    start: Tensor,
    backward: Tensor,
    *,
    masks: tuple[Tensor, Tensor],
    lesions: Lesions = NO_LESIONS,
    steps: int = DEFAULT_STEPS,
    subject: str = "same",
) -> Perturbed:
    """Refine a pair again and again, some six times.

    Args:
        fixed, moving: (1, 1, D, H, W) in [0, 1] on working grids.
        start, backward: (1, 3, d, h, w), T's fields for the pair and with the images exchanged.
        masks: (1, 1, D, H, W) each, where the similarity counts in the fixed and in the moving image.
        lesions: Where the images have no counterpart in each other.
        steps: As the pair itself was refined.
        subject: ``other`` for a field between people.
    """
    shape = tuple(start.shape[2:])
    if subject == "other":
        many = max(1, round(FLUID_SHARE * steps))
        usual: Callable[..., Tensor] = partial(refine_fluid, steps=many)
        ways: list[Callable[..., Tensor]] = [partial(usual, settings=way) for way in _OTHER]
    else:
        usual = partial(refine, steps=steps)
        ways = [partial(usual, settings=way) for way in _SAME]
    generator = torch.Generator().manual_seed(_SEED)

    def noisy(image: Tensor) -> Tensor:
        noise = torch.randn(image.shape, generator=generator).to(image)
        return (image + _NOISE * noise * (image > 0)).clamp(0, 1)

    given = {"mask": masks[0], "lesions": lesions}
    found = [way(fixed, moving, start, **given) for way in ways]
    found += [usual(noisy(fixed), noisy(moving), start, **given) for _ in range(_NOISY)]
    exchanged = {"mask": masks[1], "lesions": lesions.exchanged()}
    back = usual(moving, fixed, backward, **exchanged)
    inside = F.adaptive_avg_pool3d(masks[0].float(), list(shape))  # type: ignore[arg-type]
    return Perturbed(tuple(resize(one.float(), shape) for one in found), resize(back.float(), shape), inside)


def _length(vectors: Tensor) -> Tensor:
    return vectors.square().sum(1, keepdim=True).sqrt()
