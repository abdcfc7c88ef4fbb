"""The linear map by edges of the interior: what one mask hides is found, and nothing else is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from anatomies import displaced, miss_mm, motion, two_contrasts
from scipy.ndimage import binary_erosion

import deformgan
from deformgan.align.edges import Edges
from deformgan.align.start import agreement_elsewhere, find_start
from deformgan.io.image import Image
from deformgan.preprocess.one_mask import without_shared_border
from deformgan.preprocess.scan import Scan

pytestmark = pytest.mark.searches


@pytest.fixture
def contrasts() -> tuple[Image, Image]:
    return two_contrasts()


def cut_alike(fixed: Image, moving: Image) -> tuple[Image, Image]:
    mask = binary_erosion((fixed.data > 0.1) & (moving.data > 0.1), iterations=2)
    one, other = (Image(np.where(mask, np.maximum(i.data, 1e-3), 0), i.grid) for i in (fixed, moving))
    return one, other


@pytest.mark.parametrize("transform", ["joint", "affine", "rigid"])
def test_what_one_mask_hides_is_found(contrasts: tuple[Image, Image], transform: str) -> None:
    truth = motion(contrasts[0], 1.2, 1.8)
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
    truth, size = motion(contrasts[0], 1.2, 1.8), 0.1
    shrink = np.diag([size] * 3 + [1.0])
    cut = cut_alike(contrasts[0], displaced(contrasts[1], truth))
    small = [Scan.of(Image(one.data, one.grid.moved_by(shrink))) for one in cut]
    found = Edges.of(*without_shared_border(*small), size).improved(np.eye(4), rigid=True)
    assert miss_mm(found, truth, cut[0]) < 0.25


def test_the_slope_is_that_of_the_score(contrasts: tuple[Image, Image]) -> None:
    edges = Edges.of(*without_shared_border(*map(Scan.of, cut_alike(*contrasts))))
    matrices = torch.tensor(motion(contrasts[0], 0.7, 0.9)[None, :3]).float()
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
    turned = Scan.of(Image(moving.data, moving.grid.moved_by(motion(moving, 35, 0))))
    here, elsewhere = agreement_elsewhere(Scan.of(fixed), turned, np.eye(4))
    assert elsewhere > 1.5 * here
    here, elsewhere = agreement_elsewhere(Scan.of(fixed), turned, motion(moving, 35, 0))
    assert here > 0.95 * elsewhere
