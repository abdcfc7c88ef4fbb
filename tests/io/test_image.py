"""Reading images: what is kept, what is refused, and where the voxels are said to lie."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from deformgan.errors import InputError
from deformgan.io.image import Image, load_grid, load_image, load_labels, load_mask
from deformgan.spatial.grid import Grid
from deformgan.transforms.transform import Transform

AFFINE = np.array([[-2.0, 0, 0, 90], [0, 1.5, 0, -126], [0, 0, 3, -72], [0, 0, 0, 1]])


def _data(dtype: str = "int16") -> np.ndarray:
    return (np.random.default_rng(1).random((6, 7, 8)) * 100).astype(dtype)


def _with_a_hole() -> np.ndarray:
    data = _data("float32")
    data[2, 3, 4] = np.nan
    return data


def _write(path: Path, data: np.ndarray, affine: np.ndarray | None = AFFINE) -> Path:
    nib.Nifti1Image(data, affine).to_filename(path)
    return path


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32", "float64"])
def test_values_dtype_and_grid(tmp_path: Path, dtype: str) -> None:
    image = load_image(_write(tmp_path / "a.nii.gz", _data(dtype)))
    assert image.data.dtype == ("float32" if dtype == "float64" else dtype)
    np.testing.assert_allclose(image.data, _data(dtype), rtol=1e-6)
    assert image.grid == Grid((6, 7, 8), AFFINE)
    assert image.name.endswith("a.nii.gz")


def test_scaling_is_applied(tmp_path: Path) -> None:
    raw = nib.Nifti1Image(_data(), AFFINE)
    raw.header.set_slope_inter(0.5, -3)
    raw.to_filename(tmp_path / "a.nii.gz")
    expected = nib.load(tmp_path / "a.nii.gz").get_fdata()
    image = load_image(tmp_path / "a.nii.gz")
    np.testing.assert_allclose(image.data, expected, atol=1e-4)
    assert image.data.dtype == np.float32


@pytest.mark.parametrize("slope", [0.0, np.nan])
def test_unset_scaling_is_none(tmp_path: Path, slope: float) -> None:
    path = _write(tmp_path / "a.nii", _data())
    content = bytearray(path.read_bytes())
    content[112:116] = np.float32(slope).tobytes()
    path.write_bytes(content)
    np.testing.assert_array_equal(load_image(path).data, _data())


def test_nibabel_images_and_images_are_taken_too(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.nii.gz", _data())
    from_nibabel = load_image(nib.load(path), name="mine")
    np.testing.assert_array_equal(from_nibabel.data, _data())
    assert from_nibabel.grid == Grid((6, 7, 8), AFFINE)
    assert from_nibabel.name == "mine"
    again = load_image(from_nibabel)
    np.testing.assert_array_equal(again.data, _data())
    with pytest.raises(InputError, match="not an image"):
        load_image(3)  # type: ignore[arg-type]


def test_nibabel_scaling_is_applied_once(tmp_path: Path) -> None:
    raw = nib.Nifti1Image(_data(), AFFINE)
    raw.header.set_slope_inter(0.5, -3)
    raw.to_filename(tmp_path / "a.nii.gz")
    loaded = nib.load(tmp_path / "a.nii.gz")
    np.testing.assert_allclose(load_image(loaded).data, loaded.get_fdata(), atol=1e-4)


def test_freesurfer_format(tmp_path: Path) -> None:
    nib.MGHImage(_data("float32"), AFFINE).to_filename(tmp_path / "a.mgz")
    image = load_image(tmp_path / "a.mgz")
    np.testing.assert_allclose(image.data, _data("float32"))
    np.testing.assert_allclose(image.grid.affine, AFFINE, atol=1e-4)


def test_damaged_freesurfer_file(tmp_path: Path) -> None:
    (tmp_path / "a.mgz").write_bytes(b"nonsense")
    with pytest.raises(InputError, match="cannot be read"):
        load_image(tmp_path / "a.mgz")


def test_one_volume_of_several(tmp_path: Path) -> None:
    data = np.random.default_rng(4).integers(0, 900, (5, 6, 7, 3)).astype(np.int16)
    image = nib.Nifti1Image(data, np.diag([2.0, 2.0, 3.0, 1.0]))
    image.header.set_slope_inter(0.5, -3)
    path = tmp_path / "a.nii.gz"
    image.to_filename(path)
    stored = nib.load(path).get_fdata()  # type: ignore[attr-defined]
    for k in range(3):
        taken = load_image(path, volume=k)
        assert np.allclose(taken.data, stored[..., k])
        assert np.array_equal(taken.grid.affine, image.affine)
    for source, volume in ((path, 3), (path, -1), (taken.save(tmp_path / "b.nii.gz") or tmp_path / "b.nii.gz", 0)):
        with pytest.raises(InputError, match=f"has no volume {volume}: its shape is"):
            load_image(source, volume=volume)


def test_trailing_axes_of_one_are_dropped(tmp_path: Path) -> None:
    assert load_image(_write(tmp_path / "a.nii.gz", _data()[..., None, None])).data.shape == (6, 7, 8)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (np.ones((6, 7)) * np.arange(7), "not 3-D"),
        (_data()[:, :, :1], "not 3-D"),
        (np.stack([_data()] * 2, -1), "4-D"),
        (np.stack([_data("float32")] * 3, -1)[:, :, :, None], "5-D"),
        (np.zeros((6, 7, 8), [("R", "u1"), ("G", "u1"), ("B", "u1")]), "colours"),
        (_data().astype(np.complex64), "complex"),
        (np.zeros((6, 7, 8), np.int16), "empty"),
        (np.full((6, 7, 8), 3.0), "constant"),
        (_with_a_hole(), "NaN inside its content"),
        (np.full((6, 7, 8), np.nan), "NaN alone"),
        (np.where(_data() > 50, 1e30, 1.0), "values up to 1e"),
        (np.where(_data() > 50, -np.inf, 1.0), "NaN or infinite"),
        (np.where(_data() > 50, 1e200, 1.0), "NaN or infinite"),
    ],
)
def test_what_cannot_be_registered_is_refused(tmp_path: Path, data: np.ndarray, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        load_image(_write(tmp_path / "a.nii.gz", data))
    assert "a.nii.gz" in str(caught.value)
    assert caught.value.hint


def _with_forms(path: Path, sform: np.ndarray | None, qform: np.ndarray | None) -> Path:
    raw = nib.Nifti1Image(_data(), None)
    raw.header.set_zooms((2, 1.5, 3))
    raw.set_sform(sform, code=0 if sform is None else 2)
    raw.set_qform(qform, code=0 if qform is None else 1)
    raw.to_filename(path)
    return path


def test_sform_before_qform_with_a_warning_where_they_differ(tmp_path: Path) -> None:
    other = AFFINE.copy()
    other[0, 3] += 5
    with pytest.warns(UserWarning, match=r"disagree by 5\.0 mm"):
        image = load_image(_with_forms(tmp_path / "a.nii", AFFINE, other))
    np.testing.assert_allclose(image.grid.affine, AFFINE)


def test_agreeing_forms_do_not_warn(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    image = load_image(_with_forms(tmp_path / "a.nii", AFFINE, AFFINE))
    np.testing.assert_allclose(image.grid.affine, AFFINE)
    assert not recwarn.list


def test_qform_where_there_is_no_sform(tmp_path: Path) -> None:
    image = load_image(_with_forms(tmp_path / "a.nii", None, AFFINE))
    np.testing.assert_allclose(image.grid.affine, AFFINE, atol=1e-5)


def test_damaged_qform_matters_only_without_an_sform(tmp_path: Path) -> None:
    for name, sform in (("a.nii", AFFINE), ("b.nii", None)):
        path = _with_forms(tmp_path / name, sform, AFFINE)
        content = bytearray(path.read_bytes())
        content[256:268] = np.full(3, 5, "<f4").tobytes()  # a quaternion far longer than 1
        path.write_bytes(content)
    np.testing.assert_allclose(load_image(tmp_path / "a.nii").grid.affine, AFFINE)
    with pytest.raises(InputError, match="qform is damaged"):
        load_image(tmp_path / "b.nii")


@pytest.mark.parametrize(("first", "says"), [(0.0, ""), (3.0, "its qform is damaged: qfac")])
def test_the_sign_of_a_qform(tmp_path: Path, first: float, says: str) -> None:
    """Before the voxel sizes stands 1 or −1; 0 is a common way to write 1; others mean nothing."""
    image = nib.Nifti1Image(_data(), None)
    image.set_qform(np.diag([2.0, 2.0, 3.0, 1.0]), code=1)
    path = tmp_path / "a.nii"
    image.to_filename(path)
    raw = bytearray(path.read_bytes())
    raw[76:80] = np.float32(first).tobytes()
    path.write_bytes(raw)
    if says:
        with pytest.raises(InputError, match=says):
            load_image(path)
    else:
        assert np.allclose(load_image(path).grid.affine, np.diag([2.0, 2.0, 3.0, 1.0]))


def test_no_form_at_all_warns_and_follows_nibabel(tmp_path: Path) -> None:
    path = _with_forms(tmp_path / "a.nii", None, None)
    with pytest.warns(UserWarning, match="no orientation"):
        image = load_image(path)
    np.testing.assert_allclose(image.grid.affine, nib.load(path).affine)


@pytest.mark.parametrize(
    "matrix", [np.diag([1.0, 0, 1, 1]), np.array([[1.0, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])]
)
def test_singular_affine(tmp_path: Path, matrix: np.ndarray) -> None:
    path = _with_forms(tmp_path / "a.nii", AFFINE, None)
    content = bytearray(path.read_bytes())
    content[280:328] = matrix[:3].astype("<f4").tobytes()
    path.write_bytes(content)
    with pytest.raises(InputError, match="singular"):
        load_image(path)


def test_affine_that_is_not_finite(tmp_path: Path) -> None:
    path = _with_forms(tmp_path / "a.nii", AFFINE, None)
    content = bytearray(path.read_bytes())
    content[280:284] = np.float32(np.nan).tobytes()
    path.write_bytes(content)
    with pytest.raises(InputError, match="not finite"):
        load_image(path)


def test_micrometre_voxels_are_fine(tmp_path: Path) -> None:
    small = np.diag([1e-3, 1e-3, 1e-3, 1])
    assert load_image(_write(tmp_path / "a.nii", _data(), small)).grid.spacing == pytest.approx(1e-3)


def test_labels(tmp_path: Path) -> None:
    labels = load_labels(_write(tmp_path / "l.nii.gz", _data("float32").round()))
    assert labels.data.dtype == np.int32
    np.testing.assert_array_equal(labels.data, _data("float32").round())
    assert load_labels(_write(tmp_path / "l.nii.gz", _data("uint8"))).data.dtype == np.uint8
    assert load_labels(_write(tmp_path / "l.nii.gz", np.zeros((6, 7, 8), np.uint8))).data.max() == 0


@pytest.mark.parametrize(("value", "says"), [(0.5, "fractions"), (np.nan, "NaN"), (1e12, "may have been rounded")])
def test_what_is_no_label_map(tmp_path: Path, value: float, says: str) -> None:
    data = np.zeros((6, 7, 8), np.float32)
    data[2, 3, 4] = value
    with pytest.raises(InputError, match=says):
        load_labels(_write(tmp_path / "l.nii.gz", data))


@pytest.mark.parametrize("dtype", ["float64", "int32", "uint32", "int64"])
def test_large_ids_are_exact(tmp_path: Path, dtype: str) -> None:
    """Ids as Allen's atlas has them: 32-bit floats round them to the nearest 64."""
    ids = 614454000 + 7 * np.arange(6 * 7 * 8).reshape(6, 7, 8)
    path = tmp_path / "l.nii.gz"
    nib.Nifti1Image(ids.astype(dtype), AFFINE, dtype=dtype).to_filename(path)
    labels = load_labels(path)
    np.testing.assert_array_equal(labels.data, ids)
    moved = Transform.identity().apply_labels(labels, labels.grid)
    moved.save(tmp_path / "moved.nii.gz")
    np.testing.assert_array_equal(np.asarray(nib.load(tmp_path / "moved.nii.gz").dataobj), ids)


