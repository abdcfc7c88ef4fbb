"""The demo with a registration whose error is known: its figures, its files, its verdict, nothing left on failure."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from anatomies import coarse_anatomy

from deformgan.commands.main import main
from deformgan.errors import UsageError
from deformgan.io.image import Image
from deformgan.output.registration import Registration
from deformgan.quality import Quality
from deformgan.transforms.transform import Transform
from deformgan.workshop import demo
from deformgan.workshop.simulation.cases import SimulatedCase

PICTURES = {"overview.png", "before.png", "after.png", "checkerboard.png", "warped_grid.png", "error_map.png"}
SHARE = 0.8  # of the true displacement that the stand-in registration finds


class _StandIn:
    """In place of `register`: finds a fixed share of the true displacement."""

    def __init__(self, reasons: tuple[str, ...] = (), error: Exception | None = None) -> None:
        self.reasons, self.error = reasons, error
        self.case: SimulatedCase | None = None
        self.asked: dict[str, Any] = {}

    def __call__(self, fixed: Image, moving: Image, *, moving_labels: Image, **options: Any) -> Registration:
        if self.error is not None:
            raise self.error
        assert self.case is not None
        self.asked = options
        field = self.case.deformation.forward * SHARE
        transform = Transform.from_field(self.case.grid, self.case.grid, field)
        quality = Quality(0.0, 0.5, 1.5, 1.0, 2.0, 0.1, 0.2, self.reasons)
        moved, labels = transform.apply(moving, fixed.grid), transform.apply_labels(moving_labels, fixed.grid)
        record = {
            "inputs": {role: {"path": None, "sha256": None} for role in ("fixed", "moving")},
            "timings": {"predict": 0.1, "total": 0.1},
        }
        return Registration(moved, transform, quality, record, moving.grid, labels, pair=(fixed, moving))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo's case at a third of its resolution."""
    monkeypatch.setattr(demo, "load_anatomy", coarse_anatomy)
    monkeypatch.setattr(demo, "SHAPE", (46, 52, 44))
    monkeypatch.setattr(demo, "SPACING_MM", 4.5)
    monkeypatch.setattr(demo, "DEFORMATION", demo.DEFORMATION.scaled(1 / 3))


def _stand_in(monkeypatch: pytest.MonkeyPatch, **options: Any) -> _StandIn:
    stand_in, make = _StandIn(**options), demo.demo_case

    def remember(seed: int) -> SimulatedCase:
        stand_in.case = make(seed)
        return stand_in.case

    monkeypatch.setattr(demo, "demo_case", remember)
    monkeypatch.setattr(demo, "register", stand_in)
    return stand_in


def test_the_figures_are_those_of_the_known_error(small: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stand_in, stages = _stand_in(monkeypatch), []
    monkeypatch.setattr(demo, "draw", lambda *_: None)
    record = demo.run_demo(tmp_path / "out", model="some", refine_steps=7, device="cpu", seed=2, progress=stages.append)
    before, after = record["before"], record["after"]
    for key in ("error_mean_vox", "error_p95_vox", "error_max_vox"):
        assert after[key] == pytest.approx((1 - SHARE) * before[key], rel=0.01)
    assert before["error_max_vox"] == pytest.approx(record["case"]["max_u"], abs=0.02)
    assert after["tumour_dice"] > before["tumour_dice"] + 0.1
    assert after["rmse"] < before["rmse"]
    assert stand_in.asked["model"] == "some"
    assert stand_in.asked["refine_steps"] == 7
    assert {"simulate", "draw"} <= set(stages)

    line = demo.summary(record, tmp_path / "out")
    assert f"{before['error_mean_vox']:.2f} vox" in line
    assert f"{after['error_mean_vox'] * 4.5:6.2f} mm" in line
    assert f"{after['tumour_dice']:.3f}" in line
    report = tmp_path / "out" / "registration" / "report.html"
    assert f"report, for a browser: {report}" in line
    assert "<h2>Before and after</h2>" in report.read_text(encoding="utf-8")
    for stage in ("simulate", "predict", "report", "draw"):
        assert f"{stage} {record['timings'][stage]:.2f}" in line


@pytest.mark.slow
def test_the_folder_is_complete(small: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _stand_in(monkeypatch)
    out = tmp_path / "out"
    record = demo.run_demo(out)
    assert json.loads((out / "demo.json").read_text(encoding="utf-8")) == record
    assert {path.name for path in (out / "pictures").iterdir()} == PICTURES
    assert all(path.read_bytes()[:4] == b"\x89PNG" for path in (out / "pictures").iterdir())
    assert {"moved.nii.gz", "warp.nii.gz", "moved_labels.nii.gz", "registration.json"} <= {
        path.name for path in (out / "registration").iterdir()
    }
    fixed, moving = (nib.load(out / "case" / f"{name}.nii.gz").get_fdata() for name in ("fixed", "moving"))
    assert fixed.shape == moving.shape == (46, 52, 44)
    assert np.abs(fixed - moving).max() > 0.2
    with pytest.raises(UsageError, match="force=True"):
        demo.run_demo(out)
    monkeypatch.setattr(demo, "draw", lambda *_: None)
    demo.run_demo(out, force=True)
    assert not list((out / "pictures").iterdir()), "an old picture survived a new run"


def test_a_failed_quality_check_keeps_the_folder(
    small: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _stand_in(monkeypatch, reasons=("the map folds",))
    monkeypatch.setattr(demo, "draw", lambda *_: None)
    assert main(["demo", "-o", str(tmp_path / "out"), "--threads", "1", "--json"]) == 4
    said = capsys.readouterr()
    answer = json.loads(said.out)
    assert (answer["status"], answer["exit_code"]) == ("quality", 4)
    assert "the map folds" in said.err
    assert (tmp_path / "out" / "registration" / "moved.nii.gz").is_file()
    assert json.loads((tmp_path / "out" / "demo.json").read_text(encoding="utf-8"))["quality"]["reasons"] == [
        "the map folds"
    ]


def test_nothing_is_left_when_it_breaks(small: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _stand_in(monkeypatch, error=UsageError("no such weights"))
    with pytest.raises(UsageError, match="no such weights"):
        demo.run_demo(tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_the_answer_goes_to_stdout_also_on_a_terminal(
    small: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A live status line on a terminal redirects stdout to stderr while it lives."""
    _stand_in(monkeypatch)
    monkeypatch.setattr(demo, "draw", lambda *_: None)
    master, slave = os.openpty()
    with os.fdopen(slave, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        assert main(["demo", "-o", str(tmp_path / "out"), "--threads", "1", "--json"]) == 0
    os.close(master)
    assert json.loads(capsys.readouterr().out)["status"] == "ok"
