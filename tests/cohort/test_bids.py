"""BIDS: which images are paired, what a data set with holes gives, and how a derivative is named."""

from __future__ import annotations

import json
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import small_cohort
from conftest import make_phantom, write_nifti

from deformgan.cohort.bids import Selection, find_pairs, read_filters
from deformgan.cohort.bids_app import find_validator, read_config, validate, write_config
from deformgan.cohort.bids_derivatives import read_derivatives
from deformgan.cohort.bids_index import read_name
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


@pytest.mark.slow
def test_the_app_writes_a_derivative(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("h5py")
    root, out = tmp_path / "raw", tmp_path / "raw" / "derivatives" / "deformgan"
    small_cohort.write_tiny_model(tmp_path / "weights", bend=0.3)
    phantom = make_phantom()
    touch(root, "sub-01_ses-1_T1w.nii.gz", "sub-01_ses-1_T2w.nii.gz", "sub-02_T1w.nii.gz")
    anat = root / "sub-01" / "ses-1" / "anat"
    write_nifti(anat / "sub-01_ses-1_T2w.nii.gz", phantom.t2, phantom.affine)
    write_nifti(anat / "sub-01_ses-1_T1w.nii.gz", np.roll(phantom.t1, 1, 0), phantom.affine)
    (tmp_path / "o.toml").write_text('nprocs = 2\nlimit = 5\nparticipant_label = ["01", "sub-02"]\nrefine_steps = 0\n')
    quick = ["--model", str(tmp_path / "weights"), "--config-file", str(tmp_path / "o.toml"), "--n-cpus", "1"]
    table = "participant_id\tage\tstatus\nsub-01\t40\tpatient\nsub-02\tn/a\tcontrol\n"
    (root / "participants.tsv").write_text(table, encoding="utf-8")
    words = [str(root), str(out), "participant", *quick]
    assert main([*words, "--skip-bids-validation", "--work-dir", str(tmp_path / "work")]) in (0, 4)
    assert "sub-02: no T2w" in capsys.readouterr().err
    assert any((tmp_path / "work").iterdir())
    assert os.environ.get("TMPDIR") != str(tmp_path / "work"), "set in the workers alone"
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
    lines = (out / "group_registration.tsv").read_text(encoding="utf-8").splitlines()
    header, cells = (line.split("\t") for line in lines)
    (values,) = [dict(zip(header, cells, strict=True))]
    assert (values["age"], values["participants_status"], values["status"]) == ("40", "patient", "done")
    # a run leaves the options it had: the file's, but for those of the command
    (left,) = (out / "logs").glob("*/deformgan.toml")
    found = read_config(left)
    assert found[:5] == ["--participant-label", "01", "sub-02", "--nprocs", "1"]
    assert {"--limit", "--skip-bids-validation", "--refine-steps", "--work-dir"} <= set(found)
    assert main([str(root), str(out), "group"]) in (0, 4)


def test_files_of_derivatives_belong_to_their_images(tmp_path: Path) -> None:
    raw, masks, other = tmp_path / "raw", tmp_path / "fmriprep", tmp_path / "lesions"
    touch(raw, *(f"sub-01_ses-{n}_{suffix}.nii.gz" for n in "ab" for suffix in ("T1w", "T2w")))
    touch(
        masks, "sub-01_ses-a_desc-brain_mask.nii.gz", "sub-01_ses-a_dseg.nii.gz", "sub-01_ses-a_desc-aseg_dseg.nii.gz"
    )
    touch(masks, "sub-01_ses-a_space-MNI152NLin2009cAsym_desc-brain_mask.nii.gz", "sub-01_ses-a_acq-x_dseg.nii.gz")
    touch(other, "sub-01_ses-a_space-T2w_label-lesion_mask.nii.gz", "sub-01_ses-a_desc-brain_mask.nii.gz")
    derivatives = read_derivatives([f"prep={masks}", str(other)])
    assert list(derivatives) == ["prep", "lesions"]
    (first, second), notes = find_pairs(raw, Selection(derivatives=derivatives))
    found = {role: Path(path).name for role, path in first.files.items()}
    assert found == {
        "fixed": "sub-01_ses-a_T2w.nii.gz",
        "moving": "sub-01_ses-a_T1w.nii.gz",
        "moving_mask": "sub-01_ses-a_desc-brain_mask.nii.gz",
        "moving_labels": "sub-01_ses-a_dseg.nii.gz",
        "fixed_lesion": "sub-01_ses-a_space-T2w_label-lesion_mask.nii.gz",
    }
    assert first.files["moving_mask"].startswith(str(masks)), "the derivative that is named first"
    assert set(second.files) == {"fixed", "moving"}, "the other session has none"
    assert notes == [
        "sub-01_ses-a_T1w.nii.gz: of 2 files with its labels in prep, sub-01_ses-a_dseg.nii.gz is taken "
        "(choose with a filter file)"
    ]
    filters = {"labels": {"desc": "aseg"}}
    (first, _), notes = find_pairs(raw, Selection(derivatives=derivatives, filters=filters))
    assert first.files["moving_labels"].endswith("sub-01_ses-a_desc-aseg_dseg.nii.gz")
    assert notes == []
    with pytest.raises(InputError, match="there is no folder"):
        read_derivatives([f"prep={tmp_path / 'none'}"])


@pytest.fixture
def data_set(tmp_path: Path) -> Path:
    """One person whose images are sound, and weights beside the data set."""
    root, phantom = tmp_path / "raw", make_phantom()
    small_cohort.write_tiny_model(tmp_path / "weights", bend=0.3)
    touch(root, "sub-01_T1w.nii.gz", "sub-01_T2w.nii.gz")
    (root / "README").write_text("A phantom, made for a test.\n")
    write_nifti(root / "sub-01/anat/sub-01_T2w.nii.gz", phantom.t2, phantom.affine)
    write_nifti(root / "sub-01/anat/sub-01_T1w.nii.gz", np.roll(phantom.t1, 1, 0), phantom.affine)
    return root


def quick(root: Path) -> list[str]:
    out = root / "derivatives" / "deformgan"
    return [str(root), str(out), "participant", "--model", str(root.parent / "weights"), "--refine-steps", "0"]


@pytest.mark.slow
def test_the_official_validator_finds_no_error_in_what_is_written(
    data_set: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    validator = find_validator()
    if validator is None:
        pytest.skip("no bids-validator-deno")
    pytest.importorskip("h5py")
    phantom = make_phantom()
    labels = data_set.parent / "made" / "sub-01" / "anat" / "sub-01_dseg.nii.gz"
    labels.parent.mkdir(parents=True)
    write_nifti(labels, (phantom.t1 > 0).astype(np.uint8), phantom.affine)
    words = [*quick(data_set), "--nprocs", "1", "-d", f"made={data_set.parent / 'made'}"]
    assert main(words) in (0, 4), capsys.readouterr().err
    out = Path(words[1])
    moved = out / "sub-01" / "anat" / "sub-01_space-T2w_dseg.nii.gz"
    assert set(np.unique(np.asanyarray(nib.load(moved).dataobj))) == {0, 1}
    sources = json.loads((moved.parent / "sub-01_space-T2w_dseg.json").read_text(encoding="utf-8"))["Sources"]
    assert sources[0] == "bids:made:sub-01/anat/sub-01_dseg.nii.gz"
    assert validate(out, validator) == []
    # and it does find what is wrong
    (out / "sub-01" / "anat" / "sub-01_space-T2w_desc_T1w.nii.gz").touch()
    assert any("sub-01_space-T2w_desc_T1w.nii.gz" in one for one in validate(out, validator))


def test_a_data_set_that_is_not_valid_is_refused(data_set: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if find_validator() is None:
        pytest.skip("no bids-validator-deno")
    (data_set / "sub-01" / "anat" / "sub-01_brain.nii.gz").touch()
    assert main([*quick(data_set), "--dry-run"]) == 3
    said = capsys.readouterr().err
    assert "sub-01_brain.nii.gz" in said
    assert "--skip-bids-validation" in said
    assert main([*quick(data_set), "--dry-run", "--skip-bids-validation"]) == 0


def test_the_paragraph_to_cite_is_written_alone(data_set: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*quick(data_set), "--boilerplate-only", "--onto-session", "ses-base", "--transform", "joint"]
    assert main(words) == 0
    out = Path(words[1])
    assert sorted(path.name for path in out.iterdir()) == ["logs"]
    text = (out / "logs" / "CITATION.md").read_text(encoding="utf-8")
    assert "the T1w image was aligned to the T2w image of session base" in text
    assert "arXiv:2002.11430" in text
    assert "@software{deformgan" in (out / "logs" / "CITATION.bib").read_text(encoding="utf-8")


def test_a_list_that_is_given_twice_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(tmp_path), str(tmp_path / "out"), "participant", "--participant-label", "01", "--participant_label=02"]
    assert main(words) == 2
    assert "--participant-label is given more than once" in capsys.readouterr().err


def test_options_come_from_a_file_and_go_into_one(tmp_path: Path) -> None:
    options = {
        "participant_label": ("01", "02"),
        "nprocs": 3,
        "no_report": True,
        "fixed_suffix": "FLAIR",
        "shard": None,
    }
    write_config(tmp_path / "logs" / "o.toml", options)
    words = read_config(tmp_path / "logs" / "o.toml")
    assert words == ["--participant-label", "01", "02", "--nprocs", "3", "--no-report", "--fixed-suffix", "FLAIR"]
    assert "--nprocs" not in read_config(tmp_path / "logs" / "o.toml", ["--nprocs"])
    (tmp_path / "tables.toml").write_text("[fixed]\nsuffix = 1\n")
    with pytest.raises(InputError, match=r"\[fixed\] is a table"):
        read_config(tmp_path / "tables.toml")


def test_options_of_a_file_that_is_not_there(data_set: Path) -> None:
    assert main([*quick(data_set)[:3], "--config-file", str(data_set.parent / "none.toml")]) == 3
