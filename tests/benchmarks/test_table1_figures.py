"""The script that draws the comparison: what it reads, what it draws of it, and whose anatomy it may show."""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from panel_cases import panel_case, write_snapshot

from deformgan.errors import InputError, UsageError
from deformgan.workshop.evaluation.cases import EvaluationCase

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "table1" / "figures.py"


@pytest.fixture
def case() -> EvaluationCase:
    return panel_case()


@pytest.fixture
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("table1_figures", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _given(script: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> argparse.Namespace:
    monkeypatch.setattr(sys, "argv", ["figures.py", *map(str, arguments)])
    return script.options()


def _results(folder: Path, error: float = 1.0) -> Path:
    folder.mkdir(exist_ok=True)
    rows = [
        {"method": method, "case": f"case_{k}", "error_mean": error + k, "dice_tumour": 0.8, "rmse_brain": 2.0,
         "seconds": 1.5, "device": "cpu"}
        for method in ("deform-gan-1", "deform-gan-2") for k in range(3)
    ]  # fmt: skip
    swept = [{**row, "sweep": "noise", "level": level} for row in rows for level in (0.0, 0.1)]
    (folder / "results.json").write_text(json.dumps({"schema": 1, "rows": rows}))
    (folder / "sweeps.json").write_text(json.dumps({"schema": 1, "rows": swept}))
    return folder


def test_everything_is_drawn_that_there_is_input_for(
    script: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    case: EvaluationCase,
) -> None:
    run = tmp_path / "run"
    write_snapshot(run, 1, 1.0, 0)
    (run / "metrics.jsonl").write_text('{"step": 1, "t_loss": 0.5, "seconds": 1.0}\n')
    studies = tmp_path / "studies.toml"
    studies.write_text('["Gradient constraint"]\ndeform-gan-1 = "μ = 0"\ndeform-gan-2 = "μ = 5"\n')
    asked = []
    monkeypatch.setattr(script, "shipped_cases", lambda *what: asked.append(what) or [case])
    out = tmp_path / "figures"
    given = _given(
        script, monkeypatch, out, "--results", _results(tmp_path / "scores"), "--run", f"deform-gan-2={run}",
        "--studies", studies, "--seed", 4,
    )  # fmt: skip
    written = script.draw(given)
    assert sorted(path.name for path in written) == sorted(path.name for path in out.iterdir())
    pictures = {"robustness", "robustness-overlap", "accuracy-time", "studies", "training", "synthesis"}
    assert {path.name for path in written} == {f"{name}.png" for name in pictures} | {"synthesis.json"}
    assert asked == [("medium", 3, 4)]
    (row,) = json.loads((out / "synthesis.json").read_text())["rows"]
    assert (row["run"], row["case"]) == ("deform-gan-2", "case_000")


def test_nothing_to_draw_is_an_error(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["figures.py", str(tmp_path / "out")])
    assert script.main() == 2
    assert "nothing to draw" in capsys.readouterr().err


def test_rows_of_several_folders_are_joined(script: ModuleType, tmp_path: Path) -> None:
    folders = [_results(tmp_path / "old", 1.0), _results(tmp_path / "new", 5.0), tmp_path / "none"]
    rows = script.rows_of(folders, "results.json")
    assert [row["error_mean"] for row in rows] == [5, 6, 7, 5, 6, 7], "the last of each counts, once"
    (tmp_path / "old" / "results.json").write_text("[1, 2]")
    with pytest.raises(InputError, match="no rows of scores"):
        script.rows_of(folders, "results.json")


def test_studies_are_read_in_order(script: ModuleType, tmp_path: Path) -> None:
    shipped = script.read_studies(SCRIPT.with_name("studies.toml"))
    assert list(shipped[1].methods.values()) == ["1", "3", "5", "7", "9"]
    (tmp_path / "s.toml").write_text('title = "a"\n')
    with pytest.raises(InputError, match="tables"):
        script.read_studies(tmp_path / "s.toml")
    with pytest.raises(UsageError, match="names no run"):
        script.named(["run"])


def test_pictures_of_cases_go_only_where_git_does_not_look(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "repository"
    (repository / "docs").mkdir(parents=True)
    script.must_be_ignored(repository / "docs" / "new")  # no repository yet
    subprocess.run(["git", "init", "-q", str(repository)], check=True)
    (repository / ".gitignore").write_text("runs/\n")
    script.must_be_ignored(repository / "runs" / "figures")
    for folder in (repository, repository / "docs", repository / "docs" / "not" / "there"):
        with pytest.raises(UsageError, match="may show patients"):
            script.must_be_ignored(folder)
    given = _given(script, monkeypatch, repository / "docs", "--cases", tmp_path)
    with pytest.raises(UsageError, match="may show patients"):
        script.draw(given)
    assert not list((repository / "docs").iterdir())


def test_methods_are_shown_on_the_noisy_pair_and_scored_on_the_clean_one(
    script: ModuleType,
    tmp_path: Path,
    case: EvaluationCase,
) -> None:
    pytest.importorskip("deformgan.workshop.evaluation.methods")
    noisy = script.perturbed(case, "noise", 0.1, 0)
    fixed, moving, shown = script.panels(case, noisy, ["identity"], 1)
    assert torch.equal(torch.from_numpy(fixed.image), noisy.fixed[0, 0])
    torch.testing.assert_close(torch.from_numpy(moving.image), noisy.moving[0, 0], atol=1e-4, rtol=0)
    assert moving.caption.startswith("error 1.50 voxels\ntumour Dice 0.")
    assert (shown.title, shown.caption) == ("no registration", moving.caption)


def test_studies_compare_on_the_cases_that_all_have(script: ModuleType) -> None:
    rows = [{"method": m, "case": c} for m, cases in (("a", "xyz"), ("b", "yz"), ("c", "x")) for c in cases]
    study = script.figures.Study("one", {"a": "A", "b": "B", "not there": "?"})
    kept = script.on_common_cases(rows, [study])
    assert [(row["method"], row["case"]) for row in kept] == [("a", "y"), ("a", "z"), ("b", "y"), ("b", "z")]
    assert script.on_common_cases([], [study]) == []


def test_times_of_a_quiet_machine_take_the_place_of_others(script: ModuleType, tmp_path: Path) -> None:
    rows = [{"method": m, "case": c, "seconds": 9.0, "error_mean": 1.0} for m in "ab" for c in "xy"]
    quiet = [{"method": "a", "case": c, "seconds": s} for c, s in (("x", 1.0), ("z", 2.0))]
    (tmp_path / "results.json").write_text(json.dumps({"rows": quiet}))
    assert [(row["method"], row["seconds"]) for row in script.retimed(rows, tmp_path)] == [("a", 1.5), ("a", 1.5)]
    assert script.retimed(rows, None) == rows
