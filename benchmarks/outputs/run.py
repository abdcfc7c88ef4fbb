"""What ``deformgan register`` leaves behind, what writing it small costs the map, and what the run took.

    python benchmarks/outputs/run.py [--shape 240 240 155] [--fixed T2 --moving T1] [--threads 2] [--refine-steps N]
        [-- OPTIONS OF REGISTER]

Without images a pair is simulated from the shipped anatomy, with noise in the foreground, stored as 16-bit integers.
The command runs twice, as a process of its own: as it is, and with ``--full-grid``. Written are the sizes of all
files, seconds, processor seconds (user and system), the largest resident set with and without the report, and in
millimetres how far the two maps are apart at voxels of the fixed foreground, and how far one is off after the map and
the saved inverse at random places between them. A JSON file joins benchmarks/outputs/results.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table

from deformgan.io.image import Image, load_image
from deformgan.spatial.grid import Grid
from deformgan.transforms.transform import Transform, load_transform

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
from measuring import keep, machine  # noqa: E402 (the benchmarks' own module, one folder up)
from scaling.run import FIELD_OF_VIEW_MM, simulated  # noqa: E402

PLACES = 100_000


def simulated_pair(shape: tuple[int, int, int], folder: Path) -> tuple[Path, Path]:
    """The shipped anatomy as T2 and deformed T1 on ``shape`` voxels, slice by slice: large ones fit in memory too."""
    grid = Grid.centred(shape, FIELD_OF_VIEW_MM / np.array(shape), np.zeros(3))
    paths = folder / "fixed.nii.gz", folder / "moving.nii.gz"
    for volume, path in zip(simulated(), paths, strict=True):
        generator = torch.Generator().manual_seed(shape[0])
        data = np.zeros(shape, np.int16, order="F")
        stack = F.interpolate(volume, size=(*volume.shape[2:4], shape[2]), mode="trilinear")[0, 0]
        for k in range(shape[2]):
            one = F.interpolate(stack[None, None, :, :, k], size=shape[:2], mode="bilinear")[0, 0]
            noisy = (one + 0.01 * torch.randn(one.shape, generator=generator)).clamp_min(1e-3)
            data[:, :, k] = (1000 * torch.where(one > 0, noisy, 0)).round().numpy()
        Image(data, grid).save(path)
    return paths


def register(fixed: Path, moving: Path, out: Path, threads: int, more: list[str]) -> dict[str, Any]:
    """Run the command; megabytes of each file, processor seconds, peak memory and what the record says."""
    command = [sys.executable, "-m", "deformgan", "register", "-f", str(fixed), "-m", str(moving), "-o", str(out)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([*command, "--threads", str(threads), "--device", "cpu", *more], **quiet)
    start, peak, ended = time.perf_counter(), 0.0, 0
    while not ended:  # the record knows the peak before the report alone
        peak = max(peak, resident_peak_mb(process.pid))
        time.sleep(0.02)
        ended, status, usage = os.wait4(process.pid, os.WNOHANG)
    process.returncode = code = os.waitstatus_to_exitcode(status)
    if code not in (0, 4):  # 4: done, but the quality check failed
        raise RuntimeError(f"deformgan register ended with {code} on {fixed}")
    record = json.loads((out / "registration.json").read_text(encoding="utf-8"))
    return {
        "mb": {path.name: path.stat().st_size / 1e6 for path in sorted(out.iterdir())},
        "processor_s": usage.ru_utime + usage.ru_stime,
        "s": time.perf_counter() - start,
        "peak_mb": record["peak_memory_mb"],
        "peak_with_report_mb": peak,
        "stages_s": record["timings"],
        "fields": record["fields"],
    }


def resident_peak_mb(pid: int) -> float:
    """The largest resident set of a process so far; 0 where the system does not tell."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0.0
    return max((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), default=0.0)


def spread(values: np.ndarray) -> dict[str, float]:
    """Mean, 99.9th percentile and maximum."""
    return {"mean": float(values.mean()), "p999": float(np.quantile(values, 0.999)), "max": float(values.max())}


def places(image: Image, within: float) -> np.ndarray:
    """Positions in the foreground, (N, 3) world mm: random voxels, moved by up to ``within`` voxels at random."""
    generator = np.random.default_rng(0)
    found = np.flatnonzero(image.data[::2, ::2, ::2] > 0)
    chosen = generator.choice(found, min(PLACES, len(found)), replace=False)
    index = 2.0 * np.stack(np.unravel_index(chosen, image.data[::2, ::2, ::2].shape), -1)
    return image.grid.to_world(index + generator.uniform(-within, within, index.shape))


def off(forth: Transform, back: Transform, points: np.ndarray) -> np.ndarray:
    """How far each point is off after the map and its inverse, mm."""
    return np.linalg.norm(back.map_points(forth.map_points(points)) - points, axis=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=3, default=(240, 240, 155))
    parser.add_argument("--fixed", type=Path)
    parser.add_argument("--moving", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--refine-steps", type=int, default=None)
    parser.add_argument("--without-full-grid", action="store_true", help="do not write the large files to compare with")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    options, others = parser.parse_known_args()
    torch.set_num_threads(options.threads)
    more = [word for word in others if word != "--"]
    more += [] if options.refine_steps is None else ["--refine-steps", str(options.refine_steps)]
    runs: dict[str, Any] = {}
    errors: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        pair = (options.fixed, options.moving) if options.fixed else simulated_pair(tuple(options.shape), folder)
        runs["as it is"] = register(*pair, folder / "own", options.threads, more)
        if not options.without_full_grid:
            runs["--full-grid"] = register(*pair, folder / "full", options.threads, [*more, "--full-grid"])
            voxels, points = (places(load_image(pair[0]), within) for within in (0.0, 0.5))
            names = "warp.nii.gz", "inverse_warp.nii.gz"
            own, full = ([load_transform(folder / one / name) for name in names] for one in ("own", "full"))
            apart = np.linalg.norm(own[0].map_points(voxels) - full[0].map_points(voxels), axis=1)
            errors = {"maps_apart_mm": spread(apart)}
            errors |= {"off_after_inverse_mm": spread(off(*own, points))}
            errors |= {"off_after_inverse_full_grid_mm": spread(off(*full, points))}
    table = Table("file", *(f"MB, {name}" for name in runs), title="deformgan register")
    for name in runs["as it is"]["mb"]:
        table.add_row(name, *(f"{run['mb'][name]:.1f}" for run in runs.values()))
    table.add_row("all", *(f"{sum(run['mb'].values()):.1f}" for run in runs.values()))
    table.add_row("s", *(f"{run['s']:.1f}" for run in runs.values()))
    table.add_row("processor s", *(f"{run['processor_s']:.1f}" for run in runs.values()))
    table.add_row("peak MB", *(f"{run['peak_mb']:.0f}" for run in runs.values()))
    table.add_row("peak MB with the report", *(f"{run['peak_with_report_mb']:.0f}" for run in runs.values()))
    console = Console()
    console.print(table)
    for name, of in errors.items():
        console.print(f"{name}: mean {of['mean']:.4f}, 99.9 % {of['p999']:.4f}, max {of['max']:.4f}")
    what = "given" if options.fixed else list(options.shape)
    result = {
        "machine": machine(),
        "pair": what,
        "threads": options.threads,
        "options": more,
        "runs": runs,
        "errors": errors,
    }
    console.print(str(keep("outputs", result, options.results)))


if __name__ == "__main__":
    main()
