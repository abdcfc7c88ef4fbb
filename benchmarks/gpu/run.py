"""What a GPU gains: T, refinement, a whole registration in one process, and a training step, beside plain fp32.

    python benchmarks/gpu/run.py --fixed T2.nii.gz --moving T1.nii.gz [--device cuda] [--rounds 10] [--results DIR]

Without images a 112×128×96 pair of 1.5 mm is simulated from the shipped anatomy. Medians and the best of the rounds,
after two that do not count; a GPU has finished what it was given. "one by one": without recorded graphs
(`deformgan.spatial.recorded`). Of a whole registration the seconds of its stages are given too, and how far its field
lies from the processor's. A training step is one of T on two such pairs under known fields. On a machine without a GPU
everything runs on the processor, which shows that it runs. A JSON file joins results/.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

import deformgan
from deformgan.align.options import DEFAULT_STEPS
from deformgan.models.device import computing_in, pick_device
from deformgan.models.load import DEFAULT_MODEL, load_model
from deformgan.preprocess.conform import conform_pair
from deformgan.preprocess.scan import read_pair
from deformgan.refine import refine
from deformgan.refine.fluid import refine_fluid
from deformgan.refine.settings import FLUID_SHARE
from deformgan.refine.weights import reduced
from deformgan.spatial import recorded
from deformgan.spatial.field import resize
from deformgan.workshop.training.objective import LossWeights, Networks
from deformgan.workshop.training.steps import TrainingBatch, transformation_step

sys.path.insert(0, str(Path(__file__).parents[1]))
from measuring import keep, machine, simulated_pair, timing_parser

RESULTS = Path(__file__).parent / "results"
SHAPE, SPACING = (112, 128, 96), 1.5
UNCOUNTED = 2

Row = dict[str, float]


def timed(call: Callable[[], object], rounds: int, device: str) -> Row:
    """Seconds of the rounds, and on a GPU the most memory that was held."""
    seconds = []
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    for number in range(UNCOUNTED + rounds):
        start = time.perf_counter()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        if number >= UNCOUNTED:
            seconds.append(time.perf_counter() - start)
    row = {"median_s": statistics.median(seconds), "best_s": min(seconds)}
    return row | ({"peak_mb": torch.cuda.max_memory_allocated() / 1e6} if device == "cuda" else {})


def training_step(model: Any, images: list[torch.Tensor], field: torch.Tensor, precision: str) -> Callable[[], object]:
    """One step of T on two pairs at half resolution, as its default was taught."""
    network = load_model(model.name, model.device).network.train()
    optimizer = torch.optim.AdamW(network.parameters(), 1e-6)
    half = tuple(n // 2 for n in images[0].shape[2:])
    fixed, moving = (reduced(one, 2).repeat(2, 1, 1, 1, 1) for one in images)
    batch = TrainingBatch(fixed, moving, resize(field, half).repeat(2, 1, 1, 1, 1), scale=0.5)
    weights = LossWeights(similarity="none", smoothness=0.0, known_field=1.0)

    def step() -> object:
        with computing_in(precision, model.device):
            return transformation_step(Networks(network), optimizer, batch, weights)

    return step


def registration(fixed: Path, moving: Path, model: Any, rounds: int, device: str, **options: Any) -> Row:
    """`deformgan.register` in this process: seconds in all and of each stage."""
    stages: dict[str, list[float]] = {}

    def once() -> None:
        found = deformgan.register(fixed, moving, model=model, **options)
        for name, seconds in found.provenance["timings"].items():
            stages.setdefault(name, []).append(seconds)

    row = timed(once, rounds, device)
    return row | {f"of it {name}": statistics.median(seconds[UNCOUNTED:]) for name, seconds in stages.items()}


def inference(
    model: Any, images: list[torch.Tensor], mask: torch.Tensor, rounds: int, device: str
) -> Iterator[tuple[str, Row]]:
    """T and both refinements."""
    field = model.predict(*images)
    steps = round(FLUID_SHARE * DEFAULT_STEPS)
    calls = {f"T, {precision}": partial(model.predict, *images, precision=precision) for precision in ("auto", "fp32")}
    calls["refinement, one person"] = partial(refine, *images, field, mask=mask)
    calls["refinement, two people"] = partial(refine_fluid, *images, field, steps, mask=mask)
    for name, call in calls.items():
        yield name, timed(call, rounds, device)


@contextmanager
def one_by_one() -> Iterator[None]:
    """Nothing is recorded inside."""

    def refused(*_: object) -> None:
        raise RuntimeError("not now")

    kept, recorded.Recorded = recorded.Recorded, refused  # type: ignore[assignment, misc]
    try:
        yield
    finally:
        recorded.Recorded = kept  # type: ignore[misc]


def apart_mm(fixed: Path, moving: Path, models: tuple[Any, Any]) -> Row:
    """Distance of the maps of two devices within the fixed image's foreground."""
    found = [deformgan.register(fixed, moving, model=model) for model in models]
    inside = torch.nonzero(torch.from_numpy(found[0].moved.data > 0))[::97].numpy()
    world = found[0].moved.grid.to_world(inside)
    apart = torch.from_numpy(found[0].transform.map_points(world) - found[1].transform.map_points(world)).norm(dim=1)
    return {"mean_mm": float(apart.mean()), "p95_mm": float(apart.quantile(0.95)), "most_mm": float(apart.amax())}


def main() -> None:
    """Time, write and show."""
    parser = timing_parser(__doc__, DEFAULT_MODEL, RESULTS)
    parser.add_argument("--fixed", type=Path)
    parser.add_argument("--moving", type=Path)
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    device, rows = pick_device(given.device), dict[str, Row]()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        paths = (given.fixed, given.moving) if given.fixed else simulated_pair(folder / "case", SHAPE, SPACING)
        for name, row in measured(*paths, given.model, given.rounds, device):
            rows[name] = row
            line = "  ".join(f"{key} {value:.4f}" for key, value in row.items())
            Console(soft_wrap=True).print(f"[bold]{name}[/]  {line}")  # at once: what comes later may take long
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    result = {"machine": machine(), "device": name, "threads": given.threads, "rows": rows}
    Console().print(str(keep("gpu", result, given.results)))


def measured(fixed: Path, moving: Path, name: str, rounds: int, device: str) -> Iterator[tuple[str, Row]]:
    """All rows, one after the other."""
    model = load_model(name, device)
    yield "register", registration(fixed, moving, model, rounds, device)
    yield "register, as two people", registration(fixed, moving, model, rounds, device, subject="other")
    yield "from the processor's map", apart_mm(fixed, moving, (model, load_model(name, "cpu")))
    pair = conform_pair(*read_pair((fixed, None, None), (moving, None, None)), None, model.grid_shape, model.spacing)
    *images, mask = (one.to(device) for one in (*pair.tensors, pair.fixed.mask))
    yield from inference(model, images, mask, rounds, device)
    field = model.predict(*images)
    for precision in ("auto", "fp32"):
        step = training_step(model, images, field, precision)
        yield f"training step, {precision}", timed(step, rounds, device)
    with one_by_one():
        for what, row in inference(load_model(name, device), images, mask, rounds, device):
            yield f"{what}, one by one", row


if __name__ == "__main__":
    main()
