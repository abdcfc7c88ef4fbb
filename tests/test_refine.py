"""Refinement finds small known deformations, leaves good ones, and never hands back something worse."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor

from conftest import make_phantom
from deformgan.evaluation.metrics import endpoint_error, folding_percent
from deformgan.field import affine_field, resize
from deformgan.losses.gradient import GradientSimilarity
from deformgan.refine import DEFAULT_SETTINGS, DEFAULT_STEPS, RefineSettings, refine
from deformgan.simulation.deformation import DeformationConfig, sample_deformation
from deformgan.warp import warp

SHAPE = (40, 44, 36)
HALF = (20, 22, 18)
WILD = RefineSettings(rate=60.0, affine_rate=60.0, bending=0.0)
CHECKED = pytest.mark.parametrize("seed", [1, 2])


@cache
def case(seed: int = 1) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """T2 as fixed, T1 deformed by two voxels or so as moving, the field that brings it back, the mask; (1, …)."""
    phantom = make_phantom(texture=0.0)
    fixed, still = (torch.from_numpy(v)[None, None] for v in (phantom.t2, phantom.t1))
    mask = (fixed > 0).float()
    config = DeformationConfig(3.5, (1.5, 2.0), (6.0, 8.0), 1.5, (2.0, 2.0, 4.0), 0.03, 0.01)
    known = sample_deformation(SHAPE, config, torch.Generator().manual_seed(seed), mask)
    return fixed, warp(still, known.inverse), known.forward, mask


def error(field: Tensor, seed: int = 1) -> float:
    _, _, truth, mask = case(seed)
    return float(endpoint_error(resize(field, SHAPE), truth, mask).mean())


def still(shape: tuple[int, ...] = HALF) -> Tensor:
    return torch.zeros(1, 3, *shape)


def similarity(fixed: Tensor, moving: Tensor, field: Tensor) -> float:
    """What the result is judged by: at half resolution, inside the fixed image."""
    f, m, mask = (torch.nn.functional.avg_pool3d(i, 2) for i in (fixed, moving, (fixed > 0).float()))
    return float(GradientSimilarity(f, DEFAULT_SETTINGS.epsilon, squared=True, mask=mask)(warp(m, field)))


@CHECKED
def test_a_small_deformation_is_found(seed: int) -> None:
    fixed, moving, _, mask = case(seed)
    found = refine(fixed, moving, still(), 60)
    assert found.shape == (1, 3, *HALF)
    assert not found.requires_grad
    assert error(found, seed) < 0.6 * error(still(), seed)
    assert folding_percent(found, torch.nn.functional.avg_pool3d(mask, 2)) == 0
    assert similarity(fixed, moving, found) > similarity(fixed, moving, still())


def test_an_affine_part_is_found_by_the_affine_part() -> None:
    """Without control points that move, the whole result is affine."""
    fixed, _, _, mask = case()
    matrix = torch.eye(4)[None, :3].clone()
    matrix[0, :, 3] = torch.tensor([1.0, -1.5, 0.7])
    moving = warp(fixed, affine_field(matrix, SHAPE))
    found = refine(fixed, moving, still(), 60, settings=RefineSettings(rate=0.0))
    moved = resize(found, SHAPE)[0][:, mask[0, 0] > 0.5]
    expected = -matrix[0, :, 3]
    torch.testing.assert_close(moved.mean(1), expected, atol=0.15, rtol=0)
    torch.testing.assert_close(moved, expected[:, None].expand_as(moved), atol=0.5, rtol=0)


def test_without_steps_the_start_comes_back() -> None:
    fixed, moving, _, _ = case()
    start = torch.randn(1, 3, 5, 5, 5)
    assert refine(fixed, moving, start, 0) is start


@CHECKED
@pytest.mark.parametrize("settings", [DEFAULT_SETTINGS, WILD], ids=["default", "wild"])
@pytest.mark.parametrize("steps", [1, 4])
def test_the_result_is_never_worse_than_the_start(seed: int, settings: RefineSettings, steps: int) -> None:
    fixed, moving, truth, mask = case(seed)
    noise = torch.rand(1, 1, *SHAPE, generator=torch.Generator().manual_seed(seed)) * mask
    half_mask = torch.nn.functional.avg_pool3d(mask, 2)
    for image in (moving, noise):
        for start in (still(), resize(truth, HALF)):
            found = refine(fixed, image, start, steps, settings=settings)
            assert similarity(fixed, image, found) >= similarity(fixed, image, start) - 1e-6
            assert folding_percent(found, half_mask) <= max(folding_percent(start, half_mask), 0.02)


def test_a_wild_run_gives_the_start_back() -> None:
    fixed, moving, truth, _ = case()
    assert torch.equal(refine(fixed, moving, truth, 4, settings=WILD), resize(truth, HALF))


def test_folds_are_refused_even_where_they_look_alike() -> None:
    """A flat moving image can be folded at no cost: every field is equally similar."""
    fixed, moving, _, _ = case()
    settings = RefineSettings(levels=((4, 1.0),), rate=3.0, bending=0.0, smoothing=0)
    noise = torch.rand(1, 1, *SHAPE, generator=torch.Generator().manual_seed(0))
    found = refine(fixed, noise, still(), 15, settings=settings)
    assert torch.equal(found, still())
    assert folding_percent(found) == 0


def test_progress_counts_every_step_once() -> None:
    fixed, moving, _, _ = case()
    seen: list[tuple[int, int]] = []
    refine(fixed, moving, still(), 7, progress=lambda done, steps: seen.append((done, steps)))
    assert seen == [(n, 7) for n in range(1, 8)]


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_few_steps_are_all_done(steps: int) -> None:
    fixed, moving, _, _ = case()
    seen: list[int] = []
    refine(fixed, moving, still(), steps, progress=lambda done, _: seen.append(done))
    assert len(seen) == steps


def test_inputs_stay_as_they_are_and_any_mode_will_do() -> None:
    fixed, moving, _, _ = case()
    inputs = [fixed.clone(), moving.clone(), still()]
    expected = refine(*inputs, 3)
    assert torch.equal(inputs[0], fixed)
    assert torch.equal(inputs[1], moving)
    assert torch.equal(inputs[2], still())
    with torch.inference_mode():
        inferred = [i.clone() for i in inputs]
        assert torch.equal(refine(*inferred, 3), expected)
    with torch.no_grad():
        assert torch.equal(refine(*inputs, 3), expected)


def test_a_mask_chooses_what_counts() -> None:
    fixed, moving, _, mask = case()
    part = mask.clone()
    part[:, :, :20] = 0
    assert not torch.equal(refine(fixed, moving, still(), 9, mask=part), refine(fixed, moving, still(), 9))
    assert torch.equal(refine(fixed, moving, still(), 9, mask=mask), refine(fixed, moving, still(), 9))


def test_the_start_may_be_on_any_grid_over_the_extent() -> None:
    fixed, moving, truth, _ = case()
    for shape in ((10, 11, 9), HALF, SHAPE):
        found = refine(fixed, moving, resize(truth, shape), 2)
        assert found.shape == (1, 3, *HALF)
        assert error(found) < 0.5


def test_sides_that_the_levels_do_not_divide_are_not_stretched() -> None:
    """39 voxels make 9 of 4⅓, not 9 of 4 with three cut off: a shift stays as long as it is."""
    fixed, _, _, mask = case()
    fixed, mask = (image[:, :, :39, :42, :35] for image in (fixed, mask))
    matrix = torch.eye(4)[None, :3].clone()
    matrix[0, :, 3] = 1.5
    moving = warp(fixed, affine_field(matrix, (39, 42, 35)))
    found = refine(fixed, moving, still((19, 21, 17)), 60, settings=RefineSettings(levels=((4, 1.0),), rate=0.0))
    moved = resize(found, (39, 42, 35))[0][:, mask[0, 0] > 0.5]
    torch.testing.assert_close(moved.mean(1), torch.full((3,), -1.5), atol=0.1, rtol=0)


def test_defaults_make_sense() -> None:
    assert DEFAULT_STEPS > 0
    assert sum(share for _, share in DEFAULT_SETTINGS.levels) == pytest.approx(1)
