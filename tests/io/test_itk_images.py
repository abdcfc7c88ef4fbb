"""NRRD, MetaImage and DICOM series, and the images of other tools in memory: to the last bit, with exact geometry."""

from __future__ import annotations

import builtins
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from deformgan.commands.main import main
from deformgan.errors import InputError, UsageError
from deformgan.io.image import load_grid, load_image, load_labels
from deformgan.transforms.formats.itk import write_affine

sitk = pytest.importorskip("SimpleITK")


def _image(dtype: str = "int16") -> object:
    """Slanted, anisotropic, off the origin."""
    data = np.random.default_rng(0).integers(-300 if dtype[0] != "u" else 0, 900, (7, 6, 5)).astype(dtype)
    image = sitk.GetImageFromArray(data)
    image.SetSpacing((0.9, 1.25, 3.5))
    image.SetOrigin((-40.5, 22.25, 7.0))
    image.SetDirection(sitk.Euler3DTransform((0, 0, 0), 0.2, -0.3, 0.4).GetMatrix())
    return image


def _judge(image: object, found: object) -> None:
    np.testing.assert_array_equal(found.data, sitk.GetArrayFromImage(image).T)
    for index in ((0, 0, 0), (4, 0, 0), (0, 5, 0), (4, 5, 6)):
        theirs = np.array(image.TransformIndexToPhysicalPoint(index)) * (-1, -1, 1)
        np.testing.assert_allclose(found.grid.to_world(np.array(index)), theirs, atol=1e-9)


@pytest.mark.parametrize("ending", [".nrrd", ".nhdr", ".mha", ".mhd"])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32"])
def test_files_of_itk(tmp_path: Path, ending: str, dtype: str) -> None:
    image = _image(dtype if dtype != "uint8" else "uint8")
    path = tmp_path / f"a{ending}"
    sitk.WriteImage(image, str(path))
    again = sitk.ReadImage(str(path))
    _judge(again, load_image(path))
    assert load_grid(path) == load_image(path).grid


def test_images_in_memory(tmp_path: Path) -> None:
    image = _image("float32")
    _judge(image, load_image(image))
    ants = pytest.importorskip("ants")
    sitk.WriteImage(image, str(tmp_path / "a.nrrd"))
    _judge(image, load_image(ants.image_read(str(tmp_path / "a.nrrd"))))
    ours = load_image(image)
    pair = load_image((ours.data, ours.grid.affine))
    assert pair.grid == ours.grid
    np.testing.assert_array_equal(pair.data, ours.data)
    assert load_labels(_image("int16")).data.dtype == np.int16


def _write_series(
    folder: Path, places: list[tuple[float, float, float]] | None = None, kind: str = "ORIGINAL"
) -> object:
    """The slices of `_image` as one DICOM series, where they are or at ``places`` (LPS mm)."""
    image = _image("int16")
    folder.mkdir()
    direction = np.reshape(image.GetDirection(), (3, 3))
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for k in range(image.GetDepth()):
        one = image[:, :, k]
        place = places[k] if places else image.TransformIndexToPhysicalPoint((0, 0, k))
        tags = {
            "0008|0060": "MR",
            "0008|0008": kind,
            "0020|000e": "1.2.826.0.1.3680043.2.1125.1",
            "0020|000d": "1.2.826.0.1.3680043.2.1125.2",
            "0020|0032": "\\".join(f"{v:.10g}" for v in place),
            "0020|0037": "\\".join(f"{v:.12g}" for v in direction[:, :2].T.ravel()),
            "0008|0018": f"1.2.826.0.1.3680043.2.1125.3.{k + 1}",
            "0020|0013": str(k + 1),
            "0018|0050": "3.5",
        }
        for tag, value in tags.items():
            one.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{k:03}.dcm"))
        writer.Execute(one)
    return image


