"""Binary affines, rigid transforms and composites of ITK and ANTs, in both directions."""

from __future__ import annotations

import sys
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
import SimpleITK as sitk  # noqa: N813 (the name its own documentation uses)
from grids import CASES, PLAIN, SLANTED, THICK, inner_points, inner_voxels, some_image, some_transform
from nitransforms.io.itk import ITKCompositeH5, ITKLinearTransform

from deformgan.errors import InputError, UsageError
from deformgan.transforms.formats import itk_h5, itk_mat
from deformgan.transforms.transform import Transform, load_transform

TO_LPS = np.array([-1.0, -1.0, 1.0])
AFFINE = some_transform().affine
cases = pytest.mark.parametrize(("fixed", "moving"), CASES.values(), ids=CASES.keys())


def _judged(transform: sitk.Transform, points: np.ndarray) -> np.ndarray:
    return np.array([transform.TransformPoint(p) for p in (points * TO_LPS).tolist()]) * TO_LPS


# -- affines ------------------------------------------------------------------------------------------------------


def test_binary_affine_is_what_ants_simpleitk_scipy_and_nitransforms_read(tmp_path: Path) -> None:
    ants = pytest.importorskip("ants")
    path = tmp_path / "x0GenericAffine.mat"
    Transform(AFFINE).save(path)
    points = inner_points(PLAIN)
    expected = Transform(AFFINE).map_points(points)
    np.testing.assert_allclose(_judged(sitk.ReadTransform(str(path)), points), expected, atol=1e-9)
    by_ants = ants.read_transform(str(path))
    there = [by_ants.apply_to_point(p) for p in (points * TO_LPS).tolist()]
    np.testing.assert_allclose(np.array(there) * TO_LPS, expected, atol=1e-6)
    np.testing.assert_allclose(ITKLinearTransform.from_filename(path).to_ras(), AFFINE, atol=1e-6)
    assert set(scipy.io.loadmat(path)) >= {"AffineTransform_double_3_3", "fixed"}
    np.testing.assert_allclose(load_transform(path).affine, AFFINE, atol=1e-12)


@pytest.mark.parametrize("precision", ["double", "float"])
def test_we_read_the_binary_affine_of_ants(tmp_path: Path, precision: str) -> None:
    ants = pytest.importorskip("ants")
    theirs = ants.create_ants_transform(
        transform_type="AffineTransform",
        precision=precision,
        dimension=3,
        matrix=np.array([[1.1, 0.1, 0], [-0.1, 0.9, 0.05], [0, 0.1, 1]]),
        translation=(3, 4, 5),
        center=(10, -20, 5),
    )
    ants.write_transform(theirs, str(tmp_path / "t.mat"))
    points = inner_points(PLAIN)
    there = [theirs.apply_to_point(p) for p in (points * TO_LPS).tolist()]
    ours = load_transform(tmp_path / "t.mat").map_points(points)
    np.testing.assert_allclose(ours, np.array(there) * TO_LPS, atol=1e-4)


def _euler(zyx: bool) -> sitk.Transform:
    one = sitk.Euler3DTransform((10, -20, 5), 0.3, -0.2, 0.15, (3, 4, 5))
    one.SetComputeZYX(zyx)
    return one


OTHERS = {
    "Euler": _euler(False),
    "Euler ZYX": _euler(True),
    "versor": sitk.VersorRigid3DTransform((0.1, -0.3, 0.2, np.sqrt(1 - 0.14)), (3, 4, 5), (10, -20, 5)),
    "translation": sitk.TranslationTransform(3, (3, 4, 5)),
    "identity": sitk.Transform(3, sitk.sitkIdentity),
}


@pytest.mark.parametrize("ending", [".tfm", ".mat", ".h5"])
@pytest.mark.parametrize("theirs", OTHERS.values(), ids=OTHERS.keys())
def test_rigid_transforms_of_simpleitk(tmp_path: Path, theirs: sitk.Transform, ending: str) -> None:
    sitk.WriteTransform(theirs, str(tmp_path / f"t{ending}"))
    points = inner_points(PLAIN)
    ours = load_transform(tmp_path / f"t{ending}").map_points(points)
    np.testing.assert_allclose(ours, _judged(theirs, points), atol=1e-9)


# -- composites -----------------------------------------------------------------------------------------------------


