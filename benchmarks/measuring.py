"""What the benchmarks share: fits, machine information, and the names of results."""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np


def power_law(sizes: Sequence[float], costs: Sequence[float]) -> tuple[float, float]:
    """Exponent and factor of ``cost = factor · size ** exponent``, by least squares of the logarithms.

    Raises:
        ValueError: Fewer than two different sizes, or something that is not above 0.
    """
    if len(sizes) != len(costs) or len(set(sizes)) < 2 or min(*sizes, *costs) <= 0:
        raise ValueError("a power law needs two different sizes, and sizes and costs above 0")
    exponent, intercept = np.polyfit(np.log(sizes), np.log(costs), 1)
    return float(exponent), float(np.exp(intercept))


def straight_line(sizes: Sequence[float], costs: Sequence[float]) -> tuple[float, float]:
    """Slope and intercept of ``cost = intercept + slope · size``: a start-up cost and the cost of each voxel."""
    if len(sizes) != len(costs) or len(set(sizes)) < 2:
        raise ValueError("a line needs two different sizes")
    slope, intercept = np.polyfit(sizes, costs, 1)
    return float(slope), float(intercept)


def timing_parser(description: str | None, model: str, results: Path) -> argparse.ArgumentParser:
    """What the timings of a network ask for: weights, threads, rounds, and where results are kept."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=model)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--results", type=Path, default=results)
    return parser


def simulated_pair(folder: Path, shape: tuple[int, int, int], spacing: float) -> tuple[Path, Path]:
    """T2 (fixed) and T1 (moving, deformed) of the shipped anatomy, as NIfTI files."""
    import torch

    from deformgan.workshop.simulation.anatomy import load_anatomy
    from deformgan.workshop.simulation.cases import make_case, write_case

    generator = torch.Generator().manual_seed(7)
    case = make_case(load_anatomy(), "medium", generator, fixed="t2", moving="t1", shape=shape, spacing=spacing)
    folder.mkdir(parents=True, exist_ok=True)
    write_case(case, folder)
    return folder / "fixed.nii.gz", folder / "moving.nii.gz"


def machine() -> dict[str, Any]:
    """The processor, its cores and load, and the versions that matter; no user or host name."""
    packages = {name: version(name) for name in ("torch", "numpy", "nibabel", "deformgan")}
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "packages": packages,
    }


def processor() -> str:
    """Name of the processor as the system gives it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"


def keep(kind: str, result: dict[str, Any], folder: Path) -> Path:
    """Write a result beside the older ones under a name of its own; none is ever replaced."""
    path = reserve(kind, folder)
    path.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return path


def reserve(kind: str, folder: Path) -> Path:
    """An empty file of a name that no result has, ``TIME-kind.json``; the folder is made if it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H%M%S")
    number = 0
    while True:
        path = folder / f"{stamp}{f'-{number}' if number else ''}-{kind}.json"
        try:
            path.touch(exist_ok=False)
            return path
        except FileExistsError:
            number += 1


@contextmanager
def recorded_features() -> Iterator[dict[str, float | None]]:
    """What the verdict's model was given of the last registration inside; empty before the first.

    `deformgan.register` tells the probability alone; to fit or judge the model anew the features are needed.
    """
    assess = import_module("deformgan.quality.assess")  # the package has a function of this name
    found: dict[str, float | None] = {}
    real = assess.features

    def features(evidence: Any) -> dict[str, float | None]:
        found.clear()
        found.update(real(evidence))
        return dict(found)

    assess.features = features
    try:
        yield found
    finally:
        assess.features = real
