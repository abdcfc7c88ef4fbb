"""Summaries of scores and tests of their differences, case by case and subject by subject.

Cases of one subject are not independent of each other. The signed-rank test treats them as if they were, so each
summary says of how many subjects its cases are, and named comparisons are also tested with subjects as the units.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from deformgan.workshop.evaluation.scoring import COSTS, QUALITIES

ALL = "all"
TESTED = ("rmse_volume", "rmse_brain", "dice_tumour", "error_mean")
HIGHER_IS_BETTER = ("dice_tumour",)
FEWEST = 6  # of fewer differences no two-sided signed-rank test can be below 0.05 (2 / 2⁵ is above)
RESAMPLES = 10_000
LARGEST_EXACT = 13  # subjects, up to which every exchange of signs is tried

Row = dict[str, Any]
Cell = tuple[str, str]  # kind, regime


def cells(rows: Sequence[Row]) -> list[Cell]:
    """Every (kind, regime) there is, each also with all others as ``all``, in the order of the rows."""
    kinds = [*dict.fromkeys(row["kind"] for row in rows), ALL]
    regimes = [*dict.fromkeys(row["regime"] for row in rows), ALL]
    return [(kind, regime) for kind in kinds for regime in regimes if any(_within(rows, (kind, regime)))]


def summarise(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Number of cases and subjects, and of each metric its mean, standard deviation (n - 1) and median.

    Returns:
        A dict for each kind, regime and method: ``kind, regime, method, n, subjects`` and ``METRIC: {n, mean, sd,
        median}``, where n counts the cases that have the metric; sd is None for one case, all are None for none.
    """
    table = []
    for kind, regime in cells(rows):
        for method in _methods(rows):
            own = [row for row in _within(rows, (kind, regime)) if row["method"] == method]
            if own:
                entry = {"kind": kind, "regime": regime, "method": method, "n": len(own)}
                entry["subjects"] = len({(row["kind"], row["subject"]) for row in own})
                table.append(entry | {metric: _describe(own, metric) for metric in (*QUALITIES, *COSTS)})
    return table


