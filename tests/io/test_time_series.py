"""4-D series and what else ``deformgan apply`` meets: vectors, colours, formats that need geometry, untrusted files."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from grids import PLAIN, SLANTED, THICK, some_image, some_transform

from deformgan.commands.main import main
from deformgan.errors import InputError
from deformgan.io.image import Image, load_grid
from deformgan.io.time_series import load_series
from deformgan.spatial.grid import Grid
from deformgan.transforms.transform import Transform


def _series(path: Path, grid: Grid = THICK, dtype: type = np.float32) -> nib.Nifti1Image:
    first = some_image(grid).data
    image = nib.Nifti1Image(np.stack([first, 0 * first, first[::-1] / 2], -1).astype(dtype), grid.affine)
    image.header["pixdim"][4] = 2.25
    image.header["toffset"] = 1.5
    image.header["descrip"] = b"rest"
    image.header["cal_max"] = 77
    image.header["slice_duration"] = 0.1
    image.header.set_xyzt_units("mm", "sec")
    image.to_filename(path)
    return image


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A reference, an image and a series on another grid, and a transform between them."""
    some_image(PLAIN).save(tmp_path / "fixed.nii.gz")
    some_image(THICK).save(tmp_path / "moving.nii.gz")
    _series(tmp_path / "series.nii.gz")
    some_transform().save(tmp_path / "warp.nii.gz", PLAIN)
    return tmp_path


def apply(folder: Path, *words: str) -> int:
    full = [str(folder / word) if "." in word else word for word in words]
    return main(["apply", "--threads", "1", *full])


