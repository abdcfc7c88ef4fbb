"""Refinement finds small known deformations, leaves good ones, and never hands back something worse."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from conftest import make_phantom
from torch import Tensor

from deformgan.align.options import DEFAULT_STEPS, Options
from deformgan.losses.gradient import GradientSimilarity
from deformgan.preprocess.lesions import Lesions
from deformgan.refine import DEFAULT_SETTINGS, RefineSettings, refine
from deformgan.refine.folds import count_folds, without_folds
from deformgan.refine.objective import Objective, folding
from deformgan.refine.optimise import better
from deformgan.refine.weights import Weight
from deformgan.spatial.field import affine_field, fit_affine, identity_positions, jacobian_determinant, resize
from deformgan.spatial.native.use import without_kernels
from deformgan.spatial.warp import warp
from deformgan.workshop.evaluation.metrics import endpoint_error, folding_percent
from deformgan.workshop.simulation.deformation import DeformationConfig, sample_deformation

SHAPE = (40, 44, 36)
HALF = (20, 22, 18)
WILD = RefineSettings(rate=60.0, affine_rate=60.0, bending=0.0)
CHECKED = pytest.mark.parametrize("seed", [1, 2])


@cache
def case(seed: int = 1) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One structured object in two contrasts, the second deformed by a voxel or two, its way back, the mask; (1, …).

    Structure everywhere: ellipsoids alone could be turned without anyone noticing.
    """
    generator = torch.Generator().manual_seed(seed)
    mask = torch.from_numpy(make_phantom().labels > 0)[None, None].float()
    structure = torch.rand(1, 1, *(n // 4 for n in SHAPE), generator=generator)
    structure = F.interpolate(structure, size=SHAPE, mode="trilinear", align_corners=False) * mask
    config = DeformationConfig(3.5, (1.5, 2.0), (6.0, 8.0), 1.0, (2.0, 2.0, 4.0), 0.03, 0.01)
    known = sample_deformation(SHAPE, config, generator, mask)
    return structure, warp((1 - structure) * mask, known.inverse), known.forward, mask


def error(field: Tensor, seed: int = 1) -> float:
    _, _, truth, mask = case(seed)
    return float(endpoint_error(resize(field, SHAPE), truth, mask).mean())


def still(shape: tuple[int, ...] = HALF) -> Tensor:
    return torch.zeros(1, 3, *shape)


def similarity(fixed: Tensor, moving: Tensor, field: Tensor) -> float:
    """What the result is judged by: at half resolution, in the fixed image and a margin around it."""
    size = 2 * DEFAULT_SETTINGS.margin + 1
    inside = F.max_pool3d((fixed > 0).float(), size, 1, DEFAULT_SETTINGS.margin)
    f, m, mask = (F.avg_pool3d(i, 2) for i in (fixed, moving, inside))
    return float(GradientSimilarity(f, DEFAULT_SETTINGS.epsilon, squared=True, mask=mask)(warp(m, field)))


@pytest.mark.processor
@CHECKED
def test_a_small_deformation_is_found(seed: int) -> None:
    fixed, moving, _, mask = case(seed)
    found = refine(fixed, moving, still(), 60)
    assert found.shape == (1, 3, *HALF)
    assert not found.requires_grad
    assert error(found, seed) < 0.5 * error(still(), seed)
    assert folding_percent(found, F.avg_pool3d(mask, 2)) == 0
    assert similarity(fixed, moving, found) > similarity(fixed, moving, still())


def test_without_moving_control_points_the_result_is_affine() -> None:
    fixed, moving, _, _ = case()
    found = refine(fixed, moving, still(), 30, settings=RefineSettings(rate=0.0))
    inner = found[:, :, 2:-2, 2:-2, 2:-2]  # beyond the outermost control points a field keeps its value
    torch.testing.assert_close(affine_field(fit_affine(inner), tuple(inner.shape[2:])), inner, atol=1e-4, rtol=0)
    assert found.abs().max() > 0.2
    assert error(found) < error(still())


def test_without_steps_the_start_comes_back() -> None:
    fixed, moving, _, _ = case()
    start = torch.randn(1, 3, 5, 5, 5)
    assert refine(fixed, moving, start, 0) is start


@pytest.mark.processor
@CHECKED
@pytest.mark.parametrize("settings", [DEFAULT_SETTINGS, WILD], ids=["default", "wild"])
@pytest.mark.parametrize("steps", [1, 4])
def test_the_result_is_never_worse_than_the_start(seed: int, settings: RefineSettings, steps: int) -> None:
    fixed, moving, truth, mask = case(seed)
    noise = torch.rand(1, 1, *SHAPE, generator=torch.Generator().manual_seed(seed)) * mask
    half_mask = F.avg_pool3d(mask, 2)
    for image in (moving, noise):
        for start in (still(), resize(truth, HALF)):
            found = refine(fixed, image, start, steps, settings=settings)
            assert similarity(fixed, image, found) >= similarity(fixed, image, start) - 1e-6
            assert folding_percent(found, half_mask) <= max(folding_percent(start, half_mask), 0.02)


def test_a_wild_run_gives_the_start_back() -> None:
    fixed, moving, truth, _ = case()
    assert torch.equal(refine(fixed, moving, truth, 4, settings=WILD), resize(truth, HALF))


@pytest.mark.processor
def test_folds_are_repaired_where_they_are() -> None:
    """An empty moving image looks the same through every field."""
    half = [F.avg_pool3d(image, 2) for image in (case()[0], case()[3])]
    empty = torch.zeros_like(half[0])
    moved = still() + 0.5
    assert better(half[0], empty, half[1], moved, still()) is moved
    folded = moved.clone()
    folded[:, 0, 10:12, 10:12, 8:10] = -3.0
    assert count_folds(folded, torch.ones_like(empty)) > 0
    repaired = better(half[0], empty, half[1], folded, still())
    assert count_folds(repaired, torch.ones_like(empty)) == 0
    assert torch.equal(repaired[:, :, :4], folded[:, :, :4])
    assert better(half[0], empty, half[1], still() + float("nan"), moved) is moved


def test_what_cannot_be_repaired_is_refused() -> None:
    """A volume that is turned inside out as a whole has nothing around it to be smoothed towards."""
    half = [F.avg_pool3d(image, 2) for image in (case()[0], case()[3])]
    inverted = -2 * (identity_positions(HALF) - 10)
    start = still()
    assert better(half[0], torch.zeros_like(half[0]), half[1], inverted, start) is start


@pytest.mark.parametrize("at", [0, 10])
def test_folds_are_smoothed_alike_near_them_and_all_over(at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the border too, where what is around ends."""
    field = torch.zeros(1, 3, 20, 21, 22)
    field[:, :, at : at + 3, 8:11, 9] = 4 * torch.randn(1, 3, 3, 3, generator=torch.Generator().manual_seed(at))
    near = without_folds(field)
    monkeypatch.setattr("deformgan.refine.folds._FEW", 0)
    torch.testing.assert_close(near, without_folds(field), atol=1e-5, rtol=0)  # sums in another order
    assert not torch.equal(near, field)
    assert float(jacobian_determinant(near).min()) >= 0.05


def test_a_field_without_folds_stays_as_it_is() -> None:
    field = 0.3 * torch.sin(identity_positions(HALF) / 2)
    assert torch.equal(without_folds(field), field)


def test_the_fold_penalty_sees_folds_alone() -> None:
    assert folding(still(), 0.25) == 0
    assert folding(0.3 * torch.sin(identity_positions(HALF) / 2), 0.25) == 0
    folded = still()
    folded[:, 1, :, 11:] = -2.0  # one layer of determinant -1
    layer = 1 / (HALF[1] - 1)
    assert float(folding(folded, 0.25)) == pytest.approx((0.25 + 1) ** 2 * layer, rel=1e-5)


@pytest.mark.parametrize(("steps", "highest"), [(80, 1.0), (40, 1.0), (10, 0.25)])
def test_the_rate_falls_to_a_tenth_and_few_steps_are_small(
    steps: int, highest: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    fixed, moving, _, _ = case()
    taken: dict[int, tuple[float, float]] = {}
    true_descend = Objective.descend

    def descend(self: Objective, bending: float, rates: tuple[float, float], number: int) -> None:
        assert number not in taken
        taken[number] = rates
        true_descend(self, bending, rates, number)

    monkeypatch.setattr(Objective, "descend", descend)
    settings = RefineSettings(levels=((4, 1.0),), rate=0.5, affine_rate=2.0)
    with without_kernels():
        refine(fixed, moving, still(), steps, settings=settings)
    assert list(taken) == list(range(1, steps + 1)), "each step once, counted from 1"
    shares = [rates[0] / settings.rate for rates in taken.values()]
    assert [rates[1] / settings.affine_rate for rates in taken.values()] == pytest.approx(shares), "both alike"
    assert shares[0] == pytest.approx(highest)
    falls = [a - b for a, b in pairwise(shares)]
    assert falls == pytest.approx([0.9 * highest / steps] * (steps - 1)), "along a straight line"
    assert shares[-1] - falls[0] == pytest.approx(0.1 * highest), "one step more would have a tenth"


def test_bending_falls_geometrically_over_the_first_level(monkeypatch: pytest.MonkeyPatch) -> None:
    fixed, moving, _, _ = case()
    costs: list[float] = []
    true_gradients = Objective.gradients

    def gradients(self: Objective, bending: float) -> tuple[Tensor, ...]:
        costs.append(bending)
        return true_gradients(self, bending)

    monkeypatch.setattr(Objective, "gradients", gradients)
    settings = RefineSettings(levels=((4, 0.5), (2, 0.5)), bending=0.25, relaxation=16.0)
    with without_kernels():
        refine(fixed, moving, still(), 8, settings=settings)
    assert costs == pytest.approx([4.0, 2.0, 1.0, 0.5, 0.25, 0.25, 0.25, 0.25])


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


@pytest.mark.processor
@pytest.mark.parametrize("factor", [2, 4])
@pytest.mark.parametrize("side", [40, 39])
def test_mirrored_images_have_the_mirrored_field(side: int, factor: int) -> None:
    """Also where a level does not divide the side: its voxels cover the whole image, none is cut off at one end."""
    settings = RefineSettings(levels=((factor, 1.0),), rate=0.0, affine_rate=0.7)
    pair = [image[:, :, :side] for image in case()[:2]]
    start = torch.full((1, 3, side // 2, *HALF[1:]), 0.3)  # at whole voxels the interpolated image has no derivative
    mirror = torch.tensor([-1.0, 1.0, 1.0]).view(1, 3, 1, 1, 1)
    found = refine(*pair, start, 6, settings=settings)
    other = refine(*(image.flip(2) for image in pair), start * mirror, 6, settings=settings)
    torch.testing.assert_close(other.flip(2) * mirror, found, atol=1e-4, rtol=0)
    assert (found - start).abs().max() > 0.1


def test_the_fold_penalty_is_that_of_forward_differences(generator: torch.Generator) -> None:
    field = torch.randn(1, 3, 5, 6, 7, generator=generator)
    inside = (slice(None), slice(0, 4), slice(0, 5), slice(0, 6))
    columns = [field[0].diff(dim=axis)[inside] for axis in (1, 2, 3)]
    jacobian = torch.stack(columns, 1).permute(2, 3, 4, 0, 1) + torch.eye(3)
    expected = (0.25 - torch.linalg.det(jacobian.double())).relu().square().mean()
    assert float(folding(field, 0.25)) == pytest.approx(float(expected), rel=1e-5)


def test_a_voxel_counts_by_its_mask_and_by_lesions_of_either_image() -> None:
    mask = torch.full((1, 1, 8, 8, 8), 0.5)
    lesion = torch.zeros(1, 1, 8, 8, 8)
    lesion[..., 4, 4, 4] = 1
    near = torch.zeros(1, 1, 8, 8, 8)
    near[..., 3:6, 3:6, 3:6] = 1  # what touches it with a difference
    own = Weight.of(mask, Lesions(fixed=lesion))
    torch.testing.assert_close(own.at(torch.zeros(1, 3, 8, 8, 8)), 0.5 * (1 - near))
    theirs = Weight.of(mask, Lesions(moving=lesion))
    shift = torch.zeros(1, 3, 8, 8, 8)
    shift[:, 2] = 1.0
    torch.testing.assert_close(theirs.at(shift), 0.5 * (1 - near.roll(-1, 4)))


def test_defaults_make_sense() -> None:
    assert DEFAULT_STEPS > 0
    assert Options().smoothness == 1  # times the bending cost of the settings
    assert sum(share for _, share in DEFAULT_SETTINGS.levels) == pytest.approx(1)
