"""Where content is cut off nothing is known; where it ends by itself there is background, however tight the image."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deformgan.io.image import Image, load_image
from deformgan.preprocess.conform import conform
from deformgan.preprocess.cuts import find_cuts
from deformgan.preprocess.field_of_view import FieldOfView, common
from deformgan.preprocess.foreground import find_content
from deformgan.preprocess.lesions import Lesions
from deformgan.quality import measures
from deformgan.spatial.grid import Grid
from deformgan.workshop.simulation.anatomy import load_anatomy

RADIUS = 30


def ball(spacing: tuple[float, float, float] = (1, 1, 1)) -> Image:
    """Of 30 mm in a box of 80 mm."""
    shape = tuple(round(80 / s) for s in spacing)
    index = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1)
    at = (index + 0.5) * spacing - 40
    data = ((at**2).sum(-1) < RADIUS**2).astype(np.float32) * (1.5 + np.sin(at).prod(-1))
    return Image(np.asfortranarray(data, np.float32), Grid(shape, np.diag([*spacing, 1.0])), "ball")  # type: ignore[arg-type]


def view(data: np.ndarray, image: Image) -> FieldOfView:
    grid = Grid(data.shape, image.grid.affine)  # type: ignore[arg-type]
    return find_content(Image(np.asfortranarray(data), grid, "part")).field_of_view


@pytest.mark.parametrize("spacing", [(1, 1, 1), (1, 1, 4), (2, 1, 1), (0.1, 0.1, 0.1)], ids=str)
def test_content_that_ends_by_itself_is_seen_whole(spacing: tuple) -> None:
    image = ball(spacing if spacing[0] > 0.5 else (1, 1, 1))
    assert not view(image.data, image).is_limited
    content = find_content(image)
    assert not view(image.data[content.box], image).is_limited


def test_a_region_within_tissue_is_all_content(rng: np.random.Generator) -> None:
    """Otsu's method calls its darker tissue background; air is darker still, or alike."""
    tissue = ball().data[25:55, 25:55, 25:55] + 1.0
    tissue[10:20, 10:20, 10:20] += 3.0
    tissue += rng.normal(0, 0.3, tissue.shape).astype(np.float32)
    found = find_content(Image(tissue, Grid(tissue.shape, np.eye(4)), "region"))
    assert found.mask.all()
    assert not found.zero_background
    assert found.background_value == pytest.approx(np.quantile(tissue, 1e-3), abs=0.2)
    assert found.field_of_view.is_region
    # the same beside air, which may be noisy, or lie high, as CT's does
    for air in (rng.uniform(0, 0.3, tissue.shape), rng.normal(-9, 0.5, tissue.shape)):
        beside = np.concatenate([tissue, air.astype(np.float32)])
        assert find_content(Image(beside, Grid(beside.shape, np.eye(4)), "beside")).mask[35:].mean() < 0.01


def test_bright_noise_around_an_object_is_air(rng: np.random.Generator) -> None:
    """As a surface coil has it: neither dark nor alike, but on all faces and not in the middle."""
    image = ball()
    shown = image.data > 0
    data = np.where(shown, 3 + image.data, rng.uniform(0, 2.4, image.data.shape)).astype(np.float32)
    mask = find_content(Image(data, image.grid, "noisy")).mask
    assert mask[shown].mean() > 0.9
    assert mask[~shown].mean() < 0.1


def test_a_slab_is_no_region() -> None:
    image = ball()
    assert not view(image.data[:, :, 30:55], image).is_region
    assert view(image.data[30:50, 30:50, 30:50], image).is_region


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("padded", [False, True])
def test_a_cut_is_found_at_a_face_and_in_padding(axis: int, padded: bool) -> None:
    image = ball()
    part = [slice(None)] * 3
    part[axis] = slice(30, 55)
    cut = image.data[tuple(part)]
    low, high = -0.5, 24.5
    if padded:
        cut = np.zeros_like(image.data)
        cut[tuple(part)] = image.data[tuple(part)]
        low, high = 29.5, 54.5
    found = view(cut, image)
    assert (found.low[axis], found.high[axis]) == (low, high)
    assert not np.isfinite(np.delete(found.low, axis)).any()
    assert not np.isfinite(np.delete(found.high, axis)).any()


