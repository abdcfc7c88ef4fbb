"""What a refinement with control points changes: an affine map and the control points' displacements."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from deformgan.refine.settings import RefineSettings
from deformgan.spatial.affine import nearest_affine
from deformgan.spatial.control_points import centred_positions, from_full_voxels, linear, smoothed, to_full_voxels
from deformgan.spatial.field import resize


class Parameters:
    """An affine map (3, 4) over positions from the centre in `REACH`, and control points (1, 3, d, h, w); voxels."""

    def __init__(self, shape: tuple[int, ...], affine: Tensor, control: Tensor, smoothing: int) -> None:
        self.shape, self.smoothing = shape, smoothing
        self.affine, self.control = affine.requires_grad_(), control.requires_grad_()
        self._positions = centred_positions(shape, tuple(control.shape[2:]), control.device)

    @property
    def variables(self) -> tuple[Tensor, Tensor]:
        """The control points and the affine map."""
        return self.control, self.affine

    def moments(self) -> tuple[tuple[Tensor, Tensor], ...]:
        """Adam's, of either, before the first step."""
        return tuple((torch.zeros_like(v), torch.zeros_like(v)) for v in self.variables)

    @classmethod
    def fit(cls, field: Tensor, mask: Tensor, settings: RefineSettings) -> Parameters:
        """The start: the affine map nearest to the field inside the mask, and what it leaves."""
        shape = tuple(mask.shape[2:])
        coarse = tuple(max(4, n // settings.spacing) for n in shape)
        target = to_full_voxels(resize(field, coarse), shape)
        x = centred_positions(shape, coarse, field.device)
        inside = F.adaptive_avg_pool3d(mask, coarse)  # type: ignore[arg-type]
        positions, values, weight = (t.flatten(2).double() for t in (x, target, inside))
        affine = nearest_affine(positions, values, weight + 1e-6)[0].float()
        return cls(shape, affine, target - linear(affine, x), settings.smoothing)

    def coarse(self) -> Tensor:
        """Displacement at the control points, in their voxels."""
        field = smoothed(self.control, self.smoothing) + linear(self.affine, self._positions)
        return from_full_voxels(field, self.shape)

    def field(self, shape: tuple[int, ...], coarse: Tensor | None = None) -> Tensor:
        """Displacement on a grid of ``shape``, in its voxels; ``coarse`` is `coarse` where it is at hand."""
        return resize(self.coarse() if coarse is None else coarse, shape)