def against_best_rival(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Each method against the one of the others with the best mean, in each cell and for each of `TESTED`.

    Returns:
        Dicts as of `compare`, with ``kind, regime, metric``; ``p_holm`` is corrected over the methods of a cell.
    """
    found = []
    for cell in cells(rows):
        for metric in TESTED:
            means = {m: _mean(v) for m in _methods(rows) if (v := _values(rows, cell, metric, m))}
            family = []
            for method in means:
                rivals = [other for other in means if other != method]
                if rivals:
                    rival = (max if metric in HIGHER_IS_BETTER else min)(rivals, key=means.__getitem__)
                    family.append(_named(cell, metric) | _paired(rows, cell, metric, method, rival))
            found += corrected(family)
    return found


def compare(rows: Sequence[Row], pairs: Sequence[tuple[str, str]], seed: int = 0) -> list[dict[str, Any]]:
    """Named pairs of methods, in each cell and for each of `TESTED`.

    Returns:
        Dicts with ``kind, regime, metric, method, rival, n``; ``median_difference`` (method minus rival) with its 95 %
        bootstrap interval over cases ``ci_low, ci_high``; ``p`` of the two-sided Wilcoxon signed-rank test, ``p_holm``
        corrected over the pairs of a cell, and ``reason`` where there is no p; and ``by_subject``, see there.
    """
    found = []
    for cell in cells(rows):
        for metric in TESTED:
            family = []
            for method, rival in pairs:
                entry = _paired(rows, cell, metric, method, rival)
                differences = _differences(rows, cell, metric, method, rival)
                low, high = median_interval(differences, seed)
                median = float(np.median(differences)) if len(differences) else None
                family.append(
                    _named(cell, metric)
                    | entry
                    | {"median_difference": median, "ci_low": low, "ci_high": high}
                    | {"by_subject": by_subject(_by_subject(rows, cell, metric, method, rival))}
                )
            found += corrected(family)
    return found


def by_subject(differences: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Whether the differences of two methods are more than chance where a subject, and not a case, is the unit.

    A subject's cases are averaged first: with as many cases of each that is the mixed model with a random intercept for
    each subject.

    Args:
        differences: Of each subject, those of its cases.

    Returns:
        ``subjects``, their number; ``mean``, the mean of their means, with ``low`` and ``high``, its 95 % interval by
        Student's t; ``p`` of the two-sided t test; ``p_signs``, exact, of all ways to exchange the two methods within
        subjects, which supposes no distribution and is never below 2 / 2^subjects. None where there are too few.
    """
    from scipy.stats import permutation_test, ttest_1samp

    means = np.array([np.mean(own) for own in differences.values() if len(own)])
    found: dict[str, Any] = {"subjects": len(means), "mean": float(means.mean()) if len(means) else None}
    if len(means) < 2 or not means.std():
        return found | dict.fromkeys(("low", "high", "p", "p_signs"))
    test = ttest_1samp(means, 0.0)
    interval = test.confidence_interval(0.95)
    signs = permutation_test((means,), np.mean, permutation_type="samples", n_resamples=2**LARGEST_EXACT)
    return found | {
        "low": float(interval.low),
        "high": float(interval.high),
        "p": float(test.pvalue),  # type: ignore[attr-defined]
        "p_signs": float(signs.pvalue),
    }


def averaged(rows: Sequence[Row], groups: Mapping[str, Sequence[str]]) -> list[Row]:
    """Rows of one method that was taught from several seeds: of each case, the mean of its methods' scores.

    Args:
        rows: Of the methods alone, too.
        groups: Name → its methods.

    Returns:
        One row for each group and case that all of its methods have a row of; a score that one of them lacks is None.
    """
    found = []
    for name, members in groups.items():
        of_case: dict[str, list[Row]] = {}
        for row in rows:
            if row["method"] in members:
                of_case.setdefault(row["case"], []).append(row)
        for own in of_case.values():
            if len(own) == len(members):
                scores = {key: _mean_or_none([row[key] for row in own]) for key in (*QUALITIES, *COSTS)}
                found.append({**own[0], "method": name, **scores, "seeds": len(own)})
    return found


def signed_rank(differences: np.ndarray) -> tuple[float | None, str | None]:
    """p of the two-sided Wilcoxon signed-rank test (zeros left out), or None and the reason why there is none."""
    from scipy.stats import wilcoxon

    if len(differences) < FEWEST:
        return None, f"{len(differences)} cases are too few, {FEWEST} are needed"
    kept = differences[differences != 0]
    if not len(kept):
        return None, "all differences are zero"
    if len(kept) < FEWEST:
        return None, f"only {len(kept)} differences are not zero, {FEWEST} are needed"
    _, p = wilcoxon(kept)
    return float(p), None  # type: ignore[arg-type]


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction: the k-th smallest of m times (m - k + 1), never below a smaller one's, at most 1."""
    corrected_values = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected_values[index] = highest
    return corrected_values


def corrected(family: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The tests with ``p_holm``, corrected over those that have a p."""
    tested = [i for i, entry in enumerate(family) if entry["p"] is not None]
    values = dict(zip(tested, holm([family[i]["p"] for i in tested]), strict=True))
    return [entry | {"p_holm": values.get(i)} for i, entry in enumerate(family)]


def median_interval(differences: np.ndarray, seed: int, share: float = 0.95) -> tuple[float | None, float | None]:
    """Percentile bootstrap interval of the median; None where there are fewer than two differences."""
    from scipy.stats import bootstrap

    if len(differences) < 2:
        return None, None
    how = {"confidence_level": share, "n_resamples": RESAMPLES, "method": "percentile"}
    interval = bootstrap((differences,), np.median, **how, rng=seed).confidence_interval
    return float(interval.low), float(interval.high)


def _within(rows: Sequence[Row], cell: Cell) -> Iterator[Row]:
    kind, regime = cell
    return (row for row in rows if kind in (ALL, row["kind"]) and regime in (ALL, row["regime"]))


def _methods(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row["method"] for row in rows))


def _values(rows: Sequence[Row], cell: Cell, metric: str, method: str) -> dict[str, float]:
    """Case → value, of the cases that have one."""
    own = (row for row in _within(rows, cell) if row["method"] == method)
    return {row["case"]: row[metric] for row in own if row[metric] is not None}


def _mean(values: dict[str, float]) -> float:
    return sum(values.values()) / len(values)


def _mean_or_none(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None


def _by_subject(rows: Sequence[Row], cell: Cell, metric: str, method: str, rival: str) -> dict[str, list[float]]:
    own, other = (_values(rows, cell, metric, name) for name in (method, rival))
    subject = {row["case"]: f"{row['kind']} {row['subject']}" for row in _within(rows, cell)}
    found: dict[str, list[float]] = {}
    for case in own:
        if case in other:
            found.setdefault(subject[case], []).append(own[case] - other[case])
    return found


def _differences(rows: Sequence[Row], cell: Cell, metric: str, method: str, rival: str) -> np.ndarray:
    own, other = (_values(rows, cell, metric, name) for name in (method, rival))
    return np.array([own[case] - other[case] for case in own if case in other])


def _paired(rows: Sequence[Row], cell: Cell, metric: str, method: str, rival: str) -> dict[str, Any]:
    differences = _differences(rows, cell, metric, method, rival)
    p, reason = signed_rank(differences)
    return {"method": method, "rival": rival, "n": len(differences), "p": p, "reason": reason}


def _named(cell: Cell, metric: str) -> dict[str, str]:
    return {"kind": cell[0], "regime": cell[1], "metric": metric}


def _describe(rows: Sequence[Row], metric: str) -> dict[str, Any]:
    values = np.array([row[metric] for row in rows if row[metric] is not None])
    measures: dict[str, Callable[[np.ndarray], Any]] = {"mean": np.mean, "sd": _sd, "median": np.median}
    numbers = {name: _plain(measure(values)) if len(values) else None for name, measure in measures.items()}
    return {"n": len(values), **numbers}


def _sd(values: np.ndarray) -> float | None:
    return float(values.std(ddof=1)) if len(values) > 1 else None


def _plain(value: Any) -> float | None:
    return None if value is None else round(float(value), 6)
