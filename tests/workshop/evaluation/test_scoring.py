"""Methods and the rows they are given: scores by hand, the whole pipeline as a field, resuming, determinism."""

from __future__ import annotations

import json
import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import write_nifti
from made_cases import SHAPE, made_case, without, write_made_case, write_made_cases
from tiny import write_weights

from deformgan.errors import InputError, UsageError
from deformgan.models.load import load_model
from deformgan.spatial.field import affine_field, fit_affine, identity_positions, resize
from deformgan.spatial.grid import Grid
from deformgan.transforms.transform import Transform
from deformgan.workshop.evaluation import run, sweeps
from deformgan.workshop.evaluation.cases import EvaluationCase
from deformgan.workshop.evaluation.memory import PeakMemory
from deformgan.workshop.evaluation.methods import Compute, Product, Spec, as_field, make_method, parse_method
from deformgan.workshop.evaluation.run import ScoreFile, score_all, sweep_jobs
from deformgan.workshop.evaluation.scoring import QUALITIES, Job, rows_of, score_field

CPU = Compute("cpu", "fp32", 1)
FLUID = "deformgan.workshop.evaluation.fluid"
ROBUSTNESS = "deformgan.workshop.evaluation.robustness"


def install(monkeypatch: pytest.MonkeyPatch, name: str, **content: Any) -> None:
    module = types.ModuleType(name)
    module.__dict__.update(content)
    monkeypatch.setitem(sys.modules, name, module)


# -- scores ----------------------------------------------------------------------------------------------------------


def test_the_true_field_scores_perfectly() -> None:
    scores = score_field(made_case(), made_case().field)
    assert scores["error_mean"] == scores["error_p95"] == scores["folding"] == scores["rmse_brain"] == 0.0
    assert scores["dice_tumour"] == 1.0


def test_scores_by_hand() -> None:
    case = made_case(shift=2.0)
    field = torch.zeros_like(case.field)
    field[:, 1] = 1.5  # (0, 1.5, 0) where (2, 0, 0) is right: 2.5 voxels off
    scores = score_field(case, field)
    assert scores["error_mean"] == scores["error_p95"] == pytest.approx(2.5)
    identity = score_field(case, torch.zeros_like(field))
    difference = (case.moving - case.moving_true).square()
    span = float(case.moving_true.max() - case.moving_true.min())
    assert identity["rmse_volume"] == pytest.approx(100 * float(difference.mean()) ** 0.5 / span, abs=1e-5)
    assert identity["rmse_brain"] == pytest.approx(100 * float(difference[case.mask].mean()) ** 0.5 / span, abs=1e-5)
    ours, true = (case.moving_labels == 100).numpy(), (case.fixed_labels == 100).numpy()
    assert identity["dice_tumour"] == pytest.approx(2 * (ours & true).sum() / (ours.sum() + true.sum()), abs=1e-6)


def test_the_95th_percentile_is_that_of_numpy() -> None:
    case = made_case()
    field = torch.randn(case.field.shape, generator=torch.Generator().manual_seed(1))
    error = (field - case.field).square().sum(1, keepdim=True).sqrt()[case.mask].numpy()
    assert score_field(case, field)["error_p95"] == pytest.approx(np.percentile(error, 95), abs=1e-5)


def test_folding_is_counted_inside_the_mask() -> None:
    case = made_case()
    field = -2.0 * identity_positions(SHAPE)
    field[:, 1:] = 0  # mirrored along one axis
    assert score_field(case, field)["folding"] == 100.0


def test_no_tumour_is_no_dice() -> None:
    case = without(made_case(), 100)
    assert score_field(case, case.field)["dice_tumour"] is None


def test_a_field_that_cannot_be_is_refused() -> None:
    case = made_case()
    with pytest.raises(InputError, match="not finite"):
        score_field(case, case.field * float("nan"))
    with pytest.raises(InputError, match="a field of shape"):
        score_field(case, case.field[..., :-1])


# -- methods ---------------------------------------------------------------------------------------------------------


