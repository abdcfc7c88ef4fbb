"""The report of ``run.py``: numbers, figures and a page about samples that nothing was fitted on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from verdict_cases import MEAN_LIMIT_MM, P95_LIMIT_MM, Sample
from verdict_fit import area, rank_correlation, roc, sparsification
from verdict_people import LIMITS_MM

from deformgan.quality.calibration import Calibration
from deformgan.workshop.evaluation.style import ACCENT, FAINT, looks, write_png

VERDICTS = ("pass", "look", "fail")
# the kinds of which the voxels count as registrations, by what they are called in the report
GROUPS = {
    "registered": ("registered",),
    "registered or stopped early": ("registered", "stopped early"),
    "a lobe displaced": ("a lobe displaced",),
}
BINS = 10


def write_report(found: Sequence[Sample], calibration: Calibration, out: Path, local: Sequence[str]) -> None:
    """Write report.json, report.md, roc.png, roc.svg, uncertainty.png and uncertainty.svg."""
    out.mkdir(parents=True, exist_ok=True)
    score = np.array([calibration.failure(s.refined_as).probability(s.features) for s in found])
    failed = np.array([s.failed for s in found])
    hard = np.array([bool(s.reasons) for s in found])
    ranked = np.where(hard, 1 + score, score)  # a hard rule is beyond any probability
    words = [verdict(s, p, calibration) for s, p in zip(found, score, strict=True)]
    report = {
        "cases": len({s.case for s in found}),
        "subjects": sorted({s.subject for s in found}),
        "registrations": len(found),
        "failure": f"a mean error above {MEAN_LIMIT_MM:g} mm, or one above {P95_LIMIT_MM:g} mm in 5 % of the content; "
        f"between people centres of structures {LIMITS_MM[0]:g} mm apart on average, or {LIMITS_MM[1]:g} mm in 5 %",
        "failures": int(failed.sum()),
        "area_model": round(area(score, failed), 4),
        "area_with_rules": round(area(ranked, failed), 4),
        "area_registrations_alone": _alone(found, score, failed),
        "confusion": confusion(words, failed),
        "kinds": kinds(found, words),
        "uncertainty": {name: uncertainty(found, calibration, those, local)[0] for name, those in GROUPS.items()},
        "single_features": single_features(found, local),
    }
    (out / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    (out / "report.md").write_text(page(report), encoding="utf-8")
    with looks():
        for name, figure in (
            ("roc", roc_figure(ranked, score, failed, words, report)),
            ("uncertainty", uncertainty_figure(found, calibration, local)),
        ):
            write_png(figure, out / f"{name}.png")
            figure.savefig(out / f"{name}.svg", metadata={"Date": None})


def verdict(sample: Sample, probability: float, calibration: Calibration) -> str:
    """As `deformgan.quality.judge` decides."""
    limits = calibration.failure(sample.refined_as)
    if sample.reasons or probability >= limits.fail:
        return "fail"
    return "look" if probability >= limits.look or limits.unseen(sample.features) or sample.doubts else "pass"


def confusion(words: Sequence[str], failed: np.ndarray) -> dict[str, dict[str, int]]:
    """Number of correct and failed registrations of each verdict."""
    rows = {"correct": ~failed, "failure": failed}
    return {row: {v: sum(w == v and bool(o) for w, o in zip(words, of, strict=True)) for v in VERDICTS}
            for row, of in rows.items()}  # fmt: skip


def kinds(found: Sequence[Sample], words: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The same for each way of registering or degrading."""
    table: dict[str, dict[str, Any]] = {}
    for kind in dict.fromkeys(s.kind for s in found):
        those = [(s, w) for s, w in zip(found, words, strict=True) if s.kind == kind]
        errors = [s.error_mean_mm for s, _ in those if s.error_mean_mm is not None]
        table[kind] = {
            "registrations": len(those),
            "failures": sum(s.failed for s, _ in those),
            "median_error_mm": round(float(np.median(errors)), 2) if errors else None,
            **{v: sum(w == v for _, w in those) for v in VERDICTS},
        }
    return table