def test_one_end_may_be_cut_and_the_other_not() -> None:
    image = ball()
    found = view(image.data[:, :, 35:], image)
    assert found.low[2] == -0.5
    assert np.isinf(found.high[2])


def test_a_cut_at_an_angle_is_found_in_padding_and_none_in_what_is_whole() -> None:
    image = ball()
    normal = np.array([0.48, 0.6, 0.64])
    index = np.stack(np.meshgrid(*[np.arange(n) for n in image.data.shape], indexing="ij"), -1)
    along = (index + 0.5 - 40) @ normal
    for spacing in (np.ones(3), np.full(3, 0.1)):
        slab = Image(image.data * (np.abs(along) < 12), Grid(image.grid.shape, np.diag([*spacing, 1.0])), "slab")
        found = find_content(slab).field_of_view
        normals = found.oblique[:, :3] / spacing
        np.testing.assert_allclose(np.abs(normals @ normal), 1, atol=1e-3)
        assert len(normals) == 2
        seen = found.on(slab.grid, slab.grid)
        assert seen is not None
        agree = (seen[0, 0].numpy() > 0) == (np.abs(along) < 12)
        assert agree[np.abs(np.abs(along) - 12) > 2].all()
    assert len(find_content(image).field_of_view.oblique) == 0


@pytest.mark.parametrize("degrees", [15.0, 25.0, 40.0])
def test_the_sides_of_a_thin_slab_are_no_cuts(degrees: float) -> None:
    """They are curved along one direction only, so that much of them lies in one layer."""
    anatomy = load_anatomy()
    labels = anatomy.data[::2, ::2, ::2]
    spacing = 2 * anatomy.grid.spacing
    index = np.stack(np.meshgrid(*[np.arange(n) for n in labels.shape], indexing="ij"), -1) * spacing
    normal = np.array([0, np.sin(np.radians(degrees)), np.cos(np.radians(degrees))])
    along = (index - index[labels > 0].mean(0)) @ normal
    mask = (labels > 0) & (np.abs(along) < 15)
    planes = find_cuts(mask, spacing, 0.15, 10.0)
    assert len(planes) == 2
    normals = planes[:, :3] / spacing
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1)
    assert np.degrees(np.arccos(np.abs(normals @ normal))).max() < 0.5
    places = planes[:, 3] + index[mask].mean(0) @ normals.T
    middle = (index[mask].mean(0) - index[labels > 0].mean(0)) @ normal
    np.testing.assert_allclose(places, -15 + middle * np.sign(normals @ normal), atol=1.5)


def test_voxels_where_an_image_ends_are_not_mixed_with_what_lies_beyond() -> None:
    """A slab of one value keeps it up to its end, along a face and at an angle, on voxels that lie across it."""
    index = np.stack(np.meshgrid(*[np.arange(80)] * 3, indexing="ij"), -1)
    inside = ((index - 39.5) ** 2).sum(-1) < RADIUS**2
    oblique = inside & (np.abs((index - 39.5) @ np.array([0.0, 0.6, 0.8])) < 12)
    ended = np.eye(4)
    ended[2, 3] = 30
    coarser = Grid((60, 60, 60), np.diag([1.3, 1.3, 1.3, 1.0]))
    at = coarser.to_world(np.stack(np.meshgrid(*[np.arange(60)] * 3, indexing="ij"), -1))
    core = ((at - 39.5) ** 2).sum(-1) < (RADIUS - 4) ** 2
    for data, affine in ((7.0 * oblique, np.eye(4)), (7.0 * inside[:, :, 30:55], ended)):
        slab = Image(np.asfortranarray(data, np.float32), Grid(data.shape, affine), "slab")
        found = conform(slab, grid=coarser)
        assert found.seen is not None
        seen = found.seen[0, 0] > 0
        np.testing.assert_allclose(found.tensor[0, 0][seen & torch.from_numpy(core)], 1, atol=1e-5)
        torch.testing.assert_close(found.continued[0, 0][seen], found.tensor[0, 0][seen], rtol=0, atol=0)
        beside = torch.nn.functional.max_pool3d(seen[None, None].float(), 3, 1, 1)[0, 0] > 0
        assert float(found.continued[0, 0][beside & torch.from_numpy(core)].quantile(0.01)) > 0.9


