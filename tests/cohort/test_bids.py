"""BIDS: which images are paired, what a data set with holes gives, and how a derivative is named."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import small_cohort
from conftest import make_phantom, write_nifti

from deformgan.cohort.bids import Selection, find_pairs, read_filters, read_name
from deformgan.commands.bids import main
from deformgan.errors import InputError, UsageError
from deformgan.transforms.transform import load_transform


def touch(root: Path, *names: str) -> None:
    """Empty images at their places in a data set."""
    root.mkdir(exist_ok=True)
    (root / "dataset_description.json").write_text('{"Name": "made", "BIDSVersion": "1.10.0", "License": "CC0"}')
    for name in names:
        parts = name.split("_")
        folder = root.joinpath(*[p for p in parts if p.startswith(("sub-", "ses-"))], "anat")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


@pytest.mark.parametrize(
    ("name", "entities", "suffix"),
    [
        ("sub-01_T1w.nii.gz", {"sub": "01"}, "T1w"),
        ("sub-01_ses-pre_acq-highres_run-2_T2w.nii", {"sub": "01", "ses": "pre", "acq": "highres", "run": "2"}, "T2w"),
    ],
)
def test_names_are_read(name: str, entities: dict[str, str], suffix: str) -> None:
    scan = read_name(Path(name))
    assert scan is not None
    assert (dict(scan.entities), scan.suffix) == (entities, suffix)


@pytest.mark.parametrize("name", ["sub-01_T1w.json", "T1w.nii.gz", "sub-01_T1_w.nii.gz", "sub_T1w.nii.gz", "notes.txt"])
def test_other_names_are_passed_over(name: str) -> None:
    assert read_name(Path(name)) is None


def test_a_data_set_with_holes(tmp_path: Path) -> None:
    touch(
        tmp_path, "sub-01_T1w.nii.gz", "sub-01_T2w.nii.gz", "sub-02_T1w.nii.gz", "sub-03_T2w.nii.gz", "sub-04_T1w.json"
    )
    touch(tmp_path, "sub-05_run-1_T1w.nii.gz", "sub-05_run-2_T1w.nii.gz", "sub-05_T2w.nii.gz")
    touch(tmp_path, "sub-06_ses-a_T1w.nii.gz", "sub-06_ses-a_T2w.nii.gz", "sub-06_ses-b_T1w.nii.gz")
    (tmp_path / "sub-07").mkdir()
    pairs, notes = find_pairs(tmp_path, Selection(people=("01", "sub-02", "03", "04", "05", "06", "07", "99")))
    assert [pair.name for pair in pairs] == [
        "sub-01_from-T1w_to-T2w",
        "sub-05_run-1_from-T1w_to-T2w",
        "sub-06_ses-a_from-T1w_to-T2w",
    ]
    assert notes == [
        "sub-02: no T2w",
        "sub-03: no T1w",
        "sub-04: no image in anat",
        "sub-05: of 2 T1w, sub-05_run-1_T1w.nii.gz is taken (choose with a filter file)",
        "sub-06_ses-b: no T2w in ses-b",
        "sub-07: no image in anat",
        "sub-99: there is no such person",
    ]
    filters = {"moving": {"run": 2}}
    (pair,), _ = find_pairs(tmp_path, Selection(people=("05",), filters=filters))
    assert pair.files["moving"].endswith("sub-05_run-2_T1w.nii.gz")


def test_longitudinal_pairs(tmp_path: Path) -> None:
    touch(tmp_path, *(f"sub-01_ses-{n}_T1w.nii.gz" for n in (1, 2, 3)))
    pairs, notes = find_pairs(tmp_path, Selection(fixed="T1w", onto_session="ses-1"))
    assert [pair.name for pair in pairs] == [f"sub-01_ses-{n}_from-T1w_to-ses1T1w" for n in (2, 3)]
    assert all(pair.files["fixed"].endswith("sub-01_ses-1_T1w.nii.gz") for pair in pairs)
    assert notes == []


def test_what_is_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no BIDS data set: it has no dataset_description\.json"):
        find_pairs(tmp_path, Selection())
    touch(tmp_path, "sub-01_T1w.nii.gz")
    with pytest.raises(UsageError, match="no T1w and T2w of one person"):
        find_pairs(tmp_path, Selection())
    (tmp_path / "f.json").write_text('{"bold": {"run": 1}}')
    with pytest.raises(InputError, match="'bold' is no image here"):
        read_filters(tmp_path / "f.json")


def test_the_app_writes_a_derivative(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("h5py")
    root, out = tmp_path / "raw", tmp_path / "raw" / "derivatives" / "deformgan"
    small_cohort.write_tiny_model(tmp_path / "weights", bend=0.3)
    phantom = make_phantom()
    touch(root, "sub-01_ses-1_T1w.nii.gz", "sub-01_ses-1_T2w.nii.gz", "sub-02_T1w.nii.gz")
    anat = root / "sub-01" / "ses-1" / "anat"
    write_nifti(anat / "sub-01_ses-1_T2w.nii.gz", phantom.t2, phantom.affine)
    write_nifti(anat / "sub-01_ses-1_T1w.nii.gz", np.roll(phantom.t1, 1, 0), phantom.affine)
    quick = ["--model", str(tmp_path / "weights"), "--refine-steps", "0", "--nprocs", "1"]
    assert main([str(root), str(out), "participant", "--participant_label", "01", "02", *quick]) in (0, 4)
    assert "sub-02: no T2w" in capsys.readouterr().err
    derived = out / "sub-01" / "ses-1" / "anat"
    assert {path.name.removeprefix("sub-01_ses-1_") for path in derived.iterdir()} == {
        "from-T1w_to-T2w_mode-image_xfm.h5",
        "from-T1w_to-T2w_mode-image_xfm.json",
        "from-T2w_to-T1w_mode-image_xfm.h5",
        "from-T2w_to-T1w_mode-image_xfm.json",
        "from-T1w_to-T2w_mode-image_desc-affine_xfm.txt",
        "space-T2w_desc-preproc_T1w.nii.gz",
        "space-T2w_desc-preproc_T1w.json",
        "space-T2w_desc-jacobian_T1w.nii.gz",
    }
    sidecar = json.loads((derived / "sub-01_ses-1_space-T2w_desc-preproc_T1w.json").read_text(encoding="utf-8"))
    assert sidecar["SpatialReference"] == "bids:raw:sub-01/ses-1/anat/sub-01_ses-1_T2w.nii.gz"
    described = json.loads((out / "dataset_description.json").read_text(encoding="utf-8"))
    assert described["DatasetType"] == "derivative"
    assert (out / described["DatasetLinks"]["raw"]).resolve() == root.resolve()
    assert (out / "sub-01_ses-1.html").is_file()
    assert (out / "group_registration.html").is_file()
    # the transform makes the image: the same numbers by another route
    moved = nib.load(derived / "sub-01_ses-1_space-T2w_desc-preproc_T1w.nii.gz").get_fdata()
    saved = load_transform(derived / "sub-01_ses-1_from-T1w_to-T2w_mode-image_xfm.h5")
    from deformgan.io.image import load_image

    fixed, moving = (load_image(anat / f"sub-01_ses-1_{suffix}.nii.gz") for suffix in ("T2w", "T1w"))
    np.testing.assert_allclose(saved.apply(moving, fixed.grid).data, moved, atol=2e-3)
    assert main([str(root), str(out), "group"]) in (0, 4)