def _alone(found: Sequence[Sample], score: np.ndarray, failed: np.ndarray) -> float | None:
    """Among results of the method itself, where nothing was degraded deliberately."""
    own = np.array([s.kind in ("registered", "stopped early", "T alone", "nothing done") for s in found])
    value = area(score[own], failed[own])
    return None if np.isnan(value) else round(value, 4)


def voxels_of(
    found: Sequence[Sample], calibration: Calibration, those: Sequence[str], local: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Error and expected error, mm, of the kept voxels."""
    rows = np.concatenate([s.voxels for s in found if s.kind in those]).astype(float)
    maps: dict[str, torch.Tensor | None] = {n: torch.from_numpy(rows[:, 1 + i]) for i, n in enumerate(local)}
    return rows[:, 0], calibration.expected_error_mm(maps).numpy().astype(float)


def uncertainty(
    found: Sequence[Sample], calibration: Calibration, those: Sequence[str], local: Sequence[str]
) -> tuple[dict[str, Any], tuple[np.ndarray, np.ndarray]]:
    """How the expected error compares with the error; and both."""
    error, expected = voxels_of(found, calibration, those, local)
    within = [rank_correlation(*voxels_of([s], calibration, those, local)) for s in found if s.kind in those]
    bins = np.array_split(np.argsort(expected), BINS)
    auc = sparsification(error, expected)[3]
    chance = sparsification(error, np.random.default_rng(0).random(len(error)))[3]
    return {
        "voxels": len(error),
        "mean_error_mm": round(float(error.mean()), 3),
        "mean_expected_mm": round(float(expected.mean()), 3),
        "spearman": round(rank_correlation(expected, error), 3),
        "spearman_within_cases_median": round(float(np.median(within)), 3),
        "ause": round(auc, 3),
        "ause_of_chance": round(chance, 3),
        "below_share68_percent": round(100 * float((error <= calibration.share68 * expected).mean()), 1),
        "below_share95_percent": round(100 * float((error <= calibration.share95 * expected).mean()), 1),
        "bins_expected_mm": [round(float(expected[b].mean()), 3) for b in bins],
        "bins_observed_mm": [round(float(error[b].mean()), 3) for b in bins],
    }, (error, expected)


def single_features(found: Sequence[Sample], local: Sequence[str]) -> dict[str, float]:
    """Rank correlation of each feature by itself with the error of registrations."""
    rows = np.concatenate([s.voxels for s in found if s.kind in GROUPS["registered"]])
    return {n: round(rank_correlation(rows[:, 1 + i], rows[:, 0]), 3) for i, n in enumerate(local)}


def roc_figure(
    ranked: np.ndarray, score: np.ndarray, failed: np.ndarray, words: Sequence[str], report: dict[str, Any]
) -> Figure:
    """ROC curve with the two limits on it, and the verdicts by truth."""
    figure = Figure(figsize=(8.6, 3.9), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(*roc(ranked, failed), color=ACCENT, label=f"rules and model, area {report['area_with_rules']:.3f}")
    left.plot(*roc(score, failed), color=FAINT, ls="--", label=f"model alone, area {report['area_model']:.3f}")
    for words_at, mark in ((("fail",), "s"), (("look", "fail"), "o")):
        caught = np.array([w in words_at for w in words])
        name = "at least look" if len(words_at) > 1 else "fail"
        left.plot(caught[~failed].mean(), caught[failed].mean(), mark, color="#D55E00", label=name)
    left.set(xlabel="correct results flagged", ylabel="failures flagged", title="Failures found", xlim=(-0.02, 1.02))
    left.legend(loc="lower right")
    share = {row: np.array([n[v] for v in VERDICTS]) for row, n in report["confusion"].items()}
    base = np.zeros(2)
    names = [f"{row} ({int(n.sum())})" for row, n in share.items()]
    for i, (word, colour) in enumerate(zip(VERDICTS, ("#009E73", "#E69F00", "#D55E00"), strict=True)):
        height = np.array([100 * n[i] / max(n.sum(), 1) for n in share.values()])
        right.bar(names, height, bottom=base, color=colour, label=word, width=0.55)
        for x, (h, b) in enumerate(zip(height, base, strict=True)):
            if h > 4:
                right.text(x, b + h / 2, f"{h:.0f} %", ha="center", va="center", color="white")
        base += height
    right.set(ylabel="%", title="Verdicts", xlim=(-0.5, 2.1))
    right.legend(loc="center right")
    return figure


def uncertainty_figure(found: Sequence[Sample], calibration: Calibration, local: Sequence[str]) -> Figure:
    """Predicted against observed error, and what is left when the least certain voxels are left out."""
    figure = Figure(figsize=(8.6, 3.9), layout="constrained")
    left, right = figure.subplots(1, 2)
    colours = (ACCENT, "#009E73", "#D55E00")
    highest = 0.0
    for (name, those), colour in zip(GROUPS.items(), colours, strict=True):
        numbers, (error, expected) = uncertainty(found, calibration, those, local)
        at, seen = numbers["bins_expected_mm"], numbers["bins_observed_mm"]
        left.plot(at, seen, "o-", color=colour, label=name)
        highest = max(highest, *at, *seen)
        if name == "registered":
            share, ours, best, _ = sparsification(error, expected)
            right.plot(100 * share, ours, color=ACCENT, label=f"by the map (AUSE {numbers['ause']:.2f})")
            right.plot(100 * share, best, color=FAINT, ls="--", label="by the true error")
            right.axhline(error.mean(), color="#4d4d4d", lw=0.8, label="at random")
    left.plot([0, highest], [0, highest], color=FAINT, lw=0.8)
    left.set(xlabel="expected error (mm)", ylabel="observed mean error (mm)", title="Calibration, tenths of the voxels")
    left.legend()
    right.set(xlabel="least certain voxels left out (%)", ylabel="mean error of the rest (mm)", title="Sparsification")
    right.legend()
    return figure


def page(report: dict[str, Any]) -> str:
    """The report in words."""
    lines = [
        "# The quality verdict and the uncertainty map, on people that nothing was fitted on",
        "",
        f"{report['registrations']} registrations of {report['cases']} cases ({', '.join(report['subjects'])}); "
        f"a failure is: {report['failure']}. {report['failures']} are. Written by `benchmarks/verdict/run.py`.",
        "",
        f"Area under the ROC curve: model {report['area_model']:.3f}, with the hard rules "
        f"{report['area_with_rules']:.3f}; among results of the method itself (registered, stopped early, T alone, "
        f"nothing done) {report['area_registrations_alone']}.",
        "",
        "![ROC](roc.png)",
        "",
        "| | pass | look | fail |",
        "|---|---:|---:|---:|",
        *(f"| {row} | {n['pass']} | {n['look']} | {n['fail']} |" for row, n in report["confusion"].items()),
        "",
        "| what was done | registrations | failures | median error (mm) | pass | look | fail |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for kind, n in report["kinds"].items():
        median = "–" if n["median_error_mm"] is None else f"{n['median_error_mm']:.1f}"
        counts = f"{n['pass']} | {n['look']} | {n['fail']}"
        lines.append(f"| {kind} | {n['registrations']} | {n['failures']} | {median} | {counts} |")
    lines += [
        "",
        "![Uncertainty](uncertainty.png)",
        "",
        "| voxels of | mean error (mm) | expected (mm) | Spearman | within a case | AUSE (chance) | 68 % | 95 % |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, n in report["uncertainty"].items():
        lines.append(
            f"| {name} | {n['mean_error_mm']:.2f} | {n['mean_expected_mm']:.2f} | {n['spearman']:.2f} | "
            f"{n['spearman_within_cases_median']:.2f} | {n['ause']:.2f} ({n['ause_of_chance']:.2f}) | "
            f"{n['below_share68_percent']:.0f} | {n['below_share95_percent']:.0f} |"
        )
    single = ", ".join(f"{n} {v:+.2f}" for n, v in report["single_features"].items())
    lines += ["", f"Rank correlation of single features with the error where registered: {single}.", ""]
    return "\n".join(lines)