def test_an_oblique_view_lies_where_its_planes_are() -> None:
    turn = np.eye(4)
    turn[:2, :2] = [[0.8, -0.6], [0.6, 0.8]]
    image, grid = Grid((20, 20, 20), turn), Grid((30, 24, 8), np.diag([1.0, 1.0, 2.0, 1.0]))
    field_of_view = FieldOfView(np.array([3.5, -np.inf, -np.inf]), np.array([12.5, np.inf, np.inf]))
    seen = field_of_view.on(image, grid)
    voxels = np.stack(np.meshgrid(*[np.arange(n) for n in grid.shape], indexing="ij"), -1)
    along = voxels[..., 0] * 0.8 + voxels[..., 1] * 0.6
    assert seen is not None
    np.testing.assert_array_equal(seen[0, 0].numpy(), ((along >= 3.5) & (along <= 12.5)).astype(np.float32))


def test_conform_says_where_there_is_data() -> None:
    image = ball()
    assert conform(image).seen is None
    part = Image(np.asfortranarray(image.data[:, :, 30:55]), Grid((80, 80, 25), image.grid.affine), "part")
    found = conform(part)
    assert found.seen is not None
    planes = found.seen[0, 0].amax((0, 1))
    assert float(planes.sum()) * found.grid.spacing[2] == pytest.approx(25, abs=1.5)


def test_nan_is_no_data() -> None:
    """A slab with NaN around it is seen as the slab alone, also where the content's own values lie around 0."""
    image = ball()
    inside = image.data > 0
    around_0 = np.where(inside, (image.data - image.data[inside].mean()) / image.data[inside].std(), 0)
    for data in (image.data, around_0.astype(np.float32)):
        slab, part = np.where(inside, data, np.nan), data[:, :, 30:55]
        slab[:, :, :30] = slab[:, :, 55:] = np.nan
        with pytest.warns(UserWarning, match="NaN outside its content"):
            found = conform(load_image((slab, image.grid.affine)))
        beginning = np.eye(4)
        beginning[2, 3] = 30
        alone = conform(load_image((np.asfortranarray(part), image.grid.affine @ beginning)))
        assert found.seen is not None
        assert alone.seen is not None
        assert float(found.seen.sum()) == float(alone.seen.sum())
        torch.testing.assert_close(found.mask.sum(), alone.mask.sum())


def test_common_and_excluded_regions() -> None:
    one, other = torch.tensor([1.0, 1, 0]).view(1, 1, 3, 1, 1), torch.tensor([0.0, 1, 1]).view(1, 1, 3, 1, 1)
    assert common(None, None) is None
    assert common(one, None) is one
    assert torch.equal(common(one, other), one * other)  # type: ignore[arg-type]
    lesions = Lesions(fixed=other).unseen(one, None)
    assert lesions.moving is None
    assert torch.equal(lesions.fixed, torch.ones_like(one) - one * (1 - other))  # type: ignore[arg-type]
    assert not Lesions().unseen(None, None)


def test_coverage_counts_what_is_known() -> None:
    still = torch.zeros(1, 3, 8, 8, 8)
    half = torch.zeros(1, 1, 16, 16, 16)
    half[:, :, :8] = 1
    whole = torch.ones(8, 8, 8, dtype=torch.bool)
    for fixed, moving, expected in ((None, None, 1.0), (half, None, 0.5), (None, half, 0.5), (half, 1 - half, 0.0)):
        known = measures.covered(fixed, moving, still)
        assert measures.coverage(still, whole, known) == pytest.approx(expected)
    moved = still.clone()
    moved[:, 0] = 2.0
    assert measures.coverage(moved, whole, measures.covered(None, half, moved)) == pytest.approx(0.25)
