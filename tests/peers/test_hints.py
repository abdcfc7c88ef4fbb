"""What a refusal says to do is done here: the file that comes of it means what the other tool means by its own."""

from __future__ import annotations

import contextlib
import re
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from grids import PLAIN

from deformgan.errors import InputError
from deformgan.io.image import load_exact
from deformgan.transforms.transform import load_transform
from peers.maps import AFFINE, as_nibabel, moved, some_map, voxels
from peers.outcome import same_image, same_points

sitk = pytest.importorskip("SimpleITK")


def _do(error: pytest.ExceptionInfo[InputError], folder: Path) -> None:
    """Run the Python of a hint, in this process."""
    code = re.search(r'python -c "(.*)"$', error.value.hint)
    assert code, error.value.hint
    with contextlib.chdir(folder):
        exec(code[1], {})


@pytest.mark.parametrize("name", ["tiny.mnc", "small.mnc", "scaled+tlrc.HEAD", "scaled+tlrc.BRIK"])
def test_images_that_nibabel_reads(name: str, tmp_path: Path) -> None:
    carried = Path(nib.__file__).parent / "tests" / "data"
    for one in carried.glob(f"{name.split('.')[0]}.*"):
        shutil.copy(one, tmp_path)
    with pytest.raises(InputError) as error:
        load_exact(tmp_path / name)
    _do(error, tmp_path)
    theirs = nib.load(tmp_path / name)
    same_image(load_exact(tmp_path / "image.nii.gz"), np.squeeze(theirs.get_fdata()), theirs.affine)


@pytest.mark.parametrize("ending", [".gipl", ".vtk", ".mrc"])
def test_images_that_simpleitk_reads(ending: str, tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(np.random.default_rng(0).integers(0, 900, (5, 6, 7)).astype(np.int16))
    image.SetSpacing((1, 2, 3))
    sitk.WriteImage(image, str(tmp_path / f"a{ending}"))
    with pytest.raises(InputError) as error:
        load_exact(tmp_path / f"a{ending}")
    _do(error, tmp_path)
    found = load_exact(tmp_path / "image.nii.gz")
    same_image(found, sitk.GetArrayFromImage(image).T, np.diag([-1.0, -2, 3, 1]))


def _field() -> object:
    some_map().save("w.nii.gz", PLAIN)
    return sitk.ReadImage("w.nii.gz", sitk.sitkVectorFloat64)


def _agree(folder: Path, name: str, theirs: object) -> None:
    points = voxels(PLAIN)
    expected = np.array([theirs.TransformPoint(p) for p in (points * (-1, -1, 1)).tolist()]) * (-1, -1, 1)
    same_points(load_transform(folder / name).map_points(points), expected)


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
def test_fields_of_slicer_and_elastix(ending: str, tmp_path: Path) -> None:
    with contextlib.chdir(tmp_path):
        field = _field()
        sitk.WriteImage(field, f"a{ending}")
    with pytest.raises(InputError) as error:
        load_transform(tmp_path / f"a{ending}")
    _do(error, tmp_path)
    _agree(tmp_path, "warp.nii.gz", sitk.DisplacementFieldTransform(field))


@pytest.mark.parametrize("kind", ["spline", "field", "composite"])
def test_what_becomes_a_field(kind: str, tmp_path: Path) -> None:
    as_nibabel(PLAIN).to_filename(tmp_path / "FIXED.nii.gz")
    fixed = sitk.ReadImage(str(tmp_path / "FIXED.nii.gz"))
    spline = sitk.BSplineTransformInitializer(fixed, [3, 3, 3])
    spline.SetParameters(np.random.default_rng(1).normal(0, 4, spline.GetNumberOfParameters()).tolist())
    with contextlib.chdir(tmp_path):
        field = sitk.DisplacementFieldTransform(_field())
    made = {"spline": spline, "field": field, "composite": sitk.CompositeTransform([spline, field])}[kind]
    sitk.WriteTransform(made, str(tmp_path / "t.tfm"))
    with pytest.raises(InputError) as error:
        load_transform(tmp_path / "t.tfm")
    _do(error, tmp_path)
    _agree(tmp_path, "warp.nii.gz", made)


def test_matrices_of_minc_and_afni(tmp_path: Path) -> None:
    linear = pytest.importorskip("nitransforms.linear")
    shift = sitk.TranslationTransform(3, (1, -2, 3))
    both = sitk.AffineTransform(3)
    both.SetMatrix([1.1, 0.1, 0, -0.1, 0.9, 0.05, 0, 0.1, 1])
    both.SetTranslation(shift.GetOffset())
    sitk.WriteTransform(both, str(tmp_path / "a.xfm"))
    with pytest.raises(InputError) as error:
        load_transform(tmp_path / "a.xfm")
    _do(error, tmp_path)
    _agree(tmp_path, "affine.tfm", both)

    for name in ("FIXED.nii.gz", "MOVING.nii.gz"):
        as_nibabel(PLAIN).to_filename(tmp_path / name)
    with contextlib.chdir(tmp_path):
        linear.Affine(AFFINE, reference="FIXED.nii.gz").to_filename("a.afni", fmt="afni", moving="MOVING.nii.gz")
    with pytest.raises(InputError) as error:
        load_transform(tmp_path / "a.afni")
    _do(error, tmp_path)
    same_points(load_transform(tmp_path / "affine.tfm").map_points(voxels(PLAIN)), moved(AFFINE, voxels(PLAIN)))
