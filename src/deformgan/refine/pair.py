"""How a pair is refined: one person or two, how much there is to do, and whether doing nothing is better.

Nothing is decided by what was optimised: a refinement by edges is judged by mutual information, one by intensities is
judged by edges.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from deformgan.align.options import DEFAULT_STEPS, Subject
from deformgan.preprocess.lesions import NO_LESIONS, Lesions
from deformgan.refine.fluid import refine_fluid
from deformgan.refine.optimise import refine
from deformgan.refine.settings import DEFAULT_FLUID, DEFAULT_SETTINGS, FLUID_SHARE, RefineSettings
from deformgan.refine.view import View
from deformgan.spatial.warp import warp

# as by default without the last level, and the share of the steps that is left then
_FIRST_LEVELS = DEFAULT_SETTINGS.levels[:-1]
_COARSE_SHARE = sum(share for _, share in _FIRST_LEVELS)
_COARSE = replace(DEFAULT_SETTINGS, levels=tuple((factor, share / _COARSE_SHARE) for factor, share in _FIRST_LEVELS))
_LITTLE = 1.5  # voxels of mean displacement, below which a pair may be aligned already
_STIFF = (25.0, 5.0)  # times as much bending costs there: the first that is as good
_AS_GOOD = 0.99  # share of the match of edges that a stiffer field must keep
# share by which a fluid field betters the match of edges, from which on there may be two people: of the whole field
# 0.06 and more between them, within one person 0.055 at most, but 0.08 where borders of a brain were found apart,
# slices are thick or images are noisy; before its last level 0.04 and more, and 0.06 at most
OTHER_FROM, EARLY_FROM = 0.05, 0.065
# how well a mirror image may match as one person's, as a share of the image's own match, where it is one person's: 0.94
# at most, in noise; a stranger's brain matches either way alike, from 0.97 on
SAME_BELOW = 0.955


@dataclass(frozen=True, eq=False)
class Refined:
    """What became of a pair.

    Attributes:
        field: (1, 3, d, h, w) in voxels of its own grid.
        subject: ``same`` or ``other``: how it was refined; what was asked for where it was not.
        steps: Of the refinement that was kept.
        sides: The match of edges with the moving image as it is and mirrored left to right, each refined as one
            person's; None where that was not asked.
    """

    field: Tensor
    subject: str
    steps: int
    sides: tuple[float, float] | None = None


@torch.no_grad()
def refine_pair(
    fixed: Tensor,
    moving: Tensor,
    predicted: Tensor,
    *,
    mask: Tensor,
    lesions: Lesions = NO_LESIONS,
    steps: int = DEFAULT_STEPS,
    subject: Subject = "auto",
    smoothness: float = 1.0,
    fine: Callable[[], tuple[Tensor, Tensor] | None] = lambda: None,
    mirrored: Callable[[], Tensor] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Refined:
    """Refine T's field.

    Args:
        fixed, moving: (1, 1, D, H, W) in [0, 1] on working grids.
        predicted: (1, 3, d, h, w), T's field.
        mask: (1, 1, D, H, W), where the similarity counts.
        lesions: Where the images have no counterpart in each other.
        steps: Of the optimisation, 0 for none; between people `FLUID_SHARE` as many.
        subject: ``same`` person, ``other`` person, or ``auto``: a fluid field that betters the match of edges much,
            which it did not look at, is one between people, unless a mirror image fits clearly worse.
        smoothness: How much smoother the field shall be than by default; 1 is the default.
        fine: Gives both images on a finer grid, or None; asked only between people.
        mirrored: Gives T's field for the moving image mirrored along its first axis; asked where `auto` is in doubt.
        progress: Called after each step with the steps done and their number.
    """
    if steps == 0:
        return Refined(predicted, subject, 0)
    view = View(fixed, moving, mask, lesions)
    start = view.better_start(predicted)
    strangers = _Strangers(view, mirrored, steps, smoothness)
    if subject != "other":
        same = _same(view, start, steps, smoothness, progress, strangers if subject == "auto" else None)
        if subject == "same" or not (strangers.found or strangers.late(same)):
            return Refined(same, "same", steps, strangers.sides)
    how = replace(DEFAULT_FLUID, field_sigma=DEFAULT_FLUID.field_sigma * smoothness**0.5)
    many = max(1, round(FLUID_SHARE * steps))
    given = {"mask": mask, "lesions": lesions, "compared": view.compared}
    fluid = refine_fluid(fixed, moving, start, many, **given, fine=fine(), settings=how, progress=progress)
    kept = fluid if view.edges(fluid) >= view.edges(start) else start
    return Refined(kept, "other", many, strangers.sides)


class _Strangers:
    """Whether a pair shows two people.

    Args:
        view: The pair.
        mirrored: As `refine_pair` takes it.
        steps, smoothness: Of the whole refinement.

    Attributes:
        found: The answer; no, as long as nothing was asked.
        sides: As in `Refined`.
    """

    def __init__(self, view: View, mirrored: Callable[[], Tensor] | None, steps: int, smoothness: float) -> None:
        self._view, self._mirrored, self._steps, self._smoothness = view, mirrored, steps, smoothness
        self._coarse: Tensor | None = None
        self.found = False
        self.sides: tuple[float, float] | None = None

    def early(self, coarse: Tensor) -> bool:
        """Asked with one person's field before its last level: only where a fluid field gains so much, an answer."""
        self._coarse = coarse
        return self._answer(coarse, EARLY_FROM)

    def late(self, field: Tensor) -> bool:
        """Asked with the whole field, if there was no answer before."""
        return self.found if self.sides is not None else self._answer(field, OTHER_FROM)

    @torch.no_grad()
    def _answer(self, field: Tensor, least: float) -> bool:
        self.found = self._view.gain(field) > least
        if self.found and self._mirrored is not None:
            coarse = field if self._coarse is None else self._coarse
            self.sides = self._view.coarse_edges(coarse), self._mirrored_edges(self._mirrored())
            self.found = self.sides[1] >= SAME_BELOW * self.sides[0]
        return self.found

    def _mirrored_edges(self, predicted: Tensor) -> float:
        """The match of edges with the moving image mirrored, refined as far as the image itself is."""
        mirror = self._view.mirrored()
        how = replace(_COARSE, bending=self._smoothness * DEFAULT_SETTINGS.bending)
        many = max(1, round(_COARSE_SHARE * self._steps))
        return mirror.coarse_edges(_by_edges(mirror, mirror.better_coarse_start(predicted), many, how, None))


