"""The shipped brain has the proportions of a brain; other label maps are turned, stripped, or refused."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from deformgan.errors import InputError
from deformgan.workshop.simulation.anatomy import load_anatomy, read_anatomy

FOLDER = files("deformgan.workshop.simulation") / "anatomy_data"


def test_the_shipped_map_is_small_and_carries_its_notice() -> None:
    assert len((FOLDER / "labels.nii.gz").read_bytes()) < 300_000
    notice = (FOLDER / "NOTICE.txt").read_text(encoding="utf-8")
    assert "ICBM 152" in notice
    assert "McConnell Brain Imaging Centre" in notice
    assert "Permission to use, copy, modify, and distribute" in " ".join(notice.split())


def test_volumes_are_those_of_a_brain() -> None:
    anatomy = load_anatomy()
    assert anatomy.data.dtype == np.uint8
    np.testing.assert_allclose(anatomy.grid.affine[:3, :3], np.eye(3))
    ml = {int(i): int(n) / 1000 for i, n in zip(*np.unique(anatomy.data, return_counts=True), strict=True)}
    assert 1200 < sum(v for i, v in ml.items() if i) < 1600
    assert 350 < ml[2] + ml[41] < 650, "white matter"
    assert 400 < ml[3] + ml[42] < 750, "cortex"
    assert 10 < ml[4] + ml[43] < 40, "lateral ventricles"
    assert 90 < ml[7] + ml[8] + ml[46] + ml[47] < 180, "cerebellum"
    assert 5 < ml[10] + ml[49] < 20, "thalami"
    assert 12 < ml[16] < 40, "brain stem"


@pytest.mark.parametrize(
    ("left", "right"), [(2, 41), (3, 42), (4, 43), (8, 47), (10, 49), (11, 50), (12, 51), (17, 53)]
)
def test_left_is_on_the_left_and_structures_are_where_they_belong(left: int, right: int) -> None:
    anatomy = load_anatomy()
    at = {i: anatomy.grid.to_world(np.argwhere(anatomy.data == i)).mean(0) for i in (left, right)}
    assert at[left][0] < -3
    assert at[right][0] > 3
    np.testing.assert_allclose(at[left] * (-1, 1, 1), at[right], atol=2.5)


def test_brain_stem_cerebellum_and_ventricles_lie_below_and_behind() -> None:
    anatomy = load_anatomy()
    centre = {i: anatomy.grid.to_world(np.argwhere(anatomy.data == i)).mean(0) for i in (3, 4, 8, 14, 15, 16)}
    assert centre[8][2] < centre[3][2] - 25
    assert centre[8][1] < centre[16][1] < centre[3][1]
    assert centre[15][2] < centre[14][2] < centre[4][2]


def _block(head: bool) -> np.ndarray:
    """White matter and cortex with one marked voxel (ventricle), in skin if it is a head."""
    labels = np.zeros((32, 34, 36), np.int16)
    if head:
        labels[2:30, 2:32, 2:34] = 258
    labels[8:24, 8:26, 8:28] = 3
    labels[11:21, 11:23, 11:25] = 2
    labels[12, 13, 14] = 4
    return labels


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PIR", "ASL"])
def test_maps_are_turned_to_the_world_axes(tmp_path: Path, codes: str) -> None:
    image = nib.Nifti1Image(_block(head=False), np.diag([2.0, 2.0, 2.0, 1.0]))
    wanted = nib.orientations.axcodes2ornt(codes)
    image.as_reoriented(
        nib.orientations.io_orientation(nib.orientations.inv_ornt_aff(wanted, image.shape))
    ).to_filename(tmp_path / "labels.nii.gz")
    found = read_anatomy(tmp_path / "labels.nii.gz")
    assert (np.diag(found.grid.affine[:3, :3]) > 0).all()
    np.testing.assert_array_equal(found.data, _block(head=False))
    marked = found.grid.to_world(np.argwhere(found.data == 4)[0])
    np.testing.assert_allclose(marked, (24, 26, 28))


def test_a_head_is_stripped(tmp_path: Path) -> None:
    nib.Nifti1Image(_block(head=True), np.eye(4)).to_filename(tmp_path / "head.nii.gz")
    found = read_anatomy(tmp_path / "head.nii.gz")
    assert set(np.unique(found.data)) == {0, 2, 3, 4, 24}
    np.testing.assert_array_equal(found.data[8:24, 8:26, 8:28], _block(head=False)[8:24, 8:26, 8:28])


@pytest.mark.parametrize("content", [0, 511])
def test_a_map_without_brain_is_refused(tmp_path: Path, content: int) -> None:
    nib.Nifti1Image(np.full((20, 20, 20), content, np.int16), np.eye(4)).to_filename(tmp_path / "labels.nii.gz")
    with pytest.raises(InputError, match="no brain"):
        read_anatomy(tmp_path / "labels.nii.gz")


@pytest.mark.slow
def test_a_real_head_keeps_its_brain_and_loses_its_skin(shared_data: Path) -> None:
    found = read_anatomy(sorted((shared_data / "synthseg_label_maps").glob("*.nii.gz"))[0])
    assert found.data.max() < 200
    assert 1100 < (found.data > 0).sum() / 1000 < 1800
