"""The published schema of registration.json describes what is written, all of it, and refuses what is not."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import records
from conftest import PairFiles
from documents import REPOSITORY
from jsonschema import Draft202012Validator
from tiny import write_tiny_model

import deformgan
from deformgan.commands.main import main
from deformgan.output import provenance
from deformgan.quality import Quality
from deformgan.spatial.affine import affine_figures
from deformgan.transforms.formats.itk import write_affine

PAGE = REPOSITORY / "docs" / "reference" / "registration-json.md"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("weights") / "tiny")


def registered(pair: PairFiles, out: Path, weights: Path, *more: str) -> dict[str, Any]:
    words = ["register", "-f", str(pair.fixed), "-m", str(pair.moving), "-o", str(out), "--model", str(weights)]
    assert main([*words, "--refine-steps", "0", "--threads", "1", "--no-report", *more]) in (0, 4)
    return json.loads((out / "registration.json").read_text(encoding="utf-8"))


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(provenance.schema())
    assert provenance.schema()["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert provenance.schema()["properties"]["schema"]["const"] == provenance.SCHEMA


def test_the_command_shows_the_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--schema"]) == 0
    assert json.loads(capsys.readouterr().out) == provenance.schema()
    assert main(["info", "--schema", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["schema"] == provenance.schema()


def test_a_whole_record(pair_files: PairFiles, tmp_path: Path, weights: Path) -> None:
    points = tmp_path / "points.csv"
    points.write_text("x,y,z\n3,-5,7\n")
    write_affine(tmp_path / "start.txt", np.eye(4))
    more = ["--uncertainty", "--moving-labels", str(pair_files.moving_labels), "--moving-points", str(points)]
    record = registered(pair_files, tmp_path / "out", weights, *more, "--init", str(tmp_path / "start.txt"))
    records.check(record)
    assert set(record["inputs"]) == {"fixed", "moving", "moving_labels", "moving_points", "init"}
    for one in record["inputs"].values():
        assert one["sha256"] == provenance.sha256(one["path"])
    assert record["model"]["sha256"] == provenance.sha256(weights / "model.safetensors")
    assert record["arguments"]["command"] == "register"
    assert record["arguments"]["uncertainty"] is True
    assert record["arguments"]["threads"] == record["settings"]["threads"] == 1
    assert record["settings"]["device"] == "cpu" or record["environment"]["accelerator"]
    assert record["settings"]["uncertainty"] is record["arguments"]["uncertainty"] is True
    stages = {"read", "load model", "align", "conform", "predict", "transform", "assess", "write"}
    assert stages <= set(record["timings"])
    for name, checksum in record["output_sha256"].items():
        assert provenance.sha256(tmp_path / "out" / name) == checksum
    assert "uncertainty.nii.gz" in record["outputs"]


def test_an_affine_record_and_one_of_memory(pair_files: PairFiles, tmp_path: Path, weights: Path) -> None:
    record = registered(pair_files, tmp_path / "out", weights, "--transform", "affine", "--no-inverse", "--no-jacobian")
    records.check(record)
    assert record["model"] == {}
    assert record["quality"]["inverse_residual_mm"] is None
    images = [deformgan.load_image(path) for path in (pair_files.fixed, pair_files.moving)]
    found = deformgan.register(*images, model=str(weights), refine_steps=0)
    record = found.save(tmp_path / "memory")
    records.check(record)
    assert record["inputs"]["fixed"] == {"path": None, "sha256": None}
    assert "arguments" not in record
    # a result that failed outright: numbers that are not finite are null
    nan = float("nan")
    failed = Quality(nan, nan, nan, nan, nan, nan, nan, ("the displacement is not finite everywhere",))
    records.check({**record, "quality": failed.as_dict()})


def test_what_is_not_a_record_is_refused(pair_files: PairFiles, tmp_path: Path, weights: Path) -> None:
    record = registered(pair_files, tmp_path / "out", weights, "--no-inverse")

    def corrupted(where: str, value: Any) -> dict[str, Any]:
        new = copy.deepcopy(record)
        *path, last = where.split(".")
        part = new
        for name in path:
            part = part[name]
        part[last] = value
        return new

    for where, value in {
        "schema": 2,
        "started": "yesterday",
        "surprise": 1,
        "quality.verdict": "maybe",
        "quality.surprise": 1,
        "quality.reasons": ["it folds"],
        "quality.passed": not record["quality"]["passed"],
        "settings.smoothness": "1",
        "settings.surprise": 1,
        "settings.working_grid": [1, 2],
        "model.sha256": "f" * 63,
        "inputs.fixed": "a.nii.gz",
        "inputs.Bad role": {"path": None, "sha256": None},
        "timings.total": -1.0,
        "affine.rotation_degrees": 181,
        "output_sha256": {"moved.nii.gz": None},
    }.items():
        assert records.complaints(corrupted(where, value)), where
    for name in record:
        if name != "arguments":
            assert records.complaints({key: value for key, value in record.items() if key != name}), name


def test_readers_let_new_fields_pass(pair_files: PairFiles, tmp_path: Path, weights: Path) -> None:
    """The published schema is open where the tests' is closed, so that a field may be added without a new version."""
    record = registered(pair_files, tmp_path / "out", weights, "--no-inverse", "--no-jacobian")
    Draft202012Validator(provenance.schema()).validate({**record, "later": 1})


def test_the_page_names_every_field() -> None:
    text = PAGE.read_text(encoding="utf-8")
    parts = provenance.schema()["properties"]
    names = [*parts, *(name for part in parts.values() for name in part.get("properties", {}))]
    missing = [name for name in names if f"`{name}`" not in text]
    assert not missing


def test_the_parts_of_an_affine_map() -> None:
    angle = np.deg2rad(30)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    matrix = turn @ np.diag([2.0, 1.0, 0.5, 1.0])
    centre = np.array([10.0, -4.0, 3.0])
    matrix[:3, 3] = centre - matrix[:3, :3] @ centre + (3.0, 4.0, 0.0)
    found = affine_figures(matrix, centre)
    assert found["matrix"] == matrix.tolist()
    assert found["rotation_degrees"] == pytest.approx(30, abs=1e-4)
    assert found["scales"] == pytest.approx([2, 1, 0.5])
    assert found["shift_mm"] == pytest.approx(5, abs=1e-4)
    # small and large angles are told to the same accuracy, mirrored maps without an error
    for degrees in (0.01, 179.99):
        angle = np.deg2rad(degrees)
        turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        assert affine_figures(turn, centre)["rotation_degrees"] == pytest.approx(degrees, abs=1e-4)
    assert 0 <= affine_figures(np.diag([-1.0, 1.0, 1.0, 1.0]), centre)["rotation_degrees"] <= 180
