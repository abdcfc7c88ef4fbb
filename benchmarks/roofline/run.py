"""What T's network reaches of what the processor can do: FLOP/s against a large convolution and a matrix product.

    python benchmarks/roofline/run.py [--threads 2] [--rounds 5] [--results DIR]

Multiplications and additions are counted by PyTorch as the network runs without our kernels (two for each product), so
the time of everything that is no convolution or product (sampling, activations, copies) counts against it. Our kernels
compute 3³ convolutions with 64 products in place of 216, so T may come above a convolution of PyTorch's. Ceilings are
measured in the same run: a 2048² matrix product and a 3³ convolution of 32 channels on 64³ voxels, in fp32 and bf16,
and memory bandwidth as a copy of 256 MB (read and written). The best of the rounds is given. bf16 is left out where the
processor does not compute in it: there a round takes minutes. A JSON file joins results/.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from deformgan.models.device import pick_precision
from deformgan.models.load import DEFAULT_MODEL, load_model
from deformgan.spatial.native.use import without_kernels

sys.path.insert(0, str(Path(__file__).parents[1]))
from measuring import keep, machine, timing_parser

RESULTS = Path(__file__).parent / "results"

COPY_FLOATS = 1 << 26


def best(call: Callable[[], object], rounds: int) -> float:
    """Least seconds of the rounds, after one that does not count."""
    call()
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def counted(call: Callable[[], object]) -> int:
    """Floating-point operations of the convolutions and products in ``call``, as their definition has them."""
    # convolutions that oneDNN is asked for by name are not counted
    with without_kernels(), torch.backends.mkldnn.flags(enabled=False), FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def copied_per_second(rounds: int) -> float:
    """Bytes read and written each second by a copy too large for the caches."""
    source = torch.ones(COPY_FLOATS)
    target = torch.empty_like(source)
    return 2 * source.nbytes / best(lambda: target.copy_(source), rounds)


def workloads(precision: str, weights: str) -> dict[str, Callable[[], object]]:
    """A matrix product, a convolution and T, each ready to be run."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    generator = torch.Generator().manual_seed(0)
    square = torch.randn(2048, 2048, generator=generator).to(dtype)
    volume = torch.randn(1, 32, 64, 64, 64, generator=generator).to(dtype)
    kernel = torch.randn(32, 32, 3, 3, 3, generator=generator).to(dtype)
    model = load_model(weights)
    pair = [torch.rand(1, 1, *model.grid_shape, generator=generator) for _ in range(2)]
    return {
        "matrix product": lambda: square @ square,
        "convolution": lambda: F.conv3d(volume, kernel, padding=1),
        "T": lambda: model.predict(pair[0], pair[1], precision),
    }


def main() -> None:
    parser = timing_parser(__doc__, DEFAULT_MODEL, RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    with torch.no_grad():
        bandwidth = copied_per_second(options.rounds)
        for precision in dict.fromkeys(("fp32", pick_precision("auto", "cpu"))):
            for name, call in workloads(precision, options.model).items():
                flops, seconds = counted(call), best(call, options.rounds)
                rows.append({"what": name, "precision": precision, "flops": flops, "seconds": seconds})
    title = f"{options.threads} threads, memory {bandwidth / 1e9:.1f} GB/s"
    table = Table("what", "precision", "GFLOP", "seconds", "GFLOP/s", "of the convolution", title=title)
    for row in rows:
        row["flops_per_second"] = row["flops"] / row["seconds"]
    ceilings = {row["precision"]: row["flops_per_second"] for row in rows if row["what"] == "convolution"}
    for row in rows:
        row["of_convolution"] = row["flops_per_second"] / ceilings[row["precision"]]
        numbers = f"{row['flops'] / 1e9:.2f}", f"{row['seconds']:.4f}", f"{row['flops_per_second'] / 1e9:.1f}"
        table.add_row(row["what"], row["precision"], *numbers, f"{row['of_convolution']:.0%}")
    console = Console()
    console.print(table)
    result = {"machine": machine(), "threads": options.threads, "bytes_per_second": bandwidth, "rows": rows}
    console.print(str(keep("roofline", result, options.results)))


if __name__ == "__main__":
    main()
