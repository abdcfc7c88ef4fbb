"""Refinement with a displacement of every voxel: a fluid field for two people.

Step by step the moved image is compared with the fixed one by local correlation and mutual information; where it should
move is smoothed like a viscous fluid moves (Christensen et al. 1996; Avants et al. 2008; "greedy", Yushkevich et al.
2016), and composed with the field so far: such steps do not fold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from deformgan.preprocess.bias_field import correct_bias_field
from deformgan.preprocess.lesions import NO_LESIONS, Lesions
from deformgan.refine.drive import Drive, force, gaussian
from deformgan.refine.folds import without_folds
from deformgan.refine.progress import shifted
from deformgan.refine.settings import DEFAULT_FLUID, FluidSettings
from deformgan.refine.weights import CELL, Compared, Weight
from deformgan.spatial.field import resize
from deformgan.spatial.native import fluid as native
from deformgan.spatial.native.use import usable
from deformgan.spatial.warp import warp

_BORDER = 4  # voxels around what counts that are moved too
_REWEIGHED = 5  # steps after which the moving image's weights are looked up anew


@dataclass(frozen=True, eq=False)
class _Level:
    """A pair at one resolution, the fixed side cut to where anything counts.

    Args:
        shape: Of the whole grid.
        box: The part of it that ``fixed`` and the weights' fixed side are.
        fixed, moving, weight, steps, settings: See `refine_fluid`.
    """

    shape: tuple[int, ...]
    box: tuple[slice, ...]
    fixed: Tensor
    moving: Tensor
    weight: Weight
    steps: int
    settings: FluidSettings

    @classmethod
    def of(cls, fixed: Tensor, moving: Tensor, weight: Weight, steps: int, settings: FluidSettings) -> _Level:
        """Cut to the box around the weights, with a margin for what is smoothed."""
        counts = torch.nonzero(weight.fixed[0, 0] > 0)
        shape = tuple(fixed.shape[2:])
        if len(counts) == 0:
            box = tuple(slice(0, n) for n in shape)
        else:
            low, high = (counts.amin(0) - _BORDER).tolist(), (counts.amax(0) + _BORDER + 1).tolist()
            box = tuple(slice(max(0, a), min(n, b)) for a, b, n in zip(low, high, shape, strict=True))
        cut = (slice(None), slice(None), *box)
        weight = Weight(weight.fixed[cut], weight.moving)
        return cls(shape, box, fixed[cut].contiguous(), moving.contiguous(), weight, steps, settings)

    def enter(self, field: Tensor) -> Tensor:
        """The part of a whole field in the box, leading from there into the whole moving image."""
        return field[(slice(None), slice(None), *self.box)] + self._offset(field)

    def leave(self, field: Tensor, part: Tensor) -> Tensor:
        """The whole field with that part put back."""
        out = field.clone()
        out[(slice(None), slice(None), *self.box)] = part - self._offset(field)
        return out

    def _offset(self, like: Tensor) -> Tensor:
        return torch.tensor([float(s.start) for s in self.box]).to(like).view(1, 3, 1, 1, 1)


@torch.no_grad()
def refine_fluid(
    fixed: Tensor,
    moving: Tensor,
    field: Tensor,
    steps: int,
    *,
    mask: Tensor | None = None,
    lesions: Lesions = NO_LESIONS,
    compared: Compared | None = None,
    fine: tuple[Tensor, Tensor] | None = None,
    settings: FluidSettings = DEFAULT_FLUID,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Improve a field between two people.

    Args:
        fixed, moving, field, steps, mask, compared, progress: As `deformgan.refine.optimise.refine` takes them.
        lesions: Where no similarity is taken, in either image.
        fine: Both images on a finer grid over the same extent, for the last level, or None for none.
        settings: See there.

    Returns:
        (1, 3, D', H', W') in voxels of the finest level's grid.
    """
    if steps <= 0:
        return field
    field, done = field.float(), 0
    mask = (fixed > 0).to(fixed) if mask is None else mask.to(fixed)
    compared = Compared(fixed, moving, mask) if compared is None else compared
    for level in _levels(compared, lesions, fine, steps, settings):
        field = resize(field, level.shape)
        field = level.leave(field, _flow(level.enter(field), level, shifted(progress, done, steps)))
        done += level.steps
    return without_folds(field)


def _flow(field: Tensor, level: _Level, progress: Callable[[int], None]) -> Tensor:
    """All steps of a level."""
    settings = level.settings
    drive = Drive(level.fixed, level.weight.at(field), settings)
    compiled = native.FluidSteps(level.moving, field) if usable(level.moving, field) else None
    for step in range(level.steps):
        if step and step % _REWEIGHED == 0 and level.weight.moving is not None:
            drive = Drive(level.fixed, level.weight.at(field), settings)
        length = settings.step * (1 - 0.9 * step / level.steps)
        if compiled is None:
            field = _step(field, level, drive, length)
        else:
            sigmas = settings.update_sigma, settings.field_sigma
            compiled.advance(drive(compiled.moved()), length, *sigmas, settings.shorter)
            field = compiled.field
        progress(step + 1)
    return field


def _step(field: Tensor, level: _Level, drive: Drive, length: float) -> Tensor:
    """No update is longer than ``length`` voxels, see `FluidSettings.shorter`."""
    settings = level.settings
    moved = warp(level.moving, field, padding="border")
    update = gaussian(force(drive(moved), moved), settings.update_sigma)
    longest = float(update.square().sum(1).amax().sqrt())
    if not 0 < longest < float("inf"):
        return field
    usual = native.usual_length(update, settings.shorter) if settings.shorter < 1 else longest
    update *= length / update.square().sum(1, keepdim=True).sqrt().clamp_min(usual)
    # what was there is taken from where the update leads
    return gaussian(update.add_(warp(field, update, padding="border")), settings.field_sigma)


def _levels(
    compared: Compared,
    lesions: Lesions,
    fine: tuple[Tensor, Tensor] | None,
    steps: int,
    settings: FluidSettings,
) -> Iterator[_Level]:
    """Coarse to fine; a level without steps is left out."""
    wide = compared.mask(1, settings.margin)
    fine_share = settings.fine_share if fine is not None else 0.0
    whole, left = sum(share for _, share in settings.levels) + fine_share, steps
    for number, (factor, share) in enumerate(settings.levels):
        last = fine is None and number == len(settings.levels) - 1
        todo = left if last else min(left, round(steps * share / whole))
        left -= todo
        if todo:
            inside = compared.mask(factor, settings.margin)
            yield _Level.of(*compared.images(factor), Weight.of(inside, lesions), todo, settings)
    if fine is not None and left:
        shape = fine[0].shape[2:]
        cell = round(CELL * shape[0] / wide.shape[2])
        f, m = (correct_bias_field(image.to(wide), cell) for image in fine)
        inside = F.interpolate(wide, size=shape)
        how = replace(settings, information=settings.fine_information)
        yield _Level.of(f, m, Weight.of(inside, lesions), left, how)