def test_a_dicom_series(tmp_path: Path) -> None:
    image = _write_series(tmp_path / "series")
    found = load_image(tmp_path / "series")
    np.testing.assert_array_equal(found.data, sitk.GetArrayFromImage(image).T)
    ours = load_image(image).grid
    corners = np.array([[0, 0, 0], [4, 5, 6]])
    np.testing.assert_allclose(found.grid.to_world(corners), ours.to_world(corners), atol=1e-3)
    assert load_grid(tmp_path / "series") == found.grid


def _places(moved: dict[int, float], aslant: float = 0.0) -> list[tuple[float, float, float]]:
    """Of the slices of `_image`: some of them moved along the stack, in slices, or all aslant, mm a slice."""
    image = _image("int16")
    down = np.reshape(image.GetDirection(), (3, 3))[:, 1]
    return [
        tuple(np.array(image.TransformContinuousIndexToPhysicalPoint((0, 0, k + moved.get(k, 0)))) + k * aslant * down)
        for k in range(7)
    ]


@pytest.mark.parametrize(
    ("places", "kind", "says"),
    [
        (_places({4: -1.0}), "ORIGINAL", "several slices in one place.*dcm2niix"),
        (_places({5: 1.0, 6: 1.0}), "ORIGINAL", "uneven distances, from 3.5 to 7 mm.*a slice is missing"),
        (_places({}, aslant=0.8), "ORIGINAL", "tilted gantry.*dcm2niix"),
        (None, "ORIGINAL\\PRIMARY\\MOSAIC", "mosaics.*dcm2niix"),
    ],
    ids=["two moments", "a slice is missing", "gantry", "mosaic"],
)
def test_slices_that_make_no_volume(tmp_path: Path, places: list | None, kind: str, says: str) -> None:
    """SimpleITK stacks them all the same, at even distances."""
    _write_series(tmp_path / "series", places, kind)
    for read in (load_image, load_grid):
        with pytest.raises(InputError, match=says):
            read(tmp_path / "series")


def test_two_series_in_a_folder(tmp_path: Path) -> None:
    _write_series(tmp_path / "series")
    other = tmp_path / "series" / "other.dcm"
    one = sitk.ReadImage(str(tmp_path / "series" / "000.dcm"))
    one.SetMetaData("0020|000e", "1.2.826.0.1.3680043.2.1125.9")
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    writer.SetFileName(str(other))
    writer.Execute(one)
    with pytest.raises(InputError, match=r"2 DICOM series.*one series"):
        load_image(tmp_path / "series")


def test_apply_takes_them(tmp_path: Path) -> None:
    sitk.WriteImage(_image("float32"), str(tmp_path / "a.nrrd"))
    write_affine(tmp_path / "t.txt", np.eye(4))
    words = ["-t", str(tmp_path / "t.txt"), "-r", str(tmp_path / "a.nrrd"), str(tmp_path / "a.nrrd")]
    assert main(["apply", *words, str(tmp_path / "b.nii.gz"), "--threads", "1"]) == 0
    moved = nib.load(tmp_path / "b.nii.gz")
    np.testing.assert_allclose(moved.get_fdata(), load_image(tmp_path / "a.nrrd").data, atol=0.01)


def test_what_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.nrrd").write_text("NRRD0004\nnonsense")
    (tmp_path / "b.mha").write_bytes(b"")
    sitk.WriteImage(_image(), str(tmp_path / "c.mha"))
    (tmp_path / "c.mha").write_bytes((tmp_path / "c.mha").read_bytes()[:-9])
    for name in ("a.nrrd", "b.mha", "c.mha", "none.mha"):
        with pytest.raises(InputError, match=name):
            load_image(tmp_path / name)


def test_without_simpleitk_the_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = builtins.__import__

    def missing(name: str, *rest: object, **more: object) -> object:
        if name == "SimpleITK":
            raise ImportError(name)
        return own(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(UsageError, match="needs SimpleITK") as caught:
        load_image(tmp_path / "a.nrrd")
    assert "pip install 'deformgan[itk]'" in caught.value.hint