def test_methods_are_parsed(tmp_path: Path) -> None:
    weights = write_weights(tmp_path / "w")
    write_nifti(write_made_case(tmp_path / "ants", made_case()) / "field.nii.gz", np.zeros((2, 2, 2, 3)), np.eye(4))
    assert parse_method("identity") == Spec("identity")
    assert parse_method(f"a={weights}") == Spec("a", weights)
    assert parse_method(f"b={tmp_path / 'ants'}") == Spec("b", tmp_path / "ants", external=True)
    assert parse_method(parse_method(f"a={weights}").text) == Spec("a", weights)


@pytest.mark.parametrize("text", ["ants", "x=", "=x", "identity=.", "x=nowhere"])
def test_unknown_methods_are_refused(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError):
        parse_method(text)


def test_trained_weights_are_run_on_the_images_as_they_are(tmp_path: Path) -> None:
    case, weights = made_case(), write_weights(tmp_path / "w")
    method = make_method(Spec("w", weights), CPU)
    field = method.predict(case.fixed, case.moving, case.spacing)
    expected = resize(load_model(weights).predict(case.fixed, case.moving, "fp32"), SHAPE)
    assert torch.equal(field, expected)
    assert float(field.abs().max()) > 1e-3


def test_weights_for_another_shape_are_refused(tmp_path: Path) -> None:
    weights = write_weights(tmp_path / "w", (32, 36, 28))
    job = Job(str(write_made_case(tmp_path, made_case())))
    with pytest.raises(InputError, match=r"w, case_000: .*takes images"):
        list(rows_of(Spec("w", weights), [job], CPU))


def test_the_whole_pipeline_gives_a_field_on_the_cases_grid(tmp_path: Path) -> None:
    """A network of a large voxel size that moves nothing: what is left is the identity."""
    case = made_case()
    method = Product("deformgan-net", load_model(write_weights(tmp_path / "w", bend=0.0)), "fp32", 0)
    field = method.predict(case.fixed, case.moving, case.spacing)
    assert field.shape == case.field.shape
    # the affine stage comes first, and nothing is bent
    shape = tuple(field.shape[2:])
    affine = affine_field(fit_affine(field, torch.ones(1, 1, *shape)), shape)
    assert float((field - affine).abs().max()) < 1e-3
    refined = Product("deformgan", load_model(tmp_path / "w"), "fp32", 200)
    error = score_field(case, refined.predict(case.fixed, case.moving, case.spacing))["error_mean"]
    before = score_field(case, torch.zeros_like(field))["error_mean"]
    assert error is not None
    assert before is not None
    assert error < 0.5 * before


