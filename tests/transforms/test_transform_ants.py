"""ANTs and SimpleITK apply the files we write as we do ourselves: images, labels and points."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.ndimage as ndi
import SimpleITK as sitk  # noqa: N813 (the name its own documentation uses)
from grids import CASES, SLANTED, THICK, some_image, some_transform

from deformgan.io.image import Image
from deformgan.output.fields import saved_grid, write_field
from deformgan.spatial.grid import Grid
from deformgan.transforms.compact import compact, compact_inverse
from deformgan.transforms.transform import Transform, load_transform

ants = pytest.importorskip("ants")

TO_LPS = np.array([-1.0, -1.0, 1.0])


cases = pytest.mark.parametrize(("fixed", "moving"), CASES.values(), ids=CASES.keys())
grids = pytest.mark.parametrize("full", [False, True], ids=["own grid", "full grid"])


def _register_writes(folder: Path, fixed: Grid, full: bool) -> Transform:
    """The map that a registration keeps, and warp.nii.gz as it writes that."""
    transform = compact(some_transform(), fixed, np.ones(fixed.shape, bool), fixed)
    write_field(folder / "warp.nii.gz", transform, saved_grid(transform, fixed, full))
    return transform


def _blob(grid: Grid) -> Image:
    """Two labelled ellipsoids in the middle of space, wherever the grid's voxels lie."""
    voxels = np.stack(np.meshgrid(*[np.arange(n) for n in grid.shape], indexing="ij"), -1)
    x = grid.to_world(voxels)
    labels = np.zeros(grid.shape, np.uint8)
    labels[(((x - (0, 3, 0)) / (26, 30, 24)) ** 2).sum(-1) < 1] = 3
    labels[(((x - (8, -4, 4)) / (9, 11, 10)) ** 2).sum(-1) < 1] = 41
    return Image(labels, grid)


def _ants_apply(folder: Path, transform: str, onto: Image, image: Image, how: str) -> np.ndarray:
    onto.save(folder / "onto.nii.gz")
    image.save(folder / "image.nii.gz")
    out = ants.apply_transforms(
        ants.image_read(str(folder / "onto.nii.gz")),
        ants.image_read(str(folder / "image.nii.gz")),
        [str(folder / transform)],
        interpolator=how,
    )
    return out.numpy()


def _agreement(ours: np.ndarray, theirs: np.ndarray, tolerance: float) -> float:
    """Share of voxels that agree (on the very edge of an image rounding decides who is inside)."""
    return float((np.abs(ours.astype(float) - theirs) <= tolerance).mean())


@cases
@grids
def test_ants_reproduces_moved_from_the_warp_alone(tmp_path: Path, fixed: Grid, moving: Grid, full: bool) -> None:
    transform, image = _register_writes(tmp_path, fixed, full), some_image(moving)
    ours = transform.apply(image, fixed).data
    theirs = _ants_apply(tmp_path, "warp.nii.gz", some_image(fixed), image, "linear")
    assert (ours > 0).mean() > 0.3
    assert _agreement(ours, theirs, 0.01) > 0.995
    assert np.abs(transform.apply(image, fixed).data - Transform.identity().apply(image, fixed).data).mean() > 1


@cases
@grids
def test_ants_brings_labels_back_with_the_inverse_warp(tmp_path: Path, fixed: Grid, moving: Grid, full: bool) -> None:
    transform, labels = some_transform(), _blob(fixed)
    inverse = compact_inverse(transform, moving)
    write_field(tmp_path / "inverse_warp.nii.gz", inverse, saved_grid(inverse, moving, full))
    theirs = _ants_apply(tmp_path, "inverse_warp.nii.gz", _blob(moving), labels, "genericLabel")
    ours = inverse.apply_labels(labels, moving).data
    assert set(np.unique(theirs)) == {0, 3, 41}
    assert _agreement(ours, theirs, 0) > 0.99
    # and they are where the forward map takes them from
    voxels = np.stack(np.meshgrid(*[np.arange(n) for n in moving.shape], indexing="ij"), -1).reshape(-1, 3)
    there = fixed.to_index(transform.apply_points(moving.to_world(voxels)))
    expected = ndi.map_coordinates(labels.data, there.T, order=0).reshape(moving.shape)
    assert _agreement(ours, expected, 0) > 0.985


