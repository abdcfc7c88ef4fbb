"""The comparison as a table, in Markdown and in LaTeX (booktabs)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from deformgan.workshop.evaluation.statistics import ALL, HIGHER_IS_BETTER, TESTED

LEVEL = 0.05
# metric, heading, digits
COLUMNS = (
    ("rmse_volume", "RMSE, volume (%)", 2),
    ("rmse_brain", "RMSE, brain (%)", 2),
    ("dice_tumour", "Dice, tumour", 3),
    ("error_mean", "Field error (voxels)", 2),
    ("error_p95", "95th percentile", 2),
    ("folding", "Folding (%)", 3),
    ("seconds", "Time (s)", 2),
    ("peak_memory_mb", "Memory (MB)", 0),
)
_JUDGED = (*TESTED, "error_p95")  # the best of these is set in bold: what is quick or smooth may be so for being wrong
_ESCAPES = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{c: f"\\{c}" for c in "&%$#_{}"},
}


@dataclass(frozen=True)
class Part:
    """The rows of one kind and regime.

    Args:
        kind, regime: Of its cases.
        n, subjects: How many cases, of how many subjects.
        rows: Of each method: its name and, for each of `COLUMNS`, a mean ± standard deviation, a mark, and whether it
            is the best.
    """

    kind: str
    regime: str
    n: int
    subjects: int
    rows: list[tuple[str, list[tuple[str, str, bool]]]]


def parts(summary: Sequence[dict[str, Any]], tests: Sequence[dict[str, Any]]) -> list[Part]:
    """The table's parts; one that only repeats another (``all`` of one) is left out.

    Args:
        summary: Of `deformgan.workshop.evaluation.statistics.summarise`.
        tests: Of `deformgan.workshop.evaluation.statistics.against_best_rival`.
    """
    found = []
    for cell in dict.fromkeys((entry["kind"], entry["regime"]) for entry in summary):
        if not _repeats(summary, cell):
            entries = [entry for entry in summary if (entry["kind"], entry["regime"]) == cell]
            marked = {
                (test["method"], test["metric"])
                for test in tests
                if (test["kind"], test["regime"]) == cell and test["p_holm"] is not None and test["p_holm"] < LEVEL
            }
            rows = [(e["method"], [_value(e, entries, column, marked) for column in COLUMNS]) for e in entries]
            most = max(entries, key=lambda entry: entry["n"])
            found.append(Part(*cell, most["n"], most["subjects"], rows))
    return found


def _repeats(summary: Sequence[dict[str, Any]], cell: tuple[str, str]) -> bool:
    kind, regime = cell
    kinds = {entry["kind"] for entry in summary} - {ALL}
    regimes = {entry["regime"] for entry in summary if kind in (ALL, entry["kind"])} - {ALL}
    return (kind == ALL and len(kinds) == 1) or (regime == ALL and len(regimes) == 1)


def _value(
    entry: dict[str, Any], entries: Sequence[dict[str, Any]], column: tuple[str, str, int], marked: set[tuple[str, str]]
) -> tuple[str, str, bool]:
    metric, _, digits = column
    mean, sd = entry[metric]["mean"], entry[metric]["sd"]
    if mean is None:
        return "–", "", False
    means = [e[metric]["mean"] for e in entries if e[metric]["mean"] is not None]
    best = (max if metric in HIGHER_IS_BETTER else min)(means)
    text = f"{mean:.{digits}f}" + ("" if sd is None else f" ± {sd:.{digits}f}")
    mark = "*" if (entry["method"], metric) in marked else ""
    return text, mark, metric in _JUDGED and mean == best and len(entries) > 1


def explanation(caption: str, machine: str) -> str:
    """What a reader must know of the numbers.

    Args:
        caption: The training budget or whatever else is to be said first.
        machine: What it ran on.
    """
    return " ".join(
        text
        for text in (
            caption and caption.rstrip(". ") + ".",
            "Mean ± standard deviation over cases; the best mean in bold.",
            "* differs from the best of the other methods "
            f"(two-sided Wilcoxon signed-rank test, Holm-corrected p < {LEVEL:g}).",
            "RMSE in % of the range of the true image; Dice of the whole tumour; "
            "distance to the true field and folding inside the brain.",
            f"Computed on {machine}.",
        )
        if text
    )


def markdown(table: Sequence[Part], told: str) -> str:
    """The table as Markdown, ``told`` (see `explanation`) below it."""
    lines = []
    for part in table:
        lines += [f"### {_title(part)}", ""]
        lines.append("| method | " + " | ".join(heading for _, heading, _ in COLUMNS) + " |")
        lines.append("|---|" + "---:|" * len(COLUMNS))
        for name, values in part.rows:
            shown = [f"**{text}**{_stars(mark)}" if best else text + _stars(mark) for text, mark, best in values]
            lines.append("| " + " | ".join([name.replace("|", "\\|"), *shown]) + " |")
        lines.append("")
    return "\n".join([*lines, told.replace("* ", "\\* "), ""])


def latex(table: Sequence[Part], told: str, label: str = "tab:comparison") -> str:
    """The table as a LaTeX ``table*`` that needs the package booktabs."""
    lines = [
        r"% \usepackage{booktabs}",
        r"\begin{table*}",
        r"\centering",
        rf"\caption{{{escape(told)}}}",
        rf"\label{{{label}}}",
        rf"\begin{{tabular}}{{l{'r' * len(COLUMNS)}}}",
        r"\toprule",
        " & ".join(["Method", *(escape(heading) for _, heading, _ in COLUMNS)]) + r" \\",
    ]
    for part in table:
        lines += [r"\midrule", rf"\multicolumn{{{len(COLUMNS) + 1}}}{{l}}{{{escape(_title(part))}}} \\", r"\midrule"]
        for name, values in part.rows:
            shown = [_latex_value(*value) for value in values]
            lines.append(" & ".join([escape(name), *shown]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table*}", ""])


def escape(text: str) -> str:
    """Text for LaTeX: what it would take for a command becomes the character itself."""
    return "".join(_ESCAPES.get(c, c) for c in text).replace("±", r"$\pm$").replace("–", "--").replace("<", "$<$")


def _latex_value(text: str, mark: str, best: bool) -> str:
    text = escape(text)
    if best:
        text = rf"\textbf{{{text}}}"
    return text + ("$^{*}$" if mark else "")


def _stars(mark: str) -> str:
    return "\\" + mark if mark else ""


def _title(part: Part) -> str:
    kinds = {"patient": "Patients", "label-map": "Label maps", ALL: "All kinds", "other": "Cases"}
    regime = "all regimes" if part.regime == ALL else f"{part.regime} deformations"
    one = "" if part.subjects == 1 else "s"
    cases = f"{part.n} case{'' if part.n == 1 else 's'}"
    return f"{kinds.get(part.kind, part.kind)}, {regime} ({cases}, {part.subjects} subject{one})"
