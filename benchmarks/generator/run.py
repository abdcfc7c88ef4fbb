"""What is a generator worth? The classical fluid, driven with and without its translation of the moving image.

    python benchmarks/generator/run.py RUN CASES [--threads N]

RUN holds the weights of a trained generator (``RUN/model``, as `deformgan train` leaves it), CASES known deformations
of T1 images that are registered onto T2 (``deformgan evaluate`` makes them). The solver, its steps and its levels are
the same in every row; one thing changes: the similarity, or the image that is moved: the moving image itself, or what
the generator makes of it before anything is warped. The figures of the gate (`deformgan.workshop.training.gate`) are
measured on the same cases.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from deformgan import losses
from deformgan.models.load import Translator, load_generator
from deformgan.output.provenance import environment
from deformgan.spatial.field import resize
from deformgan.spatial.warp import warp
from deformgan.workshop.evaluation.cases import EvaluationCase, find_cases, read_case
from deformgan.workshop.evaluation.fluid import register_fluid
from deformgan.workshop.evaluation.fluid_force import Similarity
from deformgan.workshop.training.gate import gate

sys.path.insert(0, str(Path(__file__).parents[1]))
from measuring import keep
from scores import cells, regimes_of, scored

WINDOW = 5
RESULTS = Path(__file__).parent / "results"


def correlation(fixed: Tensor, moved: Tensor, mask: Tensor | None) -> Tensor:
    """Squared local correlation."""
    return losses.local_cross_correlation(fixed, moved, WINDOW, mask=mask)


def gradients(fixed: Tensor, moved: Tensor, mask: Tensor | None) -> Tensor:
    """Squared normalised-gradient product, what refinement maximises."""
    return losses.ngf_similarity(fixed, moved, squared=True, mask=mask)


# name → the similarity (None: mutual information), and whether the moving image is translated first
ROWS: dict[str, tuple[Similarity | None, bool]] = {
    "MI": (None, False),
    "MI, translated": (None, True),
    "LCC": (correlation, False),
    "LCC, translated": (correlation, True),
    "NGF²": (gradients, False),
    "NGF², translated": (gradients, True),
}


def translated(case: EvaluationCase, translator: Translator) -> Tensor:
    """The moving image in the fixed image's contrast, at the case's resolution, 0 outside the content."""
    drawn = F.interpolate(
        translator.translate(case.moving), size=case.shape, mode="trilinear", align_corners=False
    ).clamp(0, 1)
    return drawn * (case.moving > 0)


def scores(case: EvaluationCase, translator: Translator, names: list[str]) -> list[dict[str, Any]]:
    """One row for each method, and one for no registration."""
    rows = []
    fields = {"none": torch.zeros_like(case.field)}
    moving = {False: case.moving, True: translated(case, translator)}
    for name in names:
        similarity, translate = ROWS[name]
        fields[name] = register_fluid(case.fixed, moving[translate], similarity=similarity)
    rows += [scored(case, name, field) for name, field in fields.items()]
    return rows


def gates(cases: list[EvaluationCase], translator: Translator) -> dict[str, dict[str, float]]:
    """The gate's figures of each similarity at half resolution, smoothness left out."""
    found = {}
    for name, (similarity, translate) in ROWS.items():

        def loss(fixed: Tensor, moving: Tensor, field: Tensor, similarity: Similarity | None = similarity) -> float:
            moved, inside = warp(moving, field), (fixed > 0).float()
            measure = similarity or (lambda f, m, w: losses.mutual_information(f, m, 24, mask=w))
            return -float(measure(fixed, moved, inside))

        pairs = []
        for case in cases:
            image = translated(case, translator) if translate else case.moving
            fixed, moving = (F.avg_pool3d(one, 2)[0] for one in (case.fixed, image))
            pairs.append({"fixed": fixed, "moving": moving, "field": resize(case.field, tuple(fixed.shape[1:]))[0]})
        found[name] = gate(loss, pairs, 0.5)
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """Mean error in voxels and RMSE in % for each regime, in Markdown."""
    regimes = regimes_of(rows)
    lines = ["| method | " + " | ".join(regimes) + " |", "|---|" + "---:|" * len(regimes)]
    for name in dict.fromkeys(row["method"] for row in rows):
        lines.append(f"| {name} | " + " | ".join(cells(rows, name)) + " |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Measure every row on every case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("cases", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    translator = load_generator(given.run / "model")
    if translator is None:
        parser.error(f"{given.run}/model holds no generator")
    cases = [read_case(folder) for folder in find_cases(given.cases)]
    rows = []
    for case in cases:
        rows += scores(case, translator, given.rows)
        sys.stderr.write(table(rows) + "\n")
    found = {"machine": environment(), "cases": len(cases), "gate": gates(cases, translator), "rows": rows}
    keep("generator", found, RESULTS)
    sys.stdout.write(table(rows))
    for name, shares in found["gate"].items():
        sys.stdout.write(f"gate, {name}: " + ", ".join(f"{k} {v:.2f}" for k, v in shares.items()) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
