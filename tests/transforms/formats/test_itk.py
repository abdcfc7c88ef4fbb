"""ITK files: LPS outside, RAS+ inside, and nothing taken on trust. SimpleITK is the judge."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 (the name its own documentation uses)

from deformgan.errors import InputError
from deformgan.spatial.grid import Grid
from deformgan.transforms.formats import itk

GRID = Grid((5, 6, 7), np.array([[0, -2.0, 0, 5], [1.5, 0, 0, -7], [0, 0, 3, 11], [0, 0, 0, 1]]))
AFFINE = np.array([[0.9, -0.2, 0.1, 3], [0.15, 1.1, 0, -4], [0, 0.05, 0.95, 5], [0, 0, 0, 1]])
TO_LPS = np.array([-1.0, -1.0, 1.0])
POINTS = np.array([[0.0, 0.0, 0.0], [3.0, -5.0, 7.0], [-10.0, 2.0, 4.5]])


def _moved(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def test_displacement_there_and_back(tmp_path: Path, rng: np.random.Generator) -> None:
    disp = rng.normal(size=(*GRID.shape, 3)).astype(np.float32)
    itk.write_displacement(tmp_path / "w.nii.gz", disp, GRID)
    read, grid = itk.read_displacement(tmp_path / "w.nii.gz")
    np.testing.assert_array_equal(read, disp)
    assert grid == GRID
    raw = nib.load(tmp_path / "w.nii.gz")
    assert raw.shape == (5, 6, 7, 1, 3)
    assert raw.header.get_intent()[0] == "vector"


def test_simpleitk_reads_our_displacement(tmp_path: Path, rng: np.random.Generator) -> None:
    disp = rng.normal(size=(*GRID.shape, 3)).astype(np.float32)
    itk.write_displacement(tmp_path / "w.nii.gz", disp, GRID)
    image = sitk.ReadImage(str(tmp_path / "w.nii.gz"))
    assert image.GetSize() == GRID.shape
    assert image.GetNumberOfComponentsPerPixel() == 3
    for index in ((0, 0, 0), (4, 1, 3), (2, 5, 6)):
        np.testing.assert_allclose(image[index], disp[index] * TO_LPS, atol=1e-6)
        np.testing.assert_allclose(
            np.array(image.TransformIndexToPhysicalPoint(index)) * TO_LPS, GRID.to_world(np.array(index)), atol=1e-4
        )


def test_we_read_what_simpleitk_writes(tmp_path: Path, rng: np.random.Generator) -> None:
    disp = rng.normal(size=(*GRID.shape, 3)).astype(np.float32)
    itk.write_displacement(tmp_path / "w.nii.gz", disp, GRID)
    sitk.WriteImage(sitk.ReadImage(str(tmp_path / "w.nii.gz")), str(tmp_path / "v.nii.gz"))
    read, grid = itk.read_displacement(tmp_path / "v.nii.gz")
    np.testing.assert_allclose(read, disp, atol=1e-6)
    np.testing.assert_allclose(grid.affine, GRID.affine, atol=1e-5)


def test_affine_there_and_back(tmp_path: Path) -> None:
    itk.write_affine(tmp_path / "a.txt", AFFINE)
    np.testing.assert_allclose(itk.read_affine(tmp_path / "a.txt"), AFFINE, atol=1e-12)


def test_simpleitk_maps_points_as_our_affine(tmp_path: Path) -> None:
    itk.write_affine(tmp_path / "a.txt", AFFINE)
    judge = sitk.ReadTransform(str(tmp_path / "a.txt"))
    there = [np.array(judge.TransformPoint(p)) * TO_LPS for p in (POINTS * TO_LPS).tolist()]
    np.testing.assert_allclose(there, _moved(AFFINE, POINTS), atol=1e-9)


@pytest.mark.parametrize("centre", [(0.0, 0.0, 0.0), (10.0, -20.0, 5.0)])
def test_we_read_simpleitks_affine_with_its_centre(tmp_path: Path, centre: tuple[float, float, float]) -> None:
    judge = sitk.AffineTransform(3)
    judge.SetCenter(centre)
    judge.SetMatrix([1.1, 0.1, 0, -0.1, 0.9, 0.05, 0, 0.1, 1])
    judge.SetTranslation((3, 4, 5))
    sitk.WriteTransform(judge, str(tmp_path / "a.tfm"))
    expected = [np.array(judge.TransformPoint(p)) * TO_LPS for p in (POINTS * TO_LPS).tolist()]
    np.testing.assert_allclose(_moved(itk.read_affine(tmp_path / "a.tfm"), POINTS), expected, atol=1e-9)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (np.zeros((5, 6, 7), np.float32), "not a displacement field"),
        (np.zeros((5, 6, 7, 3), np.float32), "not a displacement field"),
        (np.zeros((5, 6, 7, 1, 2), np.float32), "not a displacement field"),
        (np.zeros((5, 6, 7, 1, 3), np.int16), "not a displacement field"),
        (np.full((5, 6, 7, 1, 3), np.nan, np.float32), "NaN"),
    ],
)
def test_what_is_no_displacement(tmp_path: Path, data: np.ndarray, says: str) -> None:
    nib.Nifti1Image(data, GRID.affine).to_filename(tmp_path / "w.nii.gz")
    with pytest.raises(InputError, match=says):
        itk.read_displacement(tmp_path / "w.nii.gz")


HEAD = "#Insight Transform File V1.0\n#Transform 0\n"
GOOD = "Transform: AffineTransform_double_3_3\nParameters: 1 0 0 0 1 0 0 0 1 0 0 0\nFixedParameters: 0 0 0\n"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("hello", "not an ITK text transform"),
        ("", "not an ITK text transform"),
        (HEAD, "no transform"),
        (HEAD + GOOD + "#Transform 1\n" + GOOD, "2 transforms"),
        (HEAD + GOOD.replace("AffineTransform", "BSplineTransform"), "not a 3-D affine"),
        (HEAD + GOOD.replace("3_3", "2_2"), "not a 3-D affine"),
        (HEAD + GOOD.replace("1 0 0 0 1", "1 0 0 0 x"), "damaged"),
        (HEAD + GOOD.replace("1 0 0 0 1", "1 0 0"), "damaged"),
        (HEAD + GOOD.replace("1 0 0 0 1", "nan 0 0 0 1"), "damaged"),
        (HEAD + GOOD.replace("FixedParameters", "Fixed"), "damaged"),
        (HEAD + GOOD.replace("1 0 0 0 1 0 0 0 1", "1 0 0 0 0 0 0 0 1"), "singular"),
    ],
)
def test_what_is_no_affine(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "a.txt").write_text(content)
    with pytest.raises(InputError, match=says):
        itk.read_affine(tmp_path / "a.txt")


def test_missing_or_binary_affine(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        itk.read_affine(tmp_path / "none.txt")
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00\x01" * 9)
    with pytest.raises(InputError, match="not an ITK text transform"):
        itk.read_affine(tmp_path / "a.txt")
