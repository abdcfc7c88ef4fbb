"""The linear map by edges of the interior: what one mask hides is found, and nothing else is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import affine_transform, binary_erosion
from scipy.spatial.transform import Rotation

import deformgan
from deformgan.align.edges import Edges
from deformgan.align.start import agreement_elsewhere, find_start
from deformgan.io.image import Image
from deformgan.preprocess.one_mask import without_shared_border
from deformgan.preprocess.scan import Scan
from deformgan.spatial.grid import Grid
from deformgan.transforms.transform import Transform
from deformgan.workshop.simulation.anatomy import load_anatomy

pytestmark = pytest.mark.searches
APART = 2.0  # mm


@pytest.fixture(scope="module")
def contrasts() -> tuple[Image, Image]:
    """The shipped anatomy at 2 mm in two contrasts that no straight line joins."""
    anatomy = load_anatomy()
    labels = anatomy.data[::2, ::2, ::2].astype(int)
    grid = Grid(labels.shape, anatomy.grid.affine @ np.diag([APART, APART, APART, 1.0]))

    def contrast(seed: int) -> Image:
        rng = np.random.default_rng(seed)
        table = rng.uniform(0.2, 1, labels.max() + 1)
        return Image(((table[labels] + rng.normal(0, 0.02, labels.shape)) * (labels > 0)).astype(np.float32), grid)

    return contrast(1), contrast(2)


def motion(grid: Grid, degrees: float, shift: float) -> np.ndarray:
    """A turn about an oblique axis through the middle, and a shift along another."""
    centre, inner = np.eye(4), np.eye(4)
    centre[:3, 3] = grid.centre_mm
    inner[:3, :3] = Rotation.from_rotvec(np.radians(degrees) * np.array([0.6, -0.48, 0.64])).as_matrix()
    inner[:3, 3] = shift * np.array([0.48, 0.6, 0.64])
    return centre @ inner @ np.linalg.inv(centre)


def displaced(image: Image, moved: np.ndarray) -> Image:
    to = np.linalg.inv(image.grid.affine) @ np.linalg.inv(moved) @ image.grid.affine
    return Image(affine_transform(image.data, to[:3, :3], to[:3, 3], order=1), image.grid)


def cut_alike(fixed: Image, moving: Image) -> tuple[Image, Image]:
    mask = binary_erosion((fixed.data > 0.1) & (moving.data > 0.1), iterations=2)
    one, other = (Image(np.where(mask, np.maximum(i.data, 1e-3), 0), i.grid) for i in (fixed, moving))
    return one, other


def miss_mm(found: np.ndarray, truth: np.ndarray, image: Image) -> float:
    points = image.grid.to_world(np.argwhere(image.data > 0)[::50])
    return float(
        np.linalg.norm(Transform(found).map_points(points) - Transform(truth).map_points(points), axis=1).mean()
    )


@pytest.mark.parametrize("transform", ["joint", "affine", "rigid"])
def test_what_one_mask_hides_is_found(contrasts: tuple[Image, Image], transform: str) -> None:
    truth = motion(contrasts[0].grid, 1.2, 1.8)
    fixed, moving = cut_alike(contrasts[0], displaced(contrasts[1], truth))
    pair = Scan.of(fixed), Scan.of(moving)
    assert miss_mm(np.eye(4), truth, fixed) > 1.5
    hidden = find_start(*pair, transform).fixed_to_moving  # type: ignore[arg-type]
    found = find_start(*without_shared_border(*pair), transform).fixed_to_moving  # type: ignore[arg-type]
    assert miss_mm(found, truth, fixed) < 0.25
    assert miss_mm(hidden, truth, fixed) > 2 * miss_mm(found, truth, fixed)


def test_what_lies_as_it_should_stays(contrasts: tuple[Image, Image]) -> None:
    pair = without_shared_border(*map(Scan.of, cut_alike(*contrasts)))
    np.testing.assert_array_equal(find_start(*pair).fixed_to_moving, np.eye(4))
    assert miss_mm(find_start(*pair, "rigid").fixed_to_moving, np.eye(4), contrasts[0]) < 0.1


def test_a_small_brain_is_seen_in_its_own_voxels(contrasts: tuple[Image, Image]) -> None:
    truth, size = motion(contrasts[0].grid, 1.2, 1.8), 0.1
    shrink = np.diag([size] * 3 + [1.0])
    cut = cut_alike(contrasts[0], displaced(contrasts[1], truth))
    small = [Scan.of(Image(one.data, one.grid.moved_by(shrink))) for one in cut]
    found = Edges.of(*without_shared_border(*small), size).improved(np.eye(4), rigid=True)
    assert miss_mm(found, truth, cut[0]) < 0.25


def test_the_slope_is_that_of_the_score(contrasts: tuple[Image, Image]) -> None:
    edges = Edges.of(*without_shared_border(*map(Scan.of, cut_alike(*contrasts))))
    matrices = torch.tensor(motion(contrasts[0].grid, 0.7, 0.9)[None, :3]).float()
    matrices[:, :, 3] = torch.tensor([0.4, -0.3, 0.6])
    score, slope = edges.slope(matrices)
    assert 0 < float(score) < 1
    step = torch.zeros_like(matrices)
    step[0, 1, 3], step[0, 0, 2] = 0.02, 0.0004
    ahead, behind = (float(edges.slope(matrices + sign * step)[0]) for sign in (1, -1))
    assert (ahead - behind) / 2 == pytest.approx(float((slope * step).sum()), rel=0.05)


def test_a_lesion_is_left_out(contrasts: tuple[Image, Image]) -> None:
    fixed, moving = cut_alike(*contrasts)
    half = np.zeros(fixed.data.shape, np.uint8)
    half[: half.shape[0] // 2] = 1
    marked = [Scan.of(one, Image(half, one.grid)) for one in (fixed, moving)]
    edges = Edges.of(*without_shared_border(*marked))
    index = fixed.grid.to_index(edges.points.numpy() + edges.centres_mm[0])
    assert len(index) > 1000
    assert index[:, 0].min() > half.shape[0] // 2


def test_a_mask_too_thin_for_an_interior_is_searched_as_others_are(contrasts: tuple[Image, Image]) -> None:
    thin = np.zeros(contrasts[0].data.shape, bool)
    thin[:, :, thin.shape[2] // 2 : thin.shape[2] // 2 + 6] = True
    pair = [Scan.of(one) for one in contrasts]
    cut = [replace(scan, within=thin & scan.content.mask) for scan in pair]
    assert len(Edges.of(*cut).points) == 0
    np.testing.assert_array_equal(find_start(*cut, "rigid").fixed_to_moving, find_start(*pair, "rigid").fixed_to_moving)


def test_a_registration_says_so(contrasts: tuple[Image, Image]) -> None:
    given = {"transform": "rigid", "brain": "whole"}
    alike = deformgan.register(*cut_alike(*contrasts), **given)
    assert alike.provenance["settings"]["one_mask"] is True
    apart = deformgan.register(contrasts[0], cut_alike(*contrasts)[1], **given)
    assert "one_mask" not in apart.provenance["settings"]


def test_a_better_place_is_compared_with_the_result_and_not_with_what_a_search_from_there_finds(
    contrasts: tuple[Image, Image],
) -> None:
    fixed, moving = contrasts
    turned = Scan.of(Image(moving.data, moving.grid.moved_by(motion(moving.grid, 35, 0))))
    here, elsewhere = agreement_elsewhere(Scan.of(fixed), turned, np.eye(4))
    assert elsewhere > 1.5 * here
    here, elsewhere = agreement_elsewhere(Scan.of(fixed), turned, motion(moving.grid, 35, 0))
    assert here > 0.95 * elsewhere
