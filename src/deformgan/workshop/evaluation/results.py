"""What an evaluation leaves: the rows with their summary, tests and provenance, and the tables made of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from deformgan.io.atomic import atomic
from deformgan.output.provenance import environment
from deformgan.workshop.evaluation import statistics, tables
from deformgan.workshop.evaluation.methods import Compute, Spec
from deformgan.workshop.evaluation.run import checksum

SCHEMA = 1
RESULTS, SWEEPS, MARKDOWN, LATEX = "results.json", "sweeps.json", "table.md", "table.tex"


def collect(
    rows: Sequence[dict[str, Any]],
    specs: Sequence[Spec],
    compute: Compute,
    *,
    command: Sequence[str],
    seed: int,
    caption: str = "",
    pairs: Sequence[tuple[str, str]] = (),
    groups: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> dict[str, Any]:
    """Everything about an evaluation as one JSON-able dict; the order of its keys is always the same.

    Args:
        rows: Of `deformgan.workshop.evaluation.run.score_all`.
        specs: The methods.
        compute: As resolved.
        command: The words of the command.
        seed: Of the cases and of the bootstrap.
        caption: The training budget, in words.
        pairs: Methods to be compared by name.
        groups: Methods that are one, taught from several seeds, by its name.
    """
    rows = [*rows, *statistics.averaged(rows, groups)]
    return {
        "schema": SCHEMA,
        "command": list(command),
        "environment": environment(),
        "machine": machine(compute),
        "settings": {"device": compute.device, "precision": compute.precision, "threads": compute.threads},
        "seed": seed,
        "caption": caption,
        "methods": [
            {"name": s.name, "folder": None if s.folder is None else str(s.folder), "sha256": checksum(s)}
            for s in specs
        ],
        "rows": list(rows),
        "summary": statistics.summarise(rows),
        "tests": {
            "best_rival": statistics.against_best_rival(rows),
            "comparisons": statistics.compare(rows, pairs, seed),
        },
    }


def collect_sweeps(record: dict[str, Any], rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """As `collect` gave it, for the rows of sweeps: a summary for each sweep and level, and no tests.

    Args:
        record: Of `collect`.
        rows: With ``sweep`` and ``level``.
    """
    kept = {key: value for key, value in record.items() if key not in ("rows", "summary", "tests")}
    summary = []
    for sweep, level in dict.fromkeys((row["sweep"], row["level"]) for row in rows):
        own = [row for row in rows if (row["sweep"], row["level"]) == (sweep, level)]
        summary += [{"sweep": sweep, "level": level, **entry} for entry in statistics.summarise(own)]
    return {**kept, "rows": list(rows), "summary": summary}


def machine(compute: Compute) -> str:
    """What the methods ran on, in words."""
    if compute.device == "cuda":
        return f"{torch.cuda.get_device_name()}, {compute.precision}"
    threads = f"{compute.threads} thread{'' if compute.threads == 1 else 's'}"
    return f"{threads} of a CPU ({processor()}), {compute.precision}"


def processor() -> str:
    """The processor's name, or where the system does not tell the machine's kind."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else str(environment()["machine"])


def write(out: Path, record: dict[str, Any]) -> None:
    """Write ``results.json``, ``table.md`` and ``table.tex``."""
    table = tables.parts(record["summary"], record["tests"]["best_rival"])
    told = tables.explanation(record["caption"], record["machine"])
    write_json(out / RESULTS, record)
    for name, text in ((MARKDOWN, tables.markdown(table, told)), (LATEX, tables.latex(table, told))):
        with atomic(out / name) as partial:
            partial.write_text(text, encoding="utf-8")


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Write one JSON file whole."""
    with atomic(path) as partial:
        partial.write_text(json.dumps(record, indent=1, allow_nan=False, ensure_ascii=False) + "\n", encoding="utf-8")
