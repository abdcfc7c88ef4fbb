"""A fluid field finds known deformations, does not fold, and its parts agree between PyTorch and compiled code."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from deformgan.preprocess.lesions import Lesions
from deformgan.refine import FluidSettings, fluid, refine_fluid
from deformgan.refine.drive import Drive, force, gaussian, local_correlation, mutual_information
from deformgan.refine.fluid import _Level
from deformgan.refine.settings import DEFAULT_FLUID
from deformgan.refine.weights import Weight
from deformgan.spatial.field import compose, identity_positions, invert, jacobian_determinant
from deformgan.spatial.warp import warp

SHAPE = (40, 44, 36)


def texture(seed: int = 0, shape: tuple[int, ...] = SHAPE) -> Tensor:
    noise = torch.rand(1, 1, *(n // 3 for n in shape), generator=torch.Generator().manual_seed(seed))
    return F.interpolate(noise, size=shape, mode="trilinear", align_corners=False)


def ball(radius: float) -> Tensor:
    middle = torch.tensor([(n - 1) / 2 for n in SHAPE]).view(1, 3, 1, 1, 1)
    return ((identity_positions(SHAPE) - middle).square().sum(1, keepdim=True) < radius**2).float()


def waves(height: float) -> Tensor:
    """A smooth field, 0 along the border."""
    x = identity_positions(SHAPE)
    inside = torch.stack([torch.sin(torch.pi * x[:, a] / (n - 1)) for a, n in enumerate(SHAPE)]).prod(0)
    return height * inside * torch.sin(x.roll(1, 1) / 5)


@pytest.mark.processor
@pytest.mark.parametrize("inverted", [False, True])
def test_a_known_deformation_is_found(inverted: bool) -> None:
    """Also where bright and dark change places."""
    mask = ball(15)
    image = (0.2 + 0.8 * texture()) * ball(17)
    truth = waves(2.0)
    moving = warp((1.2 - image) * ball(17) if inverted else image, invert(truth)[0], padding="border")
    found = refine_fluid(image, moving, torch.zeros(1, 3, 20, 22, 18), 60, mask=mask)
    before, after = (float(((f - truth).norm(dim=1)[:, None] * mask).sum() / mask.sum()) for f in (0 * truth, found))
    assert found.shape == (1, 3, *SHAPE)
    assert after < 0.4 * before
    assert float(jacobian_determinant(found).min()) > 0


def finer(*images: Tensor) -> tuple[Tensor, ...]:
    return tuple(F.interpolate(one, scale_factor=1.5, mode="trilinear") for one in images)


def test_the_finer_grid_has_the_last_word() -> None:
    """Images that show nothing on the working grid move there, and the field stays on the working grid."""
    image, truth = texture(), waves(2.0)
    moving = warp(image, invert(truth)[0], padding="border")
    blank, mask = torch.zeros_like(image), torch.ones_like(image)
    found = refine_fluid(blank, blank, torch.zeros(1, 3, *SHAPE), 60, mask=mask, fine=finer(image, moving))
    assert found.shape[2:] == SHAPE
    assert float((found - truth).norm(dim=1).mean()) < 0.7 * float(truth.norm(dim=1).mean())


@pytest.mark.processor
@pytest.mark.parametrize("lesion", [False, True])
def test_finer_images_move_a_coarser_field_alike_in_compiled_code(
    lesion: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in a box of the grid, and with weights that lie in the moving image."""
    image, counts = texture(), torch.zeros(1, 1, *SHAPE)
    moving = warp(image, waves(1.0), padding="border")
    counts[:, :, 11:21, 12:31, 15:21] = 1
    f, m = finer(image, moving)
    weight = Weight(F.interpolate(counts, scale_factor=1.5), torch.ones_like(m) if lesion else None)
    level = _Level.of(f, m, weight, 7, DEFAULT_FLUID, SHAPE)
    assert [s.start * 3 % 2 for s in level.box] == [0, 0, 0]
    assert tuple(level.fixed.shape[2:]) == tuple(3 * (s.stop - s.start) // 2 for s in level.box)
    field = level.enter(waves(0.5))
    found = fluid._flow(field, level, lambda _: None)
    monkeypatch.setattr(fluid, "usable", lambda *_: False)
    torch.testing.assert_close(fluid._flow(field, level, lambda _: None), found, atol=2e-3, rtol=0)
    assert float((found - field).abs().max()) > 0.3


def test_nothing_is_compared_where_something_is_excluded() -> None:
    """Both images are cut off at the same place of the grid; what lies there draws nothing."""
    image = texture()
    away = torch.zeros_like(image)
    away[:, :, 25:] = 1
    other = image.clone()
    other[:, :, 25:] = texture(5)[:, :, 25:]
    found = refine_fluid(image, other, torch.zeros(1, 3, *SHAPE), 30, lesions=Lesions(away, away))
    assert float(found[:, :, :18].abs().mean()) < 0.15
    assert float(refine_fluid(image, other, 0 * found, 30)[:, :, 28:].abs().mean()) > 0.3


def test_a_field_enters_the_box_around_what_counts_and_leaves_it_as_it_was() -> None:
    image, counts = texture(), torch.zeros(1, 1, *SHAPE)
    counts[:, :, 10:20, 12:30, 15:21] = 1
    level = _Level.of(image, image, Weight(counts, None), 1, DEFAULT_FLUID)
    assert [(s.start, s.stop) for s in level.box] == [(6, 24), (8, 34), (11, 25)]
    field = waves(2.0)
    part = level.enter(field)
    inside = (slice(None), slice(None), *level.box)
    # from a voxel of the box it leads to where it led from the same voxel of the whole grid
    own = identity_positions(tuple(part.shape[2:]))
    torch.testing.assert_close(own + part, (identity_positions(SHAPE) + field)[inside])
    torch.testing.assert_close(level.leave(field, part), field)
    changed = level.leave(field, part + 1) - field
    torch.testing.assert_close(changed[inside], torch.ones_like(part))
    assert changed.count_nonzero() == part.numel()


def test_progress_counts_every_step_once() -> None:
    seen: list[tuple[int, int]] = []
    image = texture()
    refine_fluid(image, image, torch.zeros(1, 3, *SHAPE), 7, progress=lambda done, of: seen.append((done, of)))
    assert seen == [(n, 7) for n in range(1, 8)]
    still = torch.ones(1, 3, 4, 4, 4)
    assert refine_fluid(image, image, still, 0) is still


def test_an_empty_pair_stays_where_it_is() -> None:
    empty = torch.zeros(1, 1, *SHAPE)
    assert float(refine_fluid(empty, empty, torch.zeros(1, 3, *SHAPE), 6).abs().max()) == 0


@pytest.mark.processor
@pytest.mark.parametrize("measure", ["correlation", "information"])
def test_derivatives_are_right(measure: str) -> None:
    """Against central differences of the sum itself."""
    shape = (7, 8, 9)
    generator = torch.Generator().manual_seed(3)
    fixed, moved, weight = (0.1 + 0.8 * torch.rand(1, 1, *shape, generator=generator).double() for _ in range(3))
    if measure == "correlation":

        def value(m: Tensor) -> tuple[Tensor, Tensor]:
            return local_correlation(fixed, m, weight, 1, 1e-3)
    else:

        def value(m: Tensor) -> tuple[Tensor, Tensor]:
            return mutual_information(fixed, m, weight, 8)

    slope = value(moved)[1]
    for at in ((3, 4, 5), (0, 0, 0), (6, 2, 7)):
        step = torch.zeros_like(moved)
        step[(0, 0, *at)] = 1e-5
        expected = (float(value(moved + step)[0]) - float(value(moved - step)[0])) / 2e-5
        # the derivative of the information leaves out how the smoothed histogram differs from the counted one
        tolerance = 1e-6 if measure == "correlation" else 0.25 * float(slope.abs().max())
        assert float(slope[(0, 0, *at)]) == pytest.approx(expected, abs=tolerance)


@pytest.mark.processor
def test_compiled_and_pytorch_drive_alike() -> None:
    settings = FluidSettings()
    fixed, moved, weight = texture(1), texture(2), texture(3)
    reference = settings.correlation * local_correlation(fixed, moved, weight, settings.radius, settings.epsilon)[1]
    reference = reference + settings.information * mutual_information(fixed, moved, weight, settings.bins)[1]
    found = Drive(fixed, weight, settings)(moved)
    assert float((found - reference).abs().max()) < 1e-3 * float(reference.abs().max())


def test_a_gaussian_smooths_a_point_to_its_own_curve() -> None:
    point = torch.zeros(1, 1, 21, 21, 21)
    point[0, 0, 10, 10, 10] = 1
    line = gaussian(point, 1.5)[0, 0, 10, 10]
    assert float(line[12] / line[10]) == pytest.approx(float(torch.tensor(-0.5 * (2 / 1.5) ** 2).exp()), rel=1e-4)
    assert float(gaussian(point, 1.5).sum()) == pytest.approx(1, rel=1e-5)
    assert torch.equal(gaussian(point, 0), point)
    graph = point.clone().requires_grad_()
    torch.testing.assert_close(gaussian(graph, 1.5).detach(), gaussian(point, 1.5), atol=1e-6, rtol=1e-4)


def test_the_force_points_up_the_image() -> None:
    image = 0.1 * identity_positions(SHAPE)[:, :1]
    found = force(torch.ones_like(image), image)[0, :, 5, 5, 5]
    torch.testing.assert_close(found, torch.tensor([0.1, 0.0, 0.0]))
    graph = image.clone().requires_grad_()
    torch.testing.assert_close(force(torch.ones_like(image), graph), force(torch.ones_like(image), image))


def test_steps_are_composed() -> None:
    """What an update does is done after the field: a field of a translation is moved along, not added to."""
    outer, inner = waves(2.0), waves(1.0)
    both = compose(outer, inner)
    image = texture(4)
    twice = warp(warp(image, outer, padding="border"), inner, padding="border")
    once = warp(image, both, padding="border")
    assert float((twice - once).abs().mean()) < 0.02
