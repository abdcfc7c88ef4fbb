"""The velocity of a very viscous fluid under a body force, solved exactly in the Fourier domain.

``μ ∇²v + (λ + μ) ∇(∇·v) = −F``, as in Christensen, Rabbitt & Miller 1996 (doi:10.1109/83.536892). At every wave vector
k the operator is the matrix ``−(μ |k|² I + (λ + μ) k kᵀ)``, whose inverse is known in closed form.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


class FluidSolver:
    """Velocities on one grid; ``μ`` is 1, as the unit of time is free.

    The grid is widened by force-free fluid and repeats beyond that. A container that holds the fluid fast (velocity 0
    at the border, as in the paper) would resist shifts and rotations of a brain that nearly fills the volume; here
    both are cheap, and the widening keeps the repeated content away. Under periodicity a uniform force has no steady
    velocity: it is given the response of the longest wave.

    Args:
        shape: Voxels of the grid.
        ratio: ``λ / μ``, above -2; 0 lets the fluid be compressed, large values make it resist.
        smoothing: Standard deviation, in voxels, of the Gaussian that the force is filtered with.
        widening: Voxels added along each axis, as a share of its length.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        ratio: float = 0.0,
        smoothing: float = 0.0,
        widening: float = 0.0,
    ) -> None:
        if ratio <= -2 or smoothing < 0 or widening < 0:
            raise ValueError(f"no fluid has λ/μ {ratio}, smoothing {smoothing} and widening {widening}")
        self.shape = tuple(shape)
        self.padded = tuple(n + math.ceil(widening * n) for n in shape)
        k = _wave_numbers(self.padded)
        squared = _squared_length(k)
        longest = (2 * math.pi / max(self.padded)) ** 2
        squared = torch.where(squared == 0, longest, squared)
        self._gain = torch.exp(-0.5 * smoothing**2 * squared) / squared
        # a wave of the highest frequency of an even axis has no sign, and its products with other axes are 0
        self._k = [_without_nyquist(a, n) for a, n in zip(k, self.padded, strict=True)]
        coupling = ratio + 1
        # Sherman and Morrison's inverse of |k|² I + c k kᵀ is (I − k kᵀ c / (|k|² + c |k|²)) / |k|²
        self._coupling = coupling / (squared + coupling * _squared_length(self._k))

    def __call__(self, force: Tensor) -> Tensor:
        """The velocity (1, 3, D, H, W) of a force (1, 3, D, H, W), in voxels per unit of time."""
        if force.ndim != 5 or force.shape[1] != 3 or tuple(force.shape[2:]) != self.shape:
            raise ValueError(f"a force is (B, 3, D, H, W) on {self.shape}, not {tuple(force.shape)}")
        spectrum = torch.fft.rfftn(force, s=self.padded, dim=(2, 3, 4))
        k = [a.to(force) for a in self._k]
        along = k[0] * spectrum[:, 0] + k[1] * spectrum[:, 1] + k[2] * spectrum[:, 2]
        along *= self._coupling.to(force)
        for axis in range(3):
            spectrum[:, axis] -= k[axis] * along
        spectrum *= self._gain.to(force)
        velocity = torch.fft.irfftn(spectrum, s=self.padded, dim=(2, 3, 4))
        d, h, w = self.shape
        return velocity[:, :, :d, :h, :w]


def _wave_numbers(shape: tuple[int, ...]) -> list[Tensor]:
    """Radians per voxel along each axis of a real transform, each shaped to be broadcast, float64."""
    d, h, w = shape
    along = [torch.fft.fftfreq(n, dtype=torch.float64) for n in (d, h)]
    along.append(torch.fft.rfftfreq(w, dtype=torch.float64))
    views = ((-1, 1, 1), (1, -1, 1), (1, 1, -1))
    return [(2 * math.pi * a).view(v) for a, v in zip(along, views, strict=True)]


def _without_nyquist(k: Tensor, n: int) -> Tensor:
    return k if n % 2 else torch.where(k.abs() > math.pi * (1 - 1 / (2 * n)), 0, k)


def _squared_length(k: list[Tensor]) -> Tensor:
    return k[0].square() + k[1].square() + k[2].square()
