"""The command against other tools on cases with a known truth.

    python benchmarks/rivals/run.py -o OUT --data ROOT [--per-regime 3] [--threads 2]
    python benchmarks/rivals/run.py -o OUT --cases DIR [--tools greedy-nmi ants-syn-mi]

Every registration is a process of its own; wall seconds and peak memory are those of the whole process. What is there
is not run again. Writes fields/, results.json and table.md of `deformgan evaluate`, and rivals.json, rivals.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

from deformgan.io.atomic import atomic
from deformgan.output.provenance import environment
from deformgan.workshop.evaluation.cases import find_cases
from tools import TOOLS, installed

REFERENCE = "greedy-nmi"
COLUMNS = {"error": "error_mean", "RMSE %": "rmse_volume", "tumour Dice": "dice_tumour", "folds %": "folding"}


def register(name: str, case: Path, out: Path, threads: int, timeout: float) -> str:
    """Run one tool on one case unless its result is there; time.json is written last. Returns what happened."""
    if (out / "time.json").is_file():
        return "there"
    out.mkdir(parents=True, exist_ok=True)
    limits = ("OMP_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", "OPENBLAS_NUM_THREADS")
    command = [sys.executable, str(Path(__file__).with_name("tools.py")), name, str(case), str(out), str(threads)]
    start = time.perf_counter()
    with open(out / "log.txt", "w", encoding="utf-8") as log:
        child = subprocess.Popen(
            command, stdout=log, stderr=log, env={**os.environ, **dict.fromkeys(limits, str(threads))}
        )
        peak = 0.0
        while child.poll() is None:
            peak = max(peak, family_mb(child.pid))
            if time.perf_counter() - start > timeout:
                child.kill()
            time.sleep(0.05)
    seconds = time.perf_counter() - start
    if child.returncode:
        return f"failed ({child.returncode}), see {out / 'log.txt'}"
    record = {"seconds": seconds, "peak_rss_mb": peak, "load": os.getloadavg()[0], "threads": threads}
    with atomic(out / "time.json") as partial:
        partial.write_text(json.dumps(record) + "\n")
    return f"{seconds:.1f} s, {peak:.0f} MB"


def family_mb(pid: int) -> float:
    """Resident memory of a process and its children now (Linux; 0 elsewhere)."""
    total = 0.0
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        total += sum(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmRSS"))
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            total += family_mb(int(child))
    except OSError:
        return total
    return total


def evaluate(*words: str | Path) -> None:
    subprocess.run([sys.executable, "-m", "deformgan", "evaluate", *map(str, words)], check=True)


def summary(rows: list[dict]) -> dict[str, dict[str, dict[str, float]]]:
    """Means for each regime and method, and the ratio of the wall seconds to those of the reference."""
    table: dict[str, dict[str, dict[str, float]]] = {}
    for regime, name in dict.fromkeys((row["regime"], row["method"]) for row in rows):
        own = [row for row in rows if (row["regime"], row["method"]) == (regime, name)]
        keys = [*COLUMNS.values(), "seconds", "peak_memory_mb"]
        values = {key: [row[key] for row in own if row.get(key) is not None] for key in keys}
        means = {key: statistics.fmean(some) for key, some in values.items() if some}
        table.setdefault(regime, {})[name] = {"cases": len(own), **means}
    for methods in table.values():
        reference = methods.get(REFERENCE, {}).get("seconds")
        for row in methods.values():
            if reference and "seconds" in row:
                row["ratio"] = row["seconds"] / reference
    return table


def markdown(table: dict) -> str:
    heads = [*COLUMNS, "wall s", "peak MB", f"s / {REFERENCE}"]
    keys = [*COLUMNS.values(), "seconds", "peak_memory_mb", "ratio"]
    lines = []
    for regime, methods in table.items():
        lines += [f"\n### {regime}\n", "| method | cases | " + " | ".join(heads) + " |", "|---|" + "---:|" * 8]
        for name, row in methods.items():
            cells = [f"{row[key]:.3g}" if key in row else "–" for key in keys]
            lines.append(f"| {name} | {row['cases']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--out", type=Path, required=True)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", type=Path)
    source.add_argument("--cases", type=Path)
    parser.add_argument("--label-maps", nargs="*", default=[])
    parser.add_argument("--per-regime", type=int, default=3)
    parser.add_argument("--tools", nargs="+", choices=[*TOOLS], default=[*TOOLS])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--timeout", type=float, default=1800)
    options = parser.parse_args()
    if options.data:
        maps = ["--label-maps", *options.label_maps] if options.label_maps else []
        made = options.out / "made"
        regimes = ["--per-regime", options.per_regime]
        evaluate("-o", made, "--data", options.data, *maps, *regimes, "--method", "identity")
    cases = find_cases(options.cases or options.out / "made" / "cases")
    complete = []
    for name in options.tools:
        if not installed(name):
            sys.stderr.write(f"{name} is not installed: left out\n")
            continue
        for case in cases:
            said = register(name, case, options.out / "fields" / name / case.name, options.threads, options.timeout)
            sys.stderr.write(f"{name}, {case.name}: {said}\n")
        if all((options.out / "fields" / name / case.name / "time.json").is_file() for case in cases):
            complete.append(name)
    methods = [f"{name}={options.out / 'fields' / name}" for name in complete]
    evaluate("-o", options.out, "--cases", cases[0].parent, "--method", "identity", *methods)
    rows = [json.loads(line) for line in (options.out / "scores.jsonl").read_text().splitlines()]
    table = summary([row for row in rows if row["method"] in ("identity", *complete)])
    machine = {"system": platform.platform(), "cores": os.cpu_count(), "threads": options.threads, **environment()}
    with atomic(options.out / "rivals.json") as partial:
        partial.write_text(json.dumps({"machine": machine, "regimes": table}, indent=1) + "\n")
    with atomic(options.out / "rivals.md") as partial:
        partial.write_text(markdown(table))


if __name__ == "__main__":
    main()
