"""``deformgan convert``: from tool to tool, and refusals that leave nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from grids import PLAIN, SLANTED, inner_points, inner_voxels, some_image, some_transform

from deformgan.commands.main import main
from deformgan.errors import UsageError
from deformgan.output.fields import saved_grid, write_field
from deformgan.spatial.grid import Grid
from deformgan.transforms.compact import compact
from deformgan.transforms.formats import bids
from deformgan.transforms.transform import Transform, load_transform


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Two images, a field and an affine between them."""
    some_image(PLAIN).save(tmp_path / "fixed.nii.gz")
    some_image(SLANTED).save(tmp_path / "moving.nii.gz")
    some_transform().save(tmp_path / "warp.nii.gz", PLAIN)
    Transform(some_transform().affine).save(tmp_path / "affine.txt")
    return tmp_path


def convert(folder: Path, *words: str) -> int:
    full = [str(folder / word) if "." in word or word == "none" else word for word in words]
    return main(["convert", "--threads", "1", *full])


FINE = Grid.centred((60, 64, 48), 1.5, np.array([1.0, 2.0, -3.0]))
IMAGES = ("--fixed", "fixed.nii.gz", "--moving", "moving.nii.gz")


@pytest.mark.parametrize(
    ("out", "more", "back"),
    [
        ("out.h5", (), {}),
        ("out.nii.gz", (), {}),
        ("out.nii", ("--to-format", "fsl", *IMAGES), {"moving": SLANTED}),
        ("out.nii.gz", ("--to-format", "fsl-absolute", *IMAGES), {"moving": SLANTED}),
        ("out.mgz", IMAGES, {}),
    ],
)
def test_fields_in_every_format_and_back(files: Path, out: str, more: tuple[str, ...], back: dict) -> None:
    assert convert(files, "warp.nii.gz", out, *more) == 0
    voxels = inner_voxels(PLAIN)
    there = load_transform(files / out, **back)
    np.testing.assert_allclose(there.map_points(voxels), some_transform().map_points(voxels), atol=1e-3)
    # and from there to where it came from
    again = ("--moving", "moving.nii.gz") if back else ()
    assert convert(files, out, "again.nii.gz", *again) == 0
    again = load_transform(files / "again.nii.gz")
    np.testing.assert_allclose(again.map_points(voxels), some_transform().map_points(voxels), atol=1e-3)


@pytest.mark.parametrize(("out", "more"), [("out.nii.gz", ("--to-format", "fsl")), ("out.mgz", ())])
def test_a_field_on_a_coarse_grid_gets_the_fixed_images(files: Path, out: str, more: tuple[str, ...]) -> None:
    """FSL and FreeSurfer take a field for one on the image's voxels, whatever grid ours has."""
    transform = compact(some_transform(), FINE, np.ones(FINE.shape, bool), FINE)
    write_field(files / "own.nii.gz", transform, saved_grid(transform, FINE, full=False))
    write_field(files / "full.nii.gz", transform, saved_grid(transform, FINE, full=True))
    some_image(FINE).save(files / "fine.nii.gz")
    images = ("--fixed", "fine.nii.gz", "--moving", "moving.nii.gz")
    assert convert(files, "own.nii.gz", out, *more, *images) == 0
    assert convert(files, "full.nii.gz", f"full-{out}", *more, *images) == 0
    read = [load_transform(files / name, moving=SLANTED if more else None) for name in (out, f"full-{out}")]
    assert all(one.grid == FINE for one in read)
    voxels = inner_voxels(FINE, step=3)
    np.testing.assert_allclose(read[0].map_points(voxels), read[1].map_points(voxels), atol=2e-3)
    np.testing.assert_allclose(read[0].map_points(voxels), transform.map_points(voxels), atol=2e-3)


@pytest.mark.parametrize(
    ("out", "more"),
    [
        ("out.tfm", ()),
        ("out.h5", ()),
        ("out.mat", ("--to-format", "itk")),
        ("out0GenericAffine.mat", ()),
        ("out.mat", ("--to-format", "fsl", *IMAGES)),
        ("out.lta", IMAGES),
        ("out.nii.gz", ("--fixed", "fixed.nii.gz")),
    ],
)
def test_affines_in_every_format(files: Path, out: str, more: tuple[str, ...]) -> None:
    assert convert(files, "affine.txt", out, *more) == 0
    there = load_transform(files / out, fixed=PLAIN, moving=SLANTED)
    points = inner_points(PLAIN)
    expected = Transform(some_transform().affine).map_points(points)
    np.testing.assert_allclose(there.map_points(points), expected, atol=1e-3)


