"""Refinement with a displacement of every voxel: a fluid field for two people.

Step by step the moved image is compared with the fixed one by local correlation and mutual information; where it should
move is smoothed like a viscous fluid moves (Christensen et al. 1996; Avants et al. 2008; "greedy", Yushkevich et al.
2016), and composed with the field so far: such steps do not fold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import gcd

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
from deformgan.spatial.constants import of_axes
from deformgan.spatial.field import resize
from deformgan.spatial.native import fluid as native
from deformgan.spatial.native.use import usable
from deformgan.spatial.recorded import recorded
from deformgan.spatial.warp import warp

_BORDER = 4  # voxels around what counts that are moved too
_REWEIGHED = 5  # steps after which the moving image's weights are looked up anew


@dataclass(frozen=True, eq=False)
class _Level:
    """A pair at one resolution, cut to where anything counts.

    Args:
        shape: Of the field's whole grid.
        box: The part of it that is refined.
        fixed: The same part of the fixed image, whose voxels may be finer than the field's.
        moving: The whole moving image, its voxels as fine.
        weight: Its fixed side is cut as ``fixed``.
        steps, settings: See `refine_fluid`.
    """

    shape: tuple[int, ...]
    box: tuple[slice, ...]
    fixed: Tensor
    moving: Tensor
    weight: Weight
    steps: int
    settings: FluidSettings

    @classmethod
    def of(
        cls,
        fixed: Tensor,
        moving: Tensor,
        weight: Weight,
        steps: int,
        settings: FluidSettings,
        shape: tuple[int, ...] | None = None,
    ) -> _Level:
        """Cut to the box around the weights, with a margin for what is smoothed.

        Args:
            shape: Of the field's grid over the images' extent; default: the images'.
        """
        own = tuple(fixed.shape[2:])
        shape = shape or own
        box, part = _boxes(weight.fixed, own, shape)
        cut = (slice(None), slice(None), *part)
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

    def drive(self, field: Tensor) -> Drive:
        """What moves the image where a field in the box leads to."""
        if self.weight.moving is not None:
            field = resize(field, tuple(self.fixed.shape[2:]))
        return Drive(self.fixed, self.weight.at(field), self.settings)

    def step(self, number: int) -> native.Step:
        """The settings of a step, in voxels of the field."""
        settings = self.settings
        voxel = (self.box[0].stop - self.box[0].start) / self.fixed.shape[2]  # of the images, in the field's
        length = settings.step * (1 - 0.9 * number / self.steps)
        sigmas = settings.update_sigma * voxel, settings.field_sigma * voxel
        return native.Step(length * voxel, *sigmas, settings.shorter)

    def looked_up_anew(self, number: int) -> bool:
        """Whether the moving image's weights change before a step."""
        return number > 0 and number % _REWEIGHED == 0 and self.weight.moving is not None

    def _offset(self, like: Tensor) -> Tensor:
        return of_axes(tuple(float(s.start) for s in self.box), like.device)


def _boxes(weight: Tensor, own: tuple[int, ...], shape: tuple[int, ...]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """The box around the voxels that count, on grids of ``shape`` and of the weight's ``own``: the same extent."""
    counts = torch.nonzero(weight[0, 0] > 0)
    if len(counts) == 0:
        return tuple(slice(0, n) for n in shape), tuple(slice(0, n) for n in own)
    low, high = (counts.amin(0) - _BORDER).tolist(), (counts.amax(0) + _BORDER + 1).tolist()
    box, part = [], []
    for a, b, n, m in zip(low, high, own, shape, strict=True):
        # cells of whole voxels of either grid
        cells = gcd(n, m)
        first, last = max(0, a * cells // n), min(cells, -(-b * cells // n))
        box.append(slice(first * m // cells, last * m // cells))
        part.append(slice(first * n // cells, last * n // cells))
    return tuple(box), tuple(part)


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
        fine: Both images on a finer grid over the same extent, for the last level, or None for none; the field stays
            on the working grid.
        settings: See there.

    Returns:
        (1, 3, D, H, W) in voxels of the working grid: a field on the finer one would be three times as large and no
        better.
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
    if not usable(level.moving, field):
        return _flow_by_pytorch(field, level, progress)
    shape, counts, reach = tuple(level.fixed.shape[2:]), level.weight.fixed, level.settings.radius
    drive, steps = level.drive(field), native.FluidSteps(level.moving, field, shape, counts, reach)
    for number in range(level.steps):
        if level.looked_up_anew(number):
            drive = level.drive(steps.field)
        steps.advance(drive(steps.moved()), level.step(number))
        progress(number + 1)
    return steps.field


def _flow_by_pytorch(field: Tensor, level: _Level, progress: Callable[[int], None]) -> Tensor:
    """The same; a step whose weights stay is recorded on a GPU."""
    drive, step = level.drive(field), level.step(0)

    def advanced(field: Tensor, length: Tensor) -> tuple[Tensor]:
        return (_advanced(field, length, level, drive, step),)

    play = advanced
    for number in range(level.steps):
        if level.looked_up_anew(number):
            drive = level.drive(field)
        length = torch.full((), level.step(number).length, device=field.device)
        if number == 0 and field.is_cuda and level.weight.moving is None:
            play = recorded(advanced, field, length)
        field = play(field, length)[0]
        progress(number + 1)
    return field.clone()  # the recording's memory goes with it


def _advanced(field: Tensor, length: Tensor, level: _Level, drive: Drive, step: native.Step) -> Tensor:
    """The field after a step of that length, without waiting for a GPU; one that is not finite is not taken."""
    moved = warp(level.moving, resize(field, tuple(level.fixed.shape[2:])), padding="border")
    update = gaussian(resize(force(drive(moved), moved), tuple(field.shape[2:])), step.update_sigma)
    lengths = update.square().sum(1, keepdim=True).sqrt()
    longest = lengths.amax()
    usual = usual_length(lengths, step.share) if step.share < 1 else longest
    update = update * (length / torch.maximum(lengths, usual))
    # what was there is taken from where the update leads
    advanced = gaussian(update + warp(field, update, padding="border"), step.field_sigma)
    return torch.where((longest > 0) & (longest < float("inf")), advanced, field)


def usual_length(lengths: Tensor, share: float) -> Tensor:
    """The length that ``share`` of those that are not 0, (1, 1, D, H, W), do not exceed, seen from some of them.

    As `deformgan.spatial.native.fluid.usual_length` has it, without waiting for a GPU.
    """
    every = native.looked_at(lengths.numel())
    some = lengths[0, 0, ::every, ::every, ::every].flatten().sort().values
    none = (some <= 0).sum()
    place = none + (share * (len(some) - none)).round().long().clamp_min(1) - 1
    usual = some.gather(0, place.clamp(max=len(some) - 1).view(1))[0]
    return torch.where(none < len(some), usual, lengths.amax())


def _levels(
    compared: Compared,
    lesions: Lesions,
    fine: tuple[Tensor, Tensor] | None,
    steps: int,
    settings: FluidSettings,
) -> Iterator[_Level]:
    """Coarse to fine; a level without steps is left out."""
    wide = compared.mask(1, settings.margin)
    whole, left = sum(share for _, share in settings.levels) + settings.fine_share, steps
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
        how = replace(settings, information=settings.fine_information, update_sigma=settings.fine_update_sigma)
        yield _Level.of(f, m, Weight.of(inside, lesions), left, how, tuple(wide.shape[2:]))
