"""The jobs in which registrations go wrong in practice: how far off, and does the verdict tell?

    python benchmarks/hard_cases/run.py -o OUT CASE [CASE …] [--kinds KIND …] [--tools deformgan niftyreg-nmi …]

CASE is a folder with a known deformation, as `deformgan evaluate` makes them. Each kind of `kinds.py` is made of each
case; `deformgan` registers by `deformgan.register` with its defaults, other tools as in ``benchmarks/rivals``. Errors
are in mm of an adult's brain. A result is wrong where its mean error is above 3 mm, or the 95th percentile above 8 mm,
or where nothing can be right (another image, a mirror image). What is there is not run again. ``OUT/hard_cases.json``,
and a copy in ``results/``, hold every registration.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import fmean, median
from typing import Any
from zlib import crc32

import nibabel as nib
import numpy as np
import torch
from kinds import KINDS, OPTIONS, Pair, read, save

import deformgan
from deformgan.errors import DeformganError

sys.path.insert(0, str(Path(__file__).parents[1]))
from measuring import keep, machine, recorded_features

RESULTS = Path(__file__).parent / "results"
RIVALS = Path(__file__).parents[1] / "rivals" / "tools.py"
TOOLS = ("deformgan", "ants-syn-mi", "greedy-nmi", "niftyreg-nmi")
MEAN_LIMIT_MM, P95_LIMIT_MM = 3.0, 8.0
LEVELS = {"pass": 0.0, "look": 1.0, "fail": 2.0, "refused": 3.0}


def main() -> int:
    """Register everything, score and show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", type=Path, nargs="+", metavar="CASE")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--tools", nargs="+", choices=TOOLS, default=["deformgan"])
    parser.add_argument("--python", default=sys.executable, help="the interpreter that has the other tools")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    rows = []
    for folder in given.cases:
        for kind in given.kinds:
            for tool in given.tools:
                rows.append(_row(folder, kind, tool, given))
                sys.stderr.write(json.dumps(rows[-1]) + "\n")
    result = {"machine": machine(), "threads": given.threads, "rows": rows}
    (given.out / "hard_cases.json").write_text(json.dumps(result, indent=1) + "\n")
    sys.stdout.write(f"{table(rows)}\n{verdicts(rows)}{keep('hard-cases', result, RESULTS)}\n")
    return 0


def _row(folder: Path, kind: str, tool: str, given: argparse.Namespace) -> dict[str, Any]:
    """One registration, from where it was kept or made now."""
    subject = json.loads((folder / "meta.json").read_text())["subject"]
    about = {"case": folder.name, "subject": subject, "kind": kind, "tool": tool}
    own = given.out / folder.name / kind
    kept = own / f"{tool}.json"
    if not kept.is_file():
        seed = crc32(f"{subject} {folder.name} {kind}".encode())
        pair = KINDS[kind](read(folder), np.random.default_rng(seed))
        paths = save(pair, own)
        start = time.perf_counter()
        run = _ours if tool == "deformgan" else _another
        found = run(pair, paths, tool, given)
        kept.write_text(json.dumps(found | {"seconds": round(time.perf_counter() - start, 1)}))
    found = json.loads(kept.read_text())
    return about | found | {"wrong": is_wrong(found)}


def is_wrong(found: dict[str, Any]) -> bool:
    """By the definition above."""
    if found.get("error_mm") is None:
        return True
    return found["error_mm"] > MEAN_LIMIT_MM or found["error_p95_mm"] > P95_LIMIT_MM


def _ours(pair: Pair, paths: tuple[Path, Path], tool: str, given: argparse.Namespace) -> dict[str, Any]:
    """By `deformgan.register`."""
    try:
        with recorded_features() as features:
            done = deformgan.register(*paths, **OPTIONS.get(paths[0].parent.name, {}))  # type: ignore[arg-type]
    except DeformganError as error:
        return {"verdict": "refused", "said": str(error)}
    quality = done.quality
    told = {"verdict": quality.verdict, "probability": quality.failure_probability, "features": features}
    told |= {"said": "; ".join((*quality.reasons, *quality.doubts)), "coverage": quality.coverage_percent}
    return told | _errors(pair, done.transform.map_points(pair.points))


