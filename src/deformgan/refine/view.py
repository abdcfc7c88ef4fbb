"""How well a field fits a pair, by measures that are compared with each other and not optimised."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from deformgan.losses.gradient import GradientSimilarity
from deformgan.losses.joint_histogram import normalised_mutual_information
from deformgan.preprocess.lesions import Lesions
from deformgan.refine.fluid import refine_fluid
from deformgan.refine.settings import DEFAULT_FLUID, DEFAULT_SETTINGS
from deformgan.refine.weights import Compared, Weight
from deformgan.spatial.field import resize
from deformgan.spatial.warp import box_maximum, warp

_PROBE_STEPS = 15
# its own settings, on which the limit below rests
_PROBE = replace(DEFAULT_FLUID, levels=((2, 1.0),), correlation=0.0, step=0.5, shorter=1.0, field_sigma=0.3)
# voxels of a mask's border that may be no brain; how much better intensities within must agree where all agree less:
# through right fields 1.12 to 1.28 times, through those of aligned pairs 1.03 at most (heads from label maps)
_RIM, _CLEARLY = 2, 1.08


class View:
    """A pair, and how well a field fits it.

    Args:
        fixed, moving, mask, lesions: As `deformgan.refine.pair.refine_pair` takes them.
        compared: Images and mask as they are compared, where they are at hand.
    """

    def __init__(
        self, fixed: Tensor, moving: Tensor, mask: Tensor, lesions: Lesions, compared: Compared | None = None
    ) -> None:
        self.fixed, self.moving, self.mask, self.lesions = fixed, moving, mask.to(fixed), lesions
        self.compared = Compared(fixed, moving, self.mask) if compared is None else compared
        self._weight = Weight.of(self.mask, lesions)
        self._edges: tuple[Tensor, GradientSimilarity] | None = None

    def exchanged(self) -> View:
        """The moving image as the fixed one; little moves, so that the mask stays."""
        return View(self.moving, self.fixed, self.mask, self.lesions.exchanged())

    def mirrored(self) -> View:
        """The moving image mirrored along its first axis, and what of it is left out."""
        lesion = self.lesions.moving
        lesions = replace(self.lesions, moving=None if lesion is None else lesion.flip(2))
        return View(self.fixed, self.moving.flip(2), self.mask, lesions, self.compared.mirrored())

    def edges(self, field: Tensor) -> float:
        """Squared product of normalised gradients on the working grid, in [0, 1]."""
        field = self._at_full(field)
        f, m = self.compared.images()
        weight = self._weight.at(field)
        if self._edges is None or self._edges[0] is not weight:  # without a moving lesion it is always the same
            self._edges = weight, GradientSimilarity(f, DEFAULT_SETTINGS.epsilon, squared=True, mask=weight)
        return float(self._edges[1](warp(m, field)))

    def information(self, field: Tensor, within: Tensor | None = None) -> float:
        """Normalised mutual information on the working grid, in [0, 1]; of a part of it where that is given."""
        field = self._at_full(field)
        weight = self._weight.at(field) if within is None else self._weight.at(field) * within
        return normalised_mutual_information(self.fixed, warp(self.moving, field), weight > 0.5)

    def agrees_better(self, field: Tensor, none: Tensor) -> bool:
        """Whether intensities agree better through a field than without one: all of them, or clearly so within.

        A bright rim that a mask of the brain left in one image alone is shared by more of what is no brain the less
        it is moved.
        """
        if self.information(field) > self.information(none):
            return True
        within = 1 - box_maximum((self.mask < 1).to(self.mask), _RIM)
        return self.information(field, within) > _CLEARLY * self.information(none, within)

    def better_start(self, predicted: Tensor) -> Tensor:
        """T's field where both measures prefer it to none, else none: where T knows no such images it does harm."""
        return _preferred(predicted, self.edges, self.information)

    def better_coarse_start(self, predicted: Tensor) -> Tensor:
        """The same at half resolution, which takes a tenth of the time."""
        return _preferred(predicted, self.coarse_edges, self.coarse_information)

    def size(self, field: Tensor) -> float:
        """Mean displacement where the similarity counts, voxels of the working grid."""
        field = self._at_full(field)
        return float((field.square().sum(1, keepdim=True).sqrt() * self.mask).sum() / self.mask.sum().clamp_min(1))

    def gain(self, field: Tensor) -> float:
        """Share by which a few fluid steps by intensities alone better the match of edges at half resolution."""
        given = {"mask": self.mask, "lesions": self.lesions, "compared": self.compared}
        probe = refine_fluid(self.fixed, self.moving, field, _PROBE_STEPS, **given, settings=_PROBE)
        return self.coarse_edges(probe) / max(self.coarse_edges(field), 1e-9) - 1

    def coarse_edges(self, field: Tensor) -> float:
        """The match of edges at half resolution, where noise counts less."""
        fixed, moved, weight = self._coarse(field)
        return float(GradientSimilarity(fixed, DEFAULT_SETTINGS.epsilon, squared=True, mask=weight)(moved))

    def coarse_information(self, field: Tensor) -> float:
        """Normalised mutual information at half resolution, in [0, 1]."""
        fixed, moved, weight = self._coarse(field)
        return normalised_mutual_information(fixed, moved, weight > 0.5)

    def _coarse(self, field: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The fixed and the moved image at half resolution, and how much each voxel counts."""
        fixed, moving = self.compared.images(2)
        field = resize(field, tuple(fixed.shape[2:]))
        return fixed, warp(moving, field), Weight.of(self.compared.mask(2), self.lesions).at(field)

    def _at_full(self, field: Tensor) -> Tensor:
        return resize(field.float(), tuple(self.fixed.shape[2:]))


def _preferred(predicted: Tensor, *measures: Callable[[Tensor], float]) -> Tensor:
    """A field where every measure prefers it to none, else none."""
    predicted = predicted.float()
    none = torch.zeros_like(predicted)
    return predicted if all(measure(predicted) > measure(none) for measure in measures) else none
