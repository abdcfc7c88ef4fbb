"""The linear map on the images' own voxels: nearly right ones become right, and only what the images show is fitted."""

from __future__ import annotations

import numpy as np
import pytest
from anatomies import APART, displaced, miss_mm, motion, two_contrasts

from deformgan.align.finest import Finest
from deformgan.align.start import find_start
from deformgan.io.image import Image
from deformgan.preprocess.scan import Scan
from deformgan.spatial.grid import Grid

pytestmark = pytest.mark.searches


@pytest.fixture
def pair() -> tuple[Image, Image]:
    return two_contrasts()


def lengths(matrix: np.ndarray) -> np.ndarray:
    """What a map does to them along its principal axes."""
    return np.linalg.svd(matrix[:3, :3])[1]


@pytest.mark.parametrize("rigid", [True, False])
def test_a_nearly_right_map_becomes_right(pair: tuple[Image, Image], rigid: bool) -> None:
    fixed, moving = pair
    truth = motion(fixed, 12, 15)
    finest = Finest.of(Scan.of(fixed), Scan.of(displaced(moving, truth)))
    start = motion(fixed, 13, 16.5)
    found = finest.improved(start, rigid=rigid)
    assert miss_mm(start, truth, fixed) > 1.5
    assert miss_mm(found, truth, fixed) < (0.15 if rigid else 0.3)
    assert finest.score(found) > finest.score(start)
    assert not rigid or np.allclose(lengths(found), 1, atol=1e-5)


def test_a_stretch_is_found_where_it_is_wanted(pair: tuple[Image, Image]) -> None:
    fixed, moving = pair
    truth = motion(fixed, 5, 4, 1.06)
    finest = Finest.of(Scan.of(fixed), Scan.of(displaced(moving, truth)))
    stiff, wide = (finest.improved(motion(fixed, 5, 4, 1.03), rigid=rigid) for rigid in (True, False))
    assert miss_mm(wide, truth, fixed) < 0.3 < 0.7 < miss_mm(stiff, truth, fixed)
    assert finest.score(wide) > finest.score(stiff)


def test_a_small_brain_is_seen_in_its_own_voxels(pair: tuple[Image, Image]) -> None:
    fixed, moving = pair
    truth, size = motion(fixed, 12, 15), 0.1
    shrink = np.diag([size] * 3 + [1.0])
    small = [Image(one.data, one.grid.moved_by(shrink)) for one in (fixed, displaced(moving, truth))]
    found = Finest.of(Scan.of(small[0]), Scan.of(small[1]), size).improved(motion(fixed, 13, 16.5), rigid=True)
    assert miss_mm(found, truth, fixed) < 0.15


def test_of_finer_voxels_not_all_are_looked_at() -> None:
    data = np.zeros((64, 48, 48), np.float32)
    data[8:-8, 8:-8, 8:-8] = 0.5 + np.linspace(0, 0.5, 32)  # along the last axis
    image = Image(data, Grid(data.shape, np.diag([0.5, 1.0, 1.0, 1.0])))
    finest = Finest.of(Scan.of(image), Scan.of(image))
    # the content with eight voxels that are looked at on either side, as far as there are any
    assert finest.level.volume.shape[2:] == (32, 48, 48)
    assert finest.score(np.eye(4)) > 0.4


def test_what_is_excluded_is_not_compared(pair: tuple[Image, Image]) -> None:
    fixed, moving = pair
    marked = np.zeros(fixed.data.shape, np.uint8)
    marked[: marked.shape[0] // 2] = 1
    lesion = Image(marked, fixed.grid)
    given = Finest.of(Scan.of(fixed, lesion), Scan.of(moving, lesion)).level
    assert given.excluded is not None
    assert given.excluded.any()
    index = fixed.grid.to_index(given.points.numpy() + Scan.of(fixed).content.centre_mm(fixed.grid))
    assert index[:, 0].min() >= marked.shape[0] // 2 - 1e-3
    assert Finest.of(Scan.of(fixed), Scan.of(moving)).level.excluded is None


@pytest.mark.parametrize("transform", ["joint", "affine", "rigid"])
def test_one_person_who_moved_is_moved_back_rigidly(pair: tuple[Image, Image], transform: str) -> None:
    fixed, moving = pair
    truth = motion(fixed, 14, 20)
    found = find_start(Scan.of(fixed), Scan.of(displaced(moving, truth)), transform).fixed_to_moving  # type: ignore[arg-type]
    assert miss_mm(found, truth, fixed) < 0.15
    np.testing.assert_allclose(lengths(found), 1, atol=1e-5)


@pytest.mark.parametrize("transform", ["joint", "affine"])
def test_a_brain_of_another_shape_is_stretched(pair: tuple[Image, Image], transform: str) -> None:
    fixed, moving = pair
    truth = motion(fixed, 14, 20, 1.12)
    found = find_start(Scan.of(fixed), Scan.of(displaced(moving, truth)), transform).fixed_to_moving  # type: ignore[arg-type]
    assert lengths(found)[0] > 1.09
    assert miss_mm(found, truth, fixed) < (1.5 if transform == "joint" else 0.3)


def test_headers_that_are_right_stay_and_two_millimetres_do_not(pair: tuple[Image, Image]) -> None:
    fixed, moving = pair
    starts = {
        mm: find_start(Scan.of(fixed), Scan.of(displaced(moving, motion(fixed, 0, mm)))).fixed_to_moving
        for mm in (0.0, 2.0)
    }
    np.testing.assert_array_equal(starts[0.0], np.eye(4))
    # images on the same lattice agree better where they mix voxels alike
    assert miss_mm(starts[2.0], motion(fixed, 0, 2.0), fixed) < 0.2 * APART
