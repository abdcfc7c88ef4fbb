"""Is it the loss or the learning? What each trained method's loss is at no deformation, at T's, and at the true one.

    python benchmarks/table1/landscape.py RUNS CASES OUT.json [--regime medium] [--methods NAME …]
    python benchmarks/table1/landscape.py --weights NAME=FOLDER … --start t1-t2 -- RUNS CASES OUT.json

For each method and case, at half resolution: the terms of T's loss (and G's translation where the method has one) for
three fields. A loss that is lowest at the true field but not reached by T speaks of too little training; one that is as
low at T's wrong field speaks against the loss. With ``--weights`` the methods are finished trainings, with the G beside
them, that began with ``--start``, whose field is looked at as well: it is the error that they were to correct.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
import torch.nn.functional as F
from methods import ROWS, configuration
from safetensors.torch import load_file
from torch import nn

from deformgan import losses
from deformgan.io.atomic import atomic
from deformgan.models.load import Model, load_generator, load_model
from deformgan.networks import build
from deformgan.spatial.field import resize
from deformgan.spatial.warp import warp
from deformgan.workshop.evaluation.cases import find_cases, read_case, select_cases
from deformgan.workshop.evaluation.metrics import endpoint_error
from deformgan.workshop.training.objective import LossWeights, Networks, similarities

STEP = 1450  # of the snapshots: the end of the stage at half resolution


@dataclass(frozen=True)
class Method:
    """What is looked at: T's by what their fields are called, G where there is one, and the loss."""

    models: dict[str, Model]
    generator: nn.Module | None
    loss: LossWeights


def trained(name: str, run: Path) -> Method:
    """A row of the table as the stage at half resolution left it."""
    config = configuration(name)
    generator: nn.Module | None = None
    if config.generator is not None:
        generator = build(config.generator)
        generator.load_state_dict(load_file(run / "snapshots" / f"step-{STEP:06d}" / "G.safetensors"))
    return Method({"T": load_model(run / "stages" / "0.5")}, generator, config.loss)


def finished(folder: Path, start: str) -> Method:
    """Weights as `deformgan train` leaves them, and those that it began with."""
    model, translator = load_model(folder), load_generator(folder)
    loss = LossWeights(**model.config["training"]["loss"])
    return Method({"start": load_model(start), "T": model}, translator and translator.network, loss)


@torch.inference_mode()
def measured(method: Method, folders: list[Path]) -> dict[str, Any]:
    """Means over cases, for each field: the loss, its terms, the distance to the truth, how often the truth wins."""
    rows: dict[str, list[dict[str, float]]] = {}
    for folder in folders:
        case = read_case(folder)
        half = tuple(n // 2 for n in case.shape)
        fixed, moving, inside = (F.avg_pool3d(image.float(), 2) for image in (case.fixed, case.moving, case.mask))
        truth = resize(case.field, half)
        fields = {"identity": torch.zeros_like(truth), "truth": truth}
        for where, model in method.models.items():
            fields[where] = resize(model.predict(case.fixed, case.moving, "fp32"), half)
        of_case = {}
        for where, field in fields.items():
            networks = Networks(nn.Identity(), method.generator)
            similar = similarities(networks, fixed, warp(moving, field), method.loss)
            smoothness = losses.gradient_energy(field)
            gained = sum(method.loss.of(key) * value for key, value in similar.items())
            of_case[where] = {
                "loss": float(method.loss.smoothness * smoothness - gained),
                "smoothness": float(smoothness),
                **{key: float(value) for key, value in similar.items()},
                "error": 2 * float(endpoint_error(field, truth, inside).mean()),
            }
        for where, row in of_case.items():
            row["truth_is_lower"] = float(of_case["truth"]["loss"] < row["loss"])
            rows.setdefault(where, []).append(row)
    return {where: {key: round(fmean(row[key] for row in many), 4) for key in many[0]} for where, many in rows.items()}


def main() -> int:
    """Measure every method that has been trained."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("cases", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--regime", default="medium")
    parser.add_argument("--methods", nargs="+", default=list(ROWS))
    parser.add_argument("--weights", nargs="+", metavar="NAME=FOLDER", default=[])
    parser.add_argument("--start", default="t1-t2")
    given = parser.parse_args()
    folders = select_cases(find_cases(given.cases), (given.regime,))
    if given.weights:
        named = (one.split("=", 1) for one in given.weights)
        methods = {name: finished(Path(folder), given.start) for name, folder in named}
    else:
        methods = {name: trained(name, given.runs / name) for name in given.methods}
    found = {name: measured(method, folders) for name, method in methods.items()}
    with atomic(given.out) as partial:
        partial.write_text(
            json.dumps({"regime": given.regime, "cases": len(folders), "methods": found}, indent=1) + "\n",
            encoding="utf-8",
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