def test_every_volume_of_a_series_is_moved(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert apply(files, "-t", "warp.nii.gz", "-r", "fixed.nii.gz", "series.nii.gz", "out.nii.gz") == 0
    moved = nib.load(files / "out.nii.gz")
    assert moved.shape == (*PLAIN.shape, 3)
    np.testing.assert_allclose(moved.affine, PLAIN.affine, atol=1e-5)
    volumes = nib.load(files / "series.nii.gz").get_fdata(dtype=np.float32)
    for number in range(3):
        expected = some_transform().apply(Image(volumes[..., number], THICK), PLAIN).data
        np.testing.assert_allclose(moved.get_fdata()[..., number], expected, atol=0.05)
    header = moved.header
    assert header.get_zooms()[3] == 2.25
    assert header.get_xyzt_units() == ("mm", "sec")
    assert (header["toffset"], header["cal_max"], header["slice_duration"]) == (1.5, 77, 0)
    assert header["descrip"].item() == b"rest"
    assert "taken for an image" in capsys.readouterr().err


def test_a_series_of_labels_and_a_scaled_one(files: Path) -> None:
    labels = np.zeros((*THICK.shape, 2), np.uint8)
    labels[10:30, 10:28, 3:11] = 7
    nib.Nifti1Image(labels, THICK.affine).to_filename(files / "labels.nii.gz")
    image = nib.Nifti1Image((some_image(THICK).data[..., None] * [1, 2]).astype(np.int16), THICK.affine)
    image.header.set_slope_inter(0.5, 10)
    image.to_filename(files / "scaled.nii.gz")
    pairs = ("labels.nii.gz", "out.nii.gz", "scaled.nii.gz", "out2.nii.gz")
    assert apply(files, "-t", "warp.nii.gz", "-r", "fixed.nii.gz", *pairs) == 0
    moved = nib.load(files / "out.nii.gz")
    assert moved.get_data_dtype() == np.uint8
    expected = some_transform().apply_labels(Image(labels[..., 0], THICK), PLAIN).data
    assert (np.asarray(moved.dataobj)[..., 1] == expected).mean() > 0.999  # warp.nii.gz is float32
    values = nib.load(files / "scaled.nii.gz").get_fdata(dtype=np.float32)[..., 1]
    scaled = nib.load(files / "out2.nii.gz").get_fdata()[..., 1]
    np.testing.assert_allclose(scaled, some_transform().apply(Image(values, THICK), PLAIN).data, atol=0.05)


def test_the_reference_may_be_a_series(files: Path) -> None:
    _series(files / "reference.nii.gz", PLAIN)
    assert apply(files, "-t", "warp.nii.gz", "-r", "reference.nii.gz", "moving.nii.gz", "out.nii.gz") == 0
    assert nib.load(files / "out.nii.gz").shape == PLAIN.shape
    assert load_grid(files / "reference.nii.gz") == PLAIN
    nib.save(nib.MGHImage(np.zeros(SLANTED.shape, np.uint8), SLANTED.affine), files / "g.mgz")
    np.testing.assert_allclose(load_grid(files / "g.mgz").affine, SLANTED.affine, atol=1e-4)


def _vectors(path: Path) -> None:
    some_transform().save(path, THICK)


def _tensors(path: Path) -> None:
    image = nib.Nifti1Image(np.ones((8, 8, 8, 6), np.float32), THICK.affine)
    image.header["intent_code"] = 1005
    image.to_filename(path)


def _colours(path: Path) -> None:
    data = np.zeros(THICK.shape, np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
    nib.Nifti1Image(data, THICK.affine).to_filename(path)


def _nan_in_the_last(path: Path) -> None:
    data = np.stack([some_image(THICK).data] * 3, -1)
    data[5, 5, 5, 2] = np.nan
    nib.Nifti1Image(data, THICK.affine).to_filename(path)


def _truncated(path: Path) -> None:
    _series(path)
    path.write_bytes(path.read_bytes()[:20000])


def _elsewhere(path: Path) -> None:
    some_image(THICK.moved_by(np.array([[1, 0, 0, 900], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]))).save(path)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (_vectors, "vector image"),
        (_tensors, "vector image"),
        (_colours, "colours"),
        (_nan_in_the_last, "NaN"),
        (_truncated, "truncated"),
        (_elsewhere, "do not overlap through this transform"),
    ],
)
def test_what_is_not_moved_leaves_nothing(
    files: Path, make: object, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make(files / "in.nii.gz")
    before = sorted(files.iterdir())
    assert apply(files, "-t", "warp.nii.gz", "-r", "fixed.nii.gz", "in.nii.gz", "out.nii.gz") == 3
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1
    assert sorted(files.iterdir()) == before


def test_one_volume_is_no_series(files: Path) -> None:
    with pytest.raises(InputError, match="one volume"):
        load_series(files / "moving.nii.gz")


# -- transforms that need geometry ------------------------------------------------------------------------------------


@pytest.fixture
def fsl(files: Path) -> Path:
    """The same map for FSL, and its affine for FLIRT."""
    some_transform().save(files / "fsl.nii.gz", PLAIN, moving=THICK, file_format="fsl")
    Transform(some_transform().affine).save(files / "flirt.mat", PLAIN, moving=THICK, file_format="fsl")
    Transform(some_transform().affine).save(files / "affine.txt")
    return files


@pytest.mark.parametrize(("theirs", "ours"), [("fsl.nii.gz", "warp.nii.gz"), ("flirt.mat", "affine.txt")])
def test_reference_and_input_give_fsl_its_geometry(fsl: Path, theirs: str, ours: str) -> None:
    for transform, out in ((theirs, "a.nii.gz"), (ours, "b.nii.gz")):
        assert apply(fsl, "-t", transform, "-r", "fixed.nii.gz", "moving.nii.gz", out) == 0
        assert apply(fsl, "-t", f"{transform},inverse", "-r", "moving.nii.gz", "fixed.nii.gz", f"back_{out}") == 0
    for prefix in ("", "back_"):
        a, b = (nib.load(fsl / f"{prefix}{one}.nii.gz").get_fdata() for one in "ab")
        assert (np.abs(a - b) < 0.02).mean() > 0.99
        assert b.max() > 10


def test_the_ends_of_a_chain_are_known_and_its_middle_is_not(fsl: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shift = np.eye(4)
    shift[0, 3] = 4
    Transform(shift).save(fsl / "shift.txt")
    images = ("-r", "fixed.nii.gz", "moving.nii.gz", "out.nii.gz")
    assert apply(fsl, "-t", "shift.txt", "-t", "fsl.nii.gz", *images) == 0
    assert apply(fsl, "-t", "fsl.nii.gz", "-t", "shift.txt", *images, "--force") == 2
    assert "between two transforms — convert it first" in capsys.readouterr().err
    assert apply(fsl, "-t", "shift.txt", "-t", "flirt.mat", *images, "--force") == 2


def test_points_and_other_grids_need_a_moving_geometry(fsl: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (fsl / "p.csv").write_text("x,y,z\n3,-5,7\n")
    words = ("-t", "flirt.mat", "-r", "fixed.nii.gz", "p.csv", "out.csv")
    assert apply(fsl, *words) == 2
    assert "points have no grid — name with --moving-geometry" in capsys.readouterr().err
    assert apply(fsl, *words, "--moving-geometry", "moving.nii.gz") == 0
    out = np.loadtxt(fsl / "out.csv", delimiter=",", skiprows=1)
    expected = Transform(some_transform().affine).apply_points(np.array([[3.0, -5, 7]]))[0]
    np.testing.assert_allclose(out, expected, atol=1e-4)
    assert apply(fsl, *words[:2], "p.csv", "out.csv", "--force") == 2
    assert "no reference" in capsys.readouterr().err
    pairs = ("moving.nii.gz", "a.nii.gz", "fixed.nii.gz", "b.nii.gz")
    assert apply(fsl, *words[:4], *pairs) == 2
    assert "different grids" in capsys.readouterr().err
