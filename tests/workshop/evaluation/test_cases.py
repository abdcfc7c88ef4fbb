"""Test cases: what is read, what is refused, and how they are made of patients and label maps."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from made_cases import SHAPE, made_case, write_made_case, write_made_cases
from small_training import write_people

from deformgan.errors import InputError, UsageError
from deformgan.spatial.field import compose, jacobian_determinant
from deformgan.spatial.warp import warp
from deformgan.workshop.datasets.patients import Patient
from deformgan.workshop.evaluation.cases import find_cases, read_case, select_cases
from deformgan.workshop.evaluation.make_cases import CasePlan, make_test_cases, patients_to_score, redeformed
from deformgan.workshop.evaluation.metrics import dice, endpoint_error, rmse_percent
from deformgan.workshop.simulation.cases import simulate


def plan_of(root: Path, **changes: object) -> CasePlan:
    settings = {"root": root, "patients": ("one", "two"), "shape": SHAPE, "spacing": 6.0, "per_regime": 2}
    return CasePlan(**settings | {"regimes": ("small",)} | changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_people(tmp_path_factory.mktemp("people"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, people: Path) -> list[Path]:
    out = tmp_path_factory.mktemp("made")
    return list(make_test_cases(out, plan_of(people, regimes=("small", "large"))))


def test_a_case_is_read_as_it_was_written(tmp_path: Path) -> None:
    case = made_case(regime="large", seed_of_case=3)
    read = read_case(write_made_case(tmp_path, case))
    for name in ("fixed", "moving", "moving_true", "fixed_labels", "moving_labels", "mask", "field"):
        assert torch.equal(getattr(read, name), getattr(case, name)), name
    assert (read.name, read.spacing, read.shape) == ("case_000", 4.0, SHAPE)
    assert read.meta["regime"] == "large"


def test_what_the_meta_data_leave_out_is_filled_in(tmp_path: Path) -> None:
    folder = write_made_case(tmp_path, made_case())
    (folder / "meta.json").write_text(json.dumps({"regime": "medium", "source": "seg_01.nii.gz"}))
    meta = read_case(folder).meta
    assert (meta["kind"], meta["subject"], meta["regime"]) == ("other", "seg_01", "medium")
    assert (meta["tumour_labels"], meta["spacing_mm"], meta["seed"]) == ([100, 101], 4.0, None)


def test_simulated_cases_are_read(tmp_path: Path) -> None:
    (folder, _), *_ = simulate(tmp_path, count=1, regimes=("small",), shape=(48, 56, 40))
    case = read_case(folder)
    assert case.meta["kind"] == "label-map"
    assert rmse_percent(warp(case.moving, case.field), case.moving_true, case.mask) < 5


def test_cases_are_found_in_order_and_by_regime(tmp_path: Path) -> None:
    folders = write_made_cases(tmp_path, 3)
    (tmp_path / "notes").mkdir()
    assert find_cases(tmp_path) == folders
    assert select_cases(folders, ("medium",)) == [folders[1]]
    assert select_cases(folders, ()) == folders
    with pytest.raises(UsageError, match="no case is of the regime large"):
        select_cases(folders, ("large",))
    with pytest.raises(InputError, match="holds no case"):
        find_cases(tmp_path / "notes")


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("moving", np.random.default_rng(0).random((32, 32, 30)).astype(np.float32), "moving has"),
        ("true_field", np.zeros((32, 32, 32), np.float32), "has the shape"),
        ("true_field", np.full((32, 32, 32, 3), np.nan, np.float32), "NaN"),
        ("mask", np.zeros((32, 32, 32), np.uint8), "mask is empty"),
        ("fixed_seg", np.full((32, 32, 32), 0.5, np.float32), "fractions"),
    ],
)
def test_a_case_that_cannot_be_scored_is_refused(tmp_path: Path, name: str, data: np.ndarray, message: str) -> None:
    folder = write_made_case(tmp_path, made_case())
    nib.Nifti1Image(data, np.diag([4.0, 4, 4, 1])).to_filename(folder / f"{name}.nii.gz")
    with pytest.raises(InputError, match=message):
        read_case(folder)


def test_voxels_that_are_no_cubes_along_the_axes_are_refused(tmp_path: Path) -> None:
    folder = write_made_case(tmp_path, made_case())
    image = nib.load(folder / "fixed.nii.gz")
    nib.Nifti1Image(np.asarray(image.dataobj), np.diag([-4.0, 4, 4, 1])).to_filename(folder / "fixed.nii.gz")
    with pytest.raises(InputError, match="no cubes"):
        read_case(folder)


@pytest.mark.parametrize("text", ["", "[]", "{"])
def test_damaged_meta_data_are_refused(tmp_path: Path, text: str) -> None:
    folder = write_made_case(tmp_path, made_case())
    (folder / "meta.json").write_text(text)
    with pytest.raises(InputError, match=r"meta\.json"):
        read_case(folder)


def test_made_cases_take_turns(made: list[Path]) -> None:
    metas = [read_case(folder).meta for folder in made]
    assert [folder.name for folder in made] == ["case_000", "case_001", "case_002", "case_003"]
    assert [(m["subject"], m["regime"]) for m in metas] == [
        ("one", "small"),
        ("one", "large"),
        ("two", "small"),
        ("two", "large"),
    ]
    assert {(m["kind"], m["contrast"], m["seed"]) for m in metas} == {("patient", "T2<-T1", 0)}


@pytest.mark.parametrize("number", [0, 1])
def test_the_true_field_undoes_a_patients_deformation(made: list[Path], number: int) -> None:
    case = read_case(made[number])
    before = rmse_percent(case.moving, case.moving_true, case.mask)
    assert rmse_percent(warp(case.moving, case.field), case.moving_true, case.mask) < 0.5 * before
    assert float(jacobian_determinant(case.field)[case.mask[:, 0]].min()) > 0.1
    assert float(endpoint_error(case.field, torch.zeros_like(case.field), case.mask).max()) <= (8.0, 40.0)[number]
    labels = warp(case.moving_labels, case.field, mode="nearest")
    assert dice((labels == 100).float(), (case.fixed_labels == 100).float()) > 0.7  # two nearest voxels


def test_the_truth_ends_where_the_moving_volume_does(made: list[Path]) -> None:
    case = read_case(made[1])
    positions = torch.stack(torch.meshgrid(*(torch.arange(n) for n in SHAPE), indexing="ij"))[None]
    source = (positions + case.field).permute(0, 2, 3, 4, 1)
    outside = ((source < 0) | (source > 31)).any(-1)[:, None]
    assert bool(outside.any())
    assert not bool(case.mask[outside].any())
    assert float(case.moving_true[outside].max()) == 0.0


def test_a_case_does_not_depend_on_the_others(tmp_path: Path, people: Path, made: list[Path]) -> None:
    alone = next(make_test_cases(tmp_path, plan_of(people, per_regime=1)))
    assert torch.equal(read_case(alone).field, read_case(made[0]).field)
    other = next(make_test_cases(tmp_path / "other", plan_of(people, seed=1)))
    assert not torch.equal(read_case(other).field, read_case(made[0]).field)


def test_finished_cases_are_kept_and_unfinished_ones_made(tmp_path: Path, people: Path) -> None:
    first, second = make_test_cases(tmp_path, plan_of(people))
    stamp = (first / "meta.json").stat().st_mtime_ns
    (second / "meta.json").unlink()
    for name in ("fixed", "moving", "moving_true", "fixed_seg", "moving_seg", "mask", "true_field", "true_warp"):
        (second / f"{name}.nii.gz").unlink()
    assert list(make_test_cases(tmp_path, plan_of(people))) == [first, second]
    assert (first / "meta.json").stat().st_mtime_ns == stamp
    assert (second / "meta.json").is_file()
    with pytest.raises(UsageError, match="another kind or seed"):
        list(make_test_cases(tmp_path, plan_of(people, seed=1)))
    assert len(list(make_test_cases(tmp_path, plan_of(people, seed=1), force=True))) == 2


def test_cases_are_made_of_label_maps(tmp_path: Path, people: Path) -> None:
    plan = plan_of(people, patients=(), label_maps=("labels.nii.gz",), per_regime=1)
    case = read_case(next(make_test_cases(tmp_path, plan)))
    assert (case.meta["kind"], case.meta["subject"]) == ("label-map", "labels")


def test_plans_that_cannot_be_are_refused(people: Path) -> None:
    for changes, message in [
        ({"regimes": ("huge",)}, "no regime huge"),
        ({"per_regime": 0}, "0 cases"),
        ({"fixed": "t1"}, "both t1"),
        ({"patients": ()}, "nothing"),
    ]:
        with pytest.raises(UsageError, match=message):
            plan_of(people, **changes)


def names(patients: tuple[str | Patient, ...]) -> set[str]:
    return {p if isinstance(p, str) else p.name for p in patients}


def test_patients_are_those_named_or_those_of_the_test_part(people: Path, tmp_path: Path) -> None:
    both = ("t2", "t1")
    assert names(patients_to_score(people, (), both, "all")) == {"one", "two"}
    test, train = (names(patients_to_score(people, (), both, part)) for part in ("test", "train"))
    assert test | train == {"one", "two"}
    assert not test & train
    assert names(patients_to_score(people, ("two",), both)) == {"two"}
    with pytest.raises(InputError, match="no case"):
        patients_to_score(people, (), ("flair", "t1"))
    with pytest.raises(InputError, match="does not exist"):
        patients_to_score(tmp_path / "none", (), both)


def test_cases_of_a_patient_found_are_those_of_its_name(people: Path, tmp_path: Path) -> None:
    found = patients_to_score(people, (), ("t2", "t1"), "all")
    (one,) = (p for p in found if isinstance(p, Patient) and p.name == "one")
    for out, patient in (("named", "one"), ("found", one)):
        plan = plan_of(people, patients=(patient,), per_regime=1, regimes=("small",))
        (folder,) = make_test_cases(tmp_path / out, plan)
    named = read_case(tmp_path / "named" / folder.name)
    assert torch.equal(named.moving, read_case(folder).moving)


@pytest.mark.parametrize("voxels", [3.0, 8.0])
def test_another_deformation_reaches_what_is_asked_for(voxels: float) -> None:
    case = made_case()
    drawn = redeformed(case, voxels, seed=1)
    length = drawn.field.square().sum(1, keepdim=True).sqrt()[case.mask]
    assert 0.85 * voxels < float(length.max()) < 1.1 * voxels
    assert torch.equal(drawn.fixed, case.fixed)
    before = rmse_percent(drawn.moving, drawn.moving_true, drawn.mask)
    assert rmse_percent(warp(drawn.moving, drawn.field), drawn.moving_true, drawn.mask) < 0.6 * before
    assert torch.equal(redeformed(case, voxels, seed=1).field, drawn.field)
    assert not torch.equal(redeformed(case, voxels, seed=2).field, drawn.field)


def test_composition_is_the_identity_for_the_moving_image() -> None:
    case = made_case()
    assert float(compose(-case.field, case.field).abs().max()) == 0.0
    with pytest.raises(UsageError, match="none"):
        redeformed(case, 0.0, 0)
