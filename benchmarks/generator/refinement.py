"""What is a generator worth in refinement? Control points driven by the paper's objective of one pair, and by others.

    python benchmarks/generator/refinement.py WEIGHTS CASES [--model NAME] [--steps N] [--threads N] [--rows NAME …]

WEIGHTS is a folder that holds a generator, CASES known deformations of T1 images that are registered onto T2. Every row
starts from the field of the same T (``--model``) and takes the same steps of Adam on the same control points at half
resolution, where the generator works, with the same bending and folding terms; one thing changes: the similarity. Two
rows besides are no part of that comparison: T alone, and the refinement that `deformgan register` does (three levels).
Last, each row's similarity is compared at T's own field and at the truth: where the truth is not better, what T leaves
cannot be corrected by it.
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
from deformgan.refine.objective import folding
from deformgan.refine.optimise import refine
from deformgan.refine.parameters import Parameters
from deformgan.refine.settings import DEFAULT_SETTINGS, RefineSettings
from deformgan.refine.weights import Compared
from deformgan.spatial.adam import adam
from deformgan.spatial.field import resize
from deformgan.spatial.warp import warp
from deformgan.workshop.evaluation.cases import EvaluationCase, find_cases, read_case
from deformgan.workshop.training.objective import translated

sys.path.insert(0, str(Path(__file__).parents[1]))
from measuring import keep
from scores import cells, regimes_of, scored

RESULTS = Path(__file__).parent / "results"
WINDOW, GRADIENT = 5, 2.0  # of the local losses; β
SETTINGS = RefineSettings(levels=((2, 1.0),))
# name → weights of: edges of the images, edges after G, correlation of the images, correlation after G, local gradient
ROWS: dict[str, tuple[float, float, float, float, float]] = {
    "NGF²": (1, 0, 0, 0, 0),
    "NGF² after G": (0, 1, 0, 0, 0),
    "LCC": (0, 0, 1, 0, 0),
    "LCC after G": (0, 0, 0, 1, 0),
    "LCC + β LG": (0, 0, 1, 0, GRADIENT),
    "LCC after G + β LG": (0, 0, 0, 1, GRADIENT),
    "NGF² + LCC after G": (1, 0, 0, 1, 0),
}


class Pair:
    """A case at half resolution, bias fields corrected as refinement does, and what it is compared by."""

    def __init__(self, case: EvaluationCase, translator: Translator) -> None:
        mask = (case.fixed > 0).float()
        self.compared = Compared(case.fixed, case.moving, mask)
        self.weight = self.compared.mask(2, SETTINGS.margin)
        self.fixed, self.moving = self.compared.images(2)
        self._network = translator.network
        self._edges = GradientSimilarity(self.fixed, SETTINGS.epsilon, squared=True, mask=self.weight)

    def similarity(self, moved: Tensor, weights: tuple[float, ...]) -> Tensor:
        """The weighted sum of a row's terms, of a moved image (1, 1, D, H, W)."""
        shown = translated(self._network, moved) if weights[1] or weights[3] else moved
        terms = (
            lambda: self._edges(moved),
            lambda: self._edges(shown),
            lambda: losses.local_cross_correlation(self.fixed, moved, WINDOW, mask=self.weight),
            lambda: losses.local_cross_correlation(self.fixed, shown, WINDOW, mask=self.weight),
            lambda: losses.local_gradient_similarity(self.fixed, moved, WINDOW),
        )
        return sum((w * term() for w, term in zip(weights, terms, strict=True) if w), start=torch.zeros(()))

    def refined(self, start: Tensor, weights: tuple[float, ...], steps: int) -> Tensor:
        """Adam on the control points, as `deformgan.refine.optimise` does it at one level."""
        parameters = Parameters.fit(start.clone(), self.compared.mask(1, SETTINGS.margin), SETTINGS)
        variables = [parameters.control, parameters.affine]
        moments = [(torch.zeros_like(v), torch.zeros_like(v)) for v in variables]
        shape = tuple(self.fixed.shape[2:])
        for step in range(steps):
            bending = SETTINGS.bending * SETTINGS.relaxation ** (1 - step / steps)
            coarse = parameters.coarse()
            loss = bending * losses.bending_energy(parameters.control)
            loss = loss + SETTINGS.folding * folding(coarse, SETTINGS.least_jacobian)
            loss = loss - self.similarity(warp(self.moving, parameters.field(shape, coarse)), weights)
            rates = (SETTINGS.rate, SETTINGS.affine_rate)
            for variable, slope, moment, rate in zip(
                variables, torch.autograd.grad(loss, variables), moments, rates, strict=True
            ):
                adam(variable, slope, moment, rate * (1 - 0.9 * step / steps), step + 1)
        return parameters.field(shape).detach()


def rows_of(
    case: EvaluationCase, predicted: Tensor, translator: Translator, given: argparse.Namespace
) -> list[dict[str, Any]]:
    """Every row of one case."""
    pair = Pair(case, translator)
    full = resize(refine(case.fixed, case.moving, predicted, settings=DEFAULT_SETTINGS), case.shape)
    found = [scored(case, "T alone", resize(predicted, case.shape)), scored(case, "refinement as shipped", full)]
    half = tuple(pair.fixed.shape[2:])
    for name in given.rows:
        weights = ROWS[name]
        field = pair.refined(predicted, weights, given.steps)
        with torch.no_grad():
            at = {k: resize(f, half) for k, f in (("start", predicted), ("end", field), ("truth", case.field))}
            similar = {k: float(pair.similarity(warp(pair.moving, f), weights)) for k, f in at.items()}
        found.append({**scored(case, name, resize(field, case.shape)), "similarity": similar})
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """Mean error in voxels and RMSE in % for each regime, and how often the truth is better than T's field."""
    regimes = regimes_of(rows)
    lines = ["| similarity | " + " | ".join(regimes) + " | truth before T's field | truth before its own end |"]
    lines.append("|---|" + "---:|" * (len(regimes) + 2))
    for name in dict.fromkeys(row["method"] for row in rows):
        own, shown = [row for row in rows if row["method"] == name], cells(rows, name)
        for place in ("start", "end"):
            told = [row["similarity"]["truth"] > row["similarity"][place] for row in own if "similarity" in row]
            shown.append(f"{sum(told)} of {len(told)}" if told else "")
        lines.append(f"| {name} | " + " | ".join(shown) + " |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Measure every row on every case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("cases", type=Path)
    parser.add_argument("--model", default="t1-t2")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    translator, model = load_generator(given.weights), load_model(given.model)
    if translator is None or translator.reduction != 2:
        parser.error(f"{given.weights} holds no generator for half the resolution")
    translator.network.requires_grad_(False)
    rows = []
    for folder in find_cases(given.cases):
        case = read_case(folder)
        predicted = model.predict(case.fixed, case.moving, "fp32").clone()
        rows += rows_of(case, predicted, translator, given)
        sys.stderr.write(table(rows) + "\n")
    found = {"machine": environment(), "model": model.sha256, "generator": translator.sha256, "steps": given.steps}
    keep("refinement", {**found, "rows": rows}, RESULTS)
    sys.stdout.write(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
