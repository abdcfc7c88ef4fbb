"""Time and memory of T, of refinement and of the whole command, on a pair this project makes itself or on yours.

    python benchmarks/speed/run.py [--fixed T2.nii.gz --moving T1.nii.gz] [--device auto] [--threads 2] [--rounds 5]
        [--results DIR]

Without images a 240×240×155 pair of 1 mm is simulated from the shipped anatomy. T and refinement are timed in this
process on the conformed pair, and so is the whole of `deformgan.register`; the command is a process of its own:
start-up, imports, reading, writing and all. The median and the best of the rounds are given; memory is the largest
resident set of the process, and of what is timed here on a GPU the most that PyTorch held there. A JSON file joins
results/.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from deformgan import register
from deformgan.align.options import DEFAULT_STEPS
from deformgan.models.device import pick_device
from deformgan.models.load import DEFAULT_MODEL, load_model
from deformgan.preprocess.conform import conform_pair
from deformgan.preprocess.scan import read_pair
from deformgan.refine import refine

sys.path.insert(0, str(Path(__file__).parents[1]))
from measuring import keep, machine, simulated_pair, timing_parser

RESULTS = Path(__file__).parent / "results"

SHAPE = (240, 240, 155)


def timed(call: Callable[[], object], rounds: int) -> list[float]:
    """Seconds of each round, after one that does not count; a GPU has finished what it was given."""
    seconds = []
    for number in range(rounds + 1):
        start = time.perf_counter()
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        if number:
            seconds.append(time.perf_counter() - start)
    return seconds


def run_command(fixed: Path, moving: Path, out: Path, extra: list[str]) -> float:
    """Run ``deformgan register`` and return its largest resident set, MB."""
    command = [sys.executable, "-m", "deformgan", "register", "-f", str(fixed), "-m", str(moving), "-o", str(out)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run([*command, "--force", *extra], check=True, **quiet)
    return json.loads((out / "registration.json").read_text(encoding="utf-8"))["peak_memory_mb"]


def main() -> None:
    parser = timing_parser(__doc__, DEFAULT_MODEL, RESULTS)
    parser.add_argument("--fixed", type=Path)
    parser.add_argument("--moving", type=Path)
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows: dict[str, dict[str, float]] = {}

    def add(name: str, seconds: list[float], memory_mb: float | None = None) -> None:
        rows[name] = {"median_s": statistics.median(seconds), "best_s": min(seconds)}
        if memory_mb is not None:
            rows[name]["peak_mb"] = memory_mb

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        fixed, moving = (
            (options.fixed, options.moving) if options.fixed else simulated_pair(folder / "case", SHAPE, 1.0)
        )
        device = pick_device(options.device)
        threads = ["--threads", str(options.threads), "--model", options.model, "--device", device]
        for name, extra in (("command, --refine-steps 0", ["--refine-steps", "0"]), ("command, default", [])):
            memory: list[float] = []
            seconds = timed(
                lambda extra=extra, memory=memory: memory.append(
                    run_command(fixed, moving, folder / "out", [*extra, *threads])
                ),
                options.rounds,
            )
            add(name, seconds, max(memory))
        model = load_model(options.model, device)
        pair = conform_pair(
            *read_pair((fixed, None, None), (moving, None, None)), None, model.grid_shape, model.spacing
        )
        *images, mask = (one.to(device) for one in (*pair.tensors, pair.fixed.mask))
        add("T", timed(lambda: model.predict(*images), 4 * options.rounds))
        add("T, fp32", timed(lambda: model.predict(*images, precision="fp32"), options.rounds))
        field = model.predict(*images)
        add(
            f"refinement, {DEFAULT_STEPS} steps",
            timed(lambda: refine(*images, field, mask=mask), options.rounds),
        )
        add("register, in this process", timed(lambda: register(fixed, moving, model=model), options.rounds))
        if device == "cuda":
            rows["register, in this process"]["peak_mb"] = torch.cuda.max_memory_allocated() / 1e6

    table = Table(
        "what", "median s", "best s", "peak MB", title=f"{options.threads} threads, load {os.getloadavg()[0]:.1f}"
    )
    for name, row in rows.items():
        peak = f"{row['peak_mb']:.0f}" if "peak_mb" in row else "–"
        table.add_row(name, f"{row['median_s']:.3f}", f"{row['best_s']:.3f}", peak)
    Console().print(table)
    result = {"machine": machine(), "device": device, "threads": options.threads, "rows": rows}
    Console().print(str(keep("speed", result, options.results)))


if __name__ == "__main__":
    main()