@pytest.mark.parametrize(("slope", "intercept"), [(1, 1_000_003), (2, -7), (0.1, 0)])
def test_scaled_ids_are_exact(tmp_path: Path, slope: float, intercept: float) -> None:
    stored = (np.arange(6 * 7 * 8).reshape(6, 7, 8) * (10 if slope == 0.1 else 1)).astype(np.int16)
    path = _write(tmp_path / "l.nii", stored)
    content = bytearray(path.read_bytes())
    content[112:120] = np.array([slope, intercept], "<f4").tobytes()
    path.write_bytes(content)
    expected = np.rint(stored.astype(np.float64) * slope + intercept).astype(np.int64)
    np.testing.assert_array_equal(load_labels(path).data, expected)


@pytest.mark.parametrize(("dtype", "value"), [("float32", 2.0**25), ("float64", 2.0**53)])
def test_ids_that_may_have_been_rounded_are_refused(tmp_path: Path, dtype: str, value: float) -> None:
    data = np.zeros((6, 7, 8), dtype)
    data[2, 3, 4] = value
    with pytest.raises(InputError, match="may have been rounded"):
        load_labels(_write(tmp_path / "l.nii.gz", data))


def test_nan_outside_the_content_is_background(tmp_path: Path) -> None:
    data = _data("float32")
    data[:2] = np.nan
    with pytest.warns(UserWarning, match="NaN outside its content"):
        image = load_image(_write(tmp_path / "a.nii.gz", data))
    np.testing.assert_array_equal(image.data, np.nan_to_num(data))
    data[2:4] = -1024
    with pytest.warns(UserWarning, match="is read as -1024"):
        image = load_image(_write(tmp_path / "b.nii.gz", data))
    assert (image.data[:4] == -1024).all()


