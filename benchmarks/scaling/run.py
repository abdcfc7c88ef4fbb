"""How time and memory of ``deformgan register`` grow with the volume and with the threads.

    python benchmarks/scaling/run.py [--sides 64 128 192 256 320] [--threads 1 2] [--refine-steps 0] [--results DIR]

A pair is simulated from the shipped anatomy and brought to cubes of n³ voxels with the same field of view. The command
runs on each as a process of its own: wall time, processor time (user and system), largest resident set, and stages from
registration.json. Fitted are the power law (no worse than linear in voxels means an exponent of at most 1) and, as
start-up hides the growth at small sizes, the line "start-up + cost of a voxel". A JSON file joins results/.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

from deformgan.io.image import Image
from deformgan.spatial.grid import Grid
from deformgan.workshop.simulation.anatomy import load_anatomy
from deformgan.workshop.simulation.cases import make_case

sys.path.insert(0, str(Path(__file__).parents[1]))
from measuring import keep, machine, power_law, straight_line

RESULTS = Path(__file__).parent / "results"

FIELD_OF_VIEW_MM = 224.0


@cache
def simulated() -> tuple[Tensor, Tensor]:
    """T2 (fixed) and T1 (moving, deformed) of the shipped anatomy on 128³ voxels, (1, 1, 128, 128, 128) each."""
    generator = torch.Generator().manual_seed(7)
    shape = (128, 128, 128)
    spacing = FIELD_OF_VIEW_MM / 128
    case = make_case(load_anatomy(), "medium", generator, fixed="t2", moving="t1", shape=shape, spacing=spacing)
    return case.fixed, case.moving


def cubes(side: int, folder: Path) -> tuple[Path, Path]:
    """That pair on ``side``³ voxels of the same field of view, with noise in the foreground, as files."""
    generator = torch.Generator().manual_seed(side)
    grid = Grid.centred((side,) * 3, FIELD_OF_VIEW_MM / side, np.zeros(3))
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / "fixed.nii.gz", folder / "moving.nii.gz"
    for volume, path in zip(simulated(), paths, strict=True):
        volume = F.interpolate(volume, size=grid.shape, mode="trilinear", align_corners=False)[0, 0]
        noise = 0.01 * torch.randn(volume.shape, generator=generator)
        Image(torch.where(volume > 0, (volume + noise).clamp_min(1e-3), 0).numpy(), grid).save(path)
    return paths


def measure(fixed: Path, moving: Path, out: Path, threads: int, steps: int) -> dict[str, Any]:
    """One run of the command: seconds of wall and processor time, peak MB, and the seconds of its stages."""
    command = [sys.executable, "-m", "deformgan", "register", "-f", str(fixed), "-m", str(moving), "-o", str(out)]
    options = ["--force", "--refine-steps", str(steps), "--threads", str(threads), "--device", "cpu"]
    start = time.perf_counter()
    process = subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)  # unlike RUSAGE_CHILDREN, of this run alone
    wall = time.perf_counter() - start
    process.returncode = code = os.waitstatus_to_exitcode(status)
    if code not in (0, 4):  # 4: done, but the quality check failed
        raise RuntimeError(f"deformgan register ended with {code} on {fixed}")
    record = json.loads((out / "registration.json").read_text(encoding="utf-8"))
    return {
        "wall_s": wall,
        "processor_s": usage.ru_utime + usage.ru_stime,
        "peak_mb": record["peak_memory_mb"],  # rusage would count this process where it is larger
        "stages_s": record["timings"],
    }


def fits(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """For each cost of ``rows`` (of one number of threads), the exponent, and start-up and cost of a million voxels."""
    voxels = [float(row["side"]) ** 3 for row in rows]
    columns = {name: [row[name] for row in rows] for name in ("wall_s", "processor_s", "peak_mb")}
    for stage in rows[0]["stages_s"]:
        columns[f"stage: {stage}"] = [max(row["stages_s"][stage], 1e-3) for row in rows]  # recorded to 1 ms
    found = {}
    for name, costs in columns.items():
        slope, start = straight_line(voxels, costs)
        found[name] = {"exponent": power_law(voxels, costs)[0], "start": start, "per_million_voxels": slope * 1e6}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", type=int, nargs="+", default=[64, 128, 192, 256, 320])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--refine-steps", type=int, default=0)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        for side in options.sides:
            folder = Path(temporary) / str(side)
            pair = cubes(side, folder)
            for threads in options.threads:
                row = measure(*pair, folder / "out", threads, options.refine_steps)
                rows.append({"side": side, "threads": threads, **row})
    table = Table("voxels", "threads", "wall s", "processor s", "peak MB", title="deformgan register")
    for row in rows:
        costs = f"{row['wall_s']:.2f}", f"{row['processor_s']:.2f}", f"{row['peak_mb']:.0f}"
        table.add_row(f"{row['side']}³", str(row["threads"]), *costs)
    console = Console()
    console.print(table)
    fitted = {str(n): fits([row for row in rows if row["threads"] == n]) for n in options.threads}
    for threads, of in fitted.items():
        for name in ("wall_s", "processor_s", "peak_mb"):
            fit = of[name]
            console.print(
                f"{threads} threads, {name}: exponent {fit['exponent']:.2f}; "
                f"{fit['start']:.2f} + {fit['per_million_voxels']:.3f} per million voxels"
            )
    result = {"machine": machine(), "refine_steps": options.refine_steps, "rows": rows, "fits": fitted}
    console.print(str(keep("scaling", result, options.results)))


if __name__ == "__main__":
    main()
