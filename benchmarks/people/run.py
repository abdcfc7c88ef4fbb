"""Between people: Dice of anatomical labels after one person's image was registered onto another's, beside other tools.

    python benchmarks/people/run.py -o OUT PERSON PERSON [PERSON PERSON …] [--image t1] [--onto t1]
        [--tools none deformgan greedy-nmi greedy-wncc ants-syn ants-syn-full niftyreg] [--arguments=--refine-steps=0]

PERSON is a folder with ``t1.nii.gz`` (or another image) and ``labels.nii.gz`` on its voxels: the first is moved onto
the second, the third onto the fourth, and so on. Every registration is a process of its own; seconds are those of the
whole process. What is there is not run again. ``OUT/people.json`` and a copy in `results/` hold every pair.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from deformgan.io.image import load_labels

sys.path.insert(0, str(Path(__file__).parents[1]))
from measuring import keep, machine

RESULTS = Path(__file__).parent / "results"
TOOLS = ("none", "deformgan", "greedy-nmi", "greedy-wncc", "ants-syn", "ants-syn-full", "niftyreg")


def main() -> int:
    """Register every pair by every tool, score and show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("people", type=Path, nargs="+", metavar="PERSON")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--image", default="t1", help="what is moved")
    parser.add_argument("--onto", default="t1", help="the image that it is moved onto")
    parser.add_argument("--tools", nargs="+", choices=TOOLS, default=TOOLS)
    parser.add_argument("--arguments", nargs="*", default=[], help="more arguments of `deformgan register`")
    parser.add_argument("--python", default=sys.executable, help="the interpreter that has the other tools")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    if len(given.people) % 2:
        parser.error("people come in pairs")
    rows = []
    for moving, fixed in zip(given.people[::2], given.people[1::2], strict=True):
        for tool in given.tools:
            rows.append(
                {"pair": f"{moving.name} onto {fixed.name}", "tool": tool} | _scored(tool, moving, fixed, given)
            )
            sys.stderr.write(json.dumps(rows[-1]) + "\n")
    result = {"machine": machine(), "threads": given.threads, "arguments": given.arguments, "rows": rows}
    (given.out / "people.json").write_text(json.dumps(result, indent=1) + "\n")
    sys.stdout.write(f"{table(rows)}{keep('people', result, RESULTS)}\n")
    return 0


def _scored(tool: str, moving: Path, fixed: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Mean Dice over the fixed image's labels, seconds, and what the tool answered with."""
    out = given.out / f"{moving.name}-{fixed.name}-{given.image}-{given.onto}" / tool
    out.mkdir(parents=True, exist_ok=True)
    moved, took = out / "moved_labels.nii.gz", out / "time.json"
    if not took.is_file():
        images = [fixed / f"{given.onto}.nii.gz", moving / f"{given.image}.nii.gz", moving / "labels.nii.gz"]
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
    scores = dice(load_labels(moved).data, load_labels(fixed / "labels.nii.gz").data) if moved.is_file() else 0.0
    return {"dice": scores, **json.loads(took.read_text()), **_said(out / "run" / "registration.json")}


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


if __name__ == "__main__":
    sys.exit(main())