def test_masks_of_any_type(tmp_path: Path) -> None:
    data = _data("float32") / 100
    assert (load_mask(_write(tmp_path / "a.nii.gz", data)).data == (data >= 0.5)).all()
    for dtype in ("uint8", "int16", "float64"):
        whole = _data(dtype).round() - 20
        assert (load_mask(_write(tmp_path / "a.nii.gz", whole)).data == (whole != 0)).all()


def _patched(path: Path, **fields: float | tuple[int, float]) -> Path:
    """A file whose header says something else: a number, or the one at an index."""
    _with_forms(path, None, AFFINE)
    content = bytearray(path.read_bytes())
    header = nib.Nifti1Header(bytes(content[:348]), check=False)
    for name, value in fields.items():
        if isinstance(value, tuple):
            header[name][value[0]] = value[1]
        else:
            header[name] = value
    content[:348] = header.binaryblock
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(("unit", "factor"), [(1, 1e3), (3, 1e-3)])
def test_units_are_read_as_itk_reads_them(tmp_path: Path, unit: int, factor: float) -> None:
    sitk = pytest.importorskip("SimpleITK")
    path = _write(tmp_path / "a.nii", _data(), np.diag([1 / factor, 1 / factor, 1 / factor, 1]) @ AFFINE)
    content = bytearray(path.read_bytes())
    content[123] = unit
    path.write_bytes(content)
    with pytest.warns(UserWarning, match="its header counts in"):
        grid = load_grid(path)
    image = sitk.ReadImage(str(path))
    np.testing.assert_allclose(grid.spacing, image.GetSpacing(), rtol=1e-5)
    corner = np.array(image.TransformIndexToPhysicalPoint((5, 6, 7))) * (-1, -1, 1)
    np.testing.assert_allclose(grid.to_world(np.array([5, 6, 7])), corner, rtol=1e-5)