def _same(
    view: View,
    start: Tensor,
    steps: int,
    smoothness: float,
    progress: Callable[[int, int], None] | None,
    strangers: _Strangers | None = None,
) -> Tensor:
    """With control points; where little moves, or intensities agree less then, as stiffly as the images allow and as
    far as both directions agree.

    Where ``strangers`` are found before the last level, what was found so far.
    """
    loose = replace(DEFAULT_SETTINGS, bending=smoothness * DEFAULT_SETTINGS.bending)
    field = _by_edges(view, start, steps, loose, progress, None if strangers is None else strangers.early)
    if strangers is not None and strangers.found:
        return field
    none, chosen = torch.zeros_like(field), loose
    # what moves far for edges' sake while intensities agree less has followed edges without a partner
    if view.size(field) > _LITTLE and view.information(field) > view.information(none):
        return field
    for times in _STIFF:
        how = replace(loose, bending=times * loose.bending)
        stiff = _by_edges(view, none, steps, how, progress)
        if view.edges(stiff) >= _AS_GOOD * view.edges(field):
            field, chosen = stiff, how
            break
    field = consistent(field, _by_edges(view.exchanged(), none, steps, chosen, progress), view.mask)
    return field if view.agrees_better(field, none) else none


def _by_edges(
    view: View,
    start: Tensor,
    steps: int,
    how: RefineSettings,
    progress: Callable[[int, int], None] | None,
    enough: Callable[[Tensor], bool] | None = None,
) -> Tensor:
    given = {"mask": view.mask, "lesions": view.lesions, "compared": view.compared, "progress": progress}
    return refine(view.fixed, view.moving, start, steps, settings=how, enough=enough, **given)


def consistent(forward: Tensor, backward: Tensor, mask: Tensor) -> Tensor:
    """The part of a small field that is found again with the images exchanged.

    What the images show is found in both directions; edges without a partner draw each image their own way. The mean of
    the two fields is shortened by the share of their squared length that they have in common.

    Args:
        forward, backward: (1, 3, d, h, w) in voxels of their grid, fixed to moving and moving to fixed.
        mask: (1, 1, D, H, W), where the fields count.

    Returns:
        As ``forward``, no longer than the mean.
    """
    again = -warp(backward, forward, padding="border")
    weight = F.adaptive_avg_pool3d(mask, list(forward.shape[2:]))  # type: ignore[arg-type]
    common = float((forward * again * weight).sum())
    length = float(((forward.square() + again.square()) * weight).sum()) / 2
    return (forward + again) * (max(0.0, common / length) / 2 if length > 0 else 0.0)