def test_the_affine_part_and_the_inverse(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert convert(files, "warp.nii.gz", "part.txt", "--affine-part", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["map"], answer["format"]) == ("affine", "itk-text")
    index = np.stack(np.meshgrid(*[np.arange(n) for n in PLAIN.shape], indexing="ij"), -1).reshape(-1, 3)
    x = np.c_[PLAIN.to_world(index), np.ones(len(index))]
    fitted = np.linalg.lstsq(x, some_transform().map_points(x[:, :3]), rcond=None)[0].T
    np.testing.assert_allclose(load_transform(files / "part.txt").affine[:3], fitted, atol=1e-3)
    assert convert(files, "affine.txt,inverse", "back.txt") == 0
    np.testing.assert_allclose(
        load_transform(files / "back.txt").affine, np.linalg.inv(some_transform().affine), atol=1e-12
    )
    assert convert(files, "warp.nii.gz,inverse", "back.nii.gz", "--fixed", "moving.nii.gz") == 0
    assert "was inverted to" in capsys.readouterr().err
    assert load_transform(files / "back.nii.gz").grid == SLANTED


def test_the_inverse_of_a_flirt_matrix_takes_the_images_as_they_are_for_the_result(files: Path) -> None:
    assert convert(files, "affine.txt", "a.mat", "--to-format", "fsl", *IMAGES) == 0
    inverted = ("--fixed", "moving.nii.gz", "--moving", "fixed.nii.gz")
    assert convert(files, "a.mat,inverse", "back.txt", *inverted) == 0
    both = load_transform(files / "back.txt") @ Transform(some_transform().affine)
    np.testing.assert_allclose(both.affine, np.eye(4), atol=1e-5)


@pytest.mark.parametrize(
    ("words", "code", "cause"),
    [
        (("warp.nii.gz", "out.txt"), 2, "has a field — use .nii.gz, .h5 or .mgz, or write its affine part"),
        (("warp.nii.gz", "out.lta", *IMAGES), 2, "has a field"),
        (("affine.txt", "out.nii.gz"), 2, "no grid of its own"),
        (("affine.txt", "out.mat"), 2, "ANTs and FLIRT both use .mat"),
        (("affine.txt", "out.mat", "--to-format", "fsl"), 2, "geometry of the fixed image"),
        (("affine.txt", "out.lta", "--fixed", "fixed.nii.gz"), 2, "geometry of the moving image"),
        (("warp.nii.gz", "out.mgz"), 2, "geometry of the moving image"),
        (("warp.nii.gz", "out.mgz", "--moving", "moving.nii.gz"), 2, "geometry of the fixed image"),
        (("warp.nii.gz", "out.xfm"), 2, "unknown ending"),
        (("warp.nii.gz", "affine.txt"), 2, "is there"),
        (("none.h5", "out.txt"), 3, "does not exist"),
        (("none.txt", "out.txt"), 3, "does not exist"),
        (("fixed.nii.gz", "out.h5"), 3, "not a displacement field"),
        (("warp.nii.gz", "out.mgz", "--fixed", "fixed.nii.gz", "--moving", "affine.txt"), 3, "not a NIfTI image"),
        (("warp.nii.gz", "a_from-T1_to-T2_xfm.h5"), 2, "mode-image"),
        (("warp.nii.gz", "a_from-T1_mode-image_xfm.h5"), 2, "no BIDS name"),
        (("warp.nii.gz", "a_from-T1_to-T2_mode-image_xfm.mgz", *IMAGES), 2, "no BIDS name"),
    ],
)
def test_refusals_leave_nothing(
    files: Path, words: tuple[str, ...], code: int, cause: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {p.name: p.read_bytes() for p in files.iterdir()}
    assert convert(files, *words) == code
    said = capsys.readouterr()
    assert cause in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""
    assert {p.name: p.read_bytes() for p in files.iterdir()} == before


# -- names of BIDS ----------------------------------------------------------------------------------------------------


def test_bids_names_there_and_back(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "sub-01_ses-2_from-T1w_to-MNI152NLin6Asym_mode-image_xfm.nii.gz"
    name = bids.parse(f"some/folder/{text}")
    assert (name.source, name.target, name.extension) == ("T1w", "MNI152NLin6Asym", ".nii.gz")
    assert str(name) == text
    assert str(name.inverse()) == "sub-01_ses-2_from-MNI152NLin6Asym_to-T1w_mode-image_xfm.nii.gz"
    assert str(bids.XfmName("T1w", "T2w", ".h5")) == "from-T1w_to-T2w_mode-image_xfm.h5"
    there, back = "from-T1w_to-T2w_mode-image_xfm.h5", "from-T2w_to-T1w_mode-image_xfm.nii.gz"
    assert convert(files, "warp.nii.gz", there) == 0
    assert "from T1w to T2w" in capsys.readouterr().out
    assert convert(files, there, back) == 2
    assert "named the other way round" in capsys.readouterr().err
    assert convert(files, f"{there},inverse", back) == 0


@pytest.mark.parametrize(
    "name",
    [
        "from-T1w_to-T2w_mode-points_xfm.h5",
        "to-T2w_mode-image_xfm.h5",
        "from-T1w_to-T2w_mode-image_xfm.mat",
        "from-T1w_from-T1w_to-T2w_mode-image_xfm.h5",
        "from-T1-w_to-T2w_mode-image_xfm.h5",
        "sub01_from-T1w_to-T2w_mode-image_xfm.h5",
        "warp.nii.gz",
    ],
)
def test_what_is_no_bids_name(name: str) -> None:
    with pytest.raises(UsageError, match=r"BIDS|mode-image"):
        bids.parse(name)