def _another(pair: Pair, paths: tuple[Path, Path], tool: str, given: argparse.Namespace) -> dict[str, Any]:
    """By another tool, in a process of its own; its field is displacements in voxels of the fixed grid."""
    out = paths[0].parent / tool
    out.mkdir(exist_ok=True)
    limits = {"OMP_NUM_THREADS": given.threads, "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": given.threads}
    with open(out / "log.txt", "wb") as log:
        code = subprocess.run(
            [given.python, RIVALS, tool, paths[0].parent, out, str(given.threads)],
            stdout=log, stderr=log, env=os.environ | {name: str(value) for name, value in limits.items()},
        ).returncode  # fmt: skip
    if code or not (out / "field.nii.gz").is_file():
        return {"verdict": "refused", "said": f"exit code {code}"}
    field = np.asarray(nib.load(out / "field.nii.gz").dataobj)
    (out / "field.nii.gz").unlink()
    index = np.rint(nib.affines.apply_affine(np.linalg.inv(pair.fixed_affine), pair.points)).astype(int)
    moved = index + field[tuple(index.T)]
    return _errors(pair, nib.affines.apply_affine(pair.fixed_affine, moved))


def _errors(pair: Pair, mapped: np.ndarray) -> dict[str, Any]:
    """Mean and 95th percentile of the distances in mm of an adult's brain; nothing where nothing can be right."""
    if pair.targets is None:
        return {}
    off = np.linalg.norm(mapped - pair.targets, axis=1) / pair.size
    start = np.linalg.norm(pair.points - pair.targets, axis=1) / pair.size
    means = {"error_mm": off.mean(), "error_p95_mm": np.quantile(off, 0.95), "start_mm": start.mean()}
    return {name: round(float(value), 3) for name, value in means.items()}


def table(rows: list[dict[str, Any]]) -> str:
    """Mean and largest error for each kind and tool, in Markdown."""
    tools = list(dict.fromkeys(row["tool"] for row in rows))
    lines = ["| kind | by headers | " + " | ".join(tools) + " |", "|---|---:|" + "---:|" * len(tools)]
    for kind in dict.fromkeys(row["kind"] for row in rows):
        mine = [row for row in rows if row["kind"] == kind]
        starts = [row["start_mm"] for row in mine if "start_mm" in row]
        cells = [f"{fmean(starts):.2f}" if starts else "–"]
        for tool in tools:
            errors = [row["error_mm"] for row in mine if row["tool"] == tool and row.get("error_mm") is not None]
            refused = sum(row.get("verdict") == "refused" for row in mine if row["tool"] == tool)
            told = f"{fmean(errors):.2f} ({median(errors):.2f}, {max(errors):.2f})" if errors else "–"
            cells.append(told + (f", {refused} refused" if refused else ""))
        lines.append(f"| {kind} | " + " | ".join(cells) + " |")
    return "Error in mm: mean (median, largest)\n\n" + "\n".join(lines) + "\n"


def verdicts(rows: list[dict[str, Any]]) -> str:
    """How the verdict of ours parts right from wrong results, for each kind and in all."""
    ours = [row for row in rows if row["tool"] == "deformgan"]
    if not ours:
        return ""
    lines = ["| kind | right: pass, look, fail | wrong: pass, look, fail |", "|---|---|---|"]
    for kind in [*dict.fromkeys(row["kind"] for row in ours), "all"]:
        cells = []
        for wrong in (False, True):
            mine = [row for row in ours if row["wrong"] is wrong and kind in ("all", row["kind"])]
            told = [row["verdict"] if row["verdict"] != "refused" else "fail" for row in mine]
            cells.append(", ".join(str(told.count(level)) for level in ("pass", "look", "fail")))
        lines.append(f"| {kind} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines) + f"\n\nArea under the ROC curve: {area(ours):.3f}\n"


def area(rows: list[dict[str, Any]]) -> float:
    """How often a wrong result is told to be worse than a right one; by verdict, then by probability."""
    scores = {True: [], False: []}
    for row in rows:
        probability = row.get("probability")
        scores[row["wrong"]].append(LEVELS[row["verdict"]] + (0.5 if probability is None else 0.99 * probability))
    wrong, right = np.array(scores[True])[:, None], np.array(scores[False])[None]
    return float(((wrong > right) + 0.5 * (wrong == right)).mean()) if wrong.size and right.size else float("nan")


if __name__ == "__main__":
    sys.exit(main())
