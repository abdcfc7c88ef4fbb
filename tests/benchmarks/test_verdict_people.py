"""Between people the verdict is judged by where structures' centres are, and a spoilt header takes its labels along."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import nibabel as nib
import numpy as np
import pytest

from deformgan.quality.calibration import Failure, Linear, shipped

FOLDER = Path(__file__).parents[2] / "benchmarks" / "verdict"
SHAPE, AFFINE = (30, 30, 30), np.diag([2.0, 2.0, 2.0, 1.0])


@pytest.fixture
def people(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    before = set(sys.modules)
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
    module = importlib.import_module("verdict_people")
    for name in set(sys.modules) - before:  # another benchmark has modules of these names
        if str(FOLDER.parent) in str(getattr(sys.modules[name], "__file__", "")):
            monkeypatch.delitem(sys.modules, name)
    return module


def structures() -> np.ndarray:
    labels = np.zeros(SHAPE, np.int32)
    labels[3:9, 3:9, 3:9], labels[12:20, 4:12, 6:14], labels[15:22, 18:26, 18:24] = 1, 2, 3
    return labels


def test_centres_are_as_far_apart_as_structures_were_shifted(people: ModuleType) -> None:
    fixed = structures()
    moved = np.roll(fixed, (1, 2), (0, 1))
    assert people.centre_distances(moved, fixed, AFFINE) == pytest.approx((2 * 5**0.5,) * 2)
    assert people.centre_distances(fixed, fixed, AFFINE) == (0, 0)


def test_a_lost_structure_is_as_far_off_as_the_farthest(people: ModuleType) -> None:
    fixed = structures()
    moved = np.where(fixed == 2, 0, fixed)
    moved[moved == 3] = 0
    moved[15:22, 20:28, 18:24] = 3
    assert people.centre_distances(moved, fixed, AFFINE)[0] == pytest.approx((0 + 4 + 4) / 3)
    assert people.centre_distances(np.zeros_like(fixed), fixed, AFFINE) == (np.inf, np.inf)


@pytest.mark.parametrize("kind", ["shifted", "turned"])
def test_a_spoilt_header_is_that_of_image_and_labels(people: ModuleType, kind: str) -> None:
    images = [nib.Nifti1Image(data, AFFINE) for data in (np.ones(SHAPE, np.float32), structures())]
    pair = people.People(images[0], images[0], images[1], images[1])
    spoilt = people.KINDS[kind][0](pair, np.random.default_rng(1))
    assert np.array_equal(spoilt.moving.affine, spoilt.moving_labels.affine)
    motion = spoilt.moving.affine @ np.linalg.inv(AFFINE)
    assert np.allclose(motion[:3, :3] @ motion[:3, :3].T, np.eye(3))
    middle = AFFINE @ [15, 15, 15, 1]
    away = np.linalg.norm((motion @ middle - middle)[:3])
    assert 5 <= away <= 40 if kind == "shifted" else away < 1e-9
    assert np.array_equal(spoilt.fixed.affine, AFFINE)


def test_patients_go_onto_the_next_one_and_onto_the_template(
    people: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    patients = [tmp_path / name for name in "abc"]
    for patient in patients:
        patient.mkdir()
        for name in ("t1", "t2"):
            nib.save(nib.Nifti1Image(np.ones(SHAPE, np.float32), AFFINE), patient / f"{name}.nii.gz")
    asked: list[Path] = []

    def labelled(path: Path) -> list[nib.Nifti1Image]:
        asked.append(path)
        return [nib.Nifti1Image(data, AFFINE) for data in (np.ones(SHAPE, np.float32), structures())]

    monkeypatch.setattr(people, "labelled", labelled)
    monkeypatch.setattr(people, "located", Path)
    pairs = list(people.patient_pairs(patients))
    assert [(name, subject) for name, subject, _ in pairs] == [
        ("a onto b t1", "b"), ("a onto MNI152", "a"), ("b onto c t2", "c"), ("b onto MNI152", "b"),
        ("c onto a t1", "a"), ("c onto MNI152", "c"),
    ]  # fmt: skip
    assert {path.name for path in asked} == {"t1.nii.gz", "MNI152"}, "structures are looked for in the T1"
    assert list(people.patient_pairs([])) == []


def test_a_right_map_between_people_is_none_within_one() -> None:
    """It bends: what passes between people is looked at or fails in one person."""
    features = {
        "agreement": 0.75, "pinning": 0.07, "gain": 0.0, "gain_p95": 0.0, "log_similarity": -1.2, "log_roughness": -1.0,
        "shift": 1.2, "log_jacobian": -0.9,
    }  # fmt: skip
    same, other = (shipped().failure(subject) for subject in ("auto", "other"))
    assert other.probability(features) < other.look
    assert other.unseen(features) == []
    assert other.unseen({**features, "log_roughness": -0.1}) == ["log_roughness"]
    assert same.probability(features) >= same.look
    assert shipped().failure("same") is same


def test_a_probability_is_the_logistic_function_of_the_sum() -> None:
    failure = Failure(Linear(("gain",), (0.0,), (1.0,), (2.0,), -1.0), 0.2, 0.8)
    assert failure.probability({"gain": 1.0}) == pytest.approx(1 / (1 + np.exp(-1)))
