"""The shipped anatomy, coarser, in made contrasts, and moved."""

from __future__ import annotations

from functools import cache

import numpy as np
from scipy.ndimage import affine_transform
from scipy.spatial.transform import Rotation

from deformgan.io.image import Image
from deformgan.spatial.grid import Grid
from deformgan.transforms.transform import Transform
from deformgan.workshop.simulation.anatomy import load_anatomy

APART = 2.0  # mm


@cache
def coarse_anatomy() -> Image:
    """At 3 mm instead of 1: a case is made of it in a tenth of the time."""
    anatomy = load_anatomy()
    labels = np.asfortranarray(anatomy.data[::3, ::3, ::3])
    return Image(labels, Grid(labels.shape, anatomy.grid.affine @ np.diag([3, 3, 3, 1.0])), anatomy.name)


@cache
def two_contrasts() -> tuple[Image, Image]:
    """At 2 mm in two contrasts that no straight line joins."""
    anatomy = load_anatomy()
    labels = anatomy.data[::2, ::2, ::2].astype(int)
    grid = Grid(labels.shape, anatomy.grid.affine @ np.diag([APART, APART, APART, 1.0]))

    def contrast(seed: int) -> Image:
        rng = np.random.default_rng(seed)
        table = rng.uniform(0.2, 1, labels.max() + 1)
        return Image(((table[labels] + rng.normal(0, 0.02, labels.shape)) * (labels > 0)).astype(np.float32), grid)

    return contrast(1), contrast(2)


def displaced(image: Image, motion: np.ndarray) -> Image:
    """The image on its own voxels after a motion of world space."""
    to = np.linalg.inv(image.grid.affine) @ np.linalg.inv(motion) @ image.grid.affine
    return Image(affine_transform(image.data, to[:3, :3], to[:3, 3], order=1), image.grid, "displaced")


def motion(image: Image, degrees: float, shift: float, stretch: float = 1.0) -> np.ndarray:
    """A turn about an oblique axis, a shift along another, and a stretch along the second axis, about the middle."""
    centre, inner = np.eye(4), np.eye(4)
    centre[:3, 3] = image.grid.centre_mm
    inner[:3, :3] = Rotation.from_rotvec(np.radians(degrees) * np.array([0.6, -0.48, 0.64])).as_matrix()
    inner[:3, :3] @= np.diag([1.0, stretch, 1.0])
    inner[:3, 3] = shift * np.array([0.48, 0.6, 0.64])
    return centre @ inner @ np.linalg.inv(centre)


def miss_mm(found: np.ndarray, truth: np.ndarray, image: Image) -> float:
    """Mean distance over the brain."""
    points = image.grid.to_world(np.argwhere(image.data > 0)[::50])
    return float(
        np.linalg.norm(Transform(found).map_points(points) - Transform(truth).map_points(points), axis=1).mean()
    )
