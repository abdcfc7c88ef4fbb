"""Cases: the truth undoes the deformation, in voxels, in the ITK file, in labels; folders are whole; seeds repeat."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from deformgan.errors import InputError, UsageError
from deformgan.io.image import Image, load_image
from deformgan.spatial.grid import Grid
from deformgan.spatial.warp import warp
from deformgan.transforms.transform import load_transform
from deformgan.workshop.simulation.cases import FILES, SimulatedCase, make_case, simulate
from deformgan.workshop.simulation.deformation import REGIMES, DeformationConfig

SHAPE = (36, 40, 32)
SMALL = REGIMES["small"].scaled(0.35)


def _anatomy(size: int = 44) -> Image:
    """Nested ellipsoids of 2 mm voxels, off the middle and along no symmetry."""
    z, y, x = np.ogrid[:size, :size, :size]
    radius = np.sqrt(((x - 22) / 17) ** 2 + ((y - 20) / 15) ** 2 + ((z - 23) / 19) ** 2)
    labels = np.select([radius < 0.25, radius < 0.8, radius < 0.95, radius < 1], [4, 2, 3, 24], 0).astype(np.uint8)
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = (-30, -50, 12)
    return Image(labels, Grid(labels.shape, affine), "ellipsoids")


def _case(seed: int = 0, regime: str | DeformationConfig = SMALL, **options: object) -> SimulatedCase:
    return make_case(_anatomy(), regime, torch.Generator().manual_seed(seed), shape=SHAPE, **options)  # type: ignore[arg-type]


def test_the_truth_brings_the_moving_image_and_its_labels_back() -> None:
    case = _case(strength=0.2)
    inside = case.mask
    back = warp(case.moving, case.deformation.forward, mode="cubic")
    before = float((case.moving - case.moving_true)[inside].abs().mean())
    after = float((back - case.moving_true)[inside].abs().mean())
    assert after < 0.35 * before
    labels = warp(case.moving_labels, case.deformation.forward, mode="nearest")
    assert float((labels == case.fixed_labels)[inside].float().mean()) > 0.9
    assert float((case.moving_labels == case.fixed_labels)[inside].float().mean()) < 0.9


def test_both_images_show_the_same_anatomy_in_their_own_contrast() -> None:
    case = _case(strength=0.0)
    white, fluid = (case.fixed_labels == 2), (case.fixed_labels == 4)
    assert float(case.fixed[fluid].mean()) > 1.5 * float(case.fixed[white].mean()), "T2: fluid is bright"
    assert float(case.moving_true[fluid].mean()) < 0.6 * float(case.moving_true[white].mean()), "T1: fluid is dark"
    for image in (case.fixed, case.moving_true):
        assert not image[~case.mask].any()
        assert float(image.min()) >= 0
        assert float(image.max()) <= 1


def test_the_grid_lies_over_the_anatomy_and_leaves_room() -> None:
    case = _case(tumour=False)
    anatomy = _anatomy()
    want = anatomy.grid.to_world(np.argwhere(anatomy.data == 4)).mean(0)
    got = case.grid.to_world(np.argwhere(case.fixed_labels[0, 0].numpy() == 4)).mean(0)
    np.testing.assert_allclose(got, want, atol=0.5 * float(case.grid.spacing[0]))
    occupied = np.argwhere(case.mask[0, 0].numpy())
    share = (occupied.max(0) - occupied.min(0) + 1) / np.array(SHAPE)
    assert 0.7 < share.max() <= 0.82
    assert _case(spacing=3.0).grid.spacing == pytest.approx([3.0] * 3)


def test_tumours_only_where_asked_for() -> None:
    with_tumour, without = _case(tumour=True), _case(tumour=False)
    assert bool((with_tumour.fixed_labels == 100).any())
    assert bool((with_tumour.moving_labels == 101).any())
    assert int(without.fixed_labels.max()) == 24
    assert (with_tumour.meta["tumour"], without.meta["tumour"]) == (True, False)


def test_meta_tells_what_the_field_is() -> None:
    case = _case()
    length = case.deformation.forward.square().sum(1, keepdim=True).sqrt()[case.mask]
    assert case.meta["max_u"] == pytest.approx(float(length.max()), abs=0.01)
    assert case.meta["mean_u"] == pytest.approx(float(length.mean()), abs=0.01)
    assert 0 < case.meta["max_u"] <= 1.02 * SMALL.max_displacement
    assert case.meta["contrast"] == "T2<-T1"
    assert case.meta["inverse_err_max"] < 0.15


def _simulate(out: Path, **options: object) -> list[tuple[Path, dict]]:
    return list(simulate(out, shape=SHAPE, regimes=("small",), seed=3, **options))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    (made, meta), *others = _simulate(tmp_path_factory.mktemp("cases") / "new" / "out", count=1)
    assert not others
    assert made.name == "case_000"
    assert meta["seed"] == 3
    return made


def test_a_case_folder_is_complete_and_on_one_grid(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == set(FILES)
    meta = json.loads((folder / "meta.json").read_text())
    images = {name: nib.load(folder / name) for name in FILES if name.endswith(".nii.gz")}
    for image in images.values():
        assert image.shape[:3] == SHAPE
        np.testing.assert_allclose(image.affine, images["fixed.nii.gz"].affine)
    assert images["true_field.nii.gz"].shape == (*SHAPE, 3)
    length = np.linalg.norm(images["true_field.nii.gz"].get_fdata(), axis=-1)
    assert length[images["mask.nii.gz"].get_fdata() > 0].max() == pytest.approx(meta["max_u"], abs=0.01)
    assert set(np.unique(images["mask.nii.gz"].get_fdata())) == {0, 1}


def test_the_itk_file_is_the_same_map_in_millimetres(folder: Path) -> None:
    moving, true, labels = (load_image(folder / f"{name}.nii.gz") for name in ("moving", "moving_true", "mask"))
    transform = load_transform(folder / "true_warp.nii.gz")
    voxels = nib.load(folder / "true_field.nii.gz").get_fdata()
    point = np.argwhere(labels.data > 0)[2000]
    expected = moving.grid.to_world(point + voxels[tuple(point)])
    np.testing.assert_allclose(transform.map_points(true.grid.to_world(point)[None])[0], expected, atol=1e-3)
    moved = transform.apply(moving, true.grid)
    inside = labels.data > 0
    before, after = (np.abs(image.data - true.data)[inside].mean() for image in (moving, moved))
    assert after < 0.6 * before


def test_a_seed_repeats_whatever_the_count(folder: Path, tmp_path: Path) -> None:
    (again, _), (second, _) = _simulate(tmp_path, count=2)
    for name in ("fixed", "moving", "true_field"):
        a, b, c = (nib.load(where / f"{name}.nii.gz").get_fdata() for where in (folder, again, second))
        np.testing.assert_array_equal(a, b)
        assert np.abs(a - c).max() > 0.01


def test_existing_cases_are_kept_unless_forced(folder: Path, tmp_path: Path) -> None:
    _anatomy().save(tmp_path / "small.nii.gz")
    stamp = (folder / "meta.json").stat().st_mtime_ns
    with pytest.raises(UsageError, match="force=True"):
        _simulate(folder.parent, count=1)
    assert (folder / "meta.json").stat().st_mtime_ns == stamp
    _simulate(folder.parent, count=1, force=True, labels=[tmp_path / "small.nii.gz"])
    assert (folder / "meta.json").stat().st_mtime_ns > stamp
    assert {path.name for path in folder.parent.iterdir()} == {"case_000"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 0}, "0 cases"),
        ({"regimes": ("huge",)}, "unknown regime 'huge'"),
        ({"fixed": "pet"}, "unknown contrast 'pet'"),
        ({"shape": (48, 48, 48), "spacing": 2.0}, "does not fit into"),
        ({"seed": 99999999999999}, "out of range"),
        ({"seed": -1}, "out of range"),
    ],
)
def test_wrong_calls_leave_nothing_behind(tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        list(simulate(tmp_path / "out", **options))
    assert not (tmp_path / "out").exists()


def test_other_label_maps_take_turns(tmp_path: Path) -> None:
    anatomy = _anatomy()
    for name in ("first", "second"):
        anatomy.save(tmp_path / f"{name}.nii.gz")
    paths = [tmp_path / "first.nii.gz", tmp_path / "second.nii.gz"]
    sources = [meta["source"] for _, meta in _simulate(tmp_path / "out", count=3, labels=paths, tumour=False)]
    assert sources == ["first.nii.gz", "second.nii.gz", "first.nii.gz"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda ids: np.where(ids == 2, 3, ids), "no white matter"),
        (lambda ids: np.where(ids == 4, -4, ids), "label -4"),
        (lambda ids: np.where(ids == 4, 2_000_000_000, ids), "label 2000000000"),
    ],
)
def test_labels_that_make_no_brain_are_named(tmp_path: Path, change: Callable, message: str) -> None:
    anatomy = _anatomy()
    Image(change(anatomy.data.astype(np.int32)), anatomy.grid).save(tmp_path / "odd.nii.gz")
    with pytest.raises(InputError, match=message):
        _simulate(tmp_path / "out", count=1, labels=[tmp_path / "odd.nii.gz"])
    assert not (tmp_path / "out").exists()


def test_labels_without_white_matter_do_without_a_tumour(tmp_path: Path) -> None:
    anatomy = _anatomy()
    Image(np.where(anatomy.data == 2, 3, anatomy.data), anatomy.grid).save(tmp_path / "grey.nii.gz")
    ((_, meta),) = _simulate(tmp_path / "out", count=1, labels=[tmp_path / "grey.nii.gz"], tumour=False)
    assert meta["tumour"] is False
