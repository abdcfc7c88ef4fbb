"""Random deformations with a known truth: shift, rotation, scaling and a smooth elastic part, fold-free.

A deformation is ``φ = A ∘ exp(v)``: an affine map about the content's centre after the flow of a smooth stationary
velocity. Its inverse ``exp(-v) ∘ A⁻¹`` is known in closed form, then polished by Newton's method, so that a moving
image can be made from the one it must return to: ``moving = warp(true, inverse)``, ``warp(moving, forward) = true``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from deformgan.errors import UsageError
from deformgan.spatial.field import affine_field, compose, identity_positions, integrate, jacobian_determinant
from deformgan.workshop.simulation.draws import normal, signed, uniform


@dataclass(frozen=True)
class DeformationConfig:
    """How strong a random deformation may be; lengths in voxels of the grid it is sampled on.

    Args:
        max_displacement: Upper end of the largest displacement inside the content; scaled down to it when exceeded.
        elastic: Range of the largest elastic displacement.
        smoothness: Range of the Gaussian standard deviation that smooths the velocity.
        shift: Largest shift along each axis.
        rotation: Largest rotation about each axis (first, second, third), degrees.
        log_scale: Largest absolute logarithm of the scaling along each axis.
        shear: Largest shear.
    """

    max_displacement: float = 40.0
    elastic: tuple[float, float] = (0.0, 12.0)
    smoothness: tuple[float, float] = (7.0, 14.0)
    shift: float = 10.0
    rotation: tuple[float, float, float] = (12.0, 12.0, 32.0)
    log_scale: float = 0.18
    shear: float = 0.05

    def scaled(self, factor: float) -> DeformationConfig:
        """The same deformations on a grid with ``factor`` times as many voxels along each axis."""
        return replace(
            self,
            max_displacement=self.max_displacement * factor,
            elastic=(self.elastic[0] * factor, self.elastic[1] * factor),
            smoothness=(self.smoothness[0] * factor, self.smoothness[1] * factor),
            shift=self.shift * factor,
        )


REGIMES: dict[str, DeformationConfig] = {
    "small": DeformationConfig(8.0, (5.0, 8.0), (7.0, 10.0), 0.0, (0.0, 0.0, 0.0), 0.0, 0.0),
    "medium": DeformationConfig(20.0, (6.0, 10.0), (8.0, 12.0), 7.0, (4.0, 4.0, 10.0), 0.06, 0.02),
    "large": DeformationConfig(40.0, (6.0, 12.0), (9.0, 14.0), 12.0, (8.0, 8.0, 28.0), 0.13, 0.03),
}


@dataclass(frozen=True)
class Deformation:
    """A sampled deformation; fields are (1, 3, D, H, W) pull-back displacements in voxels.

    ``forward`` is the truth a registration must find; ``inverse`` makes the moving image. ``max_displacement`` (of
    ``forward``) and ``min_jacobian`` are those inside the content. ``inverse_error`` is the largest distance in voxels
    between ``inverse ∘ forward`` and the identity, inside the content where that is moved to a place inside the grid.
    About a tenth of a voxel (a fiftieth on average) is what linear interpolation between the voxels of a curved field
    costs, however well ``forward ∘ inverse`` is the identity at the voxels.
    """

    forward: Tensor
    inverse: Tensor
    max_displacement: float
    min_jacobian: float
    inverse_error: float


def _between(low: float, high: float, generator: torch.Generator) -> float:
    return float(low + (high - low) * uniform(generator, 1))


def _smooth_noise(shape: tuple[int, ...], sigma: float, generator: torch.Generator) -> Tensor:
    """Three channels of Gaussian-filtered white noise that fade to zero at the border, (1, 3, D, H, W).

    The noise is drawn on a grid as coarse as ``sigma`` allows and brought up linearly: the same field, far cheaper.
    """
    stride = max(1, int(sigma / 2))
    coarse = tuple(max(4, math.ceil(n / stride)) for n in shape)
    sigma = sigma / stride
    noise = normal(generator, 1, 3, *coarse)
    radius = math.ceil(2.5 * sigma)
    taps = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, device=noise.device) / sigma) ** 2)
    taps = taps / taps.sum()
    for axis in range(3):
        kernel = taps.view([-1 if a == axis else 1 for a in range(3)]).expand(3, 1, *[-1] * 3)
        padding = [radius if a == axis else 0 for a in range(3)]
        noise = F.conv3d(noise, kernel, padding=padding, groups=3)
    noise = F.interpolate(noise, size=tuple(shape), mode="trilinear", align_corners=False)
    for axis, n in enumerate(shape):
        at = torch.arange(n, device=noise.device)
        ramp = torch.minimum(at, n - 1 - at) / (n / 14)
        noise = noise * ramp.clamp(max=1.0).view([-1 if a == axis + 2 else 1 for a in range(5)])
    return noise


def affine_matrix(rotation_rad: Tensor, log_scale: Tensor, shear: Tensor, shift: Tensor, centre: Tensor) -> Tensor:
    """``x → R S K (x - c) + c + t`` as a (1, 3, 4) matrix; every argument is a (3,) tensor."""
    sin, cos = rotation_rad.sin().tolist(), rotation_rad.cos().tolist()
    rx = torch.tensor([[1, 0, 0], [0, cos[0], -sin[0]], [0, sin[0], cos[0]]])
    ry = torch.tensor([[cos[1], 0, sin[1]], [0, 1, 0], [-sin[1], 0, cos[1]]])
    rz = torch.tensor([[cos[2], -sin[2], 0], [sin[2], cos[2], 0], [0, 0, 1]])
    k = torch.eye(3)
    k[0, 1], k[0, 2], k[1, 2] = shear.tolist()
    linear = rz @ ry @ rx @ torch.diag(log_scale.exp()) @ k
    return torch.cat([linear, (centre + shift - linear @ centre)[:, None]], 1)[None]


def _invert_matrix(matrix: Tensor) -> Tensor:
    inverse = torch.linalg.inv(matrix[:, :, :3])
    return torch.cat([inverse, -inverse @ matrix[:, :, 3:]], 2)


def sample_deformation(
    shape: tuple[int, ...],
    regime: str | DeformationConfig,
    generator: torch.Generator,
    mask: Tensor | None = None,
    *,
    keep_inside: bool = True,
    polish: int = 2,
    steps: int = 6,
    attempts: int = 20,
) -> Deformation:
    """Draw a fold-free deformation.

    Args:
        shape: Grid of the fields.
        regime: ``small`` (elastic, ≤ 8 voxels), ``medium`` (≤ 20), ``large`` (≤ 40), or a configuration.
        generator: Source of all randomness.
        mask: (1, 1, D, H, W) content: its centre is the centre of rotation, displacements are measured inside it and it
            is kept inside the volume. Default: everything but a margin.
        keep_inside: Whether displaced content must stay inside the volume.
        polish: Rounds of `polished_inverse`. Largest ``|forward ∘ inverse - id|`` at voxels: about 0.2 voxels for 0,
            the closed form; below 0.05 for 1, 0.02 for 2 and 0.005 for 3.
        steps: Squarings of the integration.
        attempts: Draws before the strength is reduced step by step; inside the content the Jacobian of the result is
            always above 0.1.

    Raises:
        UsageError: The content lies so near the border that nothing keeps it inside.
    """
    config = REGIMES[regime] if isinstance(regime, str) else regime
    if mask is None:
        mask = F.pad(
            torch.ones(1, 1, *[n - 2 * (n // 6) for n in shape], device=generator.device),
            [p for n in reversed(shape) for p in (n // 6,) * 2],
        )
    inside = mask[0, 0] > 0.5
    positions = identity_positions(tuple(shape), mask.device)
    centre = torch.tensor([float(positions[0, a][inside].mean()) for a in range(3)])
    upper = torch.tensor(shape, device=mask.device).view(3, 1) - 1.0
    strength = 1.0
    for attempt in range(3 * attempts):
        if attempt >= attempts:
            strength *= 0.85
        sigma = _between(*config.smoothness, generator)
        noise = _smooth_noise(tuple(shape), sigma, generator)
        largest = noise.square().sum(1).sqrt()[0][inside].max().clamp(min=1e-6)
        velocity = noise * (_between(*config.elastic, generator) / largest)
        parts = [
            signed(generator, 3) * torch.tensor(config.rotation).deg2rad(),
            signed(generator, 3) * config.log_scale * 0.5 + signed(generator, 1) * config.log_scale * 0.5,
            signed(generator, 3) * config.shear,
            signed(generator, 3) * config.shift,
        ]
        found = _build(velocity * strength, [p * strength for p in parts], centre, tuple(shape), steps)
        largest = float(found[0].square().sum(1).sqrt()[0][inside].max())
        ratio = strength
        # once as a rule, but a displacement is not quite proportional to its parts
        while largest > config.max_displacement:
            ratio = 0.98 * ratio * config.max_displacement / largest
            found = _build(velocity * ratio, [p * ratio for p in parts], centre, tuple(shape), steps)
            largest = float(found[0].square().sum(1).sqrt()[0][inside].max())
        forward, inverse = found
        source = (positions + forward)[0][:, inside]
        jacobian = float(jacobian_determinant(forward)[0][inside].min())
        if (not keep_inside or bool((source >= 1).all() and (source <= upper - 1).all())) and jacobian > 0.1:
            break
    else:
        raise UsageError(
            "no deformation keeps the content inside the grid", "use a larger grid, larger voxels or a smaller regime"
        )
    inverse = polished_inverse(forward, inverse, polish)
    error = compose(inverse, forward).square().sum(1).sqrt()[0]
    landed = ((source >= 0) & (source <= upper)).all(0)
    return Deformation(forward, inverse, largest, jacobian, float((error[inside] * landed).max()))


def polished_inverse(forward: Tensor, inverse: Tensor, rounds: int) -> Tensor:
    """An inverse, some tenths of a voxel off, made better: each round leaves of its error a small part.

    Newton's method: what ``forward ∘ inverse`` is off by is subtracted from where the inverse is looked up. Unlike the
    fixed point ``w(y) = -u(y + w(y))`` this converges where the field is steeper than 1, as under a large rotation.
    """
    for _ in range(rounds):
        inverse = compose(inverse, -compose(forward, inverse))
    return inverse


def _build(
    velocity: Tensor, parts: list[Tensor], centre: Tensor, shape: tuple[int, ...], steps: int
) -> tuple[Tensor, Tensor]:
    rotation, log_scale, shear, shift = parts
    matrix = affine_matrix(rotation, log_scale, shear, shift, centre)
    elastic, elastic_inverse = integrate(torch.cat([velocity, -velocity]), steps).chunk(2)
    matrix, back = matrix.to(velocity.device), _invert_matrix(matrix).to(velocity.device)
    affine_inverse = affine_field(back, shape)
    # the affine map is known everywhere: apply its matrix to the moved positions instead of sampling its field
    moved = identity_positions(shape, velocity.device) + elastic
    forward = (
        elastic + torch.einsum("ij,bjdhw->bidhw", matrix[0, :, :3], moved) + matrix[0, :, 3].view(1, 3, 1, 1, 1) - moved
    )
    return forward, compose(elastic_inverse, affine_inverse)
