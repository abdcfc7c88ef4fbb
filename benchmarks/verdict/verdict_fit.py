"""Small statistics: logistic and linear regression, isotonic regression, ROC, rank correlation, sparsification."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.optimize import isotonic_regression
from scipy.stats import spearmanr
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import roc_auc_score, roc_curve

Array = np.ndarray


def standardised(values: Array) -> tuple[Array, Array, Array]:
    """Columns without mean and of scale 1, cut at 4; their means and scales."""
    mean, scale = values.mean(0), np.maximum(values.std(0), 1e-6)
    return np.clip((values - mean) / scale, -4, 4), mean, scale


def fit_logistic(values: Array, failed: Array, names: Sequence[str], penalty: float = 1.0) -> dict[str, Any]:
    """Both classes weigh alike; ``penalty`` times half the squared weights is added to the negative log-likelihood."""
    x, mean, scale = standardised(values)
    model = LogisticRegression(C=1 / penalty, class_weight="balanced", tol=1e-8, max_iter=10_000).fit(x, failed)
    theta = np.concatenate([model.intercept_, model.coef_[0]])
    return model_entry(names, mean, scale, theta)


def fit_linear(values: Array, target: Array, names: Sequence[str], penalty: float = 1.0) -> dict[str, Any]:
    """Ridge regression."""
    x, mean, scale = standardised(values)
    model = Ridge(alpha=penalty, solver="cholesky").fit(x, target)
    return model_entry(names, mean, scale, np.array([model.intercept_, *model.coef_]))


def model_entry(names: Sequence[str], mean: Array, scale: Array, theta: Array) -> dict[str, Any]:
    """As ``calibration.json`` has a model."""
    columns = {"means": mean, "scales": scale, "weights": theta[1:]}
    rounded = {key: [float(f"{v:.5g}") for v in column] for key, column in columns.items()}
    return {"names": list(names), **rounded, "bias": float(f"{theta[0]:.5g}")}


def fit_monotone(score: Array, target: Array, knots: int = 24) -> list[tuple[float, float]]:
    """Mean of the target in bins of equal number, made to rise (isotonic regression)."""
    parts = np.array_split(np.argsort(score), knots)
    at = np.array([score[p].mean() for p in parts])
    rising = isotonic_regression([target[p].mean() for p in parts]).x
    return [(float(f"{a:.4f}"), float(f"{b:.4f}")) for a, b in zip(at, rising, strict=True)]


def area(score: Array, failed: Array) -> float:
    """Under the ROC curve: how often a failure scores above a success."""
    return float(roc_auc_score(failed, score)) if failed.any() and not failed.all() else float("nan")


def roc(score: Array, failed: Array) -> tuple[Array, Array]:
    """False and true positive rates, from (0, 0) to (1, 1)."""
    false, true, _ = roc_curve(failed, score, drop_intermediate=False)
    return false, true


def sparsification(error: Array, expected: Array, parts: int = 50) -> tuple[Array, Array, Array, float]:
    """Share left out, mean error of the rest by ``expected`` and by the truth, and the area between over the mean."""
    share = np.linspace(0, 0.98, parts)

    def curve(by: Array) -> Array:
        cumulative = np.cumsum(error[np.argsort(by)])
        kept = np.maximum(1, ((1 - share) * len(error)).astype(int))
        return cumulative[kept - 1] / kept

    ours, best = curve(expected), curve(error)
    return share, ours, best, float(np.trapezoid(ours - best, share) / error.mean())


def rank_correlation(a: Array, b: Array) -> float:
    """Spearman's."""
    return float(spearmanr(a, b).statistic)
