"""One brain stripped more tightly than the other: the map that borders pull is corrected, others stay as they are."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from deformgan.align.placement import subsampled_pair
from deformgan.align.search import search
from deformgan.align.start import find_start
from deformgan.align.stripping import without_borders
from deformgan.io.image import Image
from deformgan.preprocess.scan import Scan
from deformgan.spatial.grid import Grid
from deformgan.transforms.transform import Transform
from deformgan.workshop.simulation.anatomy import load_anatomy

pytestmark = pytest.mark.searches


@pytest.fixture(scope="module")
def pair() -> tuple[Image, Image]:
    """The shipped anatomy at 3 mm in two contrasts that no straight line joins."""
    anatomy = load_anatomy()
    labels = anatomy.data[::3, ::3, ::3].astype(int)
    grid = Grid(labels.shape, anatomy.grid.affine @ np.diag([3, 3, 3, 1.0]))
    noise = np.random.default_rng(3).normal(0, 0.02, (2, *labels.shape))

    def contrast(seed: int) -> Image:
        table = np.random.default_rng(seed).uniform(0.2, 1, labels.max() + 1)
        return Image(((table[labels] + noise[seed]) * (labels > 0)).astype(np.float32), grid)

    return contrast(0), contrast(1)


def stripped(image: Image, most_mm: float) -> Image:
    """Without what lies less than 0 to ``most_mm`` below the surface, unevenly."""
    deep = ndimage.distance_transform_edt(np.pad(image.data > 0, 1))[1:-1, 1:-1, 1:-1] * 3.0
    depth = np.random.default_rng(5).uniform(0, most_mm, (5, 5, 5))
    depth = ndimage.zoom(depth, np.array(image.data.shape) / 5, order=1)
    return Image(image.data * (deep > depth), image.grid)


def turned(image: Image) -> tuple[Image, np.ndarray]:
    """With another header, and the map from its old place to the new one."""
    move = np.eye(4)
    move[:3, :3] = 1.1 * Rotation.from_euler("xyz", (40, -30, 25), degrees=True).as_matrix()
    move[:3, 3] = 10, 20, -30
    return Image(image.data, image.grid.moved_by(move)), move


def miss_mm(found: np.ndarray, truth: np.ndarray, image: Image) -> float:
    points = image.grid.to_world(np.argwhere(image.data > 0)[::50])
    return float(np.linalg.norm(Transform(np.linalg.inv(truth) @ found).map_points(points) - points, axis=1).mean())


@pytest.mark.parametrize("tighter", ["moving", "fixed"])
def test_borders_no_longer_pull_the_map(pair: tuple[Image, Image], tighter: str) -> None:
    fixed, moving = pair
    fixed, moving = (stripped(fixed, 12), moving) if tighter == "fixed" else (fixed, stripped(moving, 12))
    moving, truth = turned(moving)
    scans = Scan.of(fixed), Scan.of(moving)
    found, _ = search(*subsampled_pair(*scans))
    before = miss_mm(found, truth, pair[0])
    after = miss_mm(without_borders(found, *subsampled_pair(*scans)), truth, pair[0])
    assert before > 2
    assert after < 0.6 * before
    start = find_start(*scans, "joint")
    assert miss_mm(start.fixed_to_moving, truth, pair[0]) == pytest.approx(after, abs=0.2)


def test_a_rigid_map_stays_rigid(pair: tuple[Image, Image]) -> None:
    fixed, moving = pair[0], stripped(pair[1], 12)
    given = subsampled_pair(Scan.of(fixed), Scan.of(moving))
    off = np.eye(4)
    off[:3, :3] = Rotation.from_euler("x", 3, degrees=True).as_matrix()
    linear = without_borders(off, *given, rigid=True)[:3, :3]
    assert (linear != off[:3, :3]).any()
    np.testing.assert_allclose(linear @ linear.T, np.eye(3), atol=1e-5)


def test_what_is_stripped_alike_or_a_part_is_left(pair: tuple[Image, Image]) -> None:
    fixed, moving = pair
    given = subsampled_pair(Scan.of(fixed), Scan.of(moving))
    assert without_borders(same := np.eye(4), *given) is same
    part = moving.data.copy()
    part[:, :, : part.shape[2] // 2] = 0
    assert without_borders(same, *subsampled_pair(Scan.of(fixed), Scan.of(Image(part, moving.grid)))) is same