@cases
def test_simpleitk_and_nitransforms_read_our_composite(tmp_path: Path, fixed: object, moving: object) -> None:
    transform = some_transform()
    transform.save(tmp_path / "c.h5", fixed)
    judge = sitk.ReadTransform(str(tmp_path / "c.h5"))
    voxels = inner_voxels(fixed)
    np.testing.assert_allclose(_judged(judge, voxels), transform.map_points(voxels), atol=1e-4)
    affine, field = ITKCompositeH5.from_filename(tmp_path / "c.h5")
    np.testing.assert_allclose(affine.to_ras(), transform.affine, atol=1e-5)
    np.testing.assert_allclose(field.affine, fixed.affine, atol=1e-5)
    loaded = load_transform(tmp_path / "c.h5")
    assert loaded.grid == fixed
    np.testing.assert_allclose(loaded.map_points(voxels), transform.map_points(voxels), atol=1e-4)


def test_ants_moves_an_image_by_our_composite(tmp_path: Path) -> None:
    ants = pytest.importorskip("ants")
    transform, image = some_transform(), some_image(THICK)
    transform.save(tmp_path / "c.h5", SLANTED)
    some_image(SLANTED).save(tmp_path / "onto.nii.gz")
    image.save(tmp_path / "image.nii.gz")
    onto, moving = (ants.image_read(str(tmp_path / f"{name}.nii.gz")) for name in ("onto", "image"))
    theirs = ants.apply_transforms(onto, moving, [str(tmp_path / "c.h5")]).numpy()
    ours = load_transform(tmp_path / "c.h5").apply(image, SLANTED).data
    assert (np.abs(ours - theirs) <= 0.01).mean() > 0.995
    assert (ours > 0).mean() > 0.3


@cases
def test_we_read_simpleitks_composite_in_its_order(tmp_path: Path, fixed: object, moving: object) -> None:
    """Affine, field, affine: the last is the first to be applied."""
    transform = some_transform()
    transform.save(tmp_path / "w.nii.gz", fixed)
    field = sitk.DisplacementFieldTransform(sitk.ReadImage(str(tmp_path / "w.nii.gz"), sitk.sitkVectorFloat64))
    shift, turn = sitk.AffineTransform(3), _euler(False)
    shift.SetTranslation((1, -2, 3))
    theirs = sitk.CompositeTransform([turn, field, shift])
    sitk.WriteTransform(theirs, str(tmp_path / "c.h5"))
    # positions that the shift brings onto voxels
    voxels = inner_voxels(fixed) - np.array([1, -2, 3]) * TO_LPS
    ours = load_transform(tmp_path / "c.h5").map_points(voxels)
    np.testing.assert_allclose(ours, _judged(theirs, voxels), atol=1e-3)


def test_an_affine_alone_is_no_composite(tmp_path: Path) -> None:
    Transform(AFFINE).save(tmp_path / "a.h5")
    theirs = sitk.ReadTransform(str(tmp_path / "a.h5"))
    assert theirs.GetName() == "AffineTransform"
    np.testing.assert_allclose(load_transform(tmp_path / "a.h5").affine, AFFINE, atol=1e-12)


def test_without_h5py(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(UsageError, match=r"need h5py — pip install 'deformgan\[itk\]'"):
        some_transform().save(tmp_path / "c.h5", PLAIN)
    (tmp_path / "c.h5").write_bytes(b"")
    with pytest.raises(UsageError, match="need h5py"):
        load_transform(tmp_path / "c.h5")


# -- damage ---------------------------------------------------------------------------------------------------------


def test_every_truncation_of_a_binary_affine_is_refused(tmp_path: Path) -> None:
    Transform(AFFINE).save(tmp_path / "x0GenericAffine.mat")
    data = (tmp_path / "x0GenericAffine.mat").read_bytes()
    for length in [*range(1, 20), *range(20, len(data), 9)]:
        (tmp_path / "t.mat").write_bytes(data[:length])
        with pytest.raises(InputError):
            itk_mat.read_mat(tmp_path / "t.mat")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (b"Affine", b"BSplin", "not a 3-D affine"),
        (b"fixed", b"other", "2 transforms"),
        (b"\x0c\0\0\0", b"\xff\xff\xff\x7f", "a matrix of"),
        (b"\x1b\0\0\0", b"\xff\xff\xff\x7f", "unknown block"),
    ],
)
def test_damaged_binary_affines(tmp_path: Path, old: bytes, new: bytes, says: str) -> None:
    Transform(AFFINE).save(tmp_path / "x0GenericAffine.mat")
    data = (tmp_path / "x0GenericAffine.mat").read_bytes()
    assert old in data
    (tmp_path / "t.mat").write_bytes(data.replace(old, new, 1))
    with pytest.raises(InputError, match=says):
        itk_mat.read_mat(tmp_path / "t.mat")


def _set(name: str, values: object) -> object:
    def damage(file: h5py.File) -> None:
        del file[name]
        file[name] = values

    return damage


