"""Is the truth better than what T leaves? Similarities after a generator at T's own field and at the true one.

    python benchmarks/generator/truth.py CASES WEIGHTS [WEIGHTS …] [--model NAME] [--threads N]

WEIGHTS are folders that hold a generator, CASES known deformations of T1 images, registered onto T2. A loss that
is lower at the truth than at smooth random errors (`deformgan.workshop.training.gate`) may still be lower at T's field
than at the truth; T cannot then be taught by it. Both resolutions that T is taught at are asked.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deformgan import losses
from deformgan.losses.gradient import GradientSimilarity
from deformgan.models.load import Translator, load_generator, load_model
from deformgan.output.provenance import environment
from deformgan.refine.settings import DEFAULT_SETTINGS
from deformgan.refine.weights import Compared
from deformgan.spatial.field import resize
from deformgan.spatial.warp import warp
from deformgan.workshop.evaluation.cases import EvaluationCase, find_cases, read_case
from deformgan.workshop.training.objective import translated

sys.path.insert(0, str(Path(__file__).parents[1]))
from measuring import keep

RESULTS = Path(__file__).parent / "results"
FACTORS = (1, 2)  # working voxels to one
WINDOWS = (3, 5, 9)


def similarities(fixed: Tensor, moved: Tensor, weight: Tensor, translator: Translator | None) -> dict[str, float]:
    """By name, larger is better; of the image itself where there is no generator."""
    with torch.no_grad():
        shown = moved if translator is None else translated(translator.network, moved)
        edges = GradientSimilarity(fixed, DEFAULT_SETTINGS.epsilon, squared=True, mask=weight)
        found = {f"LCC, window {n}": losses.local_cross_correlation(fixed, shown, n, mask=weight) for n in WINDOWS}
        found |= {"NGF²": edges(shown)}
        found |= {f"local gradient, window {n}": losses.local_gradient_similarity(fixed, shown, n) for n in WINDOWS}
    return {name: float(value) for name, value in found.items()}


def rows_of(case: EvaluationCase, predicted: Tensor, translators: dict[str, Translator | None]) -> list[dict[str, Any]]:
    """What every generator's image, at every resolution, gains from T's field to the truth."""
    compared = Compared(case.fixed, case.moving, (case.fixed > 0).float())
    rows = []
    for factor in FACTORS:
        weight = compared.mask(factor, DEFAULT_SETTINGS.margin)
        fixed, moving = compared.images(factor)
        shape = tuple(fixed.shape[2:])
        for name, translator in translators.items():
            at = [
                similarities(fixed, warp(moving, resize(field, shape)), weight, translator)
                for field in (predicted, case.field)
            ]
            gains = {key: at[1][key] - at[0][key] for key in at[0]}
            rows.append({"case": case.name, "factor": factor, "generator": name, "gains": gains})
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """In how many cases the truth is better, and by how much on average."""
    names = list(rows[0]["gains"])
    lines = ["| generator | voxels | " + " | ".join(names) + " |", "|---|---|" + "---|" * len(names)]
    for generator in dict.fromkeys(row["generator"] for row in rows):
        for factor in FACTORS:
            own = [row["gains"] for row in rows if (row["generator"], row["factor"]) == (generator, factor)]
            cells = []
            for name in names:
                gains = [one[name] for one in own]
                cells.append(f"{sum(g > 0 for g in gains)} of {len(gains)}, {sum(gains) / len(gains):+.4f}")
            lines.append(f"| {generator} | {factor} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Ask every generator on every case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", type=Path)
    parser.add_argument("weights", nargs="+")
    parser.add_argument("--model", default="t1-t2")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    translators: dict[str, Translator | None] = {"none": None}
    translators |= {Path(name).name: load_generator(name) for name in given.weights}
    model, rows = load_model(given.model), []
    for folder in find_cases(given.cases):
        case = read_case(folder)
        rows += rows_of(case, model.predict(case.fixed, case.moving).cpu(), translators)
        sys.stdout.write(f"{case.name}\n")
        sys.stdout.flush()
    result = {"machine": environment(), "model": model.sha256, "rows": rows}
    sys.stdout.write(f"{table(rows)}{keep('truth', result, RESULTS)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
