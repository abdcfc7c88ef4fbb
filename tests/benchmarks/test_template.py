"""The benchmark of people on a template: what other tools are given, and what is scored."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from conftest import write_nifti

from deformgan.io.image import load_image

FOLDER = Path(__file__).parents[2] / "benchmarks" / "people"


@pytest.fixture
def template(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
    yield importlib.import_module("template")
    for name in ("template", "registering", "measuring"):
        sys.modules.pop(name, None)


def test_a_brain_is_what_labels_cover_and_nearly_enclose(
    template: ModuleType, tmp_path: Path, rng: np.random.Generator
) -> None:
    labels = np.zeros((20, 20, 20), np.uint8)
    labels[4:16, 4:16, 4:16] = 7
    labels[9:11, 9:11, 9:11] = 0  # enclosed
    labels[4:10, 9:11, 9:11] = 0  # a sulcus, 4 mm wide
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    image = write_nifti(tmp_path / "t1.nii.gz", rng.uniform(5, 9, labels.shape).astype(np.float32), affine)
    out = template.brain_of(image, write_nifti(tmp_path / "labels.nii.gz", labels, affine), tmp_path / "brain.nii.gz")
    shown = load_image(out).data > 0
    assert shown[labels > 0].all()
    assert shown[5:16, 9:11, 9:11].all()  # but for its mouth
    outside = np.ones(labels.shape, bool)
    outside[4:16, 4:16, 4:16] = False
    assert not shown[outside].any()


def test_each_two_people_are_a_pair_and_a_missing_one_scores_nothing(template: ModuleType, tmp_path: Path) -> None:
    labels = np.zeros((8, 8, 8), np.uint8)
    labels[2:6, 2:6, 2:6] = 3
    there = write_nifti(tmp_path / "a.nii.gz", labels, np.eye(4))
    people = [
        ("a", there, {"seconds": 4.0, "code": 0, "verdict": "pass"}),
        ("b", there, {"seconds": 8.0, "code": 0, "verdict": "look"}),
        ("c", tmp_path / "none.nii.gz", {"seconds": 3.0, "code": 1}),
    ]
    rows = template._pairs("deformgan", people)
    assert [row["pair"] for row in rows] == ["a and b", "a and c", "b and c"]
    assert [row["dice"] for row in rows] == [1.0, 0.0, 0.0]
    assert rows[0]["seconds"] == 6.0
    assert rows[0]["verdicts"] == ["pass", "look"]
    assert "| deformgan | 3 | 0.333 | 0.000 | 5 |" in template.table(rows)
