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
import sys
from pathlib import Path
from typing import Any

from registering import RESULTS, TOOLS, add_options, dice, moved_labels, table

from deformgan.io.image import load_labels

sys.path.insert(0, str(Path(__file__).parents[1]))
from measuring import keep, machine


def main() -> int:
    """Register every pair by every tool, score and show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, TOOLS)
    parser.add_argument("--onto", default="t1", help="the image that it is moved onto")
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
    images = [fixed / f"{given.onto}.nii.gz", moving / f"{given.image}.nii.gz", moving / "labels.nii.gz"]
    moved, row = moved_labels(tool, images, out, given)
    scores = dice(load_labels(moved).data, load_labels(fixed / "labels.nii.gz").data) if moved.is_file() else 0.0
    return {"dice": scores, **row}


if __name__ == "__main__":
    sys.exit(main())
