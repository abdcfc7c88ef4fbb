"""Templates by name: read from where nilearn carries them, unless a file has that name."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from conftest import write_nifti

from deformgan import load_image
from deformgan.cohort.table import read_table
from deformgan.errors import UsageError
from deformgan.io.image import load_grid
from deformgan.io.templates import located
from deformgan.output.provenance import describe_input


def test_the_template_is_a_brain_in_its_own_space() -> None:
    pytest.importorskip("nilearn")
    image = load_image("MNI152")
    assert image.name == "MNI152"
    assert load_grid("MNI152") == image.grid
    np.testing.assert_allclose(image.grid.spacing, 1)
    # the anterior commissure is world 0; between the hemispheres lies cerebrospinal fluid, beside them tissue
    middle = np.rint(image.grid.to_index(np.zeros(3))).astype(int)
    assert image.data[tuple(middle)] > 0
    litres = np.count_nonzero(image.data) / 1e6
    assert 1.6 < litres < 2.1, "a brain without a skull, somewhat larger than most"
    record = describe_input("MNI152")
    assert record["path"].endswith(".nii.gz")
    assert len(record["sha256"]) == 64


def test_a_file_of_that_name_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_nifti(tmp_path / "own.nii.gz", np.arange(27.0).reshape(3, 3, 3), np.eye(4))
    (tmp_path / "MNI152").write_bytes((tmp_path / "own.nii.gz").read_bytes())
    assert located("MNI152") == "MNI152"
    assert located("mni152") == "mni152", "names are taken as they are written"


def test_without_nilearn_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="comes with nilearn") as caught:
        load_image("MNI152")
    assert "pip install nilearn" in str(caught.value.hint)


def test_a_table_of_pairs_takes_it(tmp_path: Path) -> None:
    pytest.importorskip("nilearn")
    (tmp_path / "pairs.csv").write_text("id,fixed,moving\na,MNI152,a.nii.gz\n", encoding="utf-8")
    (pair,) = read_table(tmp_path / "pairs.csv")
    assert Path(pair.files["fixed"]).is_file()
    assert pair.files["moving"] == str(tmp_path / "a.nii.gz")
