"""The fluid: its solver against waves in closed form, its force against differences, its flow against known maps."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from scipy.ndimage import map_coordinates
from torch import Tensor

from deformgan.losses import local_cross_correlation, mutual_information
from deformgan.spatial.field import compose, identity_positions, jacobian_determinant
from deformgan.spatial.warp import warp
from deformgan.workshop.evaluation.fluid import ViscousSettings, _Flow, register_fluid
from deformgan.workshop.evaluation.fluid_force import SimilarityForce, information
from deformgan.workshop.evaluation.fluid_solver import FluidSolver
from deformgan.workshop.evaluation.metrics import endpoint_error, folding_percent
from deformgan.workshop.simulation.artefacts import gaussian_blur

SHAPE = (28, 32, 24)
SETTINGS = ViscousSettings(levels=((4, 20), (2, 20), (1, 15)))


def wave(shape: tuple[int, ...], cycles: tuple[int, ...], direction: list[float]) -> tuple[Tensor, Tensor]:
    """``direction · sin(k·x)`` in float64, (1, 3, D, H, W), and the wave vector ``k`` in radians per voxel."""
    k = torch.tensor([2 * math.pi * c / n for c, n in zip(cycles, shape, strict=True)], dtype=torch.float64)
    phase = torch.einsum("i,bidhw->bdhw", k, identity_positions(shape).double())
    return torch.tensor(direction, dtype=torch.float64).view(1, 3, 1, 1, 1) * phase.sin(), k


@pytest.mark.parametrize("ratio", [0.0, 1.5])
@pytest.mark.parametrize("cycles", [(1, 0, 0), (2, 1, 3), (-1, 2, 1)])
def test_waves_of_compression_and_of_shear_are_scaled_as_by_hand(cycles: tuple[int, ...], ratio: float) -> None:
    shape = (12, 15, 10)
    _, k = wave(shape, cycles, [0.0, 0.0, 0.0])
    along, _ = wave(shape, cycles, k.tolist())  # free of curl
    across, _ = wave(shape, cycles, torch.linalg.cross(k, torch.tensor([0.3, -0.8, 0.5], dtype=k.dtype)).tolist())
    solver = FluidSolver(shape, ratio)
    squared = float(k.square().sum())
    torch.testing.assert_close(solver(along), along / ((ratio + 2) * squared))
    torch.testing.assert_close(solver(across), across / squared)
    smooth = FluidSolver(shape, ratio, smoothing=1.2)(along + across)
    decay = math.exp(-0.5 * 1.2**2 * squared)
    torch.testing.assert_close(smooth, decay * (along / ((ratio + 2) * squared) + across / squared))


def test_the_equation_of_motion_holds() -> None:
    # derivatives by long differences of a smooth field, nothing of the solver's own
    shape, ratio = (16, 16, 16), 0.7
    generator = torch.Generator().manual_seed(5)
    waves = [
        wave(shape, tuple(int(c) for c in torch.randint(-2, 3, (3,), generator=generator)), d.tolist())[0]
        for d in torch.randn(6, 3, generator=generator)
    ]
    force = torch.stack(waves).sum(0)
    force -= force.mean((2, 3, 4), keepdim=True)
    v = FluidSolver(shape, ratio)(force)
    assert (force * v).sum() > 0  # the fluid yields to what pushes it

    def difference(f: Tensor, axis: int) -> Tensor:
        """Central differences of the eighth order on a periodic grid; their error is below 1e-3 at 8 voxels a wave."""
        weights = (4 / 5, -1 / 5, 4 / 105, -1 / 280)
        return sum(c * (f.roll(-s, axis) - f.roll(s, axis)) for s, c in enumerate(weights, 1))  # type: ignore[return-value]

    divergence = sum(difference(v[:, i], i + 1) for i in range(3))
    laplacian = sum(difference(difference(v, i), i) for i in (2, 3, 4))
    pressure = torch.stack([difference(divergence, i) for i in (1, 2, 3)], 1)  # type: ignore[arg-type]
    torch.testing.assert_close(laplacian + (1 + ratio) * pressure, -force, rtol=0, atol=5e-3 * float(force.abs().max()))


def test_a_uniform_force_shifts_and_a_local_one_is_felt_less_far_away() -> None:
    solver = FluidSolver(SHAPE, widening=0.25)
    force = torch.zeros(1, 3, *SHAPE)
    force[:, 1, 4, 16, 12] = 1
    v = solver(force)[0, 1, :, 16, 12]
    assert v[4] == v.max() > 0
    assert (v[4:20].diff() < 0).all()
    uniform = FluidSolver(SHAPE)(torch.ones(1, 3, *SHAPE))
    torch.testing.assert_close(uniform, torch.full_like(uniform, (max(SHAPE) / (2 * math.pi)) ** 2))


def test_impossible_fluids_are_refused() -> None:
    with pytest.raises(ValueError, match="no fluid"):
        FluidSolver(SHAPE, ratio=-2)
    with pytest.raises(ValueError, match="a force is"):
        FluidSolver(SHAPE)(torch.zeros(1, 3, 4, 4, 4))
    pair = torch.zeros(2, 1, *SHAPE)
    with pytest.raises(ValueError, match="one image"):
        register_fluid(pair, pair)


def smooth_noise(shape: tuple[int, ...], sigma: float, generator: torch.Generator, channels: int = 1) -> Tensor:
    noise = gaussian_blur(torch.randn(channels, 1, *shape, generator=generator), sigma).transpose(0, 1)
    return noise / noise.abs().max()


def sampled(image: Tensor, field: Tensor) -> Tensor:
    """`warp` in float64, by scipy."""
    where = (identity_positions(tuple(image.shape[2:])).double() + field)[0].numpy()
    return torch.from_numpy(map_coordinates(image[0, 0].numpy(), where, order=1, mode="grid-constant"))[None, None]


@pytest.mark.parametrize("masked", [False, True])
def test_the_force_is_the_numerical_derivative_of_mutual_information(generator: torch.Generator, masked: bool) -> None:
    shape = (9, 8, 10)
    a, b = (smooth_noise(shape, 1.5, generator).double().mul(0.4).add(0.5) for _ in range(2))
    mask = torch.rand(1, 1, *shape, generator=generator) if masked else None
    force = SimilarityForce(a, mask, information(16)).measure(b)[1]()
    step = 1e-5  # either side of a voxel centre the slope of the linear image is another; their mean is central
    for _ in range(3):
        direction = smooth_noise(shape, 2.0, generator, 3).double()
        ahead, behind = (
            float(mutual_information(a, sampled(b, sign * step * direction), 16, mask=mask)) for sign in (1, -1)
        )
        assert float((force * direction).sum()) == pytest.approx((ahead - behind) / (2 * step), rel=1e-3, abs=1e-7)


def content() -> Tensor:
    x = identity_positions(SHAPE)
    middle = (torch.tensor(SHAPE).view(1, 3, 1, 1, 1) - 1) / 2
    return (((x - middle) / (0.36 * torch.tensor(SHAPE).view(1, 3, 1, 1, 1))).square().sum(1, keepdim=True) < 1).float()


def blobs(generator: torch.Generator) -> Tensor:
    """Soft-edged blobs of three tissues in an ellipsoid, (1, 1, D, H, W) in [0, 1], 0 outside."""
    noise = smooth_noise(SHAPE, 2.0, generator)
    tissue = 0.35 + 0.3 * (noise > 0.15) + 0.3 * (noise > -0.15)
    return gaussian_blur(tissue * content(), 0.8)


def bump(length: float, generator: torch.Generator, sigma: float = 5.0) -> Tensor:
    return smooth_noise(SHAPE, sigma, generator, 3) * length


def inverted(image: Tensor) -> Tensor:
    """The other contrast: what is bright becomes dark inside, the background stays."""
    return (1.3 - image) * gaussian_blur(content(), 0.8)


@pytest.fixture(scope="module")
def pair() -> tuple[Tensor, Tensor, Tensor]:
    """Fixed and moving, of opposite contrast, and the true displacement."""
    generator = torch.Generator().manual_seed(3)
    moving, truth = blobs(generator), bump(4.0, generator)
    truth[:, 1] += 2.0
    return warp(inverted(moving), truth), moving, truth


@pytest.fixture(scope="module")
def found(pair: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    return register_fluid(pair[0], pair[1], settings=SETTINGS)


def test_a_deformation_across_contrasts_is_recovered(pair: tuple[Tensor, Tensor, Tensor], found: Tensor) -> None:
    fixed, _, truth = pair
    inside = (fixed > 0.2).float()
    before = float(endpoint_error(torch.zeros_like(truth), truth, inside).mean())
    after = float(endpoint_error(found, truth, inside).mean())
    assert before > 2
    assert after < before / 3
    assert folding_percent(found) == 0


def test_the_same_pair_gives_the_same_field_and_progress_is_told(
    pair: tuple[Tensor, Tensor, Tensor], found: Tensor
) -> None:
    calls: list[tuple[int, int]] = []
    again = register_fluid(pair[0], pair[1], settings=SETTINGS, progress=lambda done, all_: calls.append((done, all_)))
    assert torch.equal(again, found)
    assert again.dtype == torch.float32
    assert calls[-1] == (55, 55)
    assert len(calls) > 10
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)


@pytest.mark.parametrize("seed", range(3))
def test_mutual_information_never_falls(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    fixed, moving = blobs(generator), torch.rand(1, 1, *SHAPE, generator=generator)
    settings = replace(SETTINGS, levels=((4, 8), (2, 4)))
    field = register_fluid(fixed, moving, settings=settings, mask=content())
    before, after = (mutual_information(fixed, image, mask=content()) for image in (moving, warp(moving, field)))
    assert after >= before - 1e-6  # rounding of a sampled image


def test_an_empty_image_moves_nothing() -> None:
    field = register_fluid(torch.zeros(1, 1, *SHAPE), blobs(torch.Generator().manual_seed(0)), settings=SETTINGS)
    assert not field.any()


def test_regridding_leaves_the_map_as_it_is(generator: torch.Generator) -> None:
    flow = _Flow.started(bump(2.0, generator)).stepped(bump(1.0, generator), 0.8, 0.0)
    assert flow.current.any()
    torch.testing.assert_close(flow.total, compose(flow.settled, flow.current))
    renewed = flow.regridded()
    assert not renewed.current.any()
    assert torch.equal(renewed.total, flow.total)
    # and the next step leads to the same place, up to second order in its length
    velocity = bump(1.0, generator)
    length = 0.05
    a, b = (f.total + _rate_of_total(f, velocity) * length for f in (flow, renewed))
    torch.testing.assert_close(a, b, rtol=0, atol=0.1 * length)


def _rate_of_total(flow: _Flow, velocity: Tensor) -> Tensor:
    """Numerical rate of the whole displacement as the fluid flows."""
    epsilon = 1e-2
    moved = compose(flow.settled, flow.current + epsilon * flow.rate(velocity))
    return (moved - flow.total) / epsilon


def test_fluid_is_carried_along(generator: torch.Generator) -> None:
    """``φ(x, t + dt) = φ(x + v dt, t)``: the material derivative has the right sign and factor for a pull-back."""
    flow = _Flow.started(torch.zeros(1, 3, *SHAPE)).stepped(bump(1.0, generator, 8.0), 2.5, 0.0)
    velocity, dt = bump(1.0, generator, 8.0), 0.02
    expected = compose(flow.total, dt * velocity)
    inner = (slice(None), slice(None), *(slice(2, -2),) * 3)
    error = (flow.total + dt * flow.rate(velocity) - expected)[inner].abs().max()
    without = (flow.total + dt * velocity - expected)[inner].abs().max()
    assert error < 0.1 * without


def test_a_squeezed_grid_is_renewed_and_never_folds() -> None:
    """A sink draws everything to one plane: one grid would fold, many that follow each other do not."""
    x = identity_positions(SHAPE)[:, :1] - (SHAPE[0] - 1) / 2
    velocity = torch.cat([3 * x / 14 * torch.exp(-((x / 6) ** 2)), torch.zeros(1, 2, *SHAPE)], 1)
    for sign in (1, -1):
        flow, renewed = _Flow.started(torch.zeros(1, 3, *SHAPE)), 0
        naive = flow.total
        for _ in range(25):
            following = flow.stepped(sign * velocity, 0.5, 0.5)
            renewed += following.settled is not flow.settled
            flow = following
            assert jacobian_determinant(flow.current).min() >= 0.5
            naive = naive + sign * velocity * (0.5 / velocity.abs().max())
        assert renewed >= 2
        assert jacobian_determinant(flow.total).min() > 0
        if sign < 0:
            assert jacobian_determinant(naive).min() < 0


def test_another_similarity_drives_the_fluid() -> None:
    """A ball of the same contrast is found by its local correlation, and the fluid asks nothing else."""
    positions = identity_positions((24, 24, 24))
    ball = torch.sigmoid(6.5 - (positions - 11.5).square().sum(1, keepdim=True).sqrt())
    shift = torch.zeros(1, 3, 24, 24, 24)
    shift[:, 0] = 2.0
    moving = warp(ball, -shift)
    asked: list[bool] = []

    def correlation(fixed: torch.Tensor, moved: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        asked.append(mask is not None)
        return local_cross_correlation(fixed, moved, 5)

    field = register_fluid(ball, moving, settings=ViscousSettings(levels=((2, 30), (1, 30))), similarity=correlation)
    assert asked
    assert all(asked)
    before, after = ((warp(moving, f) - ball).square().mean() for f in (torch.zeros_like(shift), field))
    assert float(after) < 0.2 * float(before)
