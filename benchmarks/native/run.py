"""What the kernels in C win, and that they change no result: T and refinement with and without them, case by case.

    python benchmarks/native/run.py CASES [CASES …] [--threads 1] [--steps 150] [--results DIR]

A case is a folder with ``fixed``, ``moving``, ``mask`` and ``true_field`` (.nii.gz on a working grid, the field in its
voxels). Both ways alternate in one process; processor seconds (user and system) count, for wall time on a shared
machine says little. A JSON file joins benchmarks/native/results.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))
from measuring import keep, machine

from deformgan.align.options import DEFAULT_STEPS
from deformgan.models.load import DEFAULT_MODEL, load_model
from deformgan.refine import refine
from deformgan.spatial import native
from deformgan.spatial.field import resize

WAYS = {"C": "1", "PyTorch": "0"}


def volume(path: Path) -> Tensor:
    """(1, 1, D, H, W), or (1, 3, D, H, W) of a field."""
    data = torch.from_numpy(np.asarray(nib.load(path).dataobj, np.float32))
    return data[None, None].contiguous() if data.ndim == 3 else data.squeeze().movedim(-1, 0)[None].contiguous()


def processor_seconds() -> float:
    taken = os.times()
    return taken.user + taken.system


def error(field: Tensor, truth: Tensor, mask: Tensor) -> float:
    """Mean endpoint error in voxels inside the mask."""
    difference = (resize(field, tuple(truth.shape[2:])) - truth).square().sum(1).sqrt()
    return float(difference[mask[:, 0] > 0].mean())


def one_case(folder: Path, model, steps: int) -> dict:
    fixed, moving, mask, truth = (volume(folder / f"{n}.nii.gz") for n in ("fixed", "moving", "mask", "true_field"))
    row: dict = {"case": f"{folder.parent.name}/{folder.name}"}
    for way, switch in WAYS.items():
        os.environ["DEFORMGAN_NATIVE"] = switch
        start, clock = processor_seconds(), time.perf_counter()
        predicted = model.predict(fixed, moving, "fp32")
        middle, between = processor_seconds(), time.perf_counter()
        refined = refine(fixed, moving, predicted, steps, mask=mask)
        row[way] = {
            "T_s": middle - start,
            "refine_s": processor_seconds() - middle,
            "T_wall_s": between - clock,
            "refine_wall_s": time.perf_counter() - between,
            "error_T": error(predicted, truth, mask),
            "error": error(refined, truth, mask),
        }
        if way == "C":
            first, first_T = refined, predicted
        else:
            row["T_apart"] = float((first_T - predicted).norm(dim=1).max())
            row["apart"] = float((first - refined).norm(dim=1)[:, ::2, ::2, ::2].mean())
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", type=Path, nargs="+")
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=DEFAULT_STEPS)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    if not native.is_available():
        sys.exit("the kernels are not built: python -m deformgan.spatial.native.build")
    torch.set_num_threads(options.threads)
    model = load_model(options.model)
    folders = sorted(folder for cases in options.cases for folder in cases.glob("case_*"))
    one_case(folders[0], model, 2)  # the first run of each kind prepares its plans
    rows = [one_case(folder, model, options.steps) for folder in folders]
    table = Table(
        *["case", "T, C", "T, PyTorch", "refine, C", "refine, PyTorch", "error, C", "error, PyTorch", "apart"]
    )
    for row in rows:
        a, b = row["C"], row["PyTorch"]
        numbers = [a["T_s"], b["T_s"], a["refine_s"], b["refine_s"], a["error"], b["error"], row["apart"]]
        table.add_row(row["case"], *[f"{n:.3f}" for n in numbers])
    Console(width=120).print(table)
    medians = {w: {k: statistics.median(r[w][k] for r in rows) for k in rows[0][w]} for w in WAYS}
    result = {
        "machine": machine(),
        "threads": options.threads,
        "steps": options.steps,
        "median": medians,
        "cases": rows,
    }
    options.results.mkdir(parents=True, exist_ok=True)
    Console(stderr=True).print(medians, keep("native", result, options.results))


if __name__ == "__main__":
    main()