def test_a_transform_becomes_a_field() -> None:
    grid = Grid.centred((6, 5, 4), 2.0, np.array([3.0, -2.0, 8.0]))
    field = torch.randn(1, 3, 6, 5, 4, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(as_field(Transform.from_field(grid, grid, field), grid), field, atol=1e-5)


def test_the_fluid_is_called_with_its_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    case = made_case()
    install(monkeypatch, FLUID, register_fluid=lambda fixed, moving: torch.full((1, 3, *SHAPE), 2.0))
    field = make_method(Spec("mi-fluid"), CPU).predict(case.fixed, case.moving, 4.0)
    assert torch.equal(field, torch.full((1, 3, *SHAPE), 2.0))


def test_results_of_other_tools_are_scored_only(tmp_path: Path) -> None:
    case = made_case()
    jobs = [Job(str(write_made_case(tmp_path / "cases", case)))]
    folder = tmp_path / "ants" / case.name
    folder.mkdir(parents=True)
    field = case.field[0].permute(1, 2, 3, 0).numpy() + np.float32([0, 0.5, 0])
    write_nifti(folder / "field.nii.gz", field, np.eye(4))
    spec = parse_method(f"ants={tmp_path / 'ants'}")
    (row,) = rows_of(spec, jobs, CPU)
    assert (row["error_mean"], row["seconds"], row["device"]) == (pytest.approx(0.5), None, "external")
    (folder / "time.json").write_text(json.dumps({"seconds": 3.25, "peak_rss_mb": 120.04}))
    (row,) = rows_of(spec, jobs, CPU)
    assert (row["seconds"], row["peak_memory_mb"], row["threads"]) == (3.25, 120.0, None)
    (folder / "time.json").write_text("[]")
    with pytest.raises(InputError, match=r"time\.json"):
        list(rows_of(spec, jobs, CPU))
    with pytest.raises(UsageError, match="sweep"):
        list(rows_of(spec, [replace(jobs[0], sweep="noise", level=1.0)], CPU))
    (folder / "field.nii.gz").unlink()
    with pytest.raises(InputError, match="does not exist"):
        list(rows_of(spec, jobs, CPU))


def test_peak_memory_counts_what_is_held_for_a_moment() -> None:
    memory = PeakMemory("cpu")
    memory.reset()
    block = np.ones(40_000_000 // 8)
    del block
    peak = memory.read()
    assert peak is not None
    assert 35 < peak < 120


# -- rows on disk ----------------------------------------------------------------------------------------------------


class Counted:
    """A method that counts its runs; the first of them is the warm-up."""

    name, device, precision = "identity", "cpu", "fp32"

    def __init__(self) -> None:
        self.runs = 0

    def predict(self, fixed: torch.Tensor, moving: torch.Tensor, spacing: float) -> torch.Tensor:
        self.runs += 1
        return torch.zeros(1, 3, *fixed.shape[2:])


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    method = Counted()
    monkeypatch.setattr("deformgan.workshop.evaluation.scoring.make_method", lambda spec, compute: method)
    return method


def scored(out: Path, jobs: list[Job], *specs: Spec, **options: Any) -> list[dict[str, Any]]:
    out.mkdir(exist_ok=True)
    return score_all(out, specs or [Spec("identity")], jobs, CPU, isolate=False, **options)


def test_a_row_holds_what_it_should(tmp_path: Path) -> None:
    (row, _) = scored(tmp_path / "out", [Job(str(f)) for f in write_made_cases(tmp_path)])
    assert list(row) == [
        *("method", "case", "kind", "subject", "regime"),
        *("rmse_volume", "rmse_brain", "dice_tumour", "error_mean", "error_p95", "folding"),
        *("seconds", "peak_memory_mb", "device", "precision", "threads"),
    ]
    assert row["error_mean"] == 1.0
    assert (row["case"], row["kind"], row["subject"], row["regime"]) == ("case_000", "patient", "p0", "small")


def test_rows_that_are_there_are_not_computed_again(tmp_path: Path, counted: Counted) -> None:
    jobs = [Job(str(f)) for f in write_made_cases(tmp_path, 3)]
    first = scored(tmp_path / "out", jobs[:2])
    assert counted.runs == 3
    told: list[str] = []
    rows = scored(tmp_path / "out", jobs, progress=told.append)
    assert counted.runs == 5
    assert rows[:2] == first
    assert told[0] == "identity, method 1 of 1: case 3 of 3"
    assert scored(tmp_path / "out", jobs) == rows
    assert counted.runs == 5


def test_half_a_line_is_dropped(tmp_path: Path, counted: Counted) -> None:
    jobs = [Job(str(f)) for f in write_made_cases(tmp_path, 2)]
    rows = scored(tmp_path / "out", jobs)
    path = tmp_path / "out" / run.SCORES
    text = path.read_text()
    path.write_text(text[:-20])
    assert ScoreFile(path).rows == rows[:1]
    assert path.read_text() == text.splitlines(keepends=True)[0]
    again = scored(tmp_path / "out", jobs)
    assert counted.runs == 5
    assert [{**r, "seconds": 0, "peak_memory_mb": 0} for r in again] == [
        {**r, "seconds": 0, "peak_memory_mb": 0} for r in rows
    ]
    path.write_text("half\n" + text)
    with pytest.raises(InputError, match="line 1"):
        ScoreFile(path)


def test_scores_of_one_folder_are_comparable(tmp_path: Path) -> None:
    jobs = [Job(str(f)) for f in write_made_cases(tmp_path / "a")]
    weights, out = write_weights(tmp_path / "w"), tmp_path / "out"
    scored(out, jobs, Spec("w", weights))
    with pytest.raises(UsageError, match="other settings: device cpu, precision fp32, threads 1"):
        score_all(out, [Spec("identity")], jobs, replace(CPU, threads=2), isolate=False)
    write_weights(weights, seed=5)
    with pytest.raises(UsageError, match="other weights named w"):
        scored(out, jobs, Spec("w", weights))
    other = write_made_case(tmp_path / "b", made_case("case_000", 5.0))
    with pytest.raises(UsageError, match="other cases named case_000"):
        scored(out, [Job(str(other))])
    assert len(scored(out, jobs, Spec("identity"))) == 2
    (out / run.SETUP).write_text("{}")
    with pytest.raises(InputError, match="damaged"):
        scored(out, jobs)


def test_the_same_is_computed_again_and_in_a_process_of_its_own(tmp_path: Path) -> None:
    jobs = [Job(str(f)) for f in write_made_cases(tmp_path)]
    spec = Spec("w", write_weights(tmp_path / "w"))
    here = scored(tmp_path / "here", jobs, spec)
    (tmp_path / "there").mkdir()
    there = score_all(tmp_path / "there", [spec], jobs, CPU)
    assert [[row[q] for q in QUALITIES] for row in here] == [[row[q] for q in QUALITIES] for row in there]
    assert all(row["peak_memory_mb"] > 0 and row["seconds"] > 0 for row in there)


def test_an_error_in_a_process_of_its_own_is_the_same_error(tmp_path: Path) -> None:
    spec = Spec("w", write_weights(tmp_path / "w", (32, 36, 28)))
    jobs = [Job(str(f)) for f in write_made_cases(tmp_path)]
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match=r"w, case_000: .*takes images") as caught:
        score_all(tmp_path / "out", [spec], jobs, CPU)
    assert caught.value.hint == "make cases of its shape, or leave it out"


# -- sweeps ----------------------------------------------------------------------------------------------------------


def test_a_sweep_is_seen_disturbed_and_scored_undisturbed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []

    def perturbed(case: EvaluationCase, sweep: str, level: float, seed: int) -> EvaluationCase:
        assert (sweep, seed) == ("noise", 7)
        return replace(case, moving=case.moving * 0 + level)

    def looking(fixed: torch.Tensor, moving: torch.Tensor) -> torch.Tensor:
        seen.append(float(moving.max()))
        return torch.zeros(1, 3, *SHAPE)

    install(monkeypatch, ROBUSTNESS, SWEEPS={"noise": (0.0, 0.5)}, perturbed=perturbed)
    install(monkeypatch, FLUID, register_fluid=looking)
    folders = write_made_cases(tmp_path, 1)
    jobs = sweep_jobs(folders, ["noise"], 7)
    rows = scored(tmp_path / "out", jobs, Spec("mi-fluid"), file=run.SWEEP_SCORES)
    assert [(r["sweep"], r["level"]) for r in rows] == [("noise", 0.0), ("noise", 0.5)]
    assert seen == [0.0, 0.0, 0.5]
    (plain,) = scored(tmp_path / "plain", [Job(str(folders[0]))])
    assert {r["rmse_brain"] for r in rows} == {plain["rmse_brain"]}
    with pytest.raises(UsageError, match="no sweep 'blur'"):
        sweeps.levels("blur")


def test_a_larger_deformation_is_a_truth_of_its_own(tmp_path: Path) -> None:
    folders = write_made_cases(tmp_path, 1)
    jobs = [job for job in sweep_jobs(folders, ["deformation"], 0) if job.level in (5.0, 10.0)]
    low, high = scored(tmp_path / "out", jobs, file=run.SWEEP_SCORES)
    assert 1 < low["error_mean"] < 5
    assert low["error_mean"] < high["error_mean"] < 10
    assert sweeps.levels("deformation") == (5, 10, 20, 30, 40)
