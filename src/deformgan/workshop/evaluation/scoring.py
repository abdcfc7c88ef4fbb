"""One row of scores: what a field is worth on one case, and what it cost."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deformgan.errors import DeformganError, InputError, UsageError
from deformgan.io.untrusted import parse_json, read_small
from deformgan.spatial.warp import warp
from deformgan.workshop.evaluation.cases import EvaluationCase, read_case, read_field
from deformgan.workshop.evaluation.memory import PeakMemory
from deformgan.workshop.evaluation.methods import Compute, Method, Spec, make_method
from deformgan.workshop.evaluation.metrics import dice, endpoint_error, folding_percent, rmse_percent
from deformgan.workshop.evaluation.sweeps import perturb

QUALITIES = ("rmse_volume", "rmse_brain", "dice_tumour", "error_mean", "error_p95", "folding")
COSTS = ("seconds", "peak_memory_mb")
EXTERNAL = "external"


@dataclass(frozen=True)
class Job:
    """A case to be scored, as it is or perturbed.

    Args:
        folder: Of the case.
        sweep: What is changed about it, or None.
        level: How much.
        seed: Of the change.
    """

    folder: str
    sweep: str | None = None
    level: float | None = None
    seed: int = 0

    def load(self) -> tuple[EvaluationCase, EvaluationCase]:
        """The case as a method is to see it and as it is scored, changed as the sweep says."""
        case = read_case(self.folder)
        if self.sweep is None or self.level is None:
            return case, case
        return perturb(case, self.sweep, self.level, self.seed)

    def label(self) -> dict[str, Any]:
        """The two keys that a row of a sweep has more."""
        return {} if self.sweep is None else {"sweep": self.sweep, "level": self.level}


def score_field(case: EvaluationCase, field: Tensor) -> dict[str, float | None]:
    """Judge a field by the truth of its case.

    Args:
        case: See there.
        field: (1, 3, D, H, W), pull-back displacement in voxels.

    Returns:
        ``rmse_volume`` and ``rmse_brain``: of the moved image, linear, in % of the range of ``moving_true``;
        ``dice_tumour``: of the whole tumour, nearest neighbour, None where the fixed image shows none; ``error_mean``
        and ``error_p95``: distance in voxels to the true field inside the mask; ``folding``: share of the mask's voxels
        with a Jacobian determinant of 0 or less, %.

    Raises:
        InputError: The field is not finite, or of another shape.
    """
    if field.shape != case.field.shape:
        raise InputError(f"{case.name}: a field of shape {tuple(field.shape)}", f"give {tuple(case.field.shape)}")
    if not bool(torch.isfinite(field).all()):
        raise InputError(f"{case.name}: the field is not finite everywhere", "leave this method out, or correct it")
    moved = warp(case.moving, field)
    wanted = torch.tensor(case.meta["tumour_labels"], dtype=case.fixed_labels.dtype)
    tumour = torch.isin(case.fixed_labels, wanted)
    moved_tumour = torch.isin(warp(case.moving_labels, field, mode="nearest"), wanted)
    mask = case.mask.float()
    error = endpoint_error(field, case.field, mask)
    scores = {
        "rmse_volume": rmse_percent(moved, case.moving_true),
        "rmse_brain": rmse_percent(moved, case.moving_true, mask),
        "dice_tumour": dice(moved_tumour.float(), tumour.float()) if bool(tumour.any()) else None,
        "error_mean": float(error.mean()),
        "error_p95": float(error.quantile(0.95)),
        "folding": folding_percent(field, mask),
    }
    return {name: None if value is None else round(value, 6) for name, value in scores.items()}


def rows_of(spec: Spec, jobs: Sequence[Job], compute: Compute) -> Iterator[dict[str, Any]]:
    """Run a method on cases, one after the other, and score each; one run on the first case goes before, to warm up.

    Args:
        spec: Of the method.
        jobs: The cases.
        compute: As resolved.
    """
    if spec.external:
        yield from _external_rows(spec, jobs)
        return
    memory = PeakMemory(compute.device)
    method: Method | None = None
    for job in jobs:
        seen, case = job.load()
        if method is None:
            score_field(case, case.field)  # what scoring keeps in memory is not the method's
            memory = PeakMemory(compute.device)
            method = make_method(spec, compute)
            _predict(method, seen)
        memory.reset()
        start = time.perf_counter()
        field = _predict(method, seen)
        seconds = time.perf_counter() - start
        cost = {"seconds": round(seconds, 4), "peak_memory_mb": memory.read()}
        scores = score_field(case, field)
        del field  # the next case's memory is its own
        where = {"device": method.device, "precision": method.precision, "threads": compute.threads}
        yield _row(spec.name, case, job, scores, {**cost, **where})


def _predict(method: Method, case: EvaluationCase) -> Tensor:
    try:
        return method.predict(case.fixed, case.moving, case.spacing)
    except DeformganError as error:
        raise type(error)(f"{method.name}, {case.name}: {error.args[0]}", error.hint) from error


def _external_rows(spec: Spec, jobs: Sequence[Job]) -> Iterator[dict[str, Any]]:
    """Score the fields that another tool left in ``FOLDER/CASE/field.nii.gz``; its times are in ``time.json``."""
    assert spec.folder is not None
    for job in jobs:
        if job.sweep is not None:
            raise UsageError(f"{spec.name} is a folder of results", "leave it out of a sweep: it cannot be run")
        case = read_case(job.folder)
        folder = spec.folder / case.name
        field = read_field(folder / "field.nii.gz", case.shape)
        cost = _external_cost(folder / "time.json")
        where = {"device": EXTERNAL, "precision": None, "threads": None}
        yield _row(spec.name, case, job, score_field(case, field), {**cost, **where})


def _external_cost(path: Path) -> dict[str, float | None]:
    if not path.is_file():
        return {"seconds": None, "peak_memory_mb": None}
    try:
        told = parse_json(read_small(path))
        seconds, memory = told.get("seconds"), told.get("peak_rss_mb")
        return {
            "seconds": None if seconds is None else round(float(seconds), 4),
            "peak_memory_mb": None if memory is None else round(float(memory), 1),
        }
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{path} cannot be read: {error}", "it holds seconds and peak_rss_mb as JSON") from error


def _row(name: str, case: EvaluationCase, job: Job, scores: dict[str, Any], cost: dict[str, Any]) -> dict[str, Any]:
    about = {key: case.meta[key] for key in ("kind", "subject", "regime")}
    return {"method": name, "case": case.name, **about, **job.label(), **scores, **cost}
