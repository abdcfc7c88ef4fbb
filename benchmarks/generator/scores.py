"""What the comparisons of this folder score a field by, and how they show the means."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from torch import Tensor

from deformgan.spatial.warp import warp
from deformgan.workshop.evaluation.cases import EvaluationCase
from deformgan.workshop.evaluation.metrics import endpoint_error, folding_percent, rmse_percent

REGIMES = ("small", "medium", "large")


def scored(case: EvaluationCase, method: str, field: Tensor) -> dict[str, Any]:
    """A row: the case, and its field (1, 3, D, H, W) in voxels of its own grid against the truth."""
    return {
        "method": method,
        "case": case.name,
        "subject": case.meta["subject"],
        "regime": case.meta["regime"],
        "error": float(endpoint_error(field, case.field, case.mask).mean()),
        "rmse": rmse_percent(warp(case.moving, field), case.moving_true, case.mask),
        "folding": folding_percent(field, case.mask),
    }


def regimes_of(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Those that there are, in their order."""
    return [regime for regime in REGIMES if any(row["regime"] == regime for row in rows)]


def cells(rows: Sequence[dict[str, Any]], method: str) -> list[str]:
    """Of one method, mean error in voxels and RMSE in % for each regime."""
    found = []
    for regime in regimes_of(rows):
        own = [row for row in rows if (row["method"], row["regime"]) == (method, regime)]
        found.append(f"{fmean(row['error'] for row in own):.2f} / {fmean(row['rmse'] for row in own):.1f}")
    return found
