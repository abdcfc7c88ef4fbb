"""``deformgan apply``: pairs, chains, kinds of input, and refusals."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from conftest import Phantom, write_nifti

from deformgan.commands.apply import looks_like_labels
from deformgan.commands.main import main
from deformgan.transforms.formats.itk import write_affine


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
    assert [one["how"] for one in answer["outputs"]] == ["linear", "nearest", "2 points"]
    image = nib.load(files / "moved_image.nii.gz").get_fdata()
    np.testing.assert_allclose(image[:-1], np.rint(phantom.t1 * 1000 - 0.5)[1:], atol=1)
    labels = nib.load(files / "moved_labels.nii.gz")
    assert labels.get_data_dtype() == phantom.labels.dtype
    np.testing.assert_array_equal(np.asarray(labels.dataobj)[:-1], phantom.labels[1:])
    # the image moved towards lower x, and its points with it
    assert (files / "moved_points.csv").read_text().splitlines()[1] == "-4.000000,0.000000,0.000000"


def test_the_last_transform_meets_the_image_first(files: Path) -> None:
    chain = ["-t", str(files / "x.txt"), "-t", str(files / "double.txt")]
    assert apply(files, *chain, str(files / "points.csv"), str(files / "out.csv")) == 0
    # reference x → x + 4 → 2 (x + 4) is where the image is read: a point at 10 comes from x = 1
    assert (files / "out.csv").read_text().splitlines()[2] == "1.000000,20.000000,30.000000"


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
    assert said.err.count("\n") == 1
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


def test_patients_images_and_outlines_are_told_apart(shared_data: Path) -> None:
    folder = shared_data / "BraTS-GLI-00000"
    assert looks_like_labels(np.asarray(nib.load(folder / "seg.nii.gz").dataobj))
    assert not looks_like_labels(np.asarray(nib.load(folder / "t1.nii.gz").dataobj))
    stroke = sorted((shared_data / "stroke_mit").glob("*.nii.gz"))
    assert stroke
    assert not any(looks_like_labels(np.asarray(nib.load(path).dataobj)) for path in stroke)
