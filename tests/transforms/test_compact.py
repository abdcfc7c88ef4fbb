"""Maps on coarse grids: the error is what closed forms say, never above the bound, and rough maps stay fine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from grids import CASES, SLANTED, THICK, inner_points, oblique, some_transform

from deformgan.output.fields import saved_grid, write_field
from deformgan.spatial import native
from deformgan.spatial.grid import Grid
from deformgan.spatial.native.use import without_kernels
from deformgan.transforms import compact as module
from deformgan.transforms.compact import MOST_ADDED_MM, ROUNDING_MM, STEP_MM, compact, compact_inverse
from deformgan.transforms.transform import Transform, load_transform

OWN = Grid.centred((49, 49, 49), 2.0, np.zeros(3))
IMAGE = Grid.centred((90, 90, 90), 1.0, np.array([0.3, -0.2, 0.1]))


def _everywhere(grid: Grid) -> np.ndarray:
    return np.ones(grid.shape, bool)


def _wave(amplitude: float, wavelength: float) -> Transform:
    """A sine along the first axis, zero at a voxel, on `OWN`."""
    x = 2.0 * np.arange(OWN.shape[0])
    disp = np.zeros((*OWN.shape, 3), np.float32)
    disp[..., 1] = (amplitude * np.sin(2 * np.pi * x / wavelength))[:, None, None]
    return Transform(np.eye(4), disp, OWN)


def _noise(grid: Grid, affine: np.ndarray | None = None) -> Transform:
    disp = np.random.default_rng(2).normal(size=(*grid.shape, 3)).astype(np.float32)
    return Transform(np.eye(4) if affine is None else affine, disp, grid)


def _apart(one: Transform, other: Transform, points: np.ndarray) -> float:
    return float(np.linalg.norm(one.map_points(points) - other.map_points(points), axis=1).max())


@pytest.mark.parametrize(("amplitude", "wavelength"), [(0.02, 64.0), (0.1, 96.0), (0.5, 96.0), (3.0, 48.0)])
def test_a_wave_gets_the_spacing_that_its_curvature_allows(amplitude: float, wavelength: float) -> None:
    """Between voxels H apart a chord leaves a sine by amplitude · (1 - cos(π H / wavelength)) at its crest."""
    found = compact(_wave(amplitude, wavelength), IMAGE, _everywhere(IMAGE), IMAGE)
    assert found.grid is not None
    assert found.added_error_mm is not None

    def chord(factor: int) -> float:
        return amplitude * (1 - np.cos(np.pi * 2.0 * factor / wavelength))

    factor = round(found.grid.spacing[0] / OWN.spacing[0])
    # the voxels of the finer grid need not hit the place of the largest distance
    assert found.added_error_mm <= (chord(factor) if factor > 1 else 0) + ROUNDING_MM + 1e-5
    assert chord(factor) <= MOST_ADDED_MM / 0.9 or factor == 1
    nearest = [n for n in module._FACTORS if chord(n) + ROUNDING_MM <= 0.99 * MOST_ADDED_MM]
    assert factor >= max(nearest, default=1)


@pytest.mark.parametrize("amplitude", [0.05, 0.3, 2.0])
def test_the_stated_error_is_never_exceeded(amplitude: float) -> None:
    transform = _wave(amplitude, 70.0)
    found = compact(transform, IMAGE, _everywhere(IMAGE), IMAGE)
    points = IMAGE.to_world(np.random.default_rng(4).uniform(-0.5, 89.5, (20_000, 3)))
    assert found.added_error_mm is not None
    assert _apart(found, transform, points) <= found.added_error_mm + 1e-4 <= MOST_ADDED_MM + 1e-4


def test_a_linear_map_takes_the_coarsest_grid_at_once() -> None:
    ramp = np.zeros((*OWN.shape, 3), np.float32)
    ramp[..., 0] = 0.05 * (2.0 * np.arange(49) - 48)[:, None, None]
    # the image lies within the field's grid: beyond that the border's value goes on, which is not linear
    inside = Grid.centred((40, 40, 40), 2.0, np.zeros(3))
    found = compact(Transform(np.eye(4), ramp, OWN), inside, _everywhere(inside), inside)
    assert found.grid is not None
    assert found.grid.spacing[0] == pytest.approx(2.0 * module._FACTORS[-1])
    assert found.added_error_mm == pytest.approx(ROUNDING_MM, abs=1e-4)


@pytest.mark.parametrize("image", [IMAGE, OWN, SLANTED, THICK], ids=["finer", "same", "slanted", "thick"])
def test_a_rough_map_keeps_its_own_spacing(image: Grid) -> None:
    affine = np.eye(4)
    affine[:3, 3] = 3, -2, 1
    transform = _noise(OWN, affine)
    found = compact(transform, image, _everywhere(image), image)
    assert found.grid is not None
    np.testing.assert_allclose(found.grid.spacing, OWN.spacing)
    points = image.to_world(np.random.default_rng(4).uniform(-0.5, np.array(image.shape) - 0.5, (5000, 3)))
    assert _apart(found, transform, points) <= ROUNDING_MM + 1e-5


def test_a_map_finer_than_the_image_keeps_the_images_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ALWAYS_FINE", 0)
    image = Grid.centred((20, 20, 20), 4.0, np.zeros(3))
    transform = _noise(OWN)
    found = compact(transform, image, _everywhere(image), image)
    assert found.grid == image
    voxels = image.to_world(np.argwhere(_everywhere(image)))
    assert _apart(found, transform, voxels) <= ROUNDING_MM + 1e-5


def test_only_the_foreground_counts() -> None:
    disp = np.zeros((*OWN.shape, 3), np.float32)
    disp[4:8, 20:24, 20:24] = np.random.default_rng(1).normal(size=(4, 4, 4, 3))
    transform = Transform(np.eye(4), disp, OWN)
    inside, outside = np.zeros(IMAGE.shape, bool), np.zeros(IMAGE.shape, bool)
    x = IMAGE.to_world(np.argwhere(~inside)).reshape(*IMAGE.shape, 3)
    outside[x[..., 0] > 0] = True
    inside[x[..., 0] < -20] = True
    coarse, fine = (compact(transform, IMAGE, mask, IMAGE) for mask in (outside, inside))
    assert coarse.grid is not None
    assert fine.grid is not None
    assert coarse.grid.spacing[0] > 3 * fine.grid.spacing[0]
    np.testing.assert_allclose(fine.grid.spacing, OWN.spacing)


@pytest.mark.parametrize(("fixed", "moving"), CASES.values(), ids=CASES.keys())
def test_the_file_holds_the_very_map(tmp_path: Path, fixed: Grid, moving: Grid) -> None:
    found = compact(some_transform(), fixed, _everywhere(fixed), fixed)
    grid = saved_grid(found, fixed, full=False)
    write_field(tmp_path / "warp.nii.gz", found, grid)
    saved = load_transform(tmp_path / "warp.nii.gz")
    steps = found.displacement(grid) / STEP_MM
    np.testing.assert_allclose(steps, np.rint(steps), atol=0.05)
    corners = fixed.to_world(np.stack(np.meshgrid(*[(-0.5, n - 0.5) for n in fixed.shape], indexing="ij"), -1))
    index = grid.to_index(corners.reshape(-1, 3))
    assert (index > -0.01).all()  # within its outermost voxel centres
    assert (index < np.array(grid.shape) - 0.99).all()
    points = np.concatenate([corners.reshape(-1, 3), inner_points(fixed)])
    assert _apart(saved, found, points) < 2e-4


def test_an_affine_map_needs_eight_voxels(tmp_path: Path) -> None:
    affine = Transform(some_transform().affine)
    assert compact(affine, SLANTED, _everywhere(SLANTED), SLANTED) is affine
    grid = saved_grid(affine, SLANTED, full=False)
    assert grid.shape == (2, 2, 2)
    write_field(tmp_path / "warp.nii.gz", affine, grid)
    assert _apart(load_transform(tmp_path / "warp.nii.gz"), affine, inner_points(SLANTED)) <= ROUNDING_MM
    assert saved_grid(affine, SLANTED, full=True) == SLANTED


@pytest.mark.parametrize(("fixed", "moving"), CASES.values(), ids=CASES.keys())
def test_the_inverse_leads_back(fixed: Grid, moving: Grid) -> None:
    transform = some_transform()
    back = compact_inverse(transform, moving)
    assert back.grid is not None
    assert back.residual_mm is not None
    axes = back.grid.affine[:3, :3] / back.grid.spacing
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-9)
    voxels = back.grid.to_world(np.argwhere(_everywhere(back.grid)))
    source = back.map_points(voxels)
    inside = (np.abs(transform.grid.to_index(source) - 12) < 8).all(1)  # type: ignore[union-attr]
    miss = np.linalg.norm(transform.map_points(source) - voxels, axis=1)[inside]
    assert inside.sum() > 100
    assert miss.max() < 0.01
    # and at voxels it is what each point finds for itself
    np.testing.assert_allclose(source[inside], transform.apply_points(voxels[inside]), atol=0.02)


def test_the_inverse_loses_nothing_to_one_on_the_images_voxels() -> None:
    """Against `Transform.inverse`, brought to every voxel of a finer image: both leave a smooth map by as little."""
    x = OWN.to_world(np.argwhere(_everywhere(OWN))).reshape(*OWN.shape, 3)
    waves = 4.0 * np.sin(x[..., [1, 2, 0]] / 9.0) * np.cos(x[..., [2, 0, 1]] / 13.0)
    affine = np.array([[1.05, 0.1, 0, 2], [0, 0.95, -0.08, -1], [0.06, 0, 1.02, 1.5], [0, 0, 0, 1]])
    transform = Transform(affine, waves.astype(np.float32), OWN)
    every = transform.inverse()
    every = Transform(np.eye(4), every.displacement(IMAGE), IMAGE)
    points = inner_points(IMAGE, margin=20, count=4000)
    there = transform.map_points(points)
    ours, whole = (
        np.linalg.norm(back.map_points(there) - points, axis=1) for back in (compact_inverse(transform, IMAGE), every)
    )
    for share in (0.5, 0.9, 0.999):
        assert np.quantile(ours, share) <= np.quantile(whole, share) + MOST_ADDED_MM
    assert ours.mean() < whole.mean()


@pytest.mark.skipif(not native.is_available(), reason="the kernels are not built")
def test_the_inverse_asks_for_the_memory_of_its_field(monkeypatch: pytest.MonkeyPatch) -> None:
    """As float32 as it is found and once more with the affine map: 24 bytes a voxel."""
    asked: list[int] = []
    monkeypatch.setattr(module, "require_memory", lambda _, size: asked.append(size))
    back = compact_inverse(some_transform(), IMAGE)
    assert back.grid is not None
    assert 24 * np.prod(back.grid.shape) in asked


def test_the_inverse_covers_the_moving_image() -> None:
    slanted = oblique(31, (1.1, 0.9, 3.0), (60, 70, 22))
    back = compact_inverse(some_transform(), slanted)
    assert back.grid is not None
    corners = np.stack(np.meshgrid(*[(-0.5, n - 0.5) for n in slanted.shape], indexing="ij"), -1).reshape(-1, 3)
    index = back.grid.to_index(slanted.to_world(corners))
    np.testing.assert_allclose(index.min(0), 0, atol=1e-6)
    np.testing.assert_allclose(index.max(0), np.array(back.grid.shape) - 1, atol=1e-6)


def test_kernels_change_nothing() -> None:
    smooth = _wave(0.5, 96.0)
    found, back = compact(smooth, IMAGE, _everywhere(IMAGE), IMAGE), compact_inverse(smooth, IMAGE)
    with without_kernels():
        expected, expected_back = compact(smooth, IMAGE, _everywhere(IMAGE), IMAGE), compact_inverse(smooth, IMAGE)
    assert found.grid == expected.grid
    assert found.added_error_mm == pytest.approx(expected.added_error_mm, abs=1e-5)
    points = inner_points(IMAGE, count=500)
    assert _apart(found, expected, points) <= 2 * ROUNDING_MM  # where rounding falls to the other side
    assert _apart(back, expected_back, points) < 1e-3


def test_voxels_near_the_foreground_are_those_of_its_cells_and_their_neighbours() -> None:
    whole, rng = Grid.centred((9, 7, 8), 3.0, np.zeros(3)), np.random.default_rng(0)
    fine = oblique(11.0, (1.0, 1.1, 0.9), (30, 20, 24))
    for grid in (fine, Grid.centred((12, 6, 7), 4.0, np.array([5.0, 0, 0]))):
        foreground = rng.random(grid.shape) > 0.995
        expected = np.zeros(whole.shape, bool)
        steps = np.maximum((3.0 / grid.spacing).astype(int), 1)
        for index in np.argwhere(foreground):
            centre = index // steps * steps + (steps - 1) / 2
            base = np.floor(whole.to_index(grid.to_world(centre))).astype(int)
            corners = base + np.stack(np.meshgrid(*[(-1, 0, 1, 2)] * 3, indexing="ij"), -1).reshape(-1, 3)
            corners = corners.clip(0, np.array(whole.shape) - 1)
            expected[tuple(corners.T)] = True
        assert np.array_equal(module._near(foreground, grid, whole), expected)