def test_a_quaternion_a_little_too_long(tmp_path: Path) -> None:
    long = 1 + 1e-5
    path = _patched(tmp_path / "a.nii", quatern_b=0.6 * long, quatern_c=0.8 * long, quatern_d=0.0)
    right = _patched(tmp_path / "b.nii", quatern_b=0.6, quatern_c=0.8, quatern_d=0.0)
    np.testing.assert_allclose(load_image(path).grid.affine, load_image(right).grid.affine, atol=0.02)


def test_voxel_sizes_below_zero_are_read_as_nibabel_reads_them(tmp_path: Path) -> None:
    path = _patched(tmp_path / "a.nii", pixdim=(2, -1.5))
    with pytest.warns(UserWarning, match="without their sign"):
        np.testing.assert_allclose(load_image(path).grid.affine, nib.load(path).affine, atol=1e-5)


def test_a_fourth_axis_of_length_zero_is_none(tmp_path: Path) -> None:
    path = _patched(tmp_path / "a.nii", dim=(0, 4))
    content = bytearray(path.read_bytes())
    content[48:50] = b"\0\0"
    path.write_bytes(content)
    np.testing.assert_array_equal(load_image(path).data, _data())


def test_a_sheared_image_warns_and_is_written_without_a_qform(tmp_path: Path) -> None:
    sheared = AFFINE.copy()
    sheared[0, 1] = 0.4
    path = _with_forms(tmp_path / "a.nii", sheared, None)
    with pytest.warns(UserWarning, match="is sheared, which ITK, ANTs and Slicer cannot hold"):
        image = load_image(path)
    image.save(tmp_path / "b.nii")
    header = nib.load(tmp_path / "b.nii").header
    assert (int(header["qform_code"]), int(header["sform_code"])) == (0, 1)
    np.testing.assert_allclose(header.get_sform(), sheared, rtol=1e-6)


