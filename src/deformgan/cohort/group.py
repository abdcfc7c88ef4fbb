"""The group's table: one row a pair, the outliers of each column, and what people say of them."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deformgan import __version__
from deformgan.cohort.store import Store
from deformgan.errors import InputError
from deformgan.io.atomic import atomic

TABLE, SIDECAR, PAGE, RATINGS = (
    "group_registration.tsv",
    "group_registration.json",
    "group_registration.html",
    "ratings.tsv",
)
RATING_COLUMNS = ("rating", "rater", "note")
GRADES = ("good", "doubtful", "bad")
FENCE = 1.5  # times the distance between the quartiles
FEWEST = 8  # values of a column of which quartiles say something

# name, unit, what it is, which end of it is bad
FIGURES = {
    "failure_probability": ("", "that the error exceeds 3 mm on average or 8 mm in 5 % of the content", "high"),
    "expected_error_mm": ("mm", "expected error, mean inside the fixed image's foreground (--uncertainty)", "high"),
    "expected_error_p95_mm": ("mm", "its 95th percentile", "high"),
    "similarity_before": ("", "normalised mutual information of fixed and moving image", "low"),
    "similarity_after": ("", "the same of fixed and moved image", "low"),
    "folds_percent": ("%", "of the foreground where the map folds", "high"),
    "jacobian_p01": ("", "local volume change, 1st percentile in the foreground; 1 is none", "low"),
    "jacobian_p99": ("", "the same, 99th percentile", "high"),
    "inverse_error_mm": ("mm", "how far a position is off after the map and back", "high"),
    "overlap": ("", "Dice of the foregrounds of fixed and moved image", "low"),
    "displacement_p95_mm": ("mm", "length of the displacement, 95th percentile in the foreground", "high"),
    "seconds": ("s", "on the worker", "high"),
    "peak_memory_mb": ("MB", "largest memory of the worker so far", "high"),
}
WORDS = {
    "id": "name of the pair",
    "status": "done, failed or pending",
    "verdict": "pass, look or fail",
    "exit": "exit code that deformgan register would end with; 137: two workers died of it",
    "cause": "why it failed, or what to look at",
    "outliers": "columns in which the pair lies beyond Tukey's fences on the bad side",
    "version": "of deformgan",
    "weights": "name of the weights",
    "weights_sha256": "their checksum",
    "report": "the pair's page",
    "rating": "by eye: good, doubtful or bad",
    "rater": "who rated",
    "note": "what the rater saw",
}
RESERVED = frozenset({*FIGURES, *WORDS, "state"})  # names that further columns cannot have


@dataclass(frozen=True)
class Group:
    """The table of a cohort.

    Attributes:
        columns: In their order.
        rows: One dictionary a pair; a figure that is not known is None.
        fences: Lower and upper fence by column.
        about: What the cohort was asked for.
    """

    columns: list[str]
    rows: list[dict[str, Any]]
    fences: dict[str, tuple[float, float]]
    about: dict[str, Any]


def collect(store: Store, ratings: Path | None = None) -> Group:
    """Read what became of every pair, and the ratings: those in the folder, and over them those of a file.

    Raises:
        InputError: There is no cohort, or the ratings cannot be read.
    """
    more, listed, about = store.read_plan()
    rated = read_ratings(store.out / RATINGS) | (read_ratings(ratings, needed=True) if ratings else {})
    if ratings:
        _write_ratings(store.out / RATINGS, rated)
    known = {row["id"]: row for row in store.rows() if row["digest"] == about["digest"]}
    rows = [_line(pair, known.get(pair["id"]), rated.get(pair["id"], {})) for pair in listed]
    fences = tukey(rows)
    for row in rows:
        row["outliers"] = " ".join(_outliers(row, fences))
    columns = ["id", *more, "status", "verdict", *FIGURES, *list(WORDS)[3:]]
    return Group(list(dict.fromkeys(columns)), rows, fences, about)


def _line(pair: Mapping[str, str], row: dict[str, Any] | None, rating: Mapping[str, str]) -> dict[str, Any]:
    if row is None:
        row = {"status": "pending", "figures": {}}
    figures = {name: row["figures"].get(name) for name in FIGURES} | {"seconds": row.get("seconds")}
    words = {name: row.get(name) for name in WORDS if name not in ("id", "outliers", *RATING_COLUMNS)}
    return {**pair, **words, **figures, **{name: rating.get(name, "") for name in RATING_COLUMNS}}


def tukey(rows: Sequence[Mapping[str, Any]]) -> dict[str, tuple[float, float]]:
    """Quartiles less and plus `FENCE` times their distance, for each figure that enough rows have."""
    found = {}
    for name in FIGURES:
        values = np.array([row[name] for row in rows if row.get(name) is not None], float)
        if len(values) >= FEWEST:
            low, high = np.quantile(values, [0.25, 0.75])
            found[name] = (float(low - FENCE * (high - low)), float(high + FENCE * (high - low)))
    return found


def _outliers(row: Mapping[str, Any], fences: Mapping[str, tuple[float, float]]) -> Iterable[str]:
    for name, (low, high) in fences.items():
        value, bad = row[name], FIGURES[name][2]
        if value is not None and (value < low if bad == "low" else value > high):
            yield name


def write_table(group: Group, out: Path) -> None:
    """Write the table and what its columns mean, as BIDS has it."""
    with atomic(out / TABLE) as partial, open(partial, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(group.columns)
        for row in group.rows:
            writer.writerow([_cell(row.get(name)) for name in group.columns])
    described: dict[str, Any] = {
        name: {"Description": FIGURES[name][1], **({"Units": FIGURES[name][0]} if FIGURES[name][0] else {})}
        for name in FIGURES
    }
    for name, (low, high) in group.fences.items():
        described[name]["TukeyFences"] = [low, high]
    described |= {name: {"Description": text} for name, text in WORDS.items()}
    described = {name: described[name] for name in group.columns if name in described}
    generated = {"GeneratedBy": [{"Name": "deformgan", "Version": __version__}], "Settings": group.about["settings"]}
    with atomic(out / SIDECAR) as partial:
        partial.write_text(json.dumps({**described, **generated}, indent=2) + "\n", encoding="utf-8")


def _cell(value: Any) -> str:
    if value is None or value == "":
        return "n/a"
    return f"{value:.6g}" if isinstance(value, float) else " ".join(str(value).split())


def read_ratings(path: Path, *, needed: bool = False) -> dict[str, dict[str, str]]:
    """Ratings by the name of the pair, as the page saves them: columns ``id``, ``rating``, ``rater``, ``note``.

    Raises:
        InputError: They are needed and not there, or are not such a table.
    """
    if not needed and not path.exists():
        return {}
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, delimiter="\t")
            if not {"id", "rating"} <= set(reader.fieldnames or ()):
                raise ValueError("it has no columns id and rating")
            found = {row["id"]: {name: row.get(name) or "" for name in RATING_COLUMNS} for row in reader}
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"cannot read the ratings {path}: {error}", "save them from the group's page") from error
    wrong = {row["rating"] for row in found.values()} - {*GRADES, "", "n/a"}
    if wrong:
        raise InputError(f"{path}: {sorted(wrong)[0]!r} is no rating", f"use {', '.join(GRADES)}")
    return found


def _write_ratings(path: Path, rated: Mapping[str, Mapping[str, str]]) -> None:
    with atomic(path) as partial, open(partial, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(["id", *RATING_COLUMNS])
        writer.writerows([name, *(rating[column] for column in RATING_COLUMNS)] for name, rating in rated.items())
