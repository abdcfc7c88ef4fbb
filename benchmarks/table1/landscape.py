"""Is it the loss or the learning? What each trained method's loss is at no deformation, at T's, and at the true one.

    python benchmarks/table1/landscape.py RUNS CASES OUT.json [--regime medium] [--methods NAME …]

For each method and case, at half resolution: the terms of T's loss (and G's translation where the method has one) for
three fields. A loss that is lowest at the true field but not reached by T speaks of too little training; one that is as
low at T's wrong field speaks against the loss.
"""

from __future__ import annotations

import argparse
import json
import sys
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
from deformgan.models.load import load_model
from deformgan.networks import build
from deformgan.spatial.field import resize
from deformgan.spatial.warp import warp
from deformgan.workshop.evaluation.cases import find_cases, read_case, select_cases
from deformgan.workshop.evaluation.metrics import endpoint_error
from deformgan.workshop.training.objective import Networks, similarities

STEP = 1450  # of the snapshots: the end of the stage at half resolution


@torch.inference_mode()
def measured(name: str, run: Path, folders: list[Path]) -> dict[str, Any]:
    """Means over cases, for each field: the loss, its terms, and the distance to the truth."""
    config = configuration(name)
    model = load_model(run / "stages" / "0.5")
    generator: nn.Module | None = None
    if config.generator is not None:
        generator = build(config.generator)
        generator.load_state_dict(load_file(run / "snapshots" / f"step-{STEP:06d}" / "G.safetensors"))
    rows: dict[str, list[dict[str, float]]] = {"identity": [], "T": [], "truth": []}
    for folder in folders:
        case = read_case(folder)
        half = tuple(n // 2 for n in case.shape)
        fixed, moving, inside = (F.avg_pool3d(image.float(), 2) for image in (case.fixed, case.moving, case.mask))
        truth = resize(case.field, half)
        fields = {"identity": torch.zeros_like(truth), "T": model.predict(case.fixed, case.moving), "truth": truth}
        for where, field in fields.items():
            moved = warp(moving, field)
            networks = Networks(model.network, generator)
            similar = similarities(networks, fixed, moved, config.loss)
            smoothness = losses.gradient_energy(field)
            gained = sum(config.loss.of(key) * value for key, value in similar.items())
            rows[where].append(
                {
                    "loss": float(config.loss.smoothness * smoothness - gained),
                    "smoothness": float(smoothness),
                    **{key: float(value) for key, value in similar.items()},
                    "error": 2 * float(endpoint_error(field, truth, inside).mean()),
                }
            )
    return {where: {key: round(fmean(row[key] for row in many), 4) for key in many[0]} for where, many in rows.items()}


def main() -> int:
    """Measure every method that has been trained."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("cases", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--regime", default="medium")
    parser.add_argument("--methods", nargs="+", default=list(ROWS))
    given = parser.parse_args()
    folders = select_cases(find_cases(given.cases), (given.regime,))
    found = {name: measured(name, given.runs / name, folders) for name in given.methods}
    with atomic(given.out) as partial:
        partial.write_text(
            json.dumps({"regime": given.regime, "cases": len(folders), "methods": found}, indent=1) + "\n",
            encoding="utf-8",
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
