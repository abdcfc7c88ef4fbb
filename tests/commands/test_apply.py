"""``deformgan apply``: pairs, chains, kinds of input, and refusals."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import scipy.ndimage as ndi
from conftest import Phantom, write_nifti

from deformgan.commands.main import main
from deformgan.io.label_maps import looks_like_labels
from deformgan.spatial.grid import Grid
from deformgan.transforms.formats.itk import write_affine
from deformgan.transforms.transform import Transform


@pytest.fixture
def files(tmp_path: Path, phantom: Phantom) -> Path:
    """An image, labels, points and two transforms: one voxel (4 mm) along x, two along y."""
    write_nifti(tmp_path / "image.nii.gz", (phantom.t1 * 1000).astype(np.int16), phantom.affine)
    write_nifti(tmp_path / "labels.nii.gz", phantom.labels, phantom.affine)
    (tmp_path / "points.csv").write_text("x,y,z\n0,0,0\n10,20,30\n")
    for name, shift in (("x", (4, 0, 0)), ("y", (0, 8, 0))):
        matrix = np.eye(4)
        matrix[:3, 3] = shift
        write_affine(tmp_path / f"{name}.txt", matrix)
    double = np.diag([2.0, 1.0, 1.0, 1.0])
    write_affine(tmp_path / "double.txt", double)
    return tmp_path


def apply(folder: Path, *words: str) -> int:
    return main(["apply", "-r", str(folder / "image.nii.gz"), "--threads", "1", *words])


def test_images_labels_and_points_in_one_call(
    files: Path, phantom: Phantom, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["image.nii.gz", "labels.nii.gz", "points.csv"]
    pairs = [str(files / f"{prefix}{name}") for name in names for prefix in ("", "moved_")]
    assert apply(files, "-t", str(files / "x.txt"), *pairs, "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert [one["how"] for one in answer["outputs"]] == ["linear", "label", "2 points"]
    image = nib.load(files / "moved_image.nii.gz").get_fdata()
    np.testing.assert_allclose(image[:-1], np.rint(phantom.t1 * 1000 - 0.5)[1:], atol=1)
    labels = nib.load(files / "moved_labels.nii.gz")
    assert labels.get_data_dtype() == phantom.labels.dtype
    np.testing.assert_array_equal(np.asarray(labels.dataobj)[:-1], phantom.labels[1:])
    # the image moved towards lower x, and its points with it
    assert (files / "moved_points.csv").read_text(encoding="utf-8").splitlines()[1] == "-4.000000,0.000000,0.000000"


def test_the_last_transform_meets_the_image_first(files: Path) -> None:
    chain = ["-t", str(files / "x.txt"), "-t", str(files / "double.txt")]
    assert apply(files, *chain, str(files / "points.csv"), str(files / "out.csv")) == 0
    # reference x → x + 4 → 2 (x + 4) is where the image is read: a point at 10 comes from x = 1
    assert (files / "out.csv").read_text(encoding="utf-8").splitlines()[2] == "1.000000,20.000000,30.000000"


def test_inverse_undoes(files: Path) -> None:
    chain = ["-t", str(files / "y.txt"), "-t", f"{files / 'y.txt'},inverse"]
    assert apply(files, *chain, str(files / "labels.nii.gz"), str(files / "out.nii.gz")) == 0
    before, after = (np.asarray(nib.load(files / name).dataobj) for name in ("labels.nii.gz", "out.nii.gz"))
    np.testing.assert_array_equal(after, before)


def test_points_alone_need_no_reference(files: Path) -> None:
    words = ["apply", "-t", str(files / "x.txt"), str(files / "points.csv"), str(files / "out.csv")]
    assert main(words) == 0


def test_an_empty_label_map_is_carried(files: Path, phantom: Phantom) -> None:
    write_nifti(files / "none.nii.gz", np.zeros_like(phantom.labels), phantom.affine)
    assert apply(files, "-t", str(files / "x.txt"), str(files / "none.nii.gz"), str(files / "out.nii.gz")) == 0
    assert not np.asarray(nib.load(files / "out.nii.gz").dataobj).any()


def test_the_interpolation_can_be_named(files: Path) -> None:
    words = ["-t", str(files / "x.txt"), "--interpolation", "nearest"]
    assert apply(files, *words, str(files / "image.nii.gz"), str(files / "out.nii.gz")) == 0
    assert nib.load(files / "out.nii.gz").get_data_dtype() == np.int16


@pytest.mark.parametrize(
    ("words", "code", "cause"),
    [
        (["-t", "x.txt", "image.nii.gz"], 2, "not pairs"),
        (["-t", "x.txt"], 2, "not pairs"),
        (["image.nii.gz", "out.nii.gz"], 2, "no transform"),
        (["-t", "x.txt", "image.nii.gz", "out.nii.gz", "labels.nii.gz", "out.nii.gz"], 2, "same name"),
        (["-t", "x.txt", "image.nii.gz", "out.csv"], 2, "does not fit"),
        (["-t", "x.txt", "image.nii.gz", "out.png"], 2, "does not fit"),
        (["-t", "x.txt", "image.nii.gz", "labels.nii.gz"], 2, "is there"),
        (["-t", "x.txt", "image.nii.gz", "none/out.nii.gz"], 2, "not a folder"),
        (["-t", "none.txt", "image.nii.gz", "out.nii.gz"], 3, "does not exist"),
        (["-t", "image.nii.gz", "image.nii.gz", "out.nii.gz"], 3, "not a displacement"),
        (["-t", "x.txt", "none.nii.gz", "out.nii.gz"], 3, "does not exist"),
        (["-t", "x.txt", "labels.nii.gz", "out.nii.gz", "none.nii.gz", "out2.nii.gz"], 3, "does not exist"),
        (["-t", "x.txt", "none.csv", "out.csv"], 3, "does not exist"),
    ],
)
def test_refusals_leave_nothing(
    files: Path, words: list[str], code: int, cause: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {p.name: p.read_bytes() for p in files.iterdir()}
    full = [word if word.startswith("-") else str(files / word) for word in words]
    assert apply(files, *full) == code
    said = capsys.readouterr()
    assert cause in said.err
    assert sum("error" in line for line in said.err.splitlines()) == 1
    assert said.out == ""
    assert {p.name: p.read_bytes() for p in files.iterdir()} == before


def test_images_need_a_reference(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["apply", "-t", str(files / "x.txt"), str(files / "image.nii.gz"), str(files / "out.nii.gz")]
    assert main(words) == 2
    assert "no reference" in capsys.readouterr().err


def test_label_maps_are_told_from_images(phantom: Phantom, rng: np.random.Generator) -> None:
    assert looks_like_labels(phantom.labels)
    assert looks_like_labels(phantom.labels.astype(np.float32))
    assert looks_like_labels(phantom.labels > 0)
    assert looks_like_labels(np.zeros((4, 4, 4), np.uint8))
    air = np.where(phantom.labels > 0, np.rint(phantom.t1 * 2000 - 200), -1024).astype(np.int16)
    assert not looks_like_labels(air)
    assert looks_like_labels(np.where(phantom.labels > 0, phantom.labels, -1024))
    assert not looks_like_labels(phantom.t1)
    assert not looks_like_labels((phantom.t1 * 255).astype(np.uint8))
    assert not looks_like_labels(rng.integers(0, 60, (20, 20, 20)).astype(np.uint8))


def _pieces(ids: np.ndarray, shape: tuple[int, int, int] = (40, 44, 36)) -> np.ndarray:
    """Blocks of 2×2×4 voxels, each with an id of its own, in a frame of 0."""
    i, j, k = np.indices(shape)
    block = (i // 2 * (shape[1] // 2) + j // 2) * (shape[2] // 4) + k // 4
    inside = (np.minimum(i, shape[0] - 1 - i) > 3) & (np.minimum(j, shape[1] - 1 - j) > 3) & (np.minimum(k, 35 - k) > 3)
    return np.where(inside, ids[block % len(ids)], 0)


@pytest.mark.parametrize(
    ("ids", "dtype"),
    [
        (np.arange(1, 1001), "uint16"),
        (np.arange(1, 1901), "int32"),
        (614454000 + 7 * np.arange(300), "float64"),
        (2**52 + np.arange(500), "float64"),
        (2**62 + np.arange(100), "int64"),
    ],
)
def test_labels_are_never_blended_and_ids_are_exact(
    files: Path, phantom: Phantom, ids: np.ndarray, dtype: str, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = _pieces(np.random.default_rng(0).permutation(ids)).astype(dtype)
    nib.Nifti1Image(labels, phantom.affine, dtype=dtype).to_filename(files / "many.nii.gz")
    turn = np.array([[0.9, -0.1, 0, 3], [0.1, 0.95, 0.05, -2], [0, 0, 1, 1.3], [0, 0, 0, 1]])
    write_affine(files / "turn.txt", turn)
    assert apply(files, "-t", str(files / "turn.txt"), str(files / "many.nii.gz"), str(files / "out.nii.gz")) == 0
    assert "was taken for a label map" in capsys.readouterr().err
    found = np.unique(np.asarray(nib.load(files / "out.nii.gz").dataobj))
    assert len(found) > 60
    assert set(found.tolist()) <= {0, *np.asarray(ids).tolist()}


def test_labels_with_an_intercept_are_exact(files: Path, phantom: Phantom) -> None:
    stored = _pieces(np.arange(1, 400)).astype(np.int16)
    path = write_nifti(files / "many.nii", stored, phantom.affine)
    content = bytearray(path.read_bytes())
    content[112:120] = np.array([1, 3e7], "<f4").tobytes()
    path.write_bytes(content)
    assert apply(files, "-t", str(files / "x.txt"), str(path), str(files / "out.nii.gz")) == 0
    moved = np.asarray(nib.load(files / "out.nii.gz").dataobj)
    np.testing.assert_array_equal(moved[:-1], (stored.astype(np.int64) + 30_000_000)[1:])


def test_whole_numbers_that_are_interpolated_are_told(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    transform = ["-t", str(files / "x.txt")]
    assert apply(files, *transform, str(files / "image.nii.gz"), str(files / "out.nii.gz")) == 0
    assert "holds whole numbers and was taken for an image" in capsys.readouterr().err
    words = [*transform, "--interpolation", "linear", str(files / "labels.nii.gz"), str(files / "out2.nii.gz")]
    assert apply(files, *words) == 0
    assert "warning" in (said := capsys.readouterr().err)
    assert "looks like a label map and was interpolated" in said


def test_a_series_counts_in_millimetres_as_its_affine_does(files: Path, phantom: Phantom) -> None:
    series = nib.Nifti1Image(np.stack([(phantom.t1 * 900).astype(np.int16)] * 2, -1), phantom.affine)
    series.header.set_xyzt_units("micron", "msec")
    affine = np.diag([1e3, 1e3, 1e3, 1]) @ phantom.affine
    series.set_sform(affine, 1)
    series.set_qform(affine, 1)
    series.to_filename(files / "series.nii.gz")
    assert apply(files, "-t", str(files / "x.txt"), str(files / "series.nii.gz"), str(files / "out.nii.gz")) == 0
    out = nib.load(files / "out.nii.gz")
    assert out.header.get_xyzt_units() == ("mm", "msec")
    np.testing.assert_allclose(out.affine, phantom.affine)


@pytest.mark.parametrize("kind", ["bvec", "vector", "tensor", "spherical harmonics"])
def test_directions_that_are_not_turned_are_told(
    files: Path, phantom: Phantom, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    count = {"bvec": 2, "vector": 3, "tensor": 6, "spherical harmonics": 15}[kind]
    write_nifti(files / "dwi.nii.gz", np.stack([phantom.t1] * count, -1), phantom.affine)
    if kind == "bvec":
        (files / "dwi.bvec").write_text("0 1\n0 0\n0 0\n")
    c, s = np.cos(np.deg2rad(12)), np.sin(np.deg2rad(12))
    write_affine(files / "turn.txt", np.array([[c, -s, 0, 1], [s, c, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]))
    assert apply(files, "-t", str(files / "turn.txt"), str(files / "dwi.nii.gz"), str(files / "out.nii.gz")) == 0
    said = capsys.readouterr().err
    assert kind in said
    assert "directions are not rotated with the image; the map as a whole rotates by 12.0°" in said


def test_a_chain_of_fields_is_resampled_once(files: Path, phantom: Phantom) -> None:
    """Against SimpleITK, on voxels of 4 mm: a field resampled between would be 0.2 mm and more off."""
    sitk = pytest.importorskip("SimpleITK")
    grid = Grid(phantom.t1.shape, phantom.affine)
    rng, names = np.random.default_rng(3), []
    for number in range(2):
        disp = ndi.gaussian_filter(rng.standard_normal((*grid.shape, 3)), (3, 3, 3, 0)) * 120
        Transform(np.eye(4), disp.astype(np.float32), grid).save(files / f"w{number}.nii.gz")
        names += ["-t", str(files / f"w{number}.nii.gz")]
    image = ndi.gaussian_filter(phantom.t1, 1).astype(np.float32)
    write_nifti(files / "float.nii.gz", image, phantom.affine)
    assert apply(files, *names, str(files / "float.nii.gz"), str(files / "out.nii.gz")) == 0
    fields = [sitk.ReadImage(str(files / f"w{number}.nii.gz"), sitk.sitkVectorFloat64) for number in range(2)]
    # the last added is applied to a position first
    chain = sitk.CompositeTransform([sitk.DisplacementFieldTransform(one) for one in reversed(fields)])
    moving = sitk.ReadImage(str(files / "float.nii.gz"))
    expected = sitk.GetArrayFromImage(sitk.Resample(moving, moving, chain, sitk.sitkLinear)).T
    ours = nib.load(files / "out.nii.gz").get_fdata()
    inner = (slice(8, -8),) * 3  # beyond a field's grid ITK moves nothing
    np.testing.assert_allclose(ours[inner], expected[inner], atol=1e-4)


def test_patients_images_and_outlines_are_told_apart(shared_data: Path) -> None:
    folder = shared_data / "BraTS-GLI-00000"
    assert looks_like_labels(np.asarray(nib.load(folder / "seg.nii.gz").dataobj))
    assert not looks_like_labels(np.asarray(nib.load(folder / "t1.nii.gz").dataobj))
    stroke = sorted((shared_data / "stroke_mit").glob("*.nii.gz"))
    assert stroke
    assert not any(looks_like_labels(np.asarray(nib.load(path).dataobj)) for path in stroke)
