"""What holds for every map, grid and file format, on many of each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deformgan.io.atomic import write_nifti
from deformgan.io.image import Image, load_image
from deformgan.io.points import Points, read_points
from deformgan.spatial.grid import Grid
from deformgan.transforms.transform import Transform, load_transform

SHAPE, OTHER = (5, 6, 4), (4, 3, 5)
seeds = st.integers(0, 2**32 - 1)
# name → the format where the ending leaves a choice, and by how many millimetres a written map may differ
AFFINES = {
    "a.txt": (None, 1e-9),
    "a.tfm": (None, 1e-9),
    "a0GenericAffine.mat": (None, 1e-9),
    "a.h5": (None, 1e-9),
    "a.lta": (None, 1e-6),
    "a.mat": ("fsl", 1e-6),
}
FIELDS = {
    "w.nii.gz": (None, 1e-3),
    "w.h5": (None, 1e-3),
    "w.mgz": (None, 1e-3),
    "r.nii": ("fsl-relative", 1e-3),
    "a.nii": ("fsl-absolute", 1e-3),
}


def grid(rng: np.random.Generator, shape: tuple[int, int, int]) -> Grid:
    """Any orientation (also flipped), spacing and place that scanners give."""
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    affine = np.eye(4)
    affine[:3, :3] = turn * rng.uniform(0.4, 6, 3)
    affine[:3, 3] = rng.uniform(-150, 150, 3)
    return Grid(shape, affine)


def affine(rng: np.random.Generator) -> np.ndarray:
    """Any rotation and shift, moderate scales and shears."""
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    turn *= np.sign(np.linalg.det(turn))
    matrix = np.eye(4)
    matrix[:3, :3] = turn @ (np.diag(rng.uniform(0.7, 1.4, 3)) + rng.uniform(-0.1, 0.1, (3, 3)))
    matrix[:3, 3] = rng.uniform(-100, 100, 3)
    return matrix


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("formats")


@pytest.mark.parametrize("name", AFFINES)
@given(seed=seeds)
@settings(max_examples=20)
def test_an_affine_map_comes_back(folder: Path, name: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    fixed, moving, matrix = grid(rng, SHAPE), grid(rng, OTHER), affine(rng)
    file_format, atol = AFFINES[name]
    Transform(matrix).save(folder / name, onto=fixed, moving=moving, file_format=file_format)
    found = load_transform(folder / name, fixed=fixed, moving=moving)
    np.testing.assert_allclose(found.affine, matrix, atol=atol)
    assert found.disp_mm is None


@pytest.mark.parametrize("name", FIELDS)
@given(seed=seeds)
@settings(max_examples=8)
def test_a_field_comes_back(folder: Path, name: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    fixed, moving = grid(rng, SHAPE), grid(rng, OTHER)
    field = np.asfortranarray(rng.normal(0, 3, (*SHAPE, 3)).astype(np.float32))
    matrix = np.eye(4)
    matrix[:3] += rng.normal(0, 0.02, (3, 4))
    transform = Transform(matrix, field, fixed)
    file_format, atol = FIELDS[name]
    transform.save(folder / name, onto=fixed, moving=moving, file_format=file_format)
    found = load_transform(folder / name, fixed=fixed, moving=moving, file_format=file_format)
    np.testing.assert_allclose(found.displacement(fixed), transform.displacement(fixed), atol=atol)


@given(seeds)
def test_the_inverse_of_two_is_their_inverses_turned_round(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = Transform(affine(rng)), Transform(affine(rng))
    np.testing.assert_allclose((a @ b).inverse().affine, (b.inverse() @ a.inverse()).affine, atol=1e-8)


@given(seeds)
def test_composition_does_not_mind_brackets(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b, c = (Transform(affine(rng)) for _ in range(3))
    np.testing.assert_allclose(((a @ b) @ c).affine, (a @ (b @ c)).affine, atol=1e-8)


@given(seed=seeds, dtype=st.sampled_from(["uint8", "int16", "float32"]), ending=st.sampled_from([".nii", ".nii.gz"]))
@settings(max_examples=30)
def test_an_image_and_its_place_come_back(folder: Path, seed: int, dtype: str, ending: str) -> None:
    rng = np.random.default_rng(seed)
    image = Image(np.asfortranarray(rng.integers(0, 200, SHAPE).astype(dtype)), grid(rng, SHAPE))
    write_nifti(folder / f"i{ending}", image.data, image.grid.affine)
    found = load_image(folder / f"i{ending}")
    assert found.data.dtype == image.data.dtype
    np.testing.assert_array_equal(found.data, image.data)
    # NIfTI keeps its sform in 32 bits
    corners = np.array([[0, 0, 0], [4, 5, 3]])
    np.testing.assert_allclose(found.grid.to_world(corners), image.grid.to_world(corners), atol=1e-4)
    np.testing.assert_allclose(found.grid.to_index(image.grid.to_world(corners)), corners, atol=1e-3)


cells = st.text(st.characters(codec="utf-8", exclude_characters="\r\0", exclude_categories=("Cs", "Cc")), max_size=8)
positions = st.floats(-1e6, 1e6)


@given(st.lists(st.tuples(positions, positions, positions, cells), min_size=1, max_size=5))
@settings(max_examples=40)
def test_points_come_back_with_what_is_said_of_them(folder: Path, table: list[tuple[float, float, float, str]]) -> None:
    where = np.array([row[:3] for row in table])
    rows = tuple(("0", "0", "0", row[3].strip()) for row in table)
    Points(where, ("x", "y", "z", "name"), rows).save(folder / "p.csv")
    found = read_points(folder / "p.csv")
    np.testing.assert_allclose(found.positions_mm, where, atol=1e-6)
    assert [row[3] for row in found.rows] == [row[3] for row in rows]
