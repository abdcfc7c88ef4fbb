"""Registration without learning: a viscous fluid driven by mutual information, the classical baseline.

A deformation found as the flow of a fluid can be large and still does not fold: Christensen, Rabbitt & Miller 1996
(doi:10.1109/83.536892), with the force of D'Agostino, Maes, Vandermeulen & Suetens 2003
(doi:10.1016/S1361-8415(03)00039-2). ``docs/explanation/mi-fluid.md`` has the equations and where this differs from the
papers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from deformgan.losses._common import check_pair
from deformgan.refine.progress import shifted
from deformgan.spatial.field import compose, determinant, jacobian_matrix, resize
from deformgan.spatial.warp import box_maximum, warp
from deformgan.workshop.evaluation.fluid_force import Similarity, SimilarityForce, information
from deformgan.workshop.evaluation.fluid_solver import FluidSolver

_ROUNDING = 1e-6  # nats; what mutual information in float32 is not certain of


@dataclass(frozen=True)
class ViscousSettings:
    """How the viscous fluid flows; the default was chosen on training anatomies, see ``docs/log.md``.

    Args:
        levels: For each level, coarse to fine: the factor by which the images are reduced, and the most steps.
        bins: Of the joint histogram, along each axis.
        ratio: ``λ / μ`` of the fluid.
        smoothing: Standard deviation of the Gaussian that filters the force, voxels of the level.
        widening: Of the fluid beyond the volume, as a share of each axis' length.
        margin: Voxels by which the content of the fixed image is widened to where images are compared; below 0 they
            are compared everywhere.
        largest_step: Voxels of the level that the fastest spot moves in a step.
        smallest_step: A step is halved while it does not raise the similarity; the level ends below this.
        regrid: Least Jacobian determinant of the displacement since the last regridding.
        patience: Steps over which the similarity must rise by ``tolerance``, or the level ends.
        tolerance: The same, as a share of its value.
    """

    levels: tuple[tuple[int, int], ...] = ((8, 30), (4, 20), (2, 45))
    bins: int = 24
    ratio: float = 0.0
    smoothing: float = 4.0
    widening: float = 0.25
    margin: int = 3
    largest_step: float = 1.0
    smallest_step: float = 0.02
    regrid: float = 0.5
    patience: int = 5
    tolerance: float = 2e-4


DEFAULT_SETTINGS = ViscousSettings()


@torch.no_grad()
def register_fluid(
    fixed: Tensor,
    moving: Tensor,
    *,
    mask: Tensor | None = None,
    settings: ViscousSettings = DEFAULT_SETTINGS,
    similarity: Similarity | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """The displacement that a fluid finds when mutual information, or another similarity, drives it.

    Args:
        fixed, moving: (1, 1, D, H, W) in [0, 1] on one grid, background 0.
        mask: (1, 1, D, H, W), where the images are compared; default: see `ViscousSettings.margin`.
        settings: See there.
        similarity: What drives the fluid; default: mutual information with as many bins as the settings say.
        progress: Called with the steps done and their largest number; levels that end early skip theirs.

    Returns:
        (1, 3, D, H, W) float32, pull-back, voxels: ``warp(moving, field)`` lies on ``fixed``. The similarity is
        never below that of the images as they came.

    Raises:
        ValueError: The images or the mask have other shapes.
    """
    check_pair(fixed, moving, mask)
    if fixed.shape[:2] != (1, 1):
        raise ValueError(f"a fluid carries one image of one channel, not {tuple(fixed.shape[:2])}")
    fixed, moving = fixed.float(), moving.float()
    where = _compared(fixed, settings.margin) if mask is None else mask.to(fixed)
    total, done = sum(steps for _, steps in settings.levels), 0
    driven_by = similarity or information(settings.bins)
    field = fixed.new_zeros(1, 3, 2, 2, 2)
    for factor, steps in settings.levels:
        shape = tuple(max(2, round(n / factor)) for n in fixed.shape[2:])
        force = SimilarityForce(_reduced(fixed, shape), _reduced(where, shape), driven_by)
        reduced = _reduced(moving, shape)
        start = _better(force, reduced, resize(field, shape))
        field = _flowed(start, force, reduced, steps, settings, shifted(progress, done, total))
        done += steps
        if progress is not None:
            progress(done, total)
    return _better(SimilarityForce(fixed, where, driven_by), moving, resize(field, tuple(fixed.shape[2:])))


def _reduced(image: Tensor, shape: tuple[int, ...]) -> Tensor:
    return F.adaptive_avg_pool3d(image, list(shape))  # type: ignore[arg-type]


def _compared(fixed: Tensor, margin: int) -> Tensor:
    if margin < 0:
        return torch.ones_like(fixed)
    return box_maximum((fixed > 0).float(), margin)


def _better(force: SimilarityForce, moving: Tensor, field: Tensor) -> Tensor:
    """The field, unless no displacement at all is more similar."""
    return field if force.measure(warp(moving, field))[0] >= force.measure(moving)[0] else torch.zeros_like(field)


@dataclass(frozen=True)
class _Flow:
    """The map so far, ``(id + settled) ∘ (id + current)``; fields (1, 3, d, h, w) in voxels of the level.

    Attributes:
        settled: The map up to the last regridding.
        current: The displacement since the last one.
        total: That of both.
        jacobian: Of ``id + current``, (1, 3, 3, d, h, w).
    """

    settled: Tensor
    current: Tensor
    total: Tensor
    jacobian: Tensor

    @classmethod
    def started(cls, settled: Tensor) -> _Flow:
        none = torch.zeros_like(settled)
        return cls(settled, none, settled, jacobian_matrix(none))

    def regridded(self) -> _Flow:
        """The same map, all of it settled."""
        return self.started(self.total)

    def rate(self, velocity: Tensor) -> Tensor:
        """``∂u/∂t = v + (∇u) v`` of the current displacement u.

        What is at x at time t + dt was at ``x + v dt`` at time t: ``φ(x, t + dt) = φ(x + v dt, t)``. (Christensen
        writes ``v − (∇u) v``: there both the displacement and the velocity have the other sign.)
        """
        return torch.einsum("bijdhw,bjdhw->bidhw", self.jacobian, velocity)

    def stepped(self, velocity: Tensor, length: float, least: float) -> _Flow:
        """After a time in which no displacement changes by more than ``length`` voxels.

        Where the determinant of the Jacobian would fall below ``least`` the grid is renewed before the step; where one
        step on a new grid would do that by itself, the step is shortened.
        """
        rate = self.rate(velocity)
        fastest = rate.square().sum(1).amax().sqrt().clamp_min(torch.finfo(rate.dtype).tiny)
        current = self.current + rate * (length / fastest)
        jacobian = jacobian_matrix(current)
        if determinant(jacobian).amin() >= least:
            return _Flow(self.settled, current, compose(self.settled, current), jacobian)
        if self.current.any():
            return self.regridded().stepped(velocity, length, least)
        return self.stepped(velocity, length / 2, least)


def _flowed(
    start: Tensor,
    force: SimilarityForce,
    moving: Tensor,
    steps: int,
    settings: ViscousSettings,
    progress: Callable[[int], None],
) -> Tensor:
    """One level: the displacement after at most ``steps`` steps, each of which raises the similarity."""
    flow = _Flow.started(start)
    solver = FluidSolver(tuple(moving.shape[2:]), settings.ratio, settings.smoothing, settings.widening)
    length = settings.largest_step
    reached, exerted = force.measure(warp(moving, flow.total))
    history = [float(reached)]
    for step in range(steps):
        velocity = solver(exerted())
        while True:
            trial = flow.stepped(velocity, length, settings.regrid)
            reached, exerted = force.measure(warp(moving, trial.total))
            if float(reached) > history[-1] + _ROUNDING:
                break
            length /= 2
            if length < settings.smallest_step:
                return flow.total
        flow = trial
        length = min(1.5 * length, settings.largest_step)
        history.append(float(reached))
        progress(step + 1)
        recent = history[-1 - settings.patience :]
        if len(recent) > settings.patience and recent[-1] - recent[0] < settings.tolerance * recent[-1]:
            break
    return flow.total