@cases
@grids
def test_nearest_neighbour_agrees_with_ants(tmp_path: Path, fixed: Grid, moving: Grid, full: bool) -> None:
    transform, labels = _register_writes(tmp_path, fixed, full), _blob(moving)
    theirs = _ants_apply(tmp_path, "warp.nii.gz", some_image(fixed), labels, "nearestNeighbor")
    assert _agreement(transform.apply(labels, fixed, "nearest").data, theirs, 0) > 0.998


@cases
@grids
def test_points_go_the_same_way(tmp_path: Path, fixed: Grid, moving: Grid, full: bool) -> None:
    _register_writes(tmp_path, fixed, full)
    saved = load_transform(tmp_path / "warp.nii.gz")
    inner = np.array(fixed.shape) - 9
    points = fixed.to_world(np.random.default_rng(1).uniform(4, inner + 4, (30, 3)))
    ours = saved.map_points(points)
    field = sitk.DisplacementFieldTransform(sitk.ReadImage(str(tmp_path / "warp.nii.gz"), sitk.sitkVectorFloat64))
    judged = np.array([field.TransformPoint(p) for p in (points * TO_LPS).tolist()]) * TO_LPS
    np.testing.assert_allclose(ours, judged, atol=1e-2)
    table = pd.DataFrame(points * TO_LPS, columns=["x", "y", "z"])
    by_ants = ants.apply_transforms_to_points(3, table, [str(tmp_path / "warp.nii.gz")])
    np.testing.assert_allclose(ours, by_ants[["x", "y", "z"]].to_numpy() * TO_LPS, atol=1e-2)
    # points move with the image, so against the pull-back: from moving to fixed
    np.testing.assert_allclose(saved.apply_points(ours), points, atol=1e-3)


@cases
def test_a_mark_in_the_image_and_its_point_end_up_together(fixed: Grid, moving: Grid) -> None:
    """The direction, without any formula: paint a ball at a point of the moving image, move both."""
    transform = some_transform()
    point = np.array([[6.0, 9.0, 4.0]])
    voxels = np.stack(np.meshgrid(*[np.arange(n) for n in moving.shape], indexing="ij"), -1)
    ball = np.exp(-((moving.to_world(voxels) - point[0]) ** 2).sum(-1) / (2 * 6.0**2)).astype(np.float32)
    moved = transform.apply(Image(ball, moving), fixed).data
    world = fixed.to_world(np.stack(np.meshgrid(*[np.arange(n) for n in fixed.shape], indexing="ij"), -1))
    seen = (world * moved[..., None]).sum((0, 1, 2)) / moved.sum()
    expected = transform.apply_points(point)[0]
    assert np.linalg.norm(seen - expected) < 1.0
    assert np.linalg.norm(point[0] - expected) > 2.0


def test_ants_takes_an_affine_map_as_eight_vectors(tmp_path: Path) -> None:
    affine = Transform(some_transform().affine)
    write_field(tmp_path / "warp.nii.gz", affine, saved_grid(affine, SLANTED, full=False))
    image = some_image(THICK)
    theirs = _ants_apply(tmp_path, "warp.nii.gz", some_image(SLANTED), image, "linear")
    assert _agreement(affine.apply(image, SLANTED).data, theirs, 0.01) > 0.995


def test_affine_file_in_ants(tmp_path: Path) -> None:
    affine = Transform(some_transform().affine)
    affine.save(tmp_path / "affine.txt")
    image = some_image(THICK)
    theirs = _ants_apply(tmp_path, "affine.txt", some_image(SLANTED), image, "linear")
    assert _agreement(affine.apply(image, SLANTED).data, theirs, 0.01) > 0.995
