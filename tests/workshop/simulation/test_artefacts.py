"""Scan artefacts against closed forms: Gaussian width, Rician moments, averaging, slices."""

from __future__ import annotations

import math

import pytest
import torch

from deformgan.workshop.simulation.artefacts import (
    DegradeConfig,
    degrade,
    downsample,
    gaussian_blur,
    rician_noise,
    thick_slices,
)


def _noise(size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(1, 1, size, size, size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("sigma", [0.6, 1.0, 2.0])
def test_blur_of_a_point_has_the_variance_asked_for(sigma: float) -> None:
    image = torch.zeros(1, 1, 31, 15, 15)
    image[0, 0, 15, 7, 7] = 1
    profile = gaussian_blur(image, (sigma, 0.0, 0.0))[0, 0, :, 7, 7]
    offset = torch.arange(31) - 15.0
    assert float(profile.sum()) == pytest.approx(1, abs=1e-5)
    # cut at 3σ, a Gaussian keeps 97 % of its variance
    assert float((profile * offset**2).sum()) == pytest.approx(sigma**2, rel=0.04)


def test_blur_leaves_constants_alone_in_every_batch_and_channel() -> None:
    image = torch.arange(6.0).view(2, 3, 1, 1, 1).expand(2, 3, 8, 9, 10)
    torch.testing.assert_close(gaussian_blur(image, 1.3), image.contiguous())


def test_downsampling_averages_what_lies_in_a_voxel() -> None:
    # the mean of 27 independent voxels has a deviation of 27^-½ = 0.19; plain interpolation keeps about 1
    assert float(downsample(_noise(48), (16, 16, 16)).std()) < 0.3
    ramp = torch.linspace(0, 1, 48).view(1, 1, 48, 1, 1).expand(1, 1, 48, 8, 8)
    expected = ramp[0, 0, :, 0, 0].view(16, 3).mean(1)
    coarse = downsample(ramp, (16, 8, 8))[0, 0, :, 4, 4]
    torch.testing.assert_close(coarse[2:-2], expected[2:-2], atol=1e-4, rtol=0)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_thick_slices_blur_one_axis_only(axis: int) -> None:
    noise = _noise(40, 1)
    slices = thick_slices(noise, axis, 4.0)

    def roughness(volume: torch.Tensor, along: int) -> float:
        return float(volume.diff(dim=along + 2).square().mean() / volume.square().mean())

    assert slices.shape == noise.shape
    for other in range(3):
        before, after = roughness(noise, other), roughness(slices, other)
        assert after < 0.3 * before if other == axis else after > 0.8 * before


def test_rician_noise_has_its_moments(generator: torch.Generator) -> None:
    sigma = 0.1
    background = rician_noise(torch.zeros(1, 1, 40, 40, 40), sigma, generator)
    signal = rician_noise(torch.full((1, 1, 40, 40, 40), 0.8), sigma, generator)
    assert float(background.mean()) == pytest.approx(sigma * math.sqrt(math.pi / 2), rel=0.01)  # Rayleigh
    assert float(signal.square().mean()) == pytest.approx(0.8**2 + 2 * sigma**2, rel=0.01)
    assert float(signal.std()) == pytest.approx(sigma, rel=0.02)


def _ball() -> tuple[torch.Tensor, torch.Tensor]:
    """Rings of different grey in a ball, and its mask."""
    axes = torch.meshgrid(*[torch.linspace(-1, 1, 24)] * 3, indexing="ij")
    radius = torch.stack(axes).square().sum(0).sqrt()[None, None]
    mask = radius < 0.8
    return mask * (0.5 + 0.4 * torch.cos(9 * radius)), mask


def test_degrade_is_random_reproducible_and_stays_in_range() -> None:
    image, mask = _ball()
    scans = [degrade(image, mask, torch.Generator().manual_seed(s)) for s in (0, 0, 1, 2, 3)]
    assert torch.equal(scans[0], scans[1])
    for scan in scans:
        assert scan.shape == image.shape
        assert float(scan.min()) >= 0
        assert float(scan.max()) == 1
        assert not scan[~mask].any()
    assert len({round(float(scan.mean()), 6) for scan in scans}) == 4


def test_strength_scales_the_damage_and_zero_only_normalises() -> None:
    image, mask = _ball()
    clean = degrade(image, mask, torch.Generator().manual_seed(4), strength=0.0)
    expected = (image / image[mask].quantile(0.998)).clamp(0, 1)
    torch.testing.assert_close(clean, expected, atol=2e-3, rtol=0)

    def damage(strength: float) -> float:
        scans = [degrade(image, mask, torch.Generator().manual_seed(s), strength) for s in range(5)]
        return sum(float((scan - clean).abs().mean()) for scan in scans)

    assert 0 < damage(0.2) < damage(1.0)


def test_an_effect_can_be_switched_off() -> None:
    image, mask = _ball()
    nothing = DegradeConfig(noise=0.0, blur=0.0, log_gamma=0.0, slices_probability=0.0)
    noise = DegradeConfig(noise=0.1, blur=0.0, log_gamma=0.0, slices_probability=0.0)
    clean, noisy = (degrade(image, mask, torch.Generator().manual_seed(7), config=c) for c in (nothing, noise))
    torch.testing.assert_close(clean, degrade(image, mask, torch.Generator().manual_seed(7), strength=0.0))
    assert float((noisy - clean)[mask].std()) > 0.005
