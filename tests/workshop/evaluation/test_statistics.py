"""Summaries and tests, against numpy, scipy and Holm's correction by hand; and the tables' text."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import t, wilcoxon

from deformgan.workshop.evaluation import tables
from deformgan.workshop.evaluation.scoring import COSTS, QUALITIES
from deformgan.workshop.evaluation.statistics import (
    against_best_rival,
    averaged,
    by_subject,
    compare,
    corrected,
    holm,
    median_interval,
    signed_rank,
    summarise,
)


def row(method: str, case: int, value: float, **changes: Any) -> dict[str, Any]:
    about = {"method": method, "case": f"case_{case:03d}", "kind": "patient", "subject": f"s{case % 3}"}
    return {**about, "regime": "small", **dict.fromkeys((*QUALITIES, *COSTS), value), **changes}


def rows_of(values: dict[str, list[float]], **changes: Any) -> list[dict[str, Any]]:
    return [row(method, i, v, **changes) for method, own in values.items() for i, v in enumerate(own)]


def only(found: list[dict[str, Any]], **wanted: Any) -> dict[str, Any]:
    (one,) = [entry for entry in found if all(entry[key] == value for key, value in wanted.items())]
    return one


@pytest.fixture
def three() -> list[dict[str, Any]]:
    rng = np.random.default_rng(3)
    base = rng.uniform(2, 4, 12)
    values = {"good": base, "fair": base + rng.uniform(0.2, 0.6, 12), "poor": base + rng.normal(0.5, 1, 12)}
    return rows_of({name: own.tolist() for name, own in values.items()})


def test_the_summary_is_mean_and_spread() -> None:
    values = [1.0, 2.0, 4.0, 9.0]
    rows = rows_of({"a": values})
    rows[1]["dice_tumour"] = None
    entry = only(summarise(rows), kind="patient", regime="small", method="a")
    assert (entry["n"], entry["subjects"]) == (4, 3)
    expected = {"n": 4, "mean": 4.0, "sd": pytest.approx(np.std(values, ddof=1), abs=1e-6), "median": 3.0}
    assert entry["rmse_brain"] == expected
    assert (entry["dice_tumour"]["n"], entry["dice_tumour"]["median"]) == (3, 4.0)


def test_the_summary_of_little() -> None:
    (entry, *_) = summarise([row("a", 0, 2.0, dice_tumour=None)])
    assert entry["rmse_volume"] == {"n": 1, "mean": 2.0, "sd": None, "median": 2.0}
    assert entry["dice_tumour"] == {"n": 0, "mean": None, "sd": None, "median": None}


def test_cells_are_of_kinds_and_regimes_and_all() -> None:
    rows = [row("a", 0, 1.0), row("a", 1, 3.0, regime="large"), row("a", 2, 8.0, kind="label-map")]
    means = {(e["kind"], e["regime"]): e["error_mean"]["mean"] for e in summarise(rows)}
    assert means == {
        ("patient", "small"): 1.0,
        ("patient", "large"): 3.0,
        ("patient", "all"): 2.0,
        ("label-map", "small"): 8.0,
        ("label-map", "all"): 8.0,
        ("all", "small"): 4.5,
        ("all", "large"): 3.0,
        ("all", "all"): 4.0,
    }


def test_holm_by_hand() -> None:
    # 3 × 0.01; 2 × 0.02; 1 × 0.03, but never below the one before
    assert holm([0.02, 0.01, 0.03]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([0.6, 0.5]) == [1.0, 1.0]
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


def test_holm_leaves_out_what_was_not_tested() -> None:
    family = [{"p": 0.03}, {"p": None}, {"p": 0.01}]
    assert [e["p_holm"] for e in corrected(family)] == [pytest.approx(0.03), None, pytest.approx(0.02)]


def test_the_signed_rank_test_is_scipys() -> None:
    differences = np.random.default_rng(0).normal(0.4, 1, 20)
    assert signed_rank(differences) == (pytest.approx(wilcoxon(differences).pvalue), None)
    # six of one sign: 2 / 2⁶
    assert signed_rank(np.arange(1.0, 7.0)) == (pytest.approx(2 / 64), None)
    with_zeros = np.append(differences, np.zeros(3))
    assert signed_rank(with_zeros)[0] == pytest.approx(wilcoxon(differences).pvalue)


@pytest.mark.parametrize(
    ("differences", "reason"),
    [
        ([1.0, 2.0, 3.0, 4.0, 5.0], "5 cases are too few"),
        ([0.0] * 8, "all differences are zero"),
        ([0.0] * 5 + [1.0, 2.0], "only 2 differences are not zero"),
    ],
)
def test_where_nothing_can_be_said_the_reason_is(differences: list[float], reason: str) -> None:
    p, why = signed_rank(np.array(differences))
    assert p is None
    assert why is not None
    assert reason in why


def test_each_method_is_tested_against_its_best_rival(three: list[dict[str, Any]]) -> None:
    found = against_best_rival(three)
    cell = {"kind": "patient", "regime": "small", "metric": "error_mean"}
    tests = {name: only(found, **cell, method=name) for name in ("good", "fair", "poor")}
    means = {n: np.mean([r["error_mean"] for r in three if r["method"] == n]) for n in tests}
    assert means["good"] < min(means["fair"], means["poor"])
    assert tests["fair"]["rival"] == tests["poor"]["rival"] == "good"
    assert tests["good"]["rival"] == min(("fair", "poor"), key=means.__getitem__)
    values = {n: np.array([r["error_mean"] for r in three if r["method"] == n]) for n in tests}
    ps = {n: wilcoxon(values[n] - values[t["rival"]]).pvalue for n, t in tests.items()}
    assert {n: t["p"] for n, t in tests.items()} == pytest.approx(ps)
    assert [tests[n]["p_holm"] for n in tests] == pytest.approx(holm([ps[n] for n in tests]))
    # a higher Dice is better: the rival is the one with the highest
    dice = only(found, **{**cell, "metric": "dice_tumour"}, method="good")
    assert dice["rival"] == max(("fair", "poor"), key=means.__getitem__)


def test_one_method_has_no_rival() -> None:
    assert against_best_rival(rows_of({"a": [1.0] * 8})) == []


def test_named_pairs_are_compared(three: list[dict[str, Any]]) -> None:
    found = compare(three, [("good", "fair"), ("good", "poor")], seed=1)
    entry = only(found, kind="all", regime="all", metric="rmse_volume", rival="fair")
    good, fair = (np.array([r["rmse_volume"] for r in three if r["method"] == n]) for n in ("good", "fair"))
    assert entry["n"] == 12
    assert entry["median_difference"] == pytest.approx(np.median(good - fair))
    assert entry["ci_low"] <= entry["median_difference"] <= entry["ci_high"] < 0
    assert entry["p"] == pytest.approx(2 / 2**12)
    other = only(found, kind="all", regime="all", metric="rmse_volume", rival="poor")
    assert [entry["p_holm"], other["p_holm"]] == pytest.approx(holm([entry["p"], other["p"]]))
    assert compare(three, [("good", "fair"), ("good", "poor")], seed=1) == found


def test_only_cases_of_both_methods_are_compared() -> None:
    rows = rows_of({"a": [1.0] * 8, "b": [2.0] * 8})[:-1]
    rows[0]["dice_tumour"] = None
    found = compare(rows, [("a", "b")])
    assert {entry["metric"]: entry["n"] for entry in found if entry["regime"] == entry["kind"] == "all"} == {
        "rmse_volume": 7,
        "rmse_brain": 7,
        "dice_tumour": 6,
        "error_mean": 7,
    }


def test_the_bootstrap_interval() -> None:
    differences = np.random.default_rng(0).normal(1.0, 1.0, 400)
    low, high = median_interval(differences, 0)
    assert low is not None
    assert high is not None
    # the standard error of a normal sample's median is 1.2533 σ / √n
    assert high - low == pytest.approx(2 * 1.96 * 1.2533 / 20, rel=0.3)
    assert low < np.median(differences) < high
    assert median_interval(differences, 0) == (low, high)
    assert median_interval(differences[:1], 0) == (None, None)


# -- tables ----------------------------------------------------------------------------------------------------------


def table_of(rows: list[dict[str, Any]]) -> list[tables.Part]:
    return tables.parts(summarise(rows), against_best_rival(rows))


def test_the_markdown_table() -> None:
    rows = rows_of({"a|1": [1.0, 1.5] * 4, "b": [3.0, 2.0] * 4})
    for one in rows:
        one["seconds"] = None
    text = tables.markdown(table_of(rows), tables.explanation("200 steps", "one core"))
    assert "### Patients, small deformations (8 cases, 3 subjects)" in text
    assert text.count("###") == 1  # all regimes of one would be the same again
    assert "| a\\|1 | **1.25 ± 0.27**\\* | **1.25 ± 0.27**\\* | 1.250 ± 0.267\\* | **1.25 ± 0.27**\\* |" in text
    assert "| b | 2.50 ± 0.53\\* |" in text
    assert "**2.500 ± 0.535**\\*" in text  # the higher Dice
    assert "| – | 2 ± 1 |" in text
    assert "200 steps. Mean ±" in text
    assert text.endswith("Computed on one core.\n")


def test_nothing_is_marked_that_was_not_tested() -> None:
    text = tables.markdown(table_of(rows_of({"a": [1.0, 2.0], "b": [3.0, 4.0]})), "")
    assert "\\*" not in text
    assert "**1.50 ± 0.71**" in text


def test_the_latex_table_is_escaped() -> None:
    rows = rows_of({"deform_gan&2": [1.0, 1.5] * 4, "b": [3.0, 2.0] * 4})
    rows += rows_of({"deform_gan&2": [1.0] * 3, "b": [2.0] * 3}, regime="large")
    told = tables.explanation("50 % of the data_set", "a CPU")
    text = tables.latex(table_of(rows), told)
    assert r"deform\_gan\&2 & \textbf{1.25 $\pm$ 0.27}$^{*}$ &" in text
    assert r"\caption{50 \% of the data\_set. Mean $\pm$ standard" in text
    assert "p $<$ 0.05" in text
    assert text.count(r"\multicolumn{9}{l}") == 3
    for mark in (r"\toprule", r"\bottomrule", r"\begin{tabular}{lrrrrrrrr}", r"\end{table*}"):
        assert text.count(mark) == 1
    body = [line for line in text.splitlines() if line.startswith(("deform", "b &"))]
    assert len(body) == 6
    assert all(line.count(" & ") == 8 for line in body)


def test_special_characters() -> None:
    assert tables.escape("a\\b~c^d{e}") == r"a\textbackslash{}b\textasciitilde{}c\textasciicircum{}d\{e\}"


def test_subjects_are_units_where_cases_repeat_them() -> None:
    rng = np.random.default_rng(2)
    differences = {f"s{i}": rng.normal(0.4, 0.3, 5).tolist() for i in range(6)}
    means = np.array([np.mean(own) for own in differences.values()])
    error = means.std(ddof=1) / np.sqrt(6)
    found = by_subject(differences)
    assert found["subjects"] == 6
    assert found["mean"] == pytest.approx(means.mean())
    assert (found["low"], found["high"]) == pytest.approx(
        (means.mean() - 2.5706 * error, means.mean() + 2.5706 * error), rel=1e-4
    )
    assert found["p"] == pytest.approx(2 * t.sf(abs(means.mean() / error), 5))
    # every exchange of signs by hand
    signs = np.array(np.meshgrid(*[[-1, 1]] * 6)).reshape(6, -1)
    as_far = np.abs((signs.T * means).mean(1)) >= abs(means.mean()) - 1e-12
    assert found["p_signs"] == pytest.approx(as_far.mean())


def test_one_subject_tells_nothing_however_many_cases() -> None:
    found = by_subject({"a": [1.0, 1.1, 0.9] * 20})
    assert (found["subjects"], found["p"], found["p_signs"]) == (1, None, None)


def test_comparisons_tell_of_subjects_too(three: list[dict[str, Any]]) -> None:
    entry = only(compare(three, [("good", "poor")]), kind="patient", regime="small", metric="error_mean")
    cases = {(r["method"], r["case"]): r["error_mean"] for r in three}
    own = [cases["good", r["case"]] - cases["poor", r["case"]] for r in three if r["method"] == "good"]
    assert entry["by_subject"] == by_subject({f"s{i}": own[i::3] for i in range(3)})


def test_seeds_of_one_method_are_averaged_case_by_case() -> None:
    rows = rows_of({"a-1": [1.0, 2.0], "a-2": [3.0, 6.0], "b": [9.0, 9.0]})
    rows[2]["dice_tumour"] = None
    first, second = averaged(rows, {"a": ("a-1", "a-2")})
    assert (first["method"], first["case"], first["seeds"], first["error_mean"]) == ("a", "case_000", 2, 2.0)
    assert (first["dice_tumour"], second["dice_tumour"]) == (None, 4.0)
    assert averaged(rows[:3], {"a": ("a-1", "a-2")}) == [first]
