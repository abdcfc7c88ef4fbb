"""Perturbed cases against closed forms: Rayleigh and Rician moments, Gaussian width, slab means, shares, involution."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from deformgan.errors import UsageError
from deformgan.workshop.evaluation.cases import EvaluationCase
from deformgan.workshop.evaluation.robustness import (
    SWEEPS,
    bias_field,
    content,
    inversion_weight,
    inverted,
    perturbed,
)
from deformgan.workshop.simulation.artefacts import thick_slices

SHAPE = (36, 40, 32)
each_sweep = pytest.mark.parametrize("sweep", SWEEPS)


def _ball(radius: float = 0.85) -> Tensor:
    axes = torch.meshgrid(*[torch.linspace(-1, 1, n) for n in SHAPE], indexing="ij")
    return (torch.stack(axes).square().sum(0).sqrt() < radius)[None, None]


def _case(fixed: Tensor | None = None, moving: Tensor | None = None, name: str = "case_000") -> EvaluationCase:
    """Rings in a ball; the 99.8th percentile of both images is 1."""
    mask = _ball()
    axes = torch.meshgrid(*[torch.linspace(-1, 1, n) for n in SHAPE], indexing="ij")
    rings = (0.55 + 0.45 * torch.cos(14 * torch.stack(axes).square().sum(0).sqrt()))[None, None] * mask
    zeros = torch.zeros(1, 3, *SHAPE)
    fixed, moving = rings if fixed is None else fixed, (1 - rings) * mask if moving is None else moving
    return EvaluationCase(name, fixed, moving, moving, mask.int(), mask.int(), mask, zeros, {})


@each_sweep
def test_the_first_level_changes_nothing(sweep: str) -> None:
    case = _case()
    same = perturbed(case, sweep, SWEEPS[sweep][0], seed=3)
    assert all(getattr(same, f.name) is getattr(case, f.name) for f in fields(EvaluationCase))


@each_sweep
def test_what_is_scored_stays_as_it_is(sweep: str) -> None:
    case = _case()
    seen = perturbed(case, sweep, SWEEPS[sweep][-1], seed=3)
    changed = {f.name for f in fields(EvaluationCase) if getattr(seen, f.name) is not getattr(case, f.name)}
    assert changed == ({"moving"} if sweep == "inversion" else {"fixed", "moving"})
    for name in changed:
        image = getattr(seen, name)
        assert image.shape == case.fixed.shape
        assert image.dtype == torch.float32
        assert 0 <= float(image.min()) <= float(image.max()) <= 1
        assert not image[~content(getattr(case, name))].any(), "nothing grows outside the brain"


@each_sweep
def test_levels_are_ever_stronger(sweep: str) -> None:
    case = _case()
    inside = content(case.moving)

    def unlike(level: float) -> float:
        both = torch.stack([perturbed(case, sweep, level, 1).moving[inside], case.moving[inside]])
        return 1 - float(torch.corrcoef(both)[0, 1])

    damage = [unlike(level) for level in SWEEPS[sweep]]
    assert damage[0] == pytest.approx(0, abs=1e-6)
    assert all(a < b for a, b in pairwise(damage)), damage


@pytest.mark.parametrize("sweep", ["noise", "bias", "inversion"])
def test_randomness_comes_from_seed_case_and_image(sweep: str) -> None:
    case, level = _case(), SWEEPS[sweep][2]
    case = replace(case, fixed=case.moving)
    one = perturbed(case, sweep, level, 7)
    assert torch.equal(one.moving, perturbed(case, sweep, level, 7).moving)
    assert not torch.equal(one.moving, perturbed(case, sweep, level, 8).moving)
    assert not torch.equal(one.moving, perturbed(replace(case, name="case_001"), sweep, level, 7).moving)
    assert not torch.equal(one.moving, one.fixed), "the two scans share no noise"


def test_noise_is_rician() -> None:
    mask = _ball()
    halves = torch.where(torch.arange(SHAPE[0]).view(-1, 1, 1) < SHAPE[0] // 2, 0.0, 1.0).expand(1, 1, *SHAPE) * mask
    rim = mask & ~_ball(0.7)
    image = torch.where(rim, 0.3, halves)  # closes the dark half, which is then a hole
    level = 0.1
    noisy = perturbed(_case(image, image), "noise", level, 0).fixed
    dark, bright = (noisy[(image == v) & _ball(0.68)] for v in (0.0, 1.0))
    # the image is scaled as a whole; ratios tell: Rayleigh without signal, √(A² + σ²/2 …) with it
    rayleigh_mean, rayleigh_std = math.sqrt(math.pi / 2), math.sqrt(2 - math.pi / 2)
    assert float(dark.mean() / dark.std()) == pytest.approx(rayleigh_mean / rayleigh_std, rel=0.03)
    # second moments: A² + 2 σ² against 2 σ²; clipping at the 99.8th percentile costs hardly anything
    expected = (1 + 2 * level**2) / (2 * level**2)
    assert float(bright.square().mean() / dark.square().mean()) == pytest.approx(expected, rel=0.03)
    assert float(bright.std() / dark.std()) == pytest.approx(1 / rayleigh_std, rel=0.04)


def test_blur_spreads_a_point_by_sigma() -> None:
    image = torch.full((1, 1, *SHAPE), 0.1)
    image[0, 0, 12, 20, 16] = 0.9
    image[:, :, 27:] = 1  # far off: keeps the 99.8th percentile at 1
    blurred = perturbed(_case(image, image), "blur", 2.0, 0).moving[0, 0, :21]
    profile = (blurred - 0.1).sum((1, 2))
    assert float(profile.sum()) == pytest.approx(0.8, rel=1e-3), "what is taken away comes up elsewhere"
    variance = float((profile * (torch.arange(21) - 12.0) ** 2).sum() / profile.sum())
    assert variance == pytest.approx(4.0, rel=0.05)


@pytest.mark.parametrize("amplitude", [0.2, 0.7])
def test_bias_has_mean_one_and_its_amplitude(amplitude: float) -> None:
    mask = _ball()
    field = bias_field(mask, amplitude, torch.Generator().manual_seed(5))
    assert float(field[mask].mean()) == pytest.approx(1, abs=1e-5)
    assert float((field[mask] - 1).abs().max()) == pytest.approx(amplitude, rel=1e-5)
    assert float(field[mask].min()) > 0
    steps = torch.stack(torch.gradient(field[0, 0])).square().sum(0).sqrt()
    assert float(steps.max()) < 0.35 * amplitude, "smooth: no step from voxel to voxel"
    scans = perturbed(_case(), "bias", amplitude, 2)
    bright = content(_case().fixed) & (_case().fixed > 0.2)
    ratio = (scans.fixed / _case().fixed)[bright]
    assert float(ratio.max() / ratio.min()) > 1 + amplitude / 2


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_thick_slices_are_means_of_slabs(factor: int) -> None:
    image = torch.rand(1, 1, 5, 6, 32, generator=torch.Generator().manual_seed(1))
    thick = thick_slices(image, 2, factor, profile="box")
    slabs = image.view(1, 1, 5, 6, -1, factor).mean(-1)
    # linear between the centres of the slabs, and their own value beyond the outermost
    centres = (torch.arange(slabs.shape[-1]) + 0.5) * factor - 0.5
    for k in range(32):
        below = int(((k - centres[0]) / factor).floor().clamp(0, len(centres) - 2))
        share = ((k - centres[below]) / factor).clamp(0, 1)
        expected = torch.lerp(slabs[..., below], slabs[..., below + 1], share)
        torch.testing.assert_close(thick[..., k], expected)
    constant = torch.full((1, 1, 4, 4, 30), 0.37)
    torch.testing.assert_close(thick_slices(constant, 2, factor, profile="box"), constant)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.9, 1.0])
def test_inversion_takes_its_share_and_is_an_involution(share: float) -> None:
    mask = _ball()
    image = _case().moving
    weight = inversion_weight(mask, share, torch.Generator().manual_seed(11))
    assert float((weight[mask] > 0.5).float().mean()) == pytest.approx(share, abs=2e-3)
    once = inverted(image, mask, share, torch.Generator().manual_seed(11))
    twice = inverted(once, mask, share, torch.Generator().manual_seed(11))
    turned, kept = mask & (weight == 1), mask & (weight == 0)
    assert turned.any()
    torch.testing.assert_close(once[turned], 1 - image[turned])
    torch.testing.assert_close(once[kept], image[kept], rtol=0, atol=0)
    torch.testing.assert_close(twice[turned], image[turned])
    assert float(weight.diff(dim=2).abs().max()) < 0.75, "no seam between the contrasts"


def test_after_inversion_intensity_tells_nothing() -> None:
    """One grey value of the true image is seen as two: no function of intensity leads from one to the other."""
    mask = _ball()
    image = torch.where(_ball(0.4), 0.8, 0.2) * mask
    seen = inverted(image, mask, 0.5, torch.Generator().manual_seed(2))[mask & ~_ball(0.4)]
    for value in (0.2, 0.8):
        assert float(((seen - value).abs() < 0.02).float().mean()) > 0.15


def test_unusable_sweeps_and_levels_are_refused() -> None:
    with pytest.raises(UsageError, match="sweep 'rain'"):
        perturbed(_case(), "rain", 1.0, 0)
    for sweep, level in (("noise", -0.1), ("bias", 1.0), ("thick-slices", 0.5), ("inversion", 1.1), ("blur", math.nan)):
        with pytest.raises(UsageError, match="level"):
            perturbed(_case(), sweep, level, 0)
