"""Time and memory of every similarity, forward and backward, beside MONAI's on the same tensors.

    python benchmarks/losses/run.py [--shape 112 128 96] [--threads 2] [--rounds 5] [--only NAME] [--results DIR]

Times are taken in turn (ours, theirs, ours, …), so that a busy machine slows both, and the best of all rounds counts.
Memory is the peak of the resident set above that before the call, each in a process of its own (Linux; elsewhere it is
left out). The image that is compared with is constant, the moving one has a gradient, as in registration.
"""

from __future__ import annotations

import argparse
import ctypes
import multiprocessing
import os
import platform
import re
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch
from monai.losses.image_dissimilarity import GlobalMutualInformationLoss, LocalNormalizedCrossCorrelationLoss
from rich.console import Console
from rich.table import Table
from torch import Tensor

from deformgan import losses

sys.path.insert(0, str(Path(__file__).parents[1]))
from measuring import keep

RESULTS = Path(__file__).parent / "results"

WINDOW, BINS = 7, 32
Similarity = Callable[[Tensor], Tensor]


def similarities(fixed: Tensor) -> dict[str, tuple[Similarity, Similarity | None]]:
    """Name → (ours, theirs) as functions of the moving image; ``prepared`` ones have seen the fixed image before."""
    lncc = LocalNormalizedCrossCorrelationLoss(kernel_size=WINDOW)
    information = GlobalMutualInformationLoss(num_bins=BINS)
    correlation, edges = losses.LocalCorrelation(fixed, WINDOW), losses.GradientSimilarity(fixed)
    return {
        "LNCC 7³": (lambda m: losses.local_cross_correlation(fixed, m, WINDOW), lambda m: -lncc(m, fixed)),
        "LNCC 7³, prepared": (correlation, lambda m: -lncc(m, fixed)),
        "MI, 32 bins": (lambda m: losses.mutual_information(fixed, m, BINS), lambda m: -information(m, fixed)),
        "NGF squared": (lambda m: losses.ngf_similarity(fixed, m, squared=True), None),
        "NGF squared, prepared": (edges, lambda m: plain_ngf(fixed, m)),
        "NGF": (lambda m: losses.ngf_similarity(fixed, m), None),
        "local gradient 7³": (lambda m: losses.local_gradient_similarity(fixed, m, WINDOW), None),
        "MIND-SSC": (lambda m: losses.mind_similarity(fixed, m), None),
        "gradient energy (of a field)": (lambda m: losses.gradient_energy(m.expand(-1, 3, -1, -1, -1)), None),
    }


def plain_ngf(fixed: Tensor, moving: Tensor, epsilon: float = 0.02) -> Tensor:
    """The squared NGF as one writes it down, left to autograd (MONAI has none to compare with)."""
    a, b = losses.image_gradient(fixed), losses.image_gradient(moving)
    norms = (a.square().sum(1) + epsilon**2) * (b.square().sum(1) + epsilon**2)
    return ((a * b).sum(1).square() / norms).mean()


def images(shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """A smooth pair with texture in [0, 1]; background would flatter whoever skips it, so there is none."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(2, 1, *(max(n // 8, 2) for n in shape), generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=shape, mode="trilinear")
    textured = 0.9 * smooth + 0.1 * torch.rand(smooth.shape, generator=generator)
    return textured[:1].contiguous(), textured[1:].contiguous().requires_grad_()


def step(similarity: Similarity, moving: Tensor) -> float:
    """One forward and backward pass, in milliseconds."""
    moving.grad = None
    start = time.perf_counter()
    similarity(moving).backward()
    return 1e3 * (time.perf_counter() - start)


def timings(shape: tuple[int, ...], rounds: int, only: str, console: Console) -> dict[str, dict[str, float]]:
    fixed, moving = images(shape)
    rows = {}
    for name, contestants in similarities(fixed).items():
        if only not in name:
            continue
        console.print(f"timing {name}", style="dim")
        present = [one for one in contestants if one is not None]
        for one in present:
            step(one, moving)
        best = [
            min(column) for column in zip(*[[step(o, moving) for o in present] for _ in range(rounds)], strict=True)
        ]
        rows[name] = {"ours_ms": best[0]}
        if len(best) == 2:
            rows[name] |= {"theirs_ms": best[1], "ratio": best[1] / best[0]}
    return rows


def _resident(key: str) -> float:
    return int(re.findall(rf"{key}:\s+(\d+)", Path("/proc/self/status").read_text())[0]) / 1024


def _peak_of(name: str, which: int, shape: tuple[int, ...], threads: int) -> float:
    torch.set_num_threads(threads)
    small, small_moving = images((16, 16, 16))
    warm = similarities(small)[name][which]
    assert warm is not None
    step(warm, small_moving)  # libraries load their code on first use
    fixed, moving = images(shape)
    similarity = similarities(fixed)[name][which]
    assert similarity is not None
    ctypes.CDLL(None).malloc_trim(0)  # what preparing freed would be taken again unseen
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    before = _resident("VmRSS")
    step(similarity, moving)
    return _resident("VmHWM") - before


def memory(rows: dict[str, dict[str, float]], shape: tuple[int, ...], threads: int, console: Console) -> None:
    """Add the peak memory in MB to every row."""
    for name, row in rows.items():
        for which, key in enumerate(("ours_mb", "theirs_mb")):
            if key.replace("mb", "ms") in row:
                console.print(f"memory of {name}", style="dim")
                with multiprocessing.get_context("spawn").Pool(1) as pool:
                    row[key] = pool.apply(_peak_of, (name, which, shape, threads))


def machine(threads: int) -> dict[str, object]:
    info = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*:\s*(.+)", info.read_text()) if info.exists() else None
    return {
        "cpu": model.group(1) if model else platform.processor(),
        "cores": os.cpu_count(),
        "threads": threads,
        "load_at_start": os.getloadavg()[0],
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "monai": version("monai"),
    }


def table(rows: dict[str, dict[str, float]], shape: tuple[int, ...]) -> Table:
    out = Table(title=f"forward + backward at {'×'.join(map(str, shape))}")
    for head in ("similarity", "ours ms", "other ms", "times faster", "ours MB", "other MB"):
        out.add_column(head, justify="left" if head == "similarity" else "right")
    for name, row in rows.items():
        keys = ("ours_ms", "theirs_ms", "ratio", "ours_mb", "theirs_mb")
        out.add_row(name, *[f"{row[key]:.1f}" if key in row else "–" for key in keys])
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=3, default=(112, 128, 96))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="similarities whose name contains this")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    shape = tuple(options.shape)
    record: dict[str, object] = {"machine": machine(options.threads), "shape": shape, "rounds": options.rounds}
    progress = Console(stderr=True)
    rows = timings(shape, options.rounds, options.only, progress)
    if Path("/proc/self/clear_refs").exists():
        memory(rows, shape, options.threads, progress)
    Console().print(table(rows, shape), "other: MONAI; for NGF the formula left to autograd")
    Console().print(str(keep("losses", record | {"losses": rows}, options.results)))


if __name__ == "__main__":
    main()
