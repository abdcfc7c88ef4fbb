"""The record of what a result was made from."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import nibabel as nib
import numpy as np

import deformgan
from deformgan.output import provenance
from deformgan.output.provenance import Stopwatch


def test_inputs_are_known_by_path_and_checksum(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"abc")
    expected = {"path": str(path), "sha256": hashlib.sha256(b"abc").hexdigest()}
    assert provenance.describe_input(path) == expected
    assert provenance.describe_inputs_later({"fixed": str(path)}).result() == {"fixed": expected}


def test_image_objects_are_known_by_their_file_if_they_have_one(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.ones((2, 2, 2), np.float32), np.eye(4))
    assert provenance.describe_input(image) == {"path": None, "sha256": None}
    path = tmp_path / "a.nii"
    image.to_filename(path)
    assert provenance.describe_input(nib.load(path))["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_missing_input_is_left_to_the_reader_to_report(tmp_path: Path) -> None:
    assert provenance.describe_input(tmp_path / "none.nii") == {"path": None, "sha256": None}


def test_stages_add_up_and_are_announced() -> None:
    heard: list[str] = []
    watch = Stopwatch(heard.append)
    for name in ("read", "write", "read"):
        with watch.stage(name):
            pass
    watch.seconds.update(read=1.0, write=0.25)
    assert heard == ["read", "write", "read"]
    assert watch.rounded() == {"read": 1.0, "write": 0.25, "total": 1.25}


def test_the_record_is_json_and_complete() -> None:
    record = provenance.record(
        inputs={"fixed": {"path": "a", "sha256": "b"}},
        model={"name": "m", "sha256": "c"},
        settings={"seed": 3, "folder": Path("x")},
        watch=Stopwatch(),
    )
    again = json.loads(json.dumps(record, allow_nan=False))
    assert again["settings"] == {"seed": 3, "folder": "x"}
    assert again["environment"]["deformgan"] == deformgan.__version__
    assert all(again["environment"][name] for name in provenance.LIBRARIES)
    assert again["started"].endswith("+00:00")
    assert 10 < again["peak_memory_mb"] < 1e6
