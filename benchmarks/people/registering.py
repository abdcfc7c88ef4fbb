"""One registration of labels by any tool, and how alike labels are."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results"
TOOLS = ("none", "deformgan", "greedy-nmi", "greedy-wncc", "ants-syn", "ants-syn-full", "niftyreg")


def add_options(parser: argparse.ArgumentParser, tools: Sequence[str]) -> None:
    """What every benchmark of this folder asks for; by default these tools."""
    parser.add_argument("people", type=Path, nargs="+", metavar="PERSON")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--image", default="t1", help="what is moved")
    parser.add_argument("--tools", nargs="+", choices=TOOLS, default=tools)
    parser.add_argument("--arguments", nargs="*", default=[], help="more arguments of `deformgan register`")
    parser.add_argument("--python", default=sys.executable, help="the interpreter that has the other tools")
    parser.add_argument("--threads", type=int, default=2)


def moved_labels(
    tool: str, images: Sequence[Path], out: Path, given: argparse.Namespace
) -> tuple[Path, dict[str, Any]]:
    """Where a tool left the moved labels, seconds, and what it answered with; what is there is not run again.

    Args:
        images: The fixed image, the moving one and its labels.
        given: Threads, interpreter and further arguments.
    """
    out.mkdir(parents=True, exist_ok=True)
    moved, took = out / "moved_labels.nii.gz", out / "time.json"
    if not took.is_file():
        if tool == "deformgan":
            words = ["-m", "deformgan", "register", "-f", images[0], "-m", images[1], "--moving-labels", images[2]]
            words += ["-o", out / "run", "--force", "--threads", given.threads, *given.arguments]
        else:
            words = [Path(__file__).with_name("tools.py"), tool, *images, moved, given.threads]
        limits = {"OMP_NUM_THREADS": given.threads, "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": given.threads}
        start = time.perf_counter()
        with open(out / "log.txt", "wb") as log:
            environment = os.environ | {name: str(value) for name, value in limits.items()}
            command = [sys.executable if tool == "deformgan" else given.python, *map(str, words)]
            code = subprocess.run(command, stdout=log, stderr=log, env=environment).returncode
        if (made := out / "run" / "moved_labels.nii.gz").is_file():
            made.replace(moved)
        took.write_text(json.dumps({"seconds": round(time.perf_counter() - start, 1), "code": code}))
    return moved, {**json.loads(took.read_text()), **_said(out / "run" / "registration.json")}


def _said(record: Path) -> dict[str, Any]:
    """The verdict and the folds in a record of ours."""
    if not record.is_file():
        return {}
    quality = json.loads(record.read_text())["quality"]
    return {"verdict": quality["verdict"], "folds_percent": quality["folding_percent"]}


def dice(moved: np.ndarray, fixed: np.ndarray) -> float:
    """Mean over the labels of ``fixed`` of 2 |A ∩ B| / (|A| + |B|)."""
    most = int(max(moved.max(), fixed.max())) + 1
    both = np.bincount(fixed[fixed == moved].ravel().astype(np.int64), minlength=most)
    sizes = [np.bincount(one.ravel().astype(np.int64), minlength=most) for one in (moved, fixed)]
    wanted = np.flatnonzero(sizes[1][1:]) + 1
    return round(float((2 * both[wanted] / (sizes[0][wanted] + sizes[1][wanted])).mean()), 4)


def table(rows: list[dict[str, Any]]) -> str:
    """Means of each tool, in Markdown."""
    lines = ["| tool | pairs | Dice | least | s |", "|---|---|---|---|---|"]
    for tool in dict.fromkeys(row["tool"] for row in rows):
        mine = [row for row in rows if row["tool"] == tool]
        found, seconds = [row["dice"] for row in mine], fmean(row["seconds"] for row in mine)
        lines.append(f"| {tool} | {len(mine)} | {fmean(found):.3f} | {min(found):.3f} | {seconds:.0f} |")
    return "\n".join(lines) + "\n"