def test_without_forms_the_warning_says_where_itk_is(tmp_path: Path) -> None:
    sitk = pytest.importorskip("SimpleITK")
    path = _with_forms(tmp_path / "a.nii", None, None)
    content = bytearray(path.read_bytes())
    content[76:80] = np.float32(1).tobytes()
    path.write_bytes(content)
    image = sitk.ReadImage(str(path))
    index = np.array(np.meshgrid((0, 5), (0, 6), (0, 7))).reshape(3, -1).T
    theirs = np.array([image.TransformIndexToPhysicalPoint(tuple(map(int, i))) for i in index]) * (-1, -1, 1)
    with pytest.warns(UserWarning, match="no orientation") as said:
        ours = load_image(path).grid.to_world(index)
    apart = np.linalg.norm(ours - theirs, axis=1).max()
    assert f"up to {apart:.0f} mm from there" in str(said[0].message)


def test_save_and_load(tmp_path: Path) -> None:
    image = Image(_data("float32"), Grid((6, 7, 8), AFFINE))
    image.save(tmp_path / "a.nii.gz")
    again = load_image(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(again.data, image.data)
    assert again.grid == image.grid


@pytest.mark.parametrize(("dtype", "becomes"), [("bool", "uint8"), ("float16", "float32"), (">i2", "int16")])
def test_images_made_in_memory_hold_what_can_be_saved(tmp_path: Path, dtype: str, becomes: str) -> None:
    data = _data().astype(dtype)
    image = Image(data, Grid((6, 7, 8), AFFINE))
    assert image.data.dtype == becomes
    image.save(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(nib.load(tmp_path / "a.nii.gz").get_fdata(), data.astype(np.float64))


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32"])
def test_big_endian_labels_keep_their_values(tmp_path: Path, dtype: str) -> None:
    labels = (_data() * 100 if dtype != "uint8" else _data()).astype(dtype)
    nib.MGHImage(labels, AFFINE).to_filename(tmp_path / "l.mgz")  # MGH is big-endian always
    big = nib.Nifti1Image(labels.astype(np.dtype(dtype).newbyteorder(">")), AFFINE)
    for source in (tmp_path / "l.mgz", nib.load(tmp_path / "l.mgz"), big):
        image = load_labels(source)
        assert image.data.dtype.isnative
        np.testing.assert_array_equal(image.data, labels)
        image.save(tmp_path / "out.nii.gz")
        np.testing.assert_array_equal(np.asanyarray(nib.load(tmp_path / "out.nii.gz").dataobj), labels)
        moved = Transform.identity().apply_labels(image, image.grid)
        np.testing.assert_array_equal(moved.data, labels)


def test_axes_without_any_orientation_point_as_the_docstring_says(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="no orientation"):
        grid = load_image(_with_forms(tmp_path / "a.nii", None, None)).grid
    np.testing.assert_allclose(grid.centre_mm, 0, atol=1e-6)
    assert grid.affine[0, 0] < 0


def test_shape_of_data_and_grid_must_agree() -> None:
    with pytest.raises(ValueError, match="on a grid of shape"):
        Image(_data(), Grid((6, 7, 9), AFFINE))
