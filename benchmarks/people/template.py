"""Onto a template: Dice between people's anatomical labels after each was registered onto it, beside other tools.

    python benchmarks/people/template.py -o OUT PERSON PERSON [PERSON …] [--template MNI152] [--image t1]
        [--tools deformgan greedy-nmi ants-syn …]

PERSON is a folder as `run.py` takes it. No label of the template is needed: what is right brings the same structure of
different people to the same place. A template without a skull is met by brains: other tools are given what the labels
cover, filled and smoothed by 6 mm; the command is given the image as it is. What is there is not run again.
``OUT/template.json`` and a copy in `results/` hold every pair.
"""

from __future__ import annotations

import argparse
import json
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from registering import RESULTS, TOOLS, add_options, dice, moved_labels, table
from scipy import ndimage

from deformgan.io.image import Image, load_image, load_labels
from deformgan.io.templates import located

sys.path.insert(0, str(Path(__file__).parents[1]))
from measuring import keep, machine

CLOSED_MM = 6.0


def main() -> int:
    """Register every person by every tool, score every pair and show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, TOOLS[1:])
    parser.add_argument("--template", default="MNI152")
    given = parser.parse_args()
    rows = []
    for tool in given.tools:
        rows += _pairs(tool, [_moved(tool, person, given) for person in given.people])
        sys.stderr.write("".join(json.dumps(row) + "\n" for row in rows if row["tool"] == tool))
    result = {"machine": machine(), "threads": given.threads, "template": given.template}
    result |= {"arguments": given.arguments, "rows": rows}
    (given.out / "template.json").write_text(json.dumps(result, indent=1) + "\n")
    sys.stdout.write(f"{table(rows)}{keep('template', result, RESULTS)}\n")
    return 0


def _moved(tool: str, person: Path, given: argparse.Namespace) -> tuple[str, Path, dict[str, Any]]:
    """Who, where the labels are on the template's voxels, and what is known of the registration."""
    image, labels = person / f"{given.image}.nii.gz", person / "labels.nii.gz"
    out = given.out / f"{person.name}-{given.image}"
    if tool != "deformgan":
        out.mkdir(parents=True, exist_ok=True)
        image = brain_of(image, labels, out / "brain.nii.gz")
    images = [Path(located(given.template)), image, labels]
    return person.name, *moved_labels(tool, images, out / tool, given)


def brain_of(image: Path, labels: Path, out: Path) -> Path:
    """The file of the image where the labels are, and in what they enclose or nearly enclose; 0 elsewhere."""
    read, found = load_image(image), load_labels(labels)
    reach = round(CLOSED_MM / float(read.grid.spacing.min()))
    covered = np.pad(found.data > 0, reach)
    closed = ndimage.binary_fill_holes(ndimage.binary_closing(covered, iterations=reach))
    inside = np.asarray(closed)[reach:-reach, reach:-reach, reach:-reach]
    Image(read.data * inside, read.grid).save(out)
    return out


def _pairs(tool: str, moved: list[tuple[str, Path, dict[str, Any]]]) -> list[dict[str, Any]]:
    """A row for each two people: Dice over the second's labels, and the mean of their seconds."""
    labels = {name: load_labels(path).data for name, path, _ in moved if path.is_file()}
    rows = []
    for (one, _, first), (other, _, second) in combinations(moved, 2):
        score = dice(labels[one], labels[other]) if one in labels and other in labels else 0.0
        seconds = round((first["seconds"] + second["seconds"]) / 2, 1)
        verdicts = [row["verdict"] for row in (first, second) if "verdict" in row]
        rows.append({"pair": f"{one} and {other}", "tool": tool, "dice": score, "seconds": seconds})
        rows[-1] |= {"verdicts": verdicts} if verdicts else {}
    return rows


if __name__ == "__main__":
    sys.exit(main())
