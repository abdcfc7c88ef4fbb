"""A short optimisation of a low-resolution field at test time, starting from T's; network weights are never touched.

The field is an affine map plus displacements at control points four voxels apart, smoothed like a spline. Level by level
the squared normalised-gradient product of the two images (see `deformgan.losses.gradient`) is maximised by Adam; the bending
energy of the control points keeps the rest smooth and costs an affine map nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from deformgan.field import identity_positions, jacobian_determinant, resize
from deformgan.losses import bending_energy
from deformgan.losses.gradient import GradientSimilarity
from deformgan.warp import warp

DEFAULT_STEPS = 120

_REACH = 50.0  # voxels over which a linear coefficient of 1 moves its end by one voxel: gives every parameter one scale


@dataclass(frozen=True)
class RefineSettings:
    """How a field is refined; chosen on the validation cases, see ``docs/log.md``.

    Args:
        levels: For each level, coarse to fine: the factor by which the images are reduced, and its share of the steps.
        spacing: Voxels between control points.
        smoothing: How often the control points are smoothed with a 3³ box.
        epsilon: Gradient (intensity in [0, 1] per voxel of the level) below which an edge counts as noise.
        bending: Weight of the bending energy.
        rate: Adam's step in voxels, of the control points.
        affine_rate: The same of the affine map; 0 leaves it to the control points.
    """

    levels: tuple[tuple[int, float], ...] = ((8, 1 / 3), (4, 1 / 3), (2, 1 / 3))
    spacing: int = 4
    smoothing: int = 2
    epsilon: float = 0.03
    bending: float = 0.02
    rate: float = 0.5
    affine_rate: float = 0.3


DEFAULT_SETTINGS = RefineSettings()


def refine(
    fixed: Tensor,
    moving: Tensor,
    field: Tensor,
    steps: int = DEFAULT_STEPS,
    *,
    mask: Tensor | None = None,
    settings: RefineSettings = DEFAULT_SETTINGS,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Improve a field for one pair.

    Args:
        fixed, moving: (1, 1, D, H, W) in [0, 1] on working grids.
        field: (1, 3, d, h, w), the start, in voxels of its own grid over the same extent.
        steps: Steps in all, shared among the levels; 0 returns ``field``.
        mask: (1, 1, D, H, W), where the similarity counts; default: where ``fixed`` is above 0.
        settings: See there.
        progress: Called after each step with the steps done and their number.

    Returns:
        (1, 3, D/2, H/2, W/2) in voxels of the half-resolution grid, and never worse than the start: where the final
        similarity is lower, or the result folds more, the start comes back.
    """
    if steps <= 0:
        return field
    mask = (fixed > 0).to(fixed) if mask is None else mask.to(fixed)
    with torch.inference_mode(False), torch.enable_grad():
        images = [image.detach().clone() for image in (fixed, moving, mask)]
        parameters = _Parameters.fit(field.detach().clone().float(), images[2], settings)
        done = 0
        for number, (factor, share) in enumerate(settings.levels):
            last = number == len(settings.levels) - 1
            todo = steps - done if last else round(share * steps)
            _optimise(parameters, *(F.avg_pool3d(i, factor) for i in images), factor, todo, settings, _shifted(progress, done, steps))
            done += todo
    half = tuple(n // 2 for n in fixed.shape[2:])
    with torch.no_grad():
        refined = parameters.field(half)
        return _better(*(F.avg_pool3d(i, 2) for i in images), refined, resize(field.float(), half), settings)


class _Parameters:
    """An affine map (3, 4) over positions measured from the centre in `_REACH`, and control points (1, 3, d, h, w); voxels."""

    def __init__(self, shape: tuple[int, ...], affine: Tensor, control: Tensor, smoothing: int) -> None:
        self.shape, self.smoothing = shape, smoothing
        self.affine, self.control = affine.requires_grad_(), control.requires_grad_()
        self._positions = _centred_positions(shape, tuple(control.shape[2:]), control.device)

    @classmethod
    def fit(cls, field: Tensor, mask: Tensor, settings: RefineSettings) -> _Parameters:
        """The start: the affine map nearest to the field inside the mask, and what it leaves."""
        shape = tuple(mask.shape[2:])
        coarse = tuple(max(4, n // settings.spacing) for n in shape)
        target = _to_full_voxels(resize(field, coarse), shape)
        x = _centred_positions(shape, coarse, field.device)
        design = torch.cat([x, torch.ones_like(x[:, :1])], 1)[0].flatten(1).double()
        weighted = design * F.adaptive_avg_pool3d(mask, coarse).flatten().double().add(1e-6)
        affine = torch.linalg.solve(weighted @ design.T, weighted @ target[0].flatten(1).double().T).T.float()
        return cls(shape, affine, target - _linear(affine, x), settings.smoothing)

    def field(self, shape: tuple[int, ...]) -> Tensor:
        """Displacement on a grid of ``shape``, in its voxels."""
        coarse = _smoothed(self.control, self.smoothing) + _linear(self.affine, self._positions)
        fine = F.interpolate(coarse, size=shape, mode="trilinear", align_corners=False)
        return _from_full_voxels(fine, self.shape)


def _optimise(
    parameters: _Parameters,
    fixed: Tensor,
    moving: Tensor,
    mask: Tensor,
    factor: int,
    steps: int,
    settings: RefineSettings,
    progress: Callable[[int], None],
) -> None:
    """Adam at one level, its rates falling linearly to a tenth."""
    similarity = GradientSimilarity(fixed, settings.epsilon, squared=True, mask=mask)
    groups = [{"params": [parameters.control], "lr": settings.rate}]
    if settings.affine_rate > 0:
        groups.append({"params": [parameters.affine], "lr": settings.affine_rate})
    rates = [group["lr"] for group in groups]
    optimizer = torch.optim.Adam(groups)
    shape = tuple(fixed.shape[2:])
    for step in range(steps):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * (1 - 0.9 * step / steps)
        loss = settings.bending * bending_energy(parameters.control) - similarity(warp(moving, parameters.field(shape)))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        progress(step + 1)


def _better(fixed: Tensor, moving: Tensor, mask: Tensor, refined: Tensor, start: Tensor, settings: RefineSettings) -> Tensor:
    """The refined field, unless it is less similar than the start or folds where that did not."""
    similarity = GradientSimilarity(fixed, settings.epsilon, squared=True, mask=mask)
    gained = float(similarity(warp(moving, refined))) >= float(similarity(warp(moving, start)))
    folded = [int(((jacobian_determinant(f) <= 0)[:, None] & (mask > 0.5)).sum()) for f in (refined, start)]
    return refined if gained and folded[0] <= max(folded[1], 1e-4 * float(mask.sum())) else start


def _shifted(progress: Callable[[int, int], None] | None, done: int, steps: int) -> Callable[[int], None]:
    return (lambda step: None) if progress is None else (lambda step: progress(done + step, steps))


def _linear(affine: Tensor, positions: Tensor) -> Tensor:
    return torch.einsum("ij,bjdhw->bidhw", affine[:, :3], positions) + affine[:, 3].view(1, 3, 1, 1, 1)


def _centred_positions(full: tuple[int, ...], shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Where the voxels of a coarser grid lie in the full one, from its centre, in units of `_REACH`, (1, 3, d, h, w)."""
    middle, ratio = (torch.tensor(v, device=device).view(1, 3, 1, 1, 1) for v in _middle_and_ratio(full, shape))
    return (identity_positions(shape, device) - middle) * ratio / _REACH


def _middle_and_ratio(full: tuple[int, ...], shape: tuple[int, ...]) -> tuple[list[float], list[float]]:
    return [(n - 1) / 2 for n in shape], [a / b for a, b in zip(full, shape, strict=True)]


def _to_full_voxels(field: Tensor, full: tuple[int, ...]) -> Tensor:
    ratio = _middle_and_ratio(full, tuple(field.shape[2:]))[1]
    return field * torch.tensor(ratio, device=field.device).view(1, 3, 1, 1, 1)


def _from_full_voxels(field: Tensor, full: tuple[int, ...]) -> Tensor:
    ratio = _middle_and_ratio(full, tuple(field.shape[2:]))[1]
    return field / torch.tensor(ratio, device=field.device).view(1, 3, 1, 1, 1)


def _smoothed(control: Tensor, times: int) -> Tensor:
    """3³ box means, ``times`` over, the border replicated."""
    for _ in range(times):
        for axis in (2, 3, 4):
            n = control.shape[axis]
            before, after = control.narrow(axis, 0, 1), control.narrow(axis, n - 1, 1)
            padded = torch.cat([before, control, after], axis)
            control = (padded.narrow(axis, 0, n) + control + padded.narrow(axis, 2, n)) / 3
    return control
