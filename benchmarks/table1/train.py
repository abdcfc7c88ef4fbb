"""Train the methods of the comparison, each with the same data, steps, batches, resolutions, optimiser and precision.

    python benchmarks/table1/train.py                              # the six rows and the variants of the studies
    python benchmarks/table1/train.py deform-gan-2 voxelmorph-lg
    python benchmarks/table1/train.py --data /data/BraTS2018       # every patient of the training part found there

A run that was stopped goes on where it was. Each method runs in a process of its own, so that its peak memory is its
own; pairs are made once and kept in the cache for all.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from methods import ROWS, STUDIES, configuration


def main() -> int:
    """Train what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="*", metavar="NAME", help=f"default: {', '.join((*ROWS, *STUDIES))}")
    parser.add_argument("--out", type=Path, default=Path("runs/table1"))
    parser.add_argument("--data", type=Path, help="folder of patients in place of the configurations'")
    parser.add_argument("--threads", type=int, help="default: all cores")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    names = arguments.methods or [*ROWS, *STUDIES]
    for name in names:
        configuration(name)  # a name that is none is told at once
    if not arguments.here:
        rest = [a for a in sys.argv[1:] if a not in names]
        return max(subprocess.run([sys.executable, __file__, name, *rest, "--here"]).returncode for name in names)
    for name in names:
        _train(name, arguments)
    return 0


def _train(name: str, arguments: argparse.Namespace) -> None:
    import torch

    from deformgan.workshop.training.loop import train

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    config = configuration(name)
    if arguments.data:
        data = replace(config.data, root=str(arguments.data), patients=(), label_maps=(), synthetic=0.0)
        config = replace(config, data=data, validation=())

    def told(step: int, steps: int, values: dict[str, float]) -> None:
        if step % 25 == 0 or step == steps:
            shown = ", ".join(f"{key} {value:.4g}" for key, value in values.items())
            sys.stderr.write(f"{name}: step {step} of {steps}, {shown}\n")

    train(config, arguments.out / name, told)


if __name__ == "__main__":
    sys.exit(main())