def _claim_much(file: h5py.File) -> None:
    """A data set of a billion voxels that holds nothing."""
    fixed = file["TransformGroup/2/TransformFixedParameters"]
    fixed[:3] = 1000
    del file["TransformGroup/2/TransformParameters"]
    file["TransformGroup/2"].create_dataset("TransformParameters", (3 * 1000**3,), np.float32)


def _link_out(file: h5py.File) -> None:
    del file["TransformGroup/2"]
    file["TransformGroup/2"] = h5py.ExternalLink("other.h5", "/TransformGroup/2")


def _store_out(file: h5py.File) -> None:
    del file["TransformGroup/2/TransformParameters"]
    file["TransformGroup/2"].create_dataset("TransformParameters", (12,), np.float64, external=[("other.bin", 0, 96)])


def _chunk(content: bytes, filter_mask: int = 0) -> object:
    """Twelve numbers in one chunk, said to be deflated, that holds this."""

    def damage(file: h5py.File) -> None:
        del file[PARAMETERS]
        data = file.create_dataset(PARAMETERS, (12,), np.float64, chunks=(12,), compression="gzip")
        data.id.write_direct_chunk((0,), content, filter_mask)

    return damage


TYPE, PARAMETERS, FIXED = (f"TransformGroup/2/Transform{name}" for name in ("Type", "Parameters", "FixedParameters"))
DAMAGES = {
    "no group": (lambda file: file.__delitem__("TransformGroup"), "no ITK transforms"),
    "one missing": (lambda file: file.__delitem__("TransformGroup/1"), "missing"),
    "no type": (lambda file: file.__delitem__(TYPE), "without a type"),
    "B-spline": (_set(TYPE, ["BSplineTransform_double_3_3"]), "not a 3-D affine"),
    "composite within": (_set(TYPE, ["CompositeTransform_double_3_3"]), "within"),
    "no numbers": (lambda file: file.__delitem__(PARAMETERS), "0 numbers"),
    "too few numbers": (_set(PARAMETERS, np.zeros(30, np.float32)), "30 numbers"),
    "NaN": (lambda file: file[PARAMETERS].__setitem__(5, np.nan), "NaN"),
    "negative shape": (lambda file: file[FIXED].__setitem__(0, -3), "geometry"),
    "broken shape": (lambda file: file[FIXED].__setitem__(0, 3.5), "geometry"),
    "huge shape": (lambda file: file[FIXED].__setitem__(slice(0, 3), 1e9), "geometry"),
    "flat": (lambda file: file[FIXED].__setitem__(6, 0), "singular"),
    "claims much": (_claim_much, "claims more"),
    "a chunk that unpacks to more": (_chunk(zlib.compress(bytes(9600))), "more than it claims"),
    "a chunk that is not deflated": (_chunk(b"x" * 40), "is damaged"),
    "a chunk left unpacked, and too few": (_chunk(bytes(96), filter_mask=1), "12 numbers"),
    "external link": (_link_out, "links to another place"),
    "external storage": (_store_out, "another file"),
}


@pytest.mark.parametrize(("damage", "says"), DAMAGES.values(), ids=DAMAGES.keys())
def test_damaged_composites(tmp_path: Path, damage: object, says: str) -> None:
    some_transform().save(tmp_path / "c.h5")
    with h5py.File(tmp_path / "c.h5", "r+") as file:
        damage(file)
    with pytest.raises(InputError, match=says):
        itk_h5.read_h5(tmp_path / "c.h5")


def test_a_type_may_be_a_text_of_fixed_length(tmp_path: Path) -> None:
    """As other writers of HDF5 keep texts; ITK's are of variable length."""
    some_transform().save(tmp_path / "c.h5")
    points = inner_points(PLAIN)
    expected = load_transform(tmp_path / "c.h5").map_points(points)
    with h5py.File(tmp_path / "c.h5", "r+") as file:
        name = file[TYPE][0]
        del file[TYPE]
        file.create_dataset(TYPE, data=np.array([name], dtype="S64"))
    np.testing.assert_array_equal(load_transform(tmp_path / "c.h5").map_points(points), expected)


def test_truncated_or_other_hdf5(tmp_path: Path) -> None:
    some_transform().save(tmp_path / "c.h5")
    data = (tmp_path / "c.h5").read_bytes()
    for length in (0, 7, 100, 3000, len(data) // 2, len(data) - 1):
        (tmp_path / "t.h5").write_bytes(data[:length])
        with pytest.raises(InputError, match="not an ITK transform"):
            load_transform(tmp_path / "t.h5")
    with pytest.raises(InputError, match="does not exist"):
        load_transform(tmp_path / "none.h5")
